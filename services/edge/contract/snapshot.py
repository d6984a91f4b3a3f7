"""POST /v1/snapshots: what a game server sees, in the shape of today and in the existing game's."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from services.edge.contract.shared import EmptyList, Id, Nothing, Number, Point, Refusal


class Health(msgspec.Struct):
    """Health with its maximum; `state`, `isMoving` and `velocity` are what the existing game adds."""

    current: float | None = None
    max: float | None = None
    state: Any = None
    isMoving: Any = None  # the wire's name
    velocity: Any = None


class Entity(msgspec.Struct):
    """An NPC or a player. Fields beyond these are kept as details."""

    id: Id | None = None
    kind: Annotated[str, Meta(examples=["npc"], description="npc or player.")] | None = None
    name: str | None = None
    position: Point | None = None
    health: float | Health | EmptyList | None = None
    max_health: float | None = None
    action: str | None = None
    location: str | None = None
    last_seen: float | None = None
    appearance: Any = None
    description: Any = None
    state: Any = None


class PlainVector(msgspec.Struct, forbid_unknown_fields=True):
    """A whole position."""

    x: float
    y: float
    z: float


class PlainHealth(msgspec.Struct, forbid_unknown_fields=True):
    """Health whose cold parts stay text."""

    current: float
    max: float
    state: msgspec.Raw = msgspec.Raw(b"")
    isMoving: msgspec.Raw = msgspec.Raw(b"")  # the wire's name
    velocity: msgspec.Raw = msgspec.Raw(b"")


class PlainEntity(msgspec.Struct, forbid_unknown_fields=True):
    """An entity as games usually send it: whole, no unknown fields. Decoded quickly; its cold parts stay text."""

    id: str
    kind: str
    position: PlainVector
    name: str = ""
    health: float | PlainHealth | None = None
    max_health: float | None = None
    action: str = ""
    location: str = ""
    last_seen: float | None = None
    appearance: msgspec.Raw = msgspec.Raw(b"")
    description: msgspec.Raw = msgspec.Raw(b"")
    state: msgspec.Raw = msgspec.Raw(b"")


class GameEvent(msgspec.Struct):
    """Something that happened in the game."""

    id: Id | None = None
    type: str | None = None
    actor: Id | None = None
    target: Id | None = None
    text: str | None = None
    data: dict[str, Any] | EmptyList | None = None
    at: Annotated[float, Meta(description="Unix seconds by the game's clock; orders nothing.")] | None = None


class PlainEvent(GameEvent, forbid_unknown_fields=True):
    """An event without data of its own."""

    data: None = None


class Group(msgspec.Struct):
    """A cluster as the game sees it, for games that compute their own."""

    members: list[Id] | Nothing | None = None
    positions: dict[str, Point | None] | EmptyList | None = None


class CurrentGroups(msgspec.Struct):
    """The existing game's group of one entry; `npcs`, `players` and `formed` are ignored."""

    members: list[Id] | Nothing | None = None
    positions: dict[str, Point | None] | EmptyList | None = None


class HumanContext(msgspec.Struct):
    """One entry of the existing game, under its display name. Fields of other versions are ignored."""

    position: Point | None = None
    health: float | Health | EmptyList | None = None
    currentGroups: CurrentGroups | EmptyList | None = None  # the wire's name
    lastSeen: float | None = None  # the wire's name
    location: str | None = None
    action: str | None = None


class LegacyCluster(msgspec.Struct):
    """A cluster of the existing game, by display names; `center` is ignored (Luau writes a Vector3 as null)."""

    members: list[Id] | Nothing | None = None
    npcs: float | None = None
    players: float | None = None
    positions: dict[str, Point | None] | EmptyList | None = None


class SnapshotHead(msgspec.Struct):
    """What both shapes of a snapshot share with a sync request."""

    world: Id | None = None
    epoch: Number | None = None
    seq: Number | None = None
    delta: bool | None = None
    base_seq: Number | None = None
    timestamp: Annotated[float, Meta(description="Unix seconds by the game's clock.")] | None = None
    left: Annotated[list[Id], Meta(description="Delta: entities that left.")] | Nothing | None = None
    events: list[GameEvent] | Nothing | None = None
    groups: list[Group] | Nothing | None = None
    positions: Annotated[bool, Meta(description="Answer with members' positions; default true.")] | None = None
    # The existing game's shape.
    clusters: list[LegacyCluster] | Nothing | None = None
    humanContext: dict[str, HumanContext | EmptyList | None] | EmptyList | None = None  # the wire's name


class Snapshot(SnapshotHead):
    """A full or delta snapshot, or the existing game's."""

    entities: list[Entity] | Nothing | None = None


class PlainHead(SnapshotHead, forbid_unknown_fields=True):
    """What a plain request has beside entities and its own fields: nothing that may nest as deep as it likes."""

    events: list[PlainEvent] | Nothing | None = None  # type: ignore[assignment] # narrower
    clusters: None = None
    humanContext: None = None  # the wire's name


class PlainSnapshot(PlainHead, forbid_unknown_fields=True, kw_only=True):
    """A snapshot of plain entities."""

    entities: list[PlainEntity]


class EntityParts(msgspec.Struct):
    """A second reading, for the fields of entities that the types above do not name."""

    entities: list[dict[str, Any]] | Nothing | None = None


class MemberPosition(msgspec.Struct):
    """Where a member is, in studs."""

    id: str
    x: float
    y: float
    z: float


class ClusterAnswer(msgspec.Struct, omit_defaults=True):
    """Who is within earshot of each other. Positions are a list: the engine's JSON reader drops a map's other keys when
    one looks like a number, as a player's id does.
    """

    id: str
    members: list[str]
    npcs: int = 0
    players: int = 0
    positions: Annotated[
        list[MemberPosition] | None, Meta(description="Of every member whose position is known (A5).")
    ] = None


class TransitionAnswer(msgspec.Struct, omit_defaults=True):
    """What happened to a cluster with this revision."""

    type: Annotated[str, Meta(description="formed, joined, left, merged, split or dissolved.")]
    cluster: str
    members: list[str]
    other: str = ""


class SnapshotAnswer(msgspec.Struct):
    """The revision that the snapshot became."""

    world: str
    revision: int
    outcome: Annotated[str, Meta(description="applied, duplicate, resync or superseded.")]
    clusters: list[ClusterAnswer]
    transitions: list[TransitionAnswer]
    refused: list[Refusal]
