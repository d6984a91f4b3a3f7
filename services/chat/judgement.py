"""Who gets the floor next: interruptions, obligations, the policy, and chains of turns within their limits."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from services.chat import award, floor, initiative, model, policy, scene, share
from services.chat.conversation import CONVERSATION, URGENT, Conversation, Owed, Turn, Utterance, Wish
from services.chat.draft import Draft
from services.chat.policy import Decision


def judge(draft: Draft, utterance_id: str) -> None:
    """Judge a player's utterance: interrupt who speaks, oblige who was addressed, else let the policy choose."""
    utterance = draft.open.get(utterance_id)
    conversation = draft.conversations.get(utterance.conversation_id) if utterance else None
    if utterance is None or conversation is None:
        return
    capped = floor.capped(draft, utterance.speaker_id)
    if capped:
        award.keep_silent(draft, utterance, capped)
        return
    lane = URGENT if _interrupt(draft, conversation, utterance) else CONVERSATION
    conversation = draft.conversations[conversation.id]
    view = scene.scene_of(draft, conversation, utterance.speaker_id, utterance=utterance)
    decision = policy.decide(share.law(draft, conversation), view, model.default())
    draft.change(conversation.id, decisions=conversation.decisions + 1)
    if decision.obligation and decision.speakers:
        _oblige(draft, conversation.id, utterance, decision)
    elif decision.reason == "ADDRESSED_PLAYER":
        award.decline(draft, conversation.id, utterance, decision)
    elif conversation.floor is not None:
        draft.change_utterance(conversation.undecided, reason="SUPERSEDED")
        draft.change(conversation.id, undecided=utterance.id)
    elif decision.speakers and not conversation.owed:
        causes = floor.causes_of(draft, conversation.id, utterance.speaker_id)
        if floor.calls_left(draft, causes):
            award.grant_pick(draft, conversation.id, decision, award.REPLY, utterance.speaker_id, causes, lane)
        else:
            award.decline(draft, conversation.id, utterance, replace(decision, speakers=(), reason="CALL_LIMIT"))
    elif not conversation.owed:
        award.decline(draft, conversation.id, utterance, decision)
        if decision.reason == "GATE" and not utterance.waiting:
            draft.arm(f"silence:{conversation.id}", draft.law(conversation).silence_ms)
    arrange(draft, conversation.id)


def arrange(draft: Draft, conversation_id: str) -> None:
    """Fill a free floor: who is owed it, then what is undecided, then decisions without chat."""
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or conversation.floor is not None:
        return
    for owed in conversation.owed:
        # An answer is not given behind the back of who asked.
        together = {owed.npc_id, owed.player_id} <= conversation.members.keys()
        lost = "" if together else "LEFT"
        lost = lost or ("" if scene.has_listeners(draft, conversation) else "NOBODY_LISTENS")
        if lost:
            draft.change(conversation_id, owed=_without(draft.conversations[conversation_id].owed, owed))
            award.fail_owed(draft, conversation_id, owed, lost)
        elif not scene.busy(draft, owed.npc_id):
            draft.change(conversation_id, owed=_without(draft.conversations[conversation_id].owed, owed))
            if not award.grant_owed(draft, conversation_id, owed):
                arrange(draft, conversation_id)
            return
    conversation = draft.conversations[conversation_id]
    if conversation.undecided and not conversation.owed:
        undecided = conversation.undecided
        draft.change(conversation_id, undecided="")
        judge(draft, undecided)
        conversation = draft.conversations[conversation_id]
    if conversation.floor is None:
        award.grant_wish(draft, conversation)


def after_turn(draft: Draft, conversation_id: str, turn: Turn) -> None:
    """A turn has ended by itself: those who are owed, else perhaps one more NPC, within the limits of a chain."""
    arrange(draft, conversation_id)
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or conversation.floor is not None or not turn.sentences:
        return
    causes = floor.causes_of(draft, conversation_id, turn.cause_player)
    latest = draft.open.get(causes[-1]) if causes else None
    if latest is not None and latest.waiting:
        # The existing game's calls are for one sentence: it gets one answer.
        return
    law = share.law(draft, conversation)
    alone = not conversation.players() and law.npc_to_npc
    if not (causes or alone) or not floor.calls_left(draft, causes) or not scene.has_listeners(draft, conversation):
        return
    view = scene.scene_of(draft, conversation, turn.npc_id, utterance=latest)
    view = replace(view, addressed=scene.addressed(conversation, turn))
    # Who was asked by name has answered: another must have a good reason to add something.
    margin = law.soft_margin if turn.obliged else 0.0
    decision = policy.decide(replace(law, tau=law.tau + margin), view, model.default())
    draft.change(conversation_id, decisions=conversation.decisions + 1)
    if decision.speakers:
        award.grant_pick(draft, conversation_id, decision, award.REPLY, turn.cause_player, causes)


