"""The roster: NPC profiles, locations, players. They belong to the tenant, not to a world."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from services.edge.contract.shared import EmptyList, Id, Nothing, Point, Refusal, Vector

Words = list[str] | Nothing


class Npc(msgspec.Struct, omit_defaults=True):
    """An NPC's profile. `system_prompt` is another name for `persona`."""

    id: Id | None = None
    display_name: str | None = None
    aliases: Words | None = None
    persona: Annotated[str, Meta(description="Who the NPC is; at most 8 KiB.")] | None = None
    system_prompt: str | None = None
    talkativeness: Annotated[float, Meta(description="0 to 1; how readily it speaks.")] | None = None
    actions: Words | None = None
    lines: Words | None = None
    runtimes: Words | None = None
    agent_id: str | None = None
    decide_on: Words | None = None
    memory_scope: Annotated[str, Meta(description="session or cross_session.")] | None = None
    blocks: dict[str, str] | EmptyList | None = None
    appearance: str | None = None
    model_settings: dict[str, Any] | EmptyList | None = None


class Place(msgspec.Struct, omit_defaults=True):
    """A named location."""

    slug: Id | None = None
    name: str | None = None
    coordinates: Point | None = None
    position: Point | None = None
    description: str | None = None


class Player(msgspec.Struct, omit_defaults=True):
    """What a tenant keeps about a player beside the game's own data."""

    id: Id | None = None
    name: str | None = None
    description: str | None = None


class Roster(msgspec.Struct):
    """What `earshot import-roster` and PUT /v1/npcs take; everything is added or replaced by id."""

    npcs: list[Npc] | Nothing | None = None
    locations: list[Place] | Nothing | None = None
    players: list[Player] | Nothing | None = None


class Places(msgspec.Struct):
    """PUT /v1/locations replaces all locations."""

    locations: list[Place] | Nothing | None = None


class RosterAnswer(msgspec.Struct):
    """What was taken over. A refused profile does not stop the others."""

    roster_version: int
    npcs: int
    locations: int
    players: int
    refused: list[Refusal]


class NpcAnswer(msgspec.Struct, omit_defaults=True):
    """A profile as it is kept."""

    id: str
    display_name: str
    aliases: list[str]
    persona: str
    actions: list[str]
    lines: list[str]
    runtimes: list[str]
    decide_on: list[str]
    version: int
    talkativeness: float | None = None
    agent_id: str = ""
    memory_scope: str = ""
    blocks: dict[str, str] | None = None
    appearance: str = ""
    model_settings: dict[str, Any] | None = None


class NpcsAnswer(msgspec.Struct):
    """All profiles of the tenant."""

    npcs: list[NpcAnswer]
    roster_version: int


class PlaceAnswer(msgspec.Struct, omit_defaults=True):
    """A location as it is kept."""

    slug: str
    name: str
    coordinates: Vector
    description: str = ""


class PlacesAnswer(msgspec.Struct):
    """All locations of the tenant."""

    locations: list[PlaceAnswer]


class DeletedAnswer(msgspec.Struct):
    """The profile is gone."""

    deleted: bool
    roster_version: int
