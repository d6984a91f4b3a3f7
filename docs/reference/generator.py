"""The reference pages, made from what they speak of: settings (code), gRPC (`protos/`), HTTP (the contract).

    python docs/reference/generator.py [DIRECTORY]

Writes settings.md, grpc.md and http.md, here or into DIRECTORY. `make reference` runs it; a test compares.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]  # the package ships no types

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

from services.common.settings import Settings  # noqa: E402 - needs the path above when run as a file

MADE = "Made by `make reference`; do not edit.\n"
_SECTION = re.compile(r"^    # -- (.+?) -+$")
_FIELD = re.compile(r"^    (\w+): ")
_TYPES = descriptor_pb2.FieldDescriptorProto.Type.items()
_KINDS = {number: name.removeprefix("TYPE_").lower() for name, number in _TYPES}


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


# -- settings ----------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Every setting by the section that it stands in, with its names, default and meaning."""
    parts = [
        f"# Settings\n\n{MADE}\nEnvironment variables, read at start; `earshot settings` prints those in force.\n",
    ]
    for section, names in _sections():
        rows = [_setting(name) for name in names]
        parts.append(f"\n## {section}\n\n" + table(("variable", "default", "what"), rows))
    return "".join(parts)


def _sections() -> Iterator[tuple[str, list[str]]]:
    section = "general"
    names: list[str] = []
    for line in (ROOT / "services" / "common" / "settings.py").read_text().splitlines():
        if (found := _SECTION.match(line)) is not None:
            if names:
                yield section, names
            section, names = found[1], []
        elif (found := _FIELD.match(line)) is not None and found[1] in Settings.model_fields:
            names.append(found[1])
    yield section, names


def _setting(name: str) -> tuple[str, str, str]:
    field = Settings.model_fields[name]
    aliases = [str(choice) for choice in getattr(field.validation_alias, "choices", ())]
    shown = " or ".join(f"`{alias}`" for alias in aliases or [f"EARSHOT_{name.upper()}"])
    default = str(field.default)
    return shown, f"`{default}`" if default else "", cell(field.description or "")


# -- gRPC --------------------------------------------------------------------------------------------------------------


def grpc() -> str:
    """Every service, RPC, message and field, with its comment in the proto."""
    parts = [f"# gRPC\n\n{MADE}\nThe contracts between rooms are `protos/`; games use [HTTP](http.md).\n"]
    for file in _files():
        comments = {tuple(place.path): place.leading_comments or place.trailing_comments for place in
                    file.source_code_info.location}  # fmt: skip
        parts.append(f"\n## {file.package}\n")
        for number, service in enumerate(file.service):
            parts.append(_service(service, comments, (6, number)))
        for number, message in enumerate(file.message_type):
            parts.append(_message(message, comments, (4, number), message.name))
        for number, enum in enumerate(file.enum_type):
            parts.append(_enum(enum, comments, (5, number), enum.name))
    return "".join(parts)


Comments = Mapping[tuple[int, ...], str]


def _files() -> list[descriptor_pb2.FileDescriptorProto]:
    protos = ROOT / "protos"
    names = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        code = protoc.main(
            ["protoc", f"-I{protos}", f"--descriptor_set_out={out.name}", "--include_source_info", *names]
        )
        if code:
            raise SystemExit(f"protoc failed with {code}")
        return list(descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes()).file)


def _said(comments: Comments, path: tuple[int, ...]) -> str:
    return " ".join(comments.get(path, "").split())


def _service(service: Any, comments: Comments, path: tuple[int, ...]) -> str:
    rows = []
    for number, method in enumerate(service.method):
        asked = ("stream " if method.client_streaming else "") + _last(method.input_type)
        given = ("stream " if method.server_streaming else "") + _last(method.output_type)
        rows.append((f"`{method.name}`", f"`{asked}` → `{given}`", cell(_said(comments, (*path, 2, number)))))
    return f"\n### {service.name}\n\n{_said(comments, path)}\n\n" + table(("RPC", "request → answer", "what"), rows)


