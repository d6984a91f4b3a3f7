"""Actions that an NPC may take: typed functions for the model, validated data for the game (D6, C13).

Names of people and places are resolved against what the NPC knows now; an argument that fits nothing is refused with a
sentence that the model can act on. Nothing a model says reaches the game unchecked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.sync.context import Context, Member, Place
from services.sync.hygiene import clean
from services.sync.runtimes.port import ToolSpec

ARGUMENTS_MAX = 4096
EMOTES = ("wave", "laugh", "dance", "cheer", "point", "sit")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


def _schema(required: Sequence[str] = (), **properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


_PERSON = {"type": "string", "maxLength": 64, "description": "Name of somebody within earshot."}
_PLACE = {"type": "string", "maxLength": 64, "description": "Name of a place."}

STANDARD: Mapping[str, ToolSpec] = {
    spec.name: spec
    for spec in (
        ToolSpec("follow", "Walk after somebody who is within earshot.", _schema(["target"], target=_PERSON)),
        ToolSpec("unfollow", "Stop following and stay.", _schema()),
        ToolSpec("navigate", "Walk to a place that has a name.", _schema(["location"], location=_PLACE)),
        ToolSpec(
            "emote",
            "Make a gesture that everybody sees.",
            _schema(["type"], type={"type": "string", "enum": list(EMOTES)}, target=_PERSON),
        ),
        ToolSpec("patrol", "Walk one's rounds and keep watch.", _schema(area=_PLACE)),
        ToolSpec(
            "hunt",
            "Go after somebody to fight.",
            _schema(["target"], target={"type": "string", "maxLength": 64, "description": "Name of who is hunted."}),
        ),
        ToolSpec("stop_hunt", "Give up hunting.", _schema()),
    )
}
# Not an action: Earshot notes it (see notes).
REMEMBER = ToolSpec(
    "remember",
    "Note a fact about somebody within earshot, or about yourself, so that you know it later.",
    _schema(
        ["subject", "fact"],
        subject={"type": "string", "maxLength": 64, "description": "Name of who it is about."},
        fact={"type": "string", "maxLength": 200, "description": "One short sentence."},
    ),
)
# What the NPC is expected to do once it took the action: becomes the status until the game reports (C9).
EXPECTED: Mapping[str, str] = {
    "follow": "Following",
    "unfollow": "Idle",
    "navigate": "Moving",
    "patrol": "Patrolling",
    "hunt": "Hunting",
    "stop_hunt": "Idle",
}
_FREE = _schema(target=_PERSON, detail={"type": "string", "maxLength": 200})


@dataclass(frozen=True, slots=True)
class Accepted:
    """An action for the game: `data` is what it executes, `told` the result for the model."""

    type: str
    data: Mapping[str, Any]
    told: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a call is not an action: a sentence for the model."""

    told: str


def offered(context: Context, places: Sequence[Place]) -> tuple[ToolSpec, ...]:
    """Tools of the NPC: those its profile names, else the standard ones; navigate only where places are known.

    A profile may declare its own: a name alone takes a target and a detail, `tools` in its settings gives a schema.
    """
    own = {spec.name: spec for spec in _declared(context.profile.settings.get("tools"))}
    names = context.profile.actions or (*STANDARD, *own)
    specs = []
    for name in dict.fromkeys(names):
        if not _NAME.fullmatch(name) or (name == "navigate" and not places):
            continue
        specs.append(own.get(name) or STANDARD.get(name) or ToolSpec(name, f"The action {name}.", _FREE))
    return tuple(specs)


def _declared(value: Any) -> list[ToolSpec]:
    specs = []
    for item in value if isinstance(value, list) else ():
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            continue
        schema = item.get("parameters")
        fits = isinstance(schema, dict) and schema.get("type") == "object"
        description = clean(str(item.get("description") or f"The action {name}."), 300)
        specs.append(ToolSpec(name, description, schema if isinstance(schema, dict) and fits else _FREE))
    return specs