def step_in(draft: Draft, conversation_id: str, turn: Turn) -> bool:
    """The pick declined or could not: ask its stand-in once. False when there is none or the calls are used up."""
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or conversation.floor is not None or turn.obliged:
        return False
    other = turn.stand_in
    latest = draft.open.get(turn.causes[-1]) if turn.causes else None
    if latest is None or not floor.calls_left(draft, turn.causes):
        return False
    if other not in conversation.members or scene.excluded(draft, conversation, latest).get(other):
        return False
    spare = structs.replace(
        turn,
        npc_id=other,
        reason="STAND_IN",
        stand_in="",
        sentences=(),
        told=(),
        actions=(),
        asked_ms=0,
        first_ms=0,
        heard=False,
        revision_seen=0,
        stages={},
        runtime="",
    )
    floor.grant(draft, conversation_id, spare)
    return True


def owed_again(turn: Turn) -> Owed:
    """The obligation of an obliged turn that was cut off before a word."""
    return Owed(turn.npc_id, turn.causes[0] if turn.causes else "", turn.reason, turn.cause_player, turn.decision)


def owe(draft: Draft, conversation_id: str, owed: Owed) -> None:
    """Let an NPC owe an answer after those who owe one already; beyond the bound it is failed visibly."""
    already = draft.conversations[conversation_id].owed
    if any(_same(draft, other, owed) for other in already):
        return
    if len(already) >= draft.rules.addressed_max:
        award.fail_owed(draft, conversation_id, owed, "SUPERSEDED")
    else:
        draft.change(conversation_id, owed=(*already, owed))


def _interrupt(draft: Draft, conversation: Conversation, utterance: Utterance) -> bool:
    """Barge-in: cancel before the first sentence; after it stop at a sentence's end, at once when another is named.

    True when the floor is free by it.
    """
    turn = conversation.floor
    if turn is None or utterance.id in turn.causes or (turn.kind == award.DECIDE and not turn.speech):
        return False
    wanted = (utterance.direct,) if utterance.direct else utterance.addressed
    another = any(name != turn.npc_id and name in conversation.npcs() for name in wanted)
    if turn.phase == floor.SPEAKING:
        if another or utterance.direct:
            floor.close(draft, conversation.id, "cancelled", "BARGE_IN", running=True)
            return True
        if turn.stop_after < 0:
            draft.change_turn(conversation.id, stop_after=len(turn.sentences) + 1, stop_reason="BARGE_IN")
        return False
    if conversation.cancels >= draft.rules.cancels_max:
        return False
    floor.close(draft, conversation.id, "cancelled", "BARGE_IN", running=True)
    owed = draft.conversations[conversation.id].owed
    if turn.obliged:
        back = owed_again(turn)
        owed = (back, *(other for other in owed if not _same(draft, other, back)))
    draft.change(conversation.id, owed=owed, cancels=conversation.cancels + 1)
    if turn.kind == award.DECIDE:
        initiative.want(draft, Wish(turn.npc_id, turn.decide_reasons, turn.speech, turn.lane == URGENT))
    return True


def _oblige(draft: Draft, conversation_id: str, utterance: Utterance, decision: Decision) -> None:
    """Put the addressed first; whom players addressed before still gets its turn, within the bound, or is failed."""
    conversation = draft.conversations[conversation_id]
    fresh = [Owed(npc, utterance.id, decision.reason, utterance.speaker_id, decision) for npc in decision.speakers]
    others = (owed for owed in conversation.owed if not any(_same(draft, owed, one) for one in fresh))
    merged = [*fresh, *others]
    bound = draft.rules.addressed_max
    draft.change(conversation_id, owed=tuple(merged[:bound]))
    for owed in merged[bound:]:
        award.fail_owed(draft, conversation_id, owed, "SUPERSEDED")


def _same(draft: Draft, one: Owed, other: Owed) -> bool:
    """Whether one answer serves both."""
    return one.npc_id == other.npc_id and draft.apart(one.player_id) == draft.apart(other.player_id)


def _without(owed: tuple[Owed, ...], one: Owed) -> tuple[Owed, ...]:
    return tuple(other for other in owed if other is not one)
