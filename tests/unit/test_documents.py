"""What documents and generated code say is so: settings, dependencies, commands, links, contracts."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

from services.cli import commands
from tests.unit.house import ROOT, Checks, Plant, Tree, imported, modules, parsed, setting_names

CHECKS = Checks()


# -- dependencies ------------------------------------------------------------------------------------------------------

# Needed without an import of ours.
IMPORTED_BY_ANOTHER = {"httptools": "uvicorn parses with it", "websockets": "uvicorn speaks WebSocket with it"}
LOCAL = {"services", "earshot", "tests", "bench"}


def declared(files: Tree, group: str = "") -> set[str]:
    """Distributions that pyproject.toml names: of the package, or of a dependency group."""
    configuration = tomllib.loads(files["pyproject.toml"])
    wanted = configuration["dependency-groups"][group] if group else configuration["project"]["dependencies"]
    return {re.split(r"[^\w.-]", name, maxsplit=1)[0] for name in wanted}


def optional(files: Tree) -> set[str]:
    """Distributions of the extras."""
    extras = tomllib.loads(files["pyproject.toml"])["project"].get("optional-dependencies", {})
    return {re.split(r"[^\w.-]", name, maxsplit=1)[0] for names in extras.values() for name in names}


# Where the package of an extra may be imported: whatever else runs does without it.
EXTRAS = {
    "onnxruntime": "services/sync/embedders/onnx.py",
    "tokenizers": "services/sync/embedders/onnx.py",
    "discord": "services/discord/",
    "aiohttp": "services/discord/",
    "yarl": "services/discord/",  # aiohttp's own addresses
}


@CHECKS.add(
    {"services/state/x.py": "import discord\n"},
    {"services/state/x.py": "import yaml\n"},
    {"services/state/x.py": "import not_installed_anywhere\n"},
    {"pyproject.toml": '[project]\ndependencies = ["grpcio", "no-such-package"]\n'},
)
def dependencies_are_what_is_imported(files: Tree) -> list[str]:
    """What services/ imports is declared, so that it runs without the development tools; and no more is declared."""
    providers = _providers()
    wanted = declared(files)
    used: set[str] = set()
    undeclared = []
    for path, text in modules(files, "services/"):
        for name in imported(text, path):
            top = name.split(".")[0]
            if top in LOCAL or top in sys.stdlib_module_names or top == "__future__":
                continue
            if top in EXTRAS and path.startswith(EXTRAS[top]):
                continue
            # google.rpc and google.protobuf come from two distributions, grpc_health from a third: any will do.
            candidates = providers.get(top, set())
            used |= candidates
            if not candidates & (wanted | BROUGHT_ALONG):
                undeclared.append(f"{path}: imports {top}, which is not declared")
    unused = wanted - used - set(IMPORTED_BY_ANOTHER)
    return undeclared + [f"pyproject.toml: {name} is declared and not imported" for name in sorted(unused)]


@cache
def _providers() -> dict[str, set[str]]:
    """Package -> distributions that it may come from."""
    found = metadata.packages_distributions().items()
    return {package: {re.sub(r"[-_.]+", "-", name).lower() for name in names} for package, names in found}


# Parts of a declared package's own interface that come as distributions of their own.
BROUGHT_ALONG = {"pydantic", "opentelemetry-api"}
RECORD = "docs/decisions/0001-dependencies.md"


@CHECKS.add({RECORD: "| grpcio | contracts |"}, {RECORD: (ROOT / RECORD).read_text() + "| leftpad | pads |\n"})
def every_dependency_has_its_reason(files: Tree) -> list[str]:
    """The record's table and pyproject.toml name the same packages."""
    names = declared(files) | optional(files) | declared(files, "build") | declared(files, "dev")
    rows = [line.split("|")[1] for line in files[RECORD].splitlines() if re.match(r"\|(?! package|-)", line)]
    listed = set(
        re.findall(
            r"[\w.-]+",
            " ".join(rows).replace("*dev:*", "").replace("*extra `discord`:*", "").replace("*extra `onnx`:*", ""),
        )
    )
    missing = [f"{RECORD}: says nothing of {name}" for name in sorted(names - listed)]
    return missing + [f"{RECORD}: speaks of {name}, which is not declared" for name in sorted(listed - names)]


