"""The state of one world's conversations. Values: the reducer answers new ones, and they encode as they are.

Ids of open utterances, turns and sessions are kept per world, because clusters merge and split under them. Structs, not
dataclasses: every revision of a world makes dozens of them, each in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from services.chat.policy import NPC, PLAYER, Decision, Participant
from services.chat.rhythm import Rhythm
from services.chat.rules import Rules

URGENT = "urgent"
CONVERSATION = "conversation"
# Conversation id of an NPC that decides alone, outside every cluster.
SOLO = "solo/"


class Act(Struct, frozen=True):
    """An action that the game executes; data is a JSON object."""

    action_id: str
    type: str
    data: bytes


class Reply(Struct, frozen=True):
    """What one turn answered to an utterance."""

    turn_id: str
    npc_id: str
    npc_name: str
    text: str
    actions: tuple[Act, ...]
    revision: int
    degraded: str = ""


class Recalled(Struct, frozen=True):
    """An utterance that recall gave to a turn. legs: rank in each leg that found it, 1 = best."""

    utterance_id: str
    world: str
    seq: int
    at_ms: int
    score: float
    legs: Mapping[str, int]


class Turn(Struct, frozen=True):
    """One NPC reply that has, or waits for, the floor.

    phase: queued (waits for a worker), asked (Converse runs), speaking (at least one sentence). stop_after: let this
    many sentences pass, then end it; -1 = do not. stand_in: asked once when the pick declines or cannot.
    """

    npc_id: str
    lane: str
    kind: str
    reason: str
    id: str = ""
    npc_name: str = ""
    phase: str = "queued"
    granted_ms: int = 0
    min_revision: int = 0
    causes: tuple[str, ...] = ()
    cause_player: str = ""
    obliged: bool = False
    stand_in: str = ""
    asked_ms: int = 0
    first_ms: int = 0
    sentences: tuple[str, ...] = ()
    # Of them those that players in the game may read; apart: none, for it answers somebody who is in no game.
    told: tuple[str, ...] = ()
    apart: bool = False
    actions: tuple[Act, ...] = ()
    stop_after: int = -1
    stop_reason: str = ""
    heard: bool = False
    speech: bool = True
    decide_reasons: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    revision_seen: int = 0
    age_ms: int = 0
    runtime: str = ""
    degraded: str = ""
    decision: Decision | None = None
    stages: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    recalled: tuple[Recalled, ...] = ()


class Owed(Struct, frozen=True):
    """An NPC that a player addressed and that has not had the floor for it yet."""

    npc_id: str
    utterance_id: str
    reason: str
    player_id: str
    decision: Decision | None = None


class Utterance(Struct, frozen=True):
    """A player's utterance until nothing more can come of it."""

    id: str
    conversation_id: str
    speaker_id: str
    at_ms: int
    revision: int
    seq: int
    addressed: tuple[str, ...] = ()
    direct: str = ""
    # Existing game: NPCs whose call waits for this line; gathering = more may come.
    waiting: tuple[str, ...] = ()
    gathering: bool = False
    system: bool = False
    calls: int = 0
    replies: tuple[Reply, ...] = ()
    turn_id: str = ""
    reason: str = ""
    failed: bool = False


class Conversation(Struct, frozen=True):
    """A lineage with at least one NPC.

    undecided: utterance that the policy has yet to judge. owed: obligations in order. latest: the last player
    utterance, whose calls are counted. decisions seeds the pick.
    """

    id: str
    members: Mapping[str, Participant]
    # Slug of the location, whose settings hold here.
    place: str = ""
    rhythm: Rhythm = field(default_factory=Rhythm)
    floor: Turn | None = None
    owed: tuple[Owed, ...] = ()
    undecided: str = ""
    latest: str = ""
    npc_turns: int = 0
    # Lines of players lately, and runtime calls that they caused; both fade.
    lines: float = 0.0
    calls: float = 0.0
    cancels: int = 0
    decisions: int = 0
    last_ms: int = 0
    goodbyes: tuple[str, ...] = ()
    closed_pairs: tuple[str, ...] = ()
    pair_turns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    greeted: Mapping[str, int] = field(default_factory=dict)

    @property
    def people(self) -> tuple[Participant, ...]:
        """Everyone present, in order of arrival."""
        return tuple(self.members.values())

    def players(self) -> tuple[str, ...]:
        """Ids of the players present."""
        return tuple(person.id for person in self.members.values() if person.kind == PLAYER)

    def npcs(self) -> tuple[str, ...]:
        """Ids of the NPCs present."""
        return tuple(person.id for person in self.members.values() if person.kind == NPC)


class Session(Struct, frozen=True):
    """A player's session in this world. number: of the log when it began; last_ms: when it last came or went."""

    number: int
    last_ms: int = 0
    present: bool = False


class Spent(Struct, frozen=True):
    """What a player has had of NPCs on a UTC day (since 1970). last_ms: its last line that one heard."""

    day: int
    turns: int = 0
    talk_ms: int = 0
    last_ms: int = 0


class Wish(Struct, frozen=True):
    """Reasons for which an NPC shall decide without chat, merged until it has the floor."""

    npc_id: str
    reasons: tuple[str, ...]
    speech: bool
    urgent: bool
    requests: tuple[str, ...] = ()


class World(Struct, frozen=True):
    """Everything chat knows of one world. next_seq numbers its log."""

    rules: Rules = field(default_factory=Rules)
    digest: str = ""
    revision: int = 0
    epoch: int = 0
    closed: bool = False
    legacy: bool = False
    next_seq: int = 1
    conversations: Mapping[str, Conversation] = field(default_factory=dict)
    open: Mapping[str, Utterance] = field(default_factory=dict)
    timers: Mapping[str, int] = field(default_factory=dict)
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    decided_ms: Mapping[str, int] = field(default_factory=dict)
    spoke_ms: Mapping[str, int] = field(default_factory=dict)
    recent: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    sessions: Mapping[str, Session] = field(default_factory=dict)
    # Per NPC: which players it has heard, and how often something it heard had to be forgotten.
    heard: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)
    spent: Mapping[str, Spent] = field(default_factory=dict)
    places: Mapping[str, Rules] = field(default_factory=dict)

    def where(self, entity_id: str) -> Conversation | None:
        """The conversation in which someone is."""
        for conversation in self.conversations.values():
            if entity_id in conversation.members and not conversation.id.startswith(SOLO):
                return conversation
        return None
