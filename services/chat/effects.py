"""What the reducer wants done. Carried out only after its input and events are durably appended; never on replay."""

from __future__ import annotations

import msgspec

from services.chat.conversation import Recalled, Reply
from services.chat.policy import Candidate


class Ask(msgspec.Struct, frozen=True):
    """Run a turn through sync.Converse. player_ids: whose session memory it may use."""

    turn_id: str
    npc_id: str
    conversation_id: str
    kind: str
    min_revision: int
    player_ids: tuple[str, ...]
    speech: bool
    decide_reasons: tuple[str, ...]
    generation: int
    # Lines from before the NPC joined are told to it as a gist.
    joined_ms: int


class Cancel(msgspec.Struct, frozen=True):
    """Stop a running turn's call; nothing of it is wanted any more."""

    turn_id: str


class Settled(msgspec.Struct, frozen=True):
    """Nothing more comes of an utterance."""

    utterance_id: str
    reason: str
    failed: bool
    turn_id: str
    replies: tuple[Reply, ...]


class Replied(msgspec.Struct, frozen=True):
    """A turn answered an utterance; more may come."""

    utterance_id: str
    reply: Reply


class Accepted(msgspec.Struct, frozen=True):
    """What became of a Heard: its ids, whether it was new, and whether an NPC hears it."""

    utterance_id: str
    conversation_id: str
    seq: int
    revision: int
    duplicate: bool
    unheard: bool


class WishSettled(msgspec.Struct, frozen=True):
    """What became of a Decide request: decided, merged or failed."""

    request_id: str
    turn_id: str
    outcome: str
    reason: str
    reply: Reply | None


class Locate(msgspec.Struct, frozen=True):
    """Find out whether a player is still in the world, then feed PlayerLocated."""

    player_id: str


class Explain(msgspec.Struct, frozen=True):
    """Keep why a turn, or a silence, came about. Stored beside the events; later ones of the same turn replace it."""

    turn_id: str
    conversation_id: str
    obligation: str
    p_any_npc: float
    tau: float
    candidates: tuple[Candidate, ...]
    stages_ms: dict[str, int]
    notes: tuple[str, ...]
    recalled: tuple[Recalled, ...] = ()


Effect = Ask | Cancel | Replied | Settled | Accepted | WishSettled | Locate | Explain
