"""The log and the state in the words of the contract."""

from __future__ import annotations

from collections.abc import Iterable

from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.chat.conversation import Act, Conversation, Reply
from services.chat.events import Did, Event, Moved, Noticed, Said, Turned
from services.chat.policy import NPC, Candidate, Participant
from services.chat.store import Explained

PHASES = {
    "started": chat_pb2.TURN_PHASE_STARTED,
    "ended": chat_pb2.TURN_PHASE_ENDED,
    "declined": chat_pb2.TURN_PHASE_DECLINED,
    "cancelled": chat_pb2.TURN_PHASE_CANCELLED,
    "failed": chat_pb2.TURN_PHASE_FAILED,
    "silent": chat_pb2.TURN_PHASE_SILENT,
}


def kind_of(kind: str) -> type_pb2.EntityKind.ValueType:
    """A participant's kind."""
    return type_pb2.ENTITY_KIND_NPC if kind == NPC else type_pb2.ENTITY_KIND_PLAYER


def event_of(event: Event) -> chat_pb2.Event:
    """One entry."""
    told = chat_pb2.Event(
        seq=event.seq, at_ms=event.at_ms, revision=event.revision, conversation_id=event.conversation_id
    )
    match event.body:
        case Said() as said:
            told.utterance.CopyFrom(_utterance(said))
        case Moved() as moved:
            told.membership.CopyFrom(_membership(moved))
        case Noticed() as noticed:
            told.notice.CopyFrom(chat_pb2.NoticeEvent(text=noticed.text, audience_ids=noticed.audience))
        case Turned() as turned:
            told.turn.CopyFrom(turn_of(turned))
        case Did() as did:
            told.action.CopyFrom(
                chat_pb2.ActionEvent(
                    turn_id=did.turn_id,
                    npc_id=did.npc_id,
                    action=action_of(did.action),
                    expires_at_ms=did.expires_at_ms,
                )
            )
    return told


def turn_of(turned: Turned) -> chat_pb2.TurnEvent:
    """One phase of a turn."""
    return chat_pb2.TurnEvent(
        turn_id=turned.turn_id,
        npc_id=turned.npc_id,
        npc_name=turned.npc_name,
        phase=PHASES[turned.phase],
        reason=turned.reason,
        cause_utterance_id=turned.cause_utterance_id,
        revision_seen=turned.revision_seen,
        age_ms=turned.age_ms,
        runtime=turned.runtime,
        first_sentence_ms=turned.first_sentence_ms,
        total_ms=turned.total_ms,
    )


def action_of(act: Act) -> type_pb2.Action:
    """One action."""
    return type_pb2.Action(action_id=act.action_id, type=act.type, data=act.data)


def reply_of(reply: Reply) -> chat_pb2.Reply:
    """One turn's answer."""
    return chat_pb2.Reply(
        turn_id=reply.turn_id,
        npc_id=reply.npc_id,
        npc_name=reply.npc_name,
        text=reply.text,
        actions=[action_of(act) for act in reply.actions],
        revision=reply.revision,
        degraded=reply.degraded,
    )


def members_of(people: Iterable[Participant]) -> list[state_pb2.EarshotMember]:
    """Members."""
    return [
        state_pb2.EarshotMember(id=person.id, name=person.name, kind=kind_of(person.kind), since_ms=person.since_ms)
        for person in people
    ]


def conversation_of(conversation: Conversation) -> chat_pb2.Conversation:
    """A conversation now."""
    floor = conversation.floor
    return chat_pb2.Conversation(
        id=conversation.id,
        members=members_of(conversation.people),
        floor_turn_id=floor.id if floor else "",
        floor_npc_id=floor.npc_id if floor else "",
        npc_turns_since_player=conversation.npc_turns,
        last_activity_ms=conversation.last_ms,
        open=True,
    )


def explanation_of(explained: Explained) -> chat_pb2.ExplainTurnResponse:
    """Why a turn, or a silence, came about."""
    why, turned = explained.why, explained.event.body
    assert isinstance(turned, Turned), "explanations are stored with turn events only"
    return chat_pb2.ExplainTurnResponse(
        turn=turn_of(turned),
        candidates=[_candidate(candidate) for candidate in why.candidates],
        obligation=why.obligation,
        p_any_npc=why.p_any_npc,
        tau=why.tau,
        stages_ms=why.stages_ms,
        notes=why.notes,
        recalled=[
            chat_pb2.Recalled(
                utterance_id=one.utterance_id,
                world=one.world,
                log_seq=one.seq,
                at_ms=one.at_ms,
                score=one.score,
                legs=one.legs,
            )
            for one in why.recalled
        ],
    )


def _candidate(candidate: Candidate) -> chat_pb2.CandidateScore:
    return chat_pb2.CandidateScore(
        id=candidate.id,
        name=candidate.name,
        kind=kind_of(candidate.kind),
        probability=candidate.probability,
        features=[chat_pb2.Feature(name=name, contribution=value) for name, value in candidate.features],
        excluded=candidate.excluded,
    )


def _utterance(said: Said) -> chat_pb2.UtteranceEvent:
    return chat_pb2.UtteranceEvent(
        utterance_id=said.utterance_id,
        speaker_id=said.speaker_id,
        speaker_name=said.speaker_name,
        speaker_kind=kind_of(said.speaker_kind),
        text=said.text,
        turn_id=said.turn_id,
        sentence=said.sentence,
        audience_ids=said.audience,
        cause_user_id=said.cause_user_id,
        ai=said.ai,
        expires_at_ms=said.expires_at_ms,
        degraded=said.degraded,
    )


def _membership(moved: Moved) -> chat_pb2.MembershipEvent:
    return chat_pb2.MembershipEvent(
        type=type_pb2.TransitionType.Value(f"TRANSITION_TYPE_{moved.type.upper()}"),
        member_ids=moved.member_ids,
        other_conversation_id=moved.other,
        members=members_of(moved.members),
    )
