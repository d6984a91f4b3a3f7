"""Actions as the existing game can execute them: it calls a function named `type`, and breaks on any other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from earshot.type.v1 import type_pb2

from services.edge.contract.existing import ChatAction
from services.edge.view import arguments

EMOTES = frozenset({"wave", "laugh", "dance", "cheer", "point", "sit"})
# Names under which runtimes' tools pass what the game calls differently.
_TARGETS = ("target", "target_name", "player", "player_name", "npc", "name", "target_id", "player_id")
_PLACES = ("destination_slug", "location", "destination", "slug", "location_slug", "place", "target")

Spot = tuple[float, float, float]


def game_actions(
    actions: Iterable[type_pb2.Action], speaker: str, places: Mapping[str, Spot], names: Mapping[str, str]
) -> list[ChatAction]:
    """The actions that the game knows, in its words; others are dropped.

    speaker: exact name of the player who spoke, whom `follow` means unless it says otherwise. places: locations by
    slug and by lower-case name. names: display names by id.
    """
    found = (_game_action(action.type, arguments(action.data), speaker, places, names) for action in actions)
    return [action for action in found if action is not None]


def _game_action(
    kind: str, data: dict[str, Any], speaker: str, places: Mapping[str, Spot], names: Mapping[str, str]
) -> ChatAction | None:
    match kind:
        case "follow":
            target = _target(data, names) or speaker
            return ChatAction(kind, {"target": target}, "", target) if target else None
        case "unfollow" | "stop_hunt":
            return ChatAction(kind, {}, "", _target(data, names) or speaker)
        case "navigate":
            spot = _spot(data, places)
            if spot is None:
                return None
            return ChatAction(kind, {"coordinates": dict(zip("xyz", spot, strict=True))}, "")
        case "emote":
            emote = next((word for value in data.values() if (word := str(value).lower()) in EMOTES), "")
            return ChatAction(kind, {"type": emote}, "") if emote else None
        case "patrol":
            return ChatAction(kind, data, "")
        case "hunt":
            target = _target(data, names)
            return ChatAction(kind, {"target": target}, "", target) if target else None
    return None


def _target(data: dict[str, Any], names: Mapping[str, str]) -> str:
    for key in _TARGETS:
        value = data.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return names.get(str(value), str(value))
    return ""


def _spot(data: dict[str, Any], places: Mapping[str, Spot]) -> Spot | None:
    for key in ("coordinates", "position"):
        spot = _numbers(data.get(key))
        if spot is not None:
            return spot
    spot = _numbers(data)
    if spot is not None:
        return spot
    for key in _PLACES:
        value = data.get(key)
        if isinstance(value, str) and (known := places.get(value) or places.get(value.lower())):
            return known
    return None


def _numbers(value: Any) -> Spot | None:
    if isinstance(value, dict):
        value = [value.get(axis) for axis in "xyz"]
    if not isinstance(value, list) or len(value) != 3:
        return None
    x, y, z = value
    if all(isinstance(axis, int | float) and not isinstance(axis, bool) for axis in (x, y, z)):
        return float(x), float(y), float(z)
    return None
