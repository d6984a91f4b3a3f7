"""The floor, or silence, awarded: to the policy's pick, to who is owed it, to who wants to decide, or to nobody."""

from __future__ import annotations

from services.chat import floor, outside, scene
from services.chat.conversation import CONVERSATION, URGENT, Conversation, Owed, Turn, Utterance
from services.chat.draft import Draft
from services.chat.effects import Explain
from services.chat.events import Turned
from services.chat.policy import PLAYER, Decision

REPLY = "reply"
SILENCE = "silence"
GREETING = "greeting"
DECIDE = "decide"


def grant_pick(
    draft: Draft,
    conversation_id: str,
    decision: Decision,
    kind: str,
    player: str,
    causes: tuple[str, ...],
    lane: str = CONVERSATION,
) -> None:
    """Give the policy's pick the floor. player: whose words it is due to, else any player present."""
    conversation = draft.conversations[conversation_id]
    is_player = player in conversation.members and conversation.members[player].kind == PLAYER
    floor.grant(
        draft,
        conversation_id,
        Turn(
            npc_id=decision.speakers[0],
            lane=lane,
            kind=kind,
            reason=decision.reason,
            causes=causes,
            cause_player=player if is_player else outside.somebody(conversation.players()),
            stand_in=decision.speakers[1] if len(decision.speakers) > 1 else "",
            decision=decision,
        ),
    )


def grant_owed(draft: Draft, conversation_id: str, owed: Owed) -> bool:
    """Give an obliged NPC the floor; False when the newest utterance has used up its calls, which is told."""
    causes = floor.causes_of(draft, conversation_id, owed.player_id)
    if not floor.calls_left(draft, causes):
        fail_owed(draft, conversation_id, owed, "CALL_LIMIT")
        return False
    floor.grant(
        draft,
        conversation_id,
        Turn(
            npc_id=owed.npc_id,
            lane=URGENT,
            kind=REPLY,
            reason=owed.reason,
            causes=causes,
            cause_player=owed.player_id,
            obliged=True,
            decision=owed.decision,
        ),
    )
    return True


def grant_wish(draft: Draft, conversation: Conversation) -> None:
    """Let one NPC that has reasons to decide do so: urgent ones first."""
    waiting = [draft.wishes[npc] for npc in conversation.npcs() if npc in draft.wishes and not scene.busy(draft, npc)]
    if not waiting:
        return
    wish = min(waiting, key=lambda each: not each.urgent)
    del draft.wishes[wish.npc_id]
    draft.decided_ms[wish.npc_id] = draft.at
    floor.grant(
        draft,
        conversation.id,
        Turn(
            npc_id=wish.npc_id,
            lane=URGENT if wish.urgent else CONVERSATION,
            kind=DECIDE,
            reason="DECIDE",
            cause_player=outside.somebody(conversation.players()),
            speech=wish.speech and scene.may_add_a_line(draft, conversation),
            decide_reasons=wish.reasons,
            requests=wish.requests,
        ),
    )


def keep_silent(draft: Draft, utterance: Utterance, reason: str) -> None:
    """Tell, with a reason, that nobody answers an utterance."""
    decline(draft, utterance.conversation_id, utterance, Decision((), reason))


def decline(draft: Draft, conversation_id: str, utterance: Utterance, decision: Decision) -> None:
    """Nobody is asked: log the silence and why, as a turn that can be explained."""
    turn_id = f"t-{draft.digest}-{draft.next_seq}"
    draft.emit(conversation_id, Turned(turn_id, "silent", decision.reason, cause_utterance_id=utterance.id))
    draft.do(
        Explain(
            turn_id,
            conversation_id,
            decision.obligation,
            decision.p_any_npc,
            decision.tau,
            decision.candidates,
            {},
            (),
        )
    )
    draft.change_utterance(utterance.id, turn_id=turn_id, reason=decision.reason)


def fail_owed(draft: Draft, conversation_id: str, owed: Owed, reason: str) -> None:
    """An addressed NPC will not answer: say so in the log, and to who waits."""
    turn_id = f"t-{draft.digest}-{draft.next_seq}"
    draft.emit(
        conversation_id, Turned(turn_id, "failed", reason, npc_id=owed.npc_id, cause_utterance_id=owed.utterance_id)
    )
    draft.do(Explain(turn_id, conversation_id, owed.reason, 0.0, 0.0, (), {}, (reason,)))
    utterance = draft.open.get(owed.utterance_id)
    if utterance is not None and not utterance.replies:
        draft.change_utterance(owed.utterance_id, turn_id=turn_id, reason=reason, failed=True)
