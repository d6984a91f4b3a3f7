"""Build Earshot.rbxmx, the module as one file for Studio's *Insert from File*, with nothing but Python.

    python3 clients/roblox/build.py [FILE]

The tree is what Rojo makes of default.project.json: a folder with init.luau is that script, its files are its children.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as xml

HERE = Path(__file__).parent
# Enum.RunContext, by the name that init.meta.json uses.
RUN_CONTEXT = {"Legacy": 0, "Server": 1, "Client": 2}


def item(parent: xml.Element, kind: str, name: str, source: Path) -> xml.Element:
    """A script below another one."""
    script = xml.SubElement(parent, "Item", {"class": kind, "referent": f"RBX{name}"})
    properties = xml.SubElement(script, "Properties")
    xml.SubElement(properties, "string", {"name": "Name"}).text = name
    xml.SubElement(properties, "ProtectedString", {"name": "Source"}).text = source.read_text(encoding="utf-8")
    return script


def folder(parent: xml.Element, path: Path, name: str) -> None:
    """A folder whose init file is a script, with all that is in it."""
    entry = next(path.glob("init*.luau"))
    script = item(parent, "Script" if entry.name == "init.server.luau" else "ModuleScript", name, entry)
    meta = path / "init.meta.json"
    if meta.exists():
        context = json.loads(meta.read_text(encoding="utf-8"))["properties"]["RunContext"]
        token = xml.SubElement(script[0], "token", {"name": "RunContext"})
        token.text = str(RUN_CONTEXT[context])
    for child in sorted(path.iterdir()):
        if child.is_dir():
            folder(script, child, child.name)
        elif child.suffix == ".luau" and child != entry:
            item(script, "ModuleScript", child.stem, child)


def build() -> bytes:
    """The model file."""
    project = json.loads((HERE / "default.project.json").read_text(encoding="utf-8"))
    root = xml.Element("roblox", {"version": "4"})
    folder(root, HERE / project["tree"]["$path"], project["name"])
    xml.indent(root)
    return xml.tostring(root, encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "Earshot.rbxmx")
    target.write_bytes(build())
    print(f"{target} is built. In Studio: right-click ServerScriptService > Insert > Insert from File.")
