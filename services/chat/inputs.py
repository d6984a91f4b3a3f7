"""What the reducer is fed and the durable input log holds: all that a decision can depend on, with its time."""

from __future__ import annotations

import msgspec

from services.chat.conversation import Act, Recalled
from services.chat.policy import Participant
from services.chat.rules import Rules


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """A new owner took the world. seq_floor: the highest number that its log may ever have shown; it goes on above."""

    at_ms: int
    seq_floor: int
    digest: str
    rules: Rules
    # By slug of the location.
    places: dict[str, Rules] = {}


class Cluster(msgspec.Struct, frozen=True):
    """Who is within earshot of each other. place: slug of the location where that is."""

    lineage: str
    members: tuple[Participant, ...]
    place: str = ""


class Transition(msgspec.Struct, frozen=True):
    """A change of one cluster at a revision."""

    type: str
    lineage: str
    member_ids: tuple[str, ...]
    other: str
    revision: int


class DecideWish(msgspec.Struct, frozen=True):
    """Something happened on which an NPC decides without chat."""

    npc: Participant
    reason: str
    urgent: bool


class Observed(msgspec.Struct, frozen=True, tag="observed"):
    """The world's clusters as of a revision. gap: transitions are not complete, compare instead."""

    at_ms: int
    revision: int
    epoch: int
    closed: bool
    clusters: tuple[Cluster, ...]
    transitions: tuple[Transition, ...]
    gap: bool
    wishes: tuple[DecideWish, ...] = ()


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """Someone said something. verdict: ok, or refused by moderation: no NPC is asked, a `notice` may be shown.

    revision: state's when it was heard; up to it nothing has changed of the world but what was Observed.
    """

    at_ms: int
    speaker: Participant
    text: str
    revision: int
    key: str = ""
    to_npc: str = ""
    waiting_npc: str = ""
    system: bool = False
    verdict: str = "ok"
    notice: str = ""
    earshot_ms: int = 0


class Wished(msgspec.Struct, frozen=True, tag="wished"):
    """A caller asks an NPC to decide without chat."""

    at_ms: int
    npc: Participant
    reasons: tuple[str, ...]
    speech: bool
    urgent: bool
    revision: int
    request_id: str


class TurnStarted(msgspec.Struct, frozen=True, tag="turn_started"):
    """Blocks are confirmed and the model has been asked. stages: measured milliseconds by name.

    recalled: what the NPC was reminded of; notes: what its explanation shall say besides.
    """

    at_ms: int
    turn_id: str
    revision: int
    age_ms: int
    runtime: str
    inlined: bool
    stages: dict[str, int]
    degraded: str = ""
    recalled: tuple[Recalled, ...] = ()
    notes: tuple[str, ...] = ()


class Spoke(msgspec.Struct, frozen=True, tag="spoke"):
    """One sentence of a turn. quotes: it repeats what somebody wrote who is in no game."""

    at_ms: int
    turn_id: str
    text: str
    quotes: bool = False


class Acted(msgspec.Struct, frozen=True, tag="acted"):
    """One action of a turn."""

    at_ms: int
    turn_id: str
    action: Act


class TurnEnded(msgspec.Struct, frozen=True, tag="turn_ended"):
    """outcome: spoke, passed, acted or failed (then reason says why)."""

    at_ms: int
    turn_id: str
    outcome: str
    reason: str = ""
    degraded: str = ""
    stages: dict[str, int] = {}


class TimerFired(msgspec.Struct, frozen=True, tag="timer"):
    """A timer of the state is due."""

    at_ms: int
    timer: str


class PlayerLocated(msgspec.Struct, frozen=True, tag="located"):
    """Whether a player who is within no NPC's earshot is still in the world."""

    at_ms: int
    player_id: str
    present: bool


class PlayerErased(msgspec.Struct, frozen=True, tag="erased"):
    """Everything of a player goes; the input log itself is replaced by a checkpoint right after."""

    at_ms: int
    player_id: str


class Retracted(msgspec.Struct, frozen=True, tag="retracted"):
    """A line was deleted (gone) or rewritten by its author: NPCs that heard it start over."""

    at_ms: int
    utterance_id: str
    hearers: tuple[str, ...]
    gone: bool


Turning = TurnStarted | Spoke | Acted | TurnEnded
Life = PlayerLocated | PlayerErased | Retracted
Input = Loaded | Observed | Heard | Wished | Turning | TimerFired | Life

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Input] = msgspec.msgpack.Decoder(Input)


def encode(item: Input) -> bytes:
    """Bytes for the store."""
    return _encoder.encode(item)


def decode(data: bytes) -> Input:
    """The input again."""
    return _decoder.decode(data)