# -- settings ----------------------------------------------------------------------------------------------------------


def documents(files: Tree) -> dict[str, str]:
    """What a person reads to run or to change Earshot."""
    return {
        path: text for path, text in files.items() if path.endswith(".md") and not path.startswith(("gen/", "tests/"))
    }


@CHECKS.add(
    {"docs/a.md": "Set `EARSHOT_LETTA_URL`."},
    {"docker-compose.yml": "environment: {EARSHOT_STATE_ADDRESS: x}"},
    {"Makefile": "run:\n\tEARSHOT_PORT=1 earshot up"},
    {"Dockerfile": "ENV EARSHOT_DIRECTORY=/data"},
)
def every_setting_named_exists(files: Tree) -> list[str]:
    """A misspelt variable is ignored in silence: a document that names one must be right.

    A document beside scripts may name the variables of those.
    """
    told = {"docker-compose.yml", "Makefile", "Dockerfile", ".ci/run", *documents(files)}
    known = setting_names()
    return [
        f"{path}: {name}"
        for path in sorted(told & set(files))
        for name in sorted(set(re.findall(r"\bEARSHOT_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*)", files[path])))
        if name not in known
        and not any(name in text for other, text in files.items() if _beside(other, path) and not other.endswith(".md"))
    ]


def _beside(other: str, path: str) -> bool:
    return PurePosixPath(path).parent in PurePosixPath(other).parents and "/" in path


SETTINGS = "services/common/settings.py"


@CHECKS.add(
    {SETTINGS: "class Settings:\n    workers: int = 3\n"},
    {SETTINGS: "class Settings:\n    workers: int = Field(3)\n"},
    {SETTINGS: "class Settings:\n    workers: int = Field(3, description='')\n"},
)
def every_setting_is_described(files: Tree) -> list[str]:
    """`earshot settings` is the reference; a line without a description is half a reference."""
    silent = []
    for node in ast.walk(parsed(files[SETTINGS])):
        if not (isinstance(node, ast.ClassDef) and node.name == "Settings"):
            continue
        for field in node.body:
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            keywords = field.value.keywords if isinstance(field.value, ast.Call) else []
            described = [key.value for key in keywords if key.arg == "description"]
            if not described or (isinstance(described[0], ast.Constant) and not described[0].value):
                silent.append(f"{SETTINGS}: {field.target.id}")
    return silent


# -- documents ---------------------------------------------------------------------------------------------------------


