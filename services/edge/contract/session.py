"""Sessions and sync: the loop of a game server."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.edge.contract.event import Event, UnixSeconds
from services.edge.contract.shared import EmptyList, Fault, Id, Nothing, Number, Refusal
from services.edge.contract.snapshot import (
    ClusterAnswer,
    Entity,
    PlainEntity,
    PlainHead,
    SnapshotHead,
    TransitionAnswer,
)


class SessionRequest(msgspec.Struct):
    """A game server starts. The same job and boot get the same epoch again."""

    job: Annotated[Id, Meta(description="game.JobId; a GUID of your own in Studio, where it is empty.")] | None = None
    boot: Annotated[Id, Meta(description="Random id of this start.")] | None = None
    world: Annotated[Id, Meta(description="Default: the job.")] | None = None


class SessionLimits(msgspec.Struct):
    """What one session may send."""

    body_bytes: int
    body_bytes_compressed: int
    entities: int
    utterances: int
    text_characters: int
    requests_per_minute: int


class SessionAnswer(msgspec.Struct):
    """What the loop needs. Send the token as Authorization: Bearer."""

    session_id: str
    token: str
    expires_at: UnixSeconds
    world: str
    epoch: int
    revision: int
    hold_s: Annotated[float, Meta(description="How long to let GET /v1/events wait.")]
    cursor: Annotated[int, Meta(description="Where the world's events begin for you.")]
    limits: SessionLimits


class ClosedAnswer(msgspec.Struct):
    """The session is over."""

    closed: bool


class SyncUtterance(msgspec.Struct):
    """What a player said since the last sync."""

    player_id: Id | None = None
    player_name: str | None = None
    text: str | None = None
    to: Id | None = None


class ActionUpdates(msgspec.Struct):
    """What is now true of the NPC, where it is not as expected."""

    action: str | None = None
    location: str | None = None
    health: float | None = None
    max_health: float | None = None


class ActionResult(msgspec.Struct):
    """How an action ended."""

    action_id: str | None = None
    npc_id: Id | None = None
    success: bool | None = None
    critical: bool | None = None
    updates: ActionUpdates | EmptyList | None = None


class SyncMetrics(msgspec.Struct):
    """What the game server measured since the last sync. Summed over all servers; of no effect on the sync."""

    requests: Annotated[Number, Meta(description="Requests made to Earshot.")] | None = None
    failures: (
        Annotated[Number, Meta(description="Of these: without an answer, or with one of 500 and above.")] | None
    ) = None
    throttled: Annotated[Number, Meta(description="Requests put off for the platform's budget.")] | None = None
    expired: Annotated[Number, Meta(description="Events dropped because they came too late.")] | None = None
    round_trip_ms: Annotated[float, Meta(description="Of the last sync.")] | None = None


class SyncHead(SnapshotHead):
    """What both forms of a sync share."""

    utterances: list[SyncUtterance] | Nothing | None = None
    action_results: list[ActionResult] | Nothing | None = None
    metrics: SyncMetrics | EmptyList | None = None
    cursor: Annotated[Number, Meta(description="Events up to this are shown; later ones come back.")] | None = None


class Sync(SyncHead):
    """A snapshot with everything that happened since the last one. Without `entities` and `delta`: no snapshot."""

    entities: list[Entity] | Nothing | None = None


class PlainSync(PlainHead, forbid_unknown_fields=True, kw_only=True):
    """A sync with a snapshot of plain entities."""

    utterances: list[SyncUtterance] | Nothing | None = None
    action_results: list[ActionResult] | Nothing | None = None
    metrics: SyncMetrics | EmptyList | None = None
    cursor: Number | None = None
    entities: list[PlainEntity]


class Said(msgspec.Struct, omit_defaults=True):
    """What became of one utterance; a refused one does not stop the others."""

    outcome: Annotated[str, Meta(description="accepted, duplicate, unheard or refused.")]
    utterance_id: str = ""
    error: Fault | None = None


class SyncAnswer(msgspec.Struct, omit_defaults=True):
    """The revision, what became of the parts, and events that are ready."""

    world: str
    epoch: int
    seq: int
    revision: int
    outcome: Annotated[str, Meta(description="applied, duplicate, resync, superseded, or none without a snapshot.")]
    refused: list[Refusal]
    clusters: list[ClusterAnswer] | None = None
    transitions: list[TransitionAnswer] | None = None
    utterances: list[Said] | None = None
    events: list[Event] | None = None
    cursor: int | None = None
    resync: bool = False