def accept(
    name: str, arguments: str, tools: Sequence[ToolSpec], context: Context, places: Sequence[Place]
) -> Accepted | Refused:
    """Validate one call of the model: known, well-formed, fitting its schema, speaking of what is there."""
    spec = next((tool for tool in tools if tool.name == name), None)
    if spec is None:
        known = ", ".join(tool.name for tool in tools) or "none"
        return Refused(f"There is no such action. Actions: {known}.")
    if len(arguments) > ARGUMENTS_MAX:
        return Refused("The arguments are too long.")
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return Refused("The arguments are not JSON.")
    problem = mismatch(value, spec.parameters)
    if problem:
        return Refused(f"The arguments do not fit: {problem}.")
    return _resolve(name, value, context, places)


def _resolve(name: str, value: dict[str, Any], context: Context, places: Sequence[Place]) -> Accepted | Refused:
    data: dict[str, Any] = dict(value)
    told = f"Accepted: {name}."
    if name == "navigate" or (name == "patrol" and value.get("area")):
        key = "location" if name == "navigate" else "area"
        place = find_place(value[key], places)
        if place is None:
            known = ", ".join(clean(one.name, 40) for one in places[:12])
            return Refused(f"There is no such place. Places: {known}.")
        data = {"destination": place.slug, "name": place.name}
        if place.position is not None:
            data["coordinates"] = dict(zip("xyz", place.position, strict=True))
        told = f"Accepted: you are on your way to {clean(place.name, 40)}."
    elif "target" in value:
        member = find_member(value["target"], context.members)
        if member is not None:
            data |= {"target": member.name or member.id, "target_id": member.id}
            told = f"Accepted: {name} {clean(member.name, 40)}."
        elif name in ("follow", "emote"):
            present = ", ".join(clean(one.name, 40) for one in context.members[:12]) or "nobody"
            return Refused(f"Nobody of that name is within earshot. Within earshot: {present}.")
    return Accepted(name, data, told)


def find_member(name: str, members: Sequence[Member]) -> Member | None:
    """Who is meant: the exact name or id, else the only one whose name begins so or holds the word."""
    wanted = _plain(name)
    exact = [member for member in members if wanted in (_plain(member.name), _plain(member.id))]
    if len(exact) == 1:
        return exact[0]
    if exact or not wanted:
        return None
    close = [member for member in members if wanted in _plain(member.name).split()]
    return close[0] if len(close) == 1 else None


def find_place(name: str, places: Sequence[Place]) -> Place | None:
    """Which place is meant: by slug or name, the article does not matter; else the only one that holds the words."""
    wanted = _plain(name).removeprefix("the ")
    exact = [p for p in places if wanted in (_plain(p.slug), _plain(p.name).removeprefix("the "))]
    if exact or not wanted:
        return exact[0] if len(exact) == 1 else None
    close = [place for place in places if wanted in _plain(place.name)]
    return close[0] if len(close) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_\-\s]+", " ", clean(text, 80)).lower().split())


def mismatch(value: Any, schema: Mapping[str, Any], path: str = "arguments", depth: int = 0) -> str:
    """Why `value` does not fit the JSON schema, "" when it fits. Plain types, enums, bounds, objects and arrays."""
    if depth > 8:
        return f"{path} is nested too deep"
    kinds = schema.get("type")
    if kinds is not None and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return f"{path} must be {kinds}"
    choices = schema.get("enum")
    if choices is not None and value not in choices:
        return f"{path} must be one of {', '.join(str(choice) for choice in choices[:12])}"
    if isinstance(value, str) and len(value) > int(schema.get("maxLength", 1000)):
        return f"{path} is too long"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{path} is out of range"
    if isinstance(value, dict):
        return _object_mismatch(value, schema, path, depth)
    if isinstance(value, list):
        if len(value) > int(schema.get("maxItems", 100)):
            return f"{path} has too many items"
        problems = (mismatch(v, schema.get("items", {}), f"{path}[{i}]", depth + 1) for i, v in enumerate(value))
        return next(filter(None, problems), "")
    return ""


def _object_mismatch(value: dict[str, Any], schema: Mapping[str, Any], path: str, depth: int) -> str:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{path} needs {name}"
    for name, item in value.items():
        if name in properties:
            problem = mismatch(item, properties[name], f"{path}.{name}", depth + 1)
            if problem:
                return problem
        elif schema.get("additionalProperties") is False:
            return f"{path} has no {clean(name, 40)}"
    return ""


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool) and value == value
        case "null":
            return value is None
    return False