def code(text: str) -> Iterator[str]:
    """Commands that a reader of a Markdown text would type: inline code and shell blocks."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    blocks = [body for language, body in fence.findall(text) if language in ("", "sh", "bash", "console", "shell")]
    lines = [line for body in blocks for line in body.splitlines()]
    for line in (*lines, *re.findall(r"`([^`\n]+)`", fence.sub("", text))):
        for command in re.split(r"&&|[;|]", re.sub(r"(?:^|\s)#.*", "", line)):
            yield command.strip().removeprefix("$ ")


def subcommands() -> set[str]:
    """Commands of `earshot`."""
    actions = [action for action in commands._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return {str(name) for action in actions for name in action.choices}


@CHECKS.add(
    {"README.md": "Run `earshot serve`.\n"},
    {"CONTRIBUTING.md": "```sh\nmake everything\n```\n"},
    {"docs/a.md": "```\n$ .venv/bin/earshot launch --demo\n```\n"},
    {"README.md": "`make check docs`"},
)
def every_command_named_exists(files: Tree) -> list[str]:
    """Documents name no target of make and no command of ours that is not there."""
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", files["Makefile"], re.MULTILINE))
    known = subcommands()
    absent = []
    for path, text in documents(files).items():
        for line in code(text):
            words = re.sub(r"^(?:[A-Z_]+=\S*\s+)+", "", line).split()
            if words[:1] == ["make"]:
                named = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
                absent += [f"{path}: make {name}" for name in named if name not in targets]
            elif words[:1] == ["/earshot"]:
                continue  # a command of the Discord bot
            elif len(words) > 1 and words[0].rpartition("/")[2] == "earshot" and re.fullmatch(r"[a-z-]+", words[1]):
                absent += [f"{path}: earshot {words[1]}"] if words[1] not in known else []
    return absent


@CHECKS.add({"README.md": "[more](docs/absent.md)"}, {"docs/a.md": "[up](../NOTHING.md#part)"})
def every_link_leads_somewhere(files: Tree) -> list[str]:
    """Links within the repository."""
    lost = []
    for path, text in documents(files).items():
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            found = os.path.normpath(PurePosixPath(path).parent / target)
            if found not in files and not any(other.startswith(f"{found}/") for other in files):
                lost.append(f"{path}: {target}")
    return lost


REQUIREMENTS = "docs/requirements.md"


def _requirements(files: Tree) -> dict[str, list[tuple[str, str]]]:
    """Id -> places that its row names: each from the root, or below the folder that its section names."""
    rows: dict[str, list[tuple[str, str]]] = {}
    room = ""
    for line in files[REQUIREMENTS].splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 5 or not re.fullmatch(r"(?:\*\*)?[A-H]\d*(?:\*\*)?", cells[1]):
            continue
        places = re.findall(r"`([^`]+)`", cells[3])
        if cells[1].startswith("**"):
            room = places[0] if places else ""
        rows[cells[1].strip("*")] = [(place, f"{room}/{place}") for place in places]
    return rows


@CHECKS.add(
    {"services/state/x.py": '"""Moves (A99)."""\n'},
    {REQUIREMENTS: (ROOT / REQUIREMENTS).read_text().replace("`membership.py`", "`memberships.py`")},
)
def every_requirement_cited_is_listed(files: Tree) -> list[str]:
    """Ids in code and documents stand on the page of requirements, whose places exist."""
    rows = _requirements(files)
    wrong = [
        f"{REQUIREMENTS}: {name} leads to {place[0]}"
        for name, places in rows.items()
        for place in places
        if not any(path == at or path.startswith(f"{at}/") for at in place for path in files)
    ]
    for path, text in files.items():
        if path.endswith(".md") or path.startswith("services/"):
            cited = set(re.findall(r"[(,] ?([A-H]\d{1,2})(?=[),;])", text))
            wrong += [f"{path}: {name}" for name in sorted(cited - rows.keys())]
    return wrong


ARCHITECTURE = "docs/architecture.md"


@CHECKS.add(
    {ARCHITECTURE: (ROOT / ARCHITECTURE).read_text().replace("`Snapshots.post`", "`Snapshots.put`")},
    {"services/state/document.py": (ROOT / "services/state/document.py").read_text().replace("def prepare(", "def p(")},
)
def the_walk_through_the_flows_is_the_code(files: Tree) -> list[str]:
    """Every function that the walk names stands in the file named before it."""
    walk = files[ARCHITECTURE].partition("## The flows, function by function")[2].partition("\n## ")[0]
    lost, path = [], ""
    named = re.findall(r"`([^`]+)`", walk)
    for name in named:
        if name.endswith(".py"):
            path = name
        elif name not in _functions(files.get(path, "")):
            lost.append(f"{ARCHITECTURE}: {path} has no {name}")
    return lost if len(named) > 40 else [*lost, f"{ARCHITECTURE}: the walk is gone"]


def _functions(text: str) -> set[str]:
    """Functions of a module and methods of its classes, qualified."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, kinds):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, kinds)}
    return found


# A measured quantity: so much time, memory or rate; designed ones (a hold of 20 s, 10 studs) say so by their setting.
FIGURE = re.compile(
    r"\b(?:about|near|nearly|around|some) (?:[\d.,]+|two|three|four|five|six|seven|eight|nine|ten|ninety|a hundred) ?"
    r"(?:ms|s|us|[KMG]i?B|requests|snapshots|a minute)\b|\b[\d.,]+ ?(?:us|[KMG]i?B)\b|\d/s\b"
)
SOURCE = re.compile(
    r"`[^`]*(?:earshot bench|make |python -m |\.sh|EARSHOT_)[^`]*`|\]\([^)]*(?:capacity|benchmarks)\.md"
)
GENERATED = ("docs/benchmarks.md", "docs/capacity.md", "docs/reference/")


