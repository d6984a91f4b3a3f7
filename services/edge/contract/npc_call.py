"""Calls about NPCs: sync now, decide, many updates at once, erasing a player."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.edge.contract.message import ReplyAnswer
from services.edge.contract.session import ActionUpdates
from services.edge.contract.shared import EmptyList, Fault, Id, Nothing, Number, Refusal
from services.edge.contract.world import BlockStatus


class SyncNpc(msgspec.Struct):
    """Bring an NPC's blocks up to date now."""

    world: Id | None = None
    min_revision: Number | None = None
    force: Annotated[bool, Meta(description="Write although the same text was confirmed.")] | None = None
    invalidate: Annotated[bool, Meta(description="Read the runtime back first.")] | None = None
    wait: Annotated[bool, Meta(description="Answer when confirmed; default true.")] | None = None


class Decide(msgspec.Struct):
    """Ask an NPC what it does, without a chat."""

    world: Id | None = None
    reasons: list[str] | Nothing | None = None
    speech: Annotated[bool, Meta(description="It may speak too; default false.")] | None = None
    request_id: Id | None = None
    wait: Annotated[bool, Meta(description="Answer when decided; default true.")] | None = None


class DecideAnswer(msgspec.Struct, omit_defaults=True):
    """What was decided, or why nothing was."""

    turn_id: str
    outcome: Annotated[str, Meta(description="decided, pending, merged or failed.")]
    reply: ReplyAnswer | None = None
    reason: str = ""


class Companion(msgspec.Struct):
    """Somebody who is within an NPC's earshot, or no longer."""

    player_id: Id | None = None
    player_name: str | None = None
    is_joining: bool | None = None


class Batch(msgspec.Struct):
    """Many updates in one call, by NPC. All that stand become one revision."""

    world: Id | None = None
    status: dict[str, ActionUpdates | EmptyList | None] | EmptyList | None = None
    location: dict[str, str | None] | EmptyList | None = None
    group: dict[str, list[Companion] | Companion | None] | EmptyList | None = None
    wait: Annotated[bool, Meta(description="Answer when confirmed; default true.")] | None = None


class NpcRefresh(msgspec.Struct, omit_defaults=True):
    """How far an NPC's blocks are."""

    id: str
    outcome: Annotated[str, Meta(description="confirmed, pending or refused.")]
    revision: int = 0
    blocks: list[BlockStatus] | None = None
    error: Fault | None = None
    refused: list[Refusal] | None = None


class BatchAnswer(msgspec.Struct):
    """One entry an NPC; a bad one fails alone."""

    world: str
    revision: int
    npcs: list[NpcRefresh]


class Receipt(msgspec.Struct, omit_defaults=True):
    """What one store removed."""

    store: str
    removed: int
    not_erasable: Annotated[str, Meta(description="What stays and why.")] = ""


class ErasureAnswer(msgspec.Struct):
    """A player is being erased everywhere; ask again with the id."""

    erasure_id: str
    state: Annotated[str, Meta(description="pending, done or failed.")]
    receipts: list[Receipt]
