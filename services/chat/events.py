"""Entries of a world's log. Stored as they are; the servicer translates them to the contract's Event."""

from __future__ import annotations

import msgspec

from services.chat.conversation import Act
from services.chat.policy import NPC, Participant


class Said(msgspec.Struct, frozen=True, tag_field="entry", tag="said", omit_defaults=True):
    """A line, by a player or one sentence of an NPC. hearers: NPCs that witnessed it.

    due_to: who caused an NPC's line, where the platform's filter attributes it to somebody else.
    """

    utterance_id: str
    speaker_id: str
    speaker_name: str
    speaker_kind: str
    text: str
    turn_id: str = ""
    sentence: int = 0
    audience: tuple[str, ...] = ()
    cause_user_id: str = ""
    ai: bool = False
    expires_at_ms: int = 0
    degraded: str = ""
    hearers: tuple[str, ...] = ()
    due_to: str = ""

    @property
    def owner(self) -> str:
        """The player with whose session and erasure the line goes, "" = nobody."""
        return self.speaker_id if self.speaker_kind != NPC else self.due_to or self.cause_user_id


class Moved(msgspec.Struct, frozen=True, tag_field="entry", tag="moved", omit_defaults=True):
    """A membership change. type: formed, joined, left, merged, split, dissolved; members: everyone after it."""

    type: str
    member_ids: tuple[str, ...]
    other: str = ""
    members: tuple[Participant, ...] = ()


class Noticed(msgspec.Struct, frozen=True, tag_field="entry", tag="noticed", omit_defaults=True):
    """A [SYSTEM] line with full context (D4). persons: players that it names."""

    text: str
    audience: tuple[str, ...] = ()
    hearers: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()


class Turned(msgspec.Struct, frozen=True, tag_field="entry", tag="turned", omit_defaults=True):
    """What became of a turn. phase: started, ended, declined, cancelled, failed, silent."""

    turn_id: str
    phase: str
    reason: str
    npc_id: str = ""
    npc_name: str = ""
    cause_utterance_id: str = ""
    revision_seen: int = 0
    age_ms: int = 0
    runtime: str = ""
    first_sentence_ms: int = 0
    total_ms: int = 0


class Did(msgspec.Struct, frozen=True, tag_field="entry", tag="did", omit_defaults=True):
    """An action for the game to execute."""

    turn_id: str
    npc_id: str
    action: Act
    expires_at_ms: int = 0


Body = Said | Moved | Noticed | Turned | Did


class Event(msgspec.Struct, frozen=True):
    """One entry: its number in the world's log, world time, and the revision it speaks of."""

    seq: int
    at_ms: int
    revision: int
    conversation_id: str
    body: Body


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Event)


def encode(event: Event) -> bytes:
    """Bytes for the store."""
    return _encoder.encode(event)


def decode(data: bytes) -> Event:
    """The event again."""
    return _decoder.decode(data)
