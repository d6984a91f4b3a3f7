"""Events of chat's log in the words of the public contract. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
from earshot.chat.v1 import chat_pb2

from services.edge.contract.event import (
    ActionEvent,
    Event,
    MembershipEvent,
    NoticeEvent,
    Participant,
    TurnEvent,
    UtteranceEvent,
)
from services.edge.view import KINDS, TRANSITIONS, arguments, participants

PHASES = {
    chat_pb2.TURN_PHASE_STARTED: "started",
    chat_pb2.TURN_PHASE_ENDED: "ended",
    chat_pb2.TURN_PHASE_DECLINED: "declined",
    chat_pb2.TURN_PHASE_CANCELLED: "cancelled",
    chat_pb2.TURN_PHASE_FAILED: "failed",
    chat_pb2.TURN_PHASE_SILENT: "silent",
}
# One answer holds at most this; a first event that alone is larger goes out alone.
EVENTS_MAX = 64
BYTES_MAX = 128 * 1024
# Ids of people who talk from Discord.
OUTSIDE = "discord:"

encode = msgspec.json.Encoder().encode


def _shown(audience: Collection[str]) -> bool:
    """Not a line that only people outside of the game may read: it does not even reach the game server."""
    return not audience or not all(who.startswith(OUTSIDE) for who in audience)


def public_event(event: chat_pb2.Event) -> Event | None:
    """The event as clients read it; None for a kind that this edge does not know."""
    head = (event.seq, event.at_ms / 1000, event.revision, event.conversation_id)
    match event.WhichOneof("event"):
        case "utterance":
            return _utterance(head, event.utterance) if _shown(event.utterance.audience_ids) else None
        case "membership":
            change = event.membership
            return MembershipEvent(
                *head,
                TRANSITIONS.get(change.type, ""),
                list(change.member_ids),
                participants(change.members),
                change.other_conversation_id,
            )
        case "notice":
            told = event.notice
            return NoticeEvent(*head, told.text, list(told.audience_ids)) if _shown(told.audience_ids) else None
        case "turn":
            return turn_event(head, event.turn)
        case "action":
            done = event.action
            return ActionEvent(
                *head,
                done.turn_id,
                done.npc_id,
                done.action.action_id,
                done.action.type,
                arguments(done.action.data),
                done.expires_at_ms / 1000,
                ai=True,
            )
    return None


Head = tuple[int, float, int, str]


def _utterance(head: Head, said: chat_pb2.UtteranceEvent) -> UtteranceEvent:
    return UtteranceEvent(
        *head,
        said.utterance_id,
        Participant(said.speaker_id, said.speaker_name, KINDS.get(said.speaker_kind, "")),
        said.text,
        list(said.audience_ids),
        said.cause_user_id,
        said.ai,
        said.expires_at_ms / 1000,
        said.turn_id,
        said.sentence if said.turn_id else None,
        said.degraded,
    )


def turn_event(head: Head, turn: chat_pb2.TurnEvent) -> TurnEvent:
    """A turn's phase with what the NPC knew."""
    return TurnEvent(
        *head,
        turn.turn_id,
        turn.npc_id,
        turn.npc_name,
        PHASES.get(turn.phase, ""),
        turn.reason,
        turn.cause_utterance_id,
        turn.revision_seen,
        turn.age_ms,
        turn.runtime,
        turn.first_sentence_ms,
        turn.total_ms,
        ai=bool(turn.npc_id),
    )


def page(events: Iterable[chat_pb2.Event], next_cursor: int) -> tuple[list[msgspec.Raw], int]:
    """Events of one answer, encoded, and the cursor after them: at most EVENTS_MAX and BYTES_MAX."""
    encoded: list[msgspec.Raw] = []
    size, last = 0, 0
    for event in events:
        public = public_event(event)
        text = b"" if public is None else encode(public)
        if encoded and (len(encoded) == EVENTS_MAX or size + len(text) > BYTES_MAX):
            return encoded, last
        last = event.seq
        if text:
            size += len(text) + 1
            encoded.append(msgspec.Raw(text))
    return encoded, next_cursor
