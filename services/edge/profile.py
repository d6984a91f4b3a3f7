"""Profiles, locations and players of a roster file as messages. Pure.

One that cannot stand is reported by path and reason; the others are taken over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput
from services.edge import bounds
from services.edge.columns import Refusals, listed, place_or_reason, refuse
from services.edge.contract.roster import Npc, Place, Player

NPCS_MAX = 1000
LOCATIONS_MAX = 1000
PLAYERS_MAX = 1000
PERSONA_BYTES = 8 * 1024
TEXT_MAX = 2000
WORDS_MAX = 100
SCOPES = ("", "session", "cross_session")

_encode = msgspec.json.Encoder().encode


def profiles(npcs: Sequence[Npc], refused: Refusals) -> list[type_pb2.NpcProfile]:
    """Profiles that can stand; the others are reported."""
    bounds.count(npcs, "npcs", NPCS_MAX)
    kept: dict[str, type_pb2.NpcProfile] = {}
    for index, npc in enumerate(npcs):
        path = f"npcs[{index}]"
        try:
            profile = _profile(npc, path)
        except BadInput as error:
            refuse(refused, error.message.partition(":")[0], error.reason)
            continue
        if profile.id in kept:
            refuse(refused, f"{path}.id", "DUPLICATE_ID")
        else:
            kept[profile.id] = profile
    return list(kept.values())


def _profile(npc: Npc, path: str) -> type_pb2.NpcProfile:
    if npc.id is None:
        raise BadInput(f"{path}.id: missing", reason="MISSING_ID")
    name = bounds.identify(npc.id, f"{path}.id")
    persona = npc.persona or npc.system_prompt or ""
    if len(persona.encode("utf-8", "replace")) > PERSONA_BYTES:
        raise bounds.too_long(f"{path}.persona", PERSONA_BYTES)
    if npc.talkativeness is not None and not 0 <= npc.talkativeness <= 1:
        raise BadInput(f"{path}.talkativeness: not from 0 to 1", reason="OUT_OF_RANGE")
    if (npc.memory_scope or "") not in SCOPES:
        raise BadInput(f"{path}.memory_scope: unknown", reason="INVALID_FIELD")
    blocks = npc.blocks if isinstance(npc.blocks, dict) else {}
    bounds.count(blocks, f"{path}.blocks", WORDS_MAX)
    for label, text in blocks.items():
        bounds.short(label, f"{path}.blocks", bounds.ID)
        bounds.short(text, f"{path}.blocks", PERSONA_BYTES)
    settings = _encode(npc.model_settings) if npc.model_settings else b""
    if len(settings) > bounds.DETAILS_BYTES:
        raise bounds.too_long(f"{path}.model_settings", bounds.DETAILS_BYTES)
    return type_pb2.NpcProfile(
        id=name,
        display_name=bounds.shown(npc.display_name, f"{path}.display_name", bounds.NAME) or name,
        aliases=_words(npc.aliases, f"{path}.aliases", bounds.NAME),
        persona=persona,
        talkativeness=npc.talkativeness,
        actions=_words(npc.actions, f"{path}.actions", bounds.WORD),
        lines=_words(npc.lines, f"{path}.lines", TEXT_MAX),
        runtimes=_words(npc.runtimes, f"{path}.runtimes", bounds.WORD),
        agent_id=bounds.short(npc.agent_id, f"{path}.agent_id", 128),
        decide_on=_words(npc.decide_on, f"{path}.decide_on", bounds.WORD),
        memory_scope=npc.memory_scope or "",
        blocks=blocks,
        appearance=bounds.shown(npc.appearance, f"{path}.appearance", TEXT_MAX),
        model_settings=settings,
    )


def _words(values: object, path: str, limit: int) -> list[str]:
    words = listed(values)
    bounds.count(words, path, WORDS_MAX)
    return [bounds.shown(word, path, limit) for word in words]


def locations(places: Sequence[Place], refused: Refusals) -> list[type_pb2.Location]:
    """Locations that can stand: a slug and a finite position; the others are reported."""
    bounds.count(places, "locations", LOCATIONS_MAX)
    kept: dict[str, type_pb2.Location] = {}
    for index, place in enumerate(places):
        path = f"locations[{index}]"
        try:
            location = _location(place, path)
        except BadInput as error:
            refuse(refused, error.message.partition(":")[0], error.reason)
            continue
        if location.slug in kept:
            refuse(refused, f"{path}.slug", "DUPLICATE_ID")
        else:
            kept[location.slug] = location
    return list(kept.values())


def _location(place: Place, path: str) -> type_pb2.Location:
    if place.slug is None:
        raise BadInput(f"{path}.slug: missing", reason="MISSING_ID")
    slug = bounds.identify(place.slug, f"{path}.slug")
    spot = place_or_reason(place.coordinates if place.coordinates else place.position)
    if isinstance(spot, str) or math.isnan(spot[0]):
        reason = spot if isinstance(spot, str) else "INCOMPLETE_POSITION"
        raise BadInput(f"{path}.coordinates: three finite numbers are needed", reason=reason)
    return type_pb2.Location(
        slug=slug,
        name=bounds.shown(place.name, f"{path}.name", bounds.NAME) or slug,
        position=type_pb2.Vector3(x=spot[0], y=spot[1], z=spot[2]),
        description=bounds.shown(place.description, f"{path}.description", TEXT_MAX),
    )


def players(told: Sequence[Player], refused: Refusals) -> list[type_pb2.PlayerProfile]:
    """Players that can stand; the others are reported."""
    bounds.count(told, "players", PLAYERS_MAX)
    kept: dict[str, type_pb2.PlayerProfile] = {}
    for index, player in enumerate(told):
        path = f"players[{index}]"
        try:
            if player.id is None:
                raise BadInput(f"{path}.id: missing", reason="MISSING_ID")
            name = bounds.identify(player.id, f"{path}.id")
            kept[name] = type_pb2.PlayerProfile(
                id=name,
                name=bounds.shown(player.name, f"{path}.name", bounds.NAME),
                description=bounds.shown(player.description, f"{path}.description", TEXT_MAX),
            )
        except BadInput as error:
            refuse(refused, error.message.partition(":")[0], error.reason)
    return list(kept.values())
