"""What state knows about an NPC at one revision, as this room's own values (protos stop at the reader)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple


class Key(NamedTuple):
    """An NPC in a world: what every queue, mapping and block is keyed by."""

    tenant: str
    world: str
    npc: str


class Band(IntEnum):
    """How near, in words instead of studs."""

    UNKNOWN = 0
    AT = 1
    NEAR = 2
    FAR = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A location of the tenant's map. `position` in studs, for the game only: never in a text."""

    slug: str
    name: str
    description: str = ""
    position: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody within earshot. `distance` in studs, NaN or negative when not known; `since_ms` unix milliseconds."""

    id: str
    name: str
    player: bool
    distance: float = -1.0
    appearance: str = ""
    description: str = ""
    since_ms: int = 0


@dataclass(frozen=True, slots=True)
class Departed:
    """Somebody who just left."""

    name: str
    player: bool
    left_ms: int


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of the game."""

    type: str
    actor: str = ""
    target: str = ""
    text: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """The NPC's profile; `settings` are the model settings of the roster as JSON; memory_scope "" = the default."""

    name: str
    aliases: tuple[str, ...] = ()
    persona: str = ""
    actions: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    agent_id: str = ""
    memory_scope: str = ""
    blocks: tuple[tuple[str, str], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that an NPC's blocks are rendered from. Times in unix milliseconds, health in percent or -1."""

    key: Key
    revision: int
    revision_ms: int
    age_ms: int
    profile: Profile
    present: bool = True
    action: str = ""
    appearance: str = ""
    description: str = ""
    place: Place | None = None
    band: Band = Band.UNKNOWN
    combat: bool = False
    health_percent: int = -1
    members: tuple[Member, ...] = ()
    departed: tuple[Departed, ...] = ()
    nearby: tuple[str, ...] = ()
    events: tuple[Happening, ...] = ()
    heard: bool = False
    closed: bool = False
    group_revision: int = 0