@CHECKS.add(
    {"README.md": "A snapshot takes about 5 ms.\n"},
    {"docs/a.md": "| memory | 300 MiB |\n"},
    {"docs/faq.md": "`make bench` measures.\n\nIt serves 900/s.\n"},
    {"docs/decisions/0099-x.md": "# 99. X\n\nIt takes 7 us.\n"},
)
def every_figure_stands_beside_what_made_it(files: Tree) -> list[str]:
    """A measured figure is in a paragraph, or a row, that names its command, its setting or the page that has it.

    A record of a decision names its commands once.
    """
    bare = []
    for path, text in documents(files).items():
        if path.startswith(GENERATED) or path == "CHANGELOG.md":
            continue
        if path.startswith("docs/decisions/"):
            parts = [text]
        else:
            parts = re.split(r"\n\s*\n|\n(?=[|*] )", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        bare += [f"{path}: {found[0]}" for part in parts if (found := FIGURE.search(part)) and not SOURCE.search(part)]
    return bare


@CHECKS.add(
    {"pyproject.toml": '[project]\nname = "earshot"\nversion = "9.9.9"\n'},
    {"clients/roblox/src/init.luau": 'Version = "0.0.1"'},
    {"CHANGELOG.md": "# Changelog\n\n## [0.9.0] - 2026-01-01\n"},
    {"docs/upgrade.md": "# Upgrade notes\n\n## 0.9.0\n"},
)
def one_version_is_released(files: Tree) -> list[str]:
    """The package, the Roblox module, the newest entry of the changelog and of the upgrade notes are of one version."""
    version = tomllib.loads(files["pyproject.toml"])["project"]["version"]
    named = {
        "clients/roblox/wally.toml": r'^version = "(.+)"',
        "clients/roblox/src/init.luau": r'Version = "(.+)"',
        "CHANGELOG.md": r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$",
        "docs/upgrade.md": r"^## (\d[\d.]*)$",
    }
    found = {path: re.search(pattern, files[path], re.MULTILINE) for path, pattern in named.items()}
    return [f"{path}: is not of {version}" for path, match in found.items() if match is None or match[1] != version]


# -- contracts ---------------------------------------------------------------------------------------------------------


@CHECKS.add(
    {"gen/earshot/type/v1/type_pb2.py": "# by hand\n"},
    {"gen/earshot/type/v1/type_pb2.pyi": None},
    {"gen/earshot/old/v1/old_pb2.py": ""},
    {"protos/earshot/new/v1/new.proto": 'syntax = "proto3";\npackage earshot.new.v1;\nmessage New {}\n'},
)
def generated_code_is_what_the_protos_give(files: Tree) -> list[str]:
    """The Makefile's own rule, run beside the tree."""
    protos = {path: text for path, text in files.items() if path.startswith("protos/")}
    committed = {path: text for path, text in files.items() if path.startswith("gen/")}
    fresh = _generated(tuple(sorted(protos.items())), files["Makefile"])
    return [
        f"{path}: differs from what protos/ give"
        for path in sorted(committed.keys() | fresh.keys())
        if committed.get(path) != fresh.get(path)
    ]


@cache
def _generated(protos: tuple[tuple[str, str], ...], makefile: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in (*protos, ("Makefile", makefile)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        make = ["make", "--silent", "proto", f"BIN={Path(sys.executable).parent}"]
        subprocess.run(make, cwd=folder, check=True, capture_output=True, timeout=60)
        return {str(path.relative_to(folder)): path.read_text() for path in folder.glob("gen/**/*") if path.is_file()}


# -- the tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKS.named)
def test_the_rule_holds(name: str) -> None:
    broken = CHECKS.broken(name)
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(("name", "plant"), CHECKS.planted())
def test_a_planted_defect_is_found(name: str, plant: Plant) -> None:
    found = CHECKS.found(name, plant)
    assert found, f"{name} does not see {sorted(plant)}"


def test_settings_and_commands_are_seen() -> None:
    """The checks above compare with these."""
    assert {"EARSHOT_LISTEN", "EARSHOT_LETTA_BASE_URL", "LETTA_BASE_URL"} <= setting_names()
    assert {"up", "health", "settings"} <= subcommands()