def _message(message: Any, comments: Comments, path: tuple[int, ...], name: str) -> str:
    if message.options.map_entry:
        return ""
    rows = []
    for number, field in enumerate(message.field):
        kind = _last(field.type_name) if field.type_name else _KINDS[field.type]
        repeated = "repeated " if field.label == field.LABEL_REPEATED else ""
        rows.append((f"`{field.name}`", f"`{repeated}{kind}`", cell(_said(comments, (*path, 2, number)))))
    head = f"\n#### {name}\n\n{_said(comments, path)}".rstrip() + "\n"
    parts = [head, "\n" + table(("field", "type", "what"), rows) if rows else ""]
    for number, nested in enumerate(message.nested_type):
        parts.append(_message(nested, comments, (*path, 3, number), f"{name}.{nested.name}"))
    for number, enum in enumerate(message.enum_type):
        parts.append(_enum(enum, comments, (*path, 4, number), f"{name}.{enum.name}"))
    return "".join(parts)


def _enum(enum: Any, comments: Comments, path: tuple[int, ...], name: str) -> str:
    rows = [
        (f"`{value.name}`", str(value.number), cell(_said(comments, (*path, 2, number))))
        for number, value in enumerate(enum.value)
    ]
    head = f"\n#### {name}\n\n{_said(comments, path)}".rstrip() + "\n\n"
    return head + table(("value", "number", "what"), rows)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


# -- HTTP --------------------------------------------------------------------------------------------------------------


def http() -> str:
    """Every path with its parameters, what it takes and gives with examples, then the schemas."""
    contract = json.loads((ROOT / "docs" / "openapi.json").read_text())
    parts = [
        f"# HTTP\n\n{MADE}\nA running Earshot serves the same as `/openapi.json` and, to look at, `/docs`.\n"
        f"{contract['info']['description']}\n"
    ]
    for path, methods in contract["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    parts.append("\n## Schemas\n")
    for name, schema in sorted(contract["components"]["schemas"].items()):
        parts.append(_schema(name, schema))
    return "".join(parts)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [f"\n## {method.upper()} {path}\n\n{operation['summary']}\n"]
    rows = [(f"`{one['name']}`", one["in"], cell(one.get("description", ""))) for one in operation["parameters"]]
    if rows:
        parts.append("\n" + table(("parameter", "in", "what"), rows))
    if "requestBody" in operation:
        parts.append(_body("Takes", operation["requestBody"]["content"]))
    for status, answer in operation["responses"].items():
        if "$ref" not in answer:
            content = answer.get("content")
            parts.append(_body(f"{status} gives", content) if content else f"\n{status}: {answer['description']}\n")
    errors = [status for status, answer in operation["responses"].items() if "$ref" in answer]
    if errors:
        parts.append(f"\nErrors: {', '.join(errors)}.\n")
    return "".join(parts)


def _body(how: str, content: Mapping[str, Any]) -> str:
    parts = []
    for kind, body in content.items():
        parts.append(f"\n{how} {_type(body.get('schema', {}))} (`{kind}`)\n")
        if "example" in body:
            text = json.dumps(body["example"], ensure_ascii=False)
            if len(text) > 110:
                text = json.dumps(body["example"], ensure_ascii=False, indent=1)
            parts.append(f"\n```json\n{text}\n```\n")
    return "".join(parts)


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = _last(schema["$ref"].replace("/", "."))
        return f"[{name}](#{name.lower()})"
    for way in ("anyOf", "oneOf"):
        if way in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[way]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    return str(schema.get("type", "anything"))


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (f"`{field}`" + ("" if field in required else "?"), _type(one), cell(one.get("description", "")))
        for field, one in schema.get("properties", {}).items()
    ]
    head = f"\n### {name}\n\n{' '.join(schema.get('description', '').split())}".rstrip() + "\n"
    return head + ("\n" + table(("field", "type", "what"), rows) if rows else f"\n{_type(schema)}\n")


PAGES: Mapping[str, Callable[[], str]] = {"settings.md": settings, "grpc.md": grpc, "http.md": http}


def main(arguments: Sequence[str]) -> None:
    """Write the pages."""
    directory = Path(arguments[0]) if arguments else Path(__file__).parent
    for name, make in PAGES.items():
        (directory / name).write_text(make())


if __name__ == "__main__":
    main(sys.argv[1:])
