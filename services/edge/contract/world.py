"""What Scope shows: worlds, NPC context, conversations, explanations."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from services.edge.contract.event import Event, Participant, TurnEvent, UnixSeconds
from services.edge.contract.roster import NpcAnswer, PlaceAnswer
from services.edge.contract.shared import Vector
from services.edge.contract.snapshot import ClusterAnswer


class WorldSummary(msgspec.Struct):
    """One running game server."""

    id: str
    revision: int
    revision_at: UnixSeconds
    npcs: int
    players: int
    clusters: int
    closed: bool


class WorldsAnswer(msgspec.Struct, omit_defaults=True):
    """Worlds of the tenant, newest first."""

    worlds: list[WorldSummary]
    next_page: str = ""


class EntityAnswer(msgspec.Struct, omit_defaults=True):
    """An entity of a world. `details` is the rest of what the game said about it."""

    id: str
    kind: str
    name: str = ""
    position: Vector | None = None
    health: float | None = None
    max_health: float | None = None
    action: str = ""
    location: str = ""
    last_seen: UnixSeconds | None = None
    appearance: str = ""
    description: str = ""
    details: dict[str, Any] | None = None


class GameEventAnswer(msgspec.Struct, omit_defaults=True):
    """Something that happened in the game."""

    type: str
    id: str = ""
    actor: str = ""
    target: str = ""
    text: str = ""
    data: dict[str, Any] | None = None
    at: UnixSeconds | None = None


class ConversationAnswer(msgspec.Struct, omit_defaults=True):
    """A cluster's conversation."""

    id: str
    members: list[Participant]
    open: bool
    npc_turns_since_player: int
    last_activity: UnixSeconds
    floor_turn_id: str = ""
    floor_npc_id: str = ""


class BlockStatus(msgspec.Struct):
    """What the agent was last confirmed to hold. The text stays in the runtime."""

    label: str
    confirmed_revision: int
    digest: str
    written: bool


class NpcSyncStatus(msgspec.Struct, omit_defaults=True):
    """How fresh one NPC's agent is."""

    npc_id: str
    runtime: str
    agent_id: Annotated[str, Meta(description="Its agent in the runtime; empty while none embodies it.")]
    confirmed_revision: int
    desired_revision: int
    revisions_behind: int
    age_ms: int
    lane: str
    dirty: bool
    in_flight: bool
    suspect: bool
    writes: int
    turns: int
    blocks: list[BlockStatus]
    last_error: str = ""


class RuntimeStatus(msgspec.Struct, omit_defaults=True):
    """A runtime's health."""

    name: str
    healthy: bool
    in_flight: int
    breaker: str
    detail: str = ""


class SyncStatus(msgspec.Struct):
    """Freshness of a world."""

    npcs: list[NpcSyncStatus]
    runtimes: list[RuntimeStatus]


class WorldAnswer(msgspec.Struct, omit_defaults=True):
    """One revision of a world, with what the other rooms know of it."""

    id: str
    revision: int
    revision_at: UnixSeconds
    epoch: int
    closed: bool
    entities: list[EntityAnswer]
    clusters: list[ClusterAnswer]
    recent_events: list[GameEventAnswer]
    conversations: list[ConversationAnswer]
    sync: SyncStatus | None = None
    missing: Annotated[list[str], Meta(description="Rooms that did not answer; their part is left out.")] = []
    stale: Annotated[bool, Meta(description="The shared store is away: this is what was known before.")] = False


class ContextMember(EntityAnswer, omit_defaults=True, kw_only=True):
    """Someone within earshot of the NPC."""

    distance: float | None = None
    since: UnixSeconds


class Departed(msgspec.Struct):
    """Someone who left earshot a moment ago."""

    id: str
    name: str
    kind: str
    left: UnixSeconds


class NearbyCluster(msgspec.Struct):
    """A cluster out of earshot."""

    id: str
    members: list[str]
    distance: float


class ContextAnswer(msgspec.Struct, omit_defaults=True):
    """Everything that an NPC's blocks are rendered from, at one revision (A4)."""

    world: str
    npc_id: str
    revision: int
    revision_at: UnixSeconds
    age_ms: int
    present: bool
    heard: bool
    combat: bool
    status: EntityAnswer
    members: list[ContextMember]
    departed: list[Departed]
    nearby: list[NearbyCluster]
    recent_events: list[GameEventAnswer]
    status_revision: int
    group_revision: int
    events_revision: int
    cluster: str = ""
    health_percent: int | None = None
    location: PlaceAnswer | None = None
    location_band: str = ""
    profile: NpcAnswer | None = None


class ConversationPage(msgspec.Struct):
    """A conversation with its newest events."""

    conversation: ConversationAnswer
    events: list[Event]


class Feature(msgspec.Struct):
    """One reason for a score."""

    name: str
    contribution: float


class Candidate(msgspec.Struct, omit_defaults=True):
    """One of those who could have spoken next."""

    id: str
    name: str
    kind: str
    probability: float
    features: list[Feature]
    excluded: str = ""


class Recalled(msgspec.Struct):
    """A line that the NPC was reminded of for a turn. legs: words, meaning, recency -> rank, 1 = best."""

    utterance_id: str
    world: str
    seq: int
    at: float
    score: float
    legs: dict[str, int]


class ExplanationAnswer(msgspec.Struct, omit_defaults=True):
    """Why an NPC spoke, or why none did."""

    turn: TurnEvent
    candidates: list[Candidate]
    p_any_npc: float
    tau: float
    stages_ms: dict[str, int]
    notes: list[str]
    obligation: str = ""
    recalled: list[Recalled] = []
