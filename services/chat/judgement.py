"""Who gets the floor next: interruptions, obligations, the policy, chains of turns, silence and greetings."""

from __future__ import annotations

from dataclasses import replace

from services.chat import floor, model, policy, vocative
from services.chat.conversation import CONVERSATION, SOLO, URGENT, Conversation, Owed, Turn, Utterance, Wish
from services.chat.draft import Draft
from services.chat.effects import Explain, WishSettled
from services.chat.events import Turned
from services.chat.policy import NOT_WAITING, PLAYER, Decision, Participant, Scene

REPLY = "reply"
SILENCE = "silence"
GREETING = "greeting"
DECIDE = "decide"


def judge(draft: Draft, utterance_id: str) -> None:
    """Judge a player's utterance: interrupt who speaks, oblige who was addressed, else let the policy choose."""
    utterance = draft.open.get(utterance_id)
    conversation = draft.conversations.get(utterance.conversation_id) if utterance else None
    if utterance is None or conversation is None:
        return
    _interrupt(draft, conversation, utterance)
    conversation = draft.conversations[conversation.id]
    scene = _scene(draft, conversation, utterance.speaker_id, utterance=utterance)
    decision = policy.decide(draft.rules, scene, model.default())
    draft.change(conversation.id, decisions=conversation.decisions + 1)
    if decision.obligation and decision.speakers:
        _oblige(draft, conversation.id, utterance, decision)
    elif decision.reason == "ADDRESSED_PLAYER":
        _keep_silent(draft, conversation.id, utterance, decision)
    elif conversation.floor is not None:
        draft.change(conversation.id, undecided=utterance.id)
    elif decision.speakers and not conversation.owed:
        causes = floor.causes_of(draft, conversation.id)
        if floor.calls_left(draft, causes):
            _grant_pick(draft, conversation.id, decision, REPLY, utterance.speaker_id, causes)
        else:
            _keep_silent(draft, conversation.id, utterance, replace(decision, speakers=(), reason="CALL_LIMIT"))
    elif not conversation.owed:
        _keep_silent(draft, conversation.id, utterance, decision)
        if decision.reason == "GATE" and not utterance.waiting:
            draft.arm(f"silence:{conversation.id}", draft.rules.silence_ms)
    arrange(draft, conversation.id)


def arrange(draft: Draft, conversation_id: str) -> None:
    """Fill a free floor: who is owed it, then what is undecided, then decisions without chat."""
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or conversation.floor is not None:
        return
    for owed in conversation.owed:
        lost = "LEFT" if owed.npc_id not in conversation.members else ""
        lost = lost or ("" if _has_listeners(draft, conversation) else "NOBODY_LISTENS")
        if lost:
            draft.change(conversation_id, owed=_without(draft.conversations[conversation_id].owed, owed))
            fail_owed(draft, conversation_id, owed, lost)
        elif not _busy(draft, owed.npc_id):
            draft.change(conversation_id, owed=_without(draft.conversations[conversation_id].owed, owed))
            _grant_owed(draft, conversation_id, owed)
            return
    conversation = draft.conversations[conversation_id]
    if conversation.undecided and not conversation.owed:
        undecided = conversation.undecided
        draft.change(conversation_id, undecided="")
        judge(draft, undecided)
        conversation = draft.conversations[conversation_id]
    if conversation.floor is None:
        _grant_wish(draft, conversation)


def after_turn(draft: Draft, conversation_id: str, turn: Turn) -> None:
    """A turn has ended by itself: those who are owed, else perhaps one more NPC, within the limits of a chain."""
    arrange(draft, conversation_id)
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or conversation.floor is not None or not turn.sentences:
        return
    causes = floor.causes_of(draft, conversation_id)
    latest = draft.open.get(causes[-1]) if causes else None
    if latest is not None and latest.waiting:
        # The existing game's calls are for one sentence: it gets one answer.
        return
    alone = not conversation.players() and draft.rules.npc_to_npc
    if not (causes or alone) or not floor.calls_left(draft, causes) or not _has_listeners(draft, conversation):
        return
    scene = _scene(draft, conversation, turn.npc_id, utterance=latest)
    scene = replace(scene, addressed=_addressed(conversation, turn))
    # Who was asked by name has answered: another must have a good reason to add something.
    margin = draft.rules.soft_margin if turn.obliged else 0.0
    decision = policy.decide(replace(draft.rules, tau=draft.rules.tau + margin), scene, model.default())
    draft.change(conversation_id, decisions=conversation.decisions + 1)
    if decision.speakers:
        _grant_pick(draft, conversation_id, decision, REPLY, turn.cause_player, causes)


def step_in(draft: Draft, conversation_id: str, turn: Turn) -> bool:
    """The pick declined or could not: ask its stand-in once. False when there is none or the calls are used up."""
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or conversation.floor is not None or turn.obliged:
        return False
    other = turn.stand_in
    latest = draft.open.get(turn.causes[-1]) if turn.causes else None
    if latest is None or not floor.calls_left(draft, turn.causes):
        return False
    if other not in conversation.members or _excluded(draft, conversation, latest).get(other):
        return False
    spare = replace(turn, npc_id=other, reason="STAND_IN", stand_in="", sentences=(), actions=(), asked_ms=0)
    floor.grant(draft, conversation_id, replace(spare, first_ms=0, heard=False, revision_seen=0, stages={}, runtime=""))
    return True


def break_silence(draft: Draft, conversation_id: str) -> None:
    """Nobody answered for an awkward while: score once more with a lower threshold."""
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or conversation.floor is not None or not conversation.players():
        return
    scene = replace(_scene(draft, conversation, conversation.rhythm.speaker), silence=True)
    decision = policy.decide(draft.rules, scene, model.default())
    draft.change(conversation_id, decisions=conversation.decisions + 1)
    if decision.speakers:
        _grant_pick(draft, conversation_id, replace(decision, reason="SILENCE"), SILENCE, scene.speaker, ())


def greet(draft: Draft, conversation_id: str, player_id: str, utterance: Utterance | None = None) -> bool:
    """Let one NPC greet an arriving player, once per player and conversation in a while."""
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or player_id not in conversation.members or conversation.floor is not None:
        return False
    if not draft.rules.greetings or greeted_lately(draft, conversation, player_id):
        return False
    if conversation.npc_turns >= draft.rules.turns_hard:
        return False
    scene = replace(_scene(draft, conversation, conversation.rhythm.speaker, utterance=utterance), silence=True)
    anyone = replace(draft.rules, tau_silence=-1.0)
    decision = policy.decide(anyone, replace(scene, npc_turns=0), model.default())
    draft.change(conversation_id, decisions=conversation.decisions + 1)
    if not decision.speakers:
        return False
    now = dict.fromkeys(conversation.players(), draft.at)
    draft.change(conversation_id, greeted={**conversation.greeted, **now})
    causes = (utterance.id,) if utterance is not None else ()
    _grant_pick(draft, conversation_id, replace(decision, reason="GREETING"), GREETING, player_id, causes)
    return True


def greeted_lately(draft: Draft, conversation: Conversation, player_id: str) -> bool:
    """Whether the player's greeting here is still on cooldown."""
    at = conversation.greeted.get(player_id)
    return at is not None and draft.at - at < draft.rules.cooldown_greeting_ms


def keep_silent(draft: Draft, utterance: Utterance, reason: str) -> None:
    """Tell, with a reason, that nobody answers an utterance."""
    _keep_silent(draft, utterance.conversation_id, utterance, Decision((), reason))


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


def owed_again(turn: Turn) -> Owed:
    """The obligation of an obliged turn that was cut off before a word."""
    return Owed(turn.npc_id, turn.causes[0] if turn.causes else "", turn.reason, turn.cause_player, turn.decision)


def owe(draft: Draft, conversation_id: str, owed: Owed) -> None:
    """Let an NPC owe an answer after those who owe one already; beyond the bound it is failed visibly."""
    already = draft.conversations[conversation_id].owed
    if any(other.npc_id == owed.npc_id for other in already):
        return
    if len(already) >= draft.rules.addressed_max:
        fail_owed(draft, conversation_id, owed, "SUPERSEDED")
    else:
        draft.change(conversation_id, owed=(*already, owed))


def place(draft: Draft, npc: Participant) -> str:
    """The conversation in which an NPC decides: its cluster's, else one of its own."""
    home = draft.home(npc.id)
    if home is not None:
        return home.id
    alone = f"{SOLO}{npc.id}"
    if alone not in draft.conversations:
        draft.conversations[alone] = Conversation(alone, {npc.id: npc}, last_ms=draft.at)
    return alone


def want(draft: Draft, wish: Wish) -> None:
    """Merge a decision without chat into what the NPC is already to decide."""
    waiting = draft.wishes.get(wish.npc_id)
    if waiting is not None:
        wish = Wish(
            wish.npc_id,
            tuple(dict.fromkeys((*waiting.reasons, *wish.reasons))),
            waiting.speech or wish.speech,
            waiting.urgent or wish.urgent,
            (*waiting.requests, *wish.requests),
        )
    draft.wishes[wish.npc_id] = wish


def drop_wish(draft: Draft, npc_id: str, reason: str) -> None:
    """The NPC will not decide: tell who asked."""
    wish = draft.wishes.pop(npc_id, None)
    for request in wish.requests if wish else ():
        draft.do(WishSettled(request, "", "failed", reason, None))


# -- interruptions ---------------------------------------------------------------------------------------------------


def _interrupt(draft: Draft, conversation: Conversation, utterance: Utterance) -> None:
    """Barge-in: cancel before the first sentence; after it stop at a sentence's end, at once when another is named."""
    turn = conversation.floor
    if turn is None or utterance.id in turn.causes or (turn.kind == DECIDE and not turn.speech):
        return
    wanted = (utterance.direct,) if utterance.direct else utterance.addressed
    another = any(name != turn.npc_id and name in conversation.npcs() for name in wanted)
    if turn.phase == floor.SPEAKING:
        if another or utterance.direct:
            floor.close(draft, conversation.id, "cancelled", "BARGE_IN", running=True)
        elif turn.stop_after < 0:
            draft.change_turn(conversation.id, stop_after=len(turn.sentences) + 1, stop_reason="BARGE_IN")
        return
    if conversation.cancels >= draft.rules.cancels_max:
        return
    floor.close(draft, conversation.id, "cancelled", "BARGE_IN", running=True)
    owed = draft.conversations[conversation.id].owed
    if turn.obliged:
        back = owed_again(turn)
        owed = (back, *(other for other in owed if other.npc_id != turn.npc_id))
    draft.change(conversation.id, owed=owed, cancels=conversation.cancels + 1)
    if turn.kind == DECIDE:
        want(draft, Wish(turn.npc_id, turn.decide_reasons, turn.speech, turn.lane == URGENT))


def _oblige(draft: Draft, conversation_id: str, utterance: Utterance, decision: Decision) -> None:
    """Put the addressed first; whom players addressed before still gets its turn, within the bound, or is failed."""
    conversation = draft.conversations[conversation_id]
    fresh = [Owed(npc, utterance.id, decision.reason, utterance.speaker_id, decision) for npc in decision.speakers]
    named = {owed.npc_id for owed in fresh}
    merged = [*fresh, *(owed for owed in conversation.owed if owed.npc_id not in named)]
    bound = draft.rules.addressed_max
    draft.change(conversation_id, owed=tuple(merged[:bound]))
    for owed in merged[bound:]:
        fail_owed(draft, conversation_id, owed, "SUPERSEDED")


# -- grants ----------------------------------------------------------------------------------------------------------


def _grant_owed(draft: Draft, conversation_id: str, owed: Owed) -> None:
    causes = floor.causes_of(draft, conversation_id)
    if not floor.calls_left(draft, causes):
        fail_owed(draft, conversation_id, owed, "CALL_LIMIT")
        arrange(draft, conversation_id)
        return
    floor.grant(
        draft,
        conversation_id,
        Turn(
            id="",
            npc_id=owed.npc_id,
            npc_name="",
            lane=URGENT,
            kind=REPLY,
            reason=owed.reason,
            phase=floor.QUEUED,
            granted_ms=0,
            min_revision=0,
            causes=causes,
            cause_player=owed.player_id,
            obliged=True,
            decision=owed.decision,
        ),
    )


def _grant_pick(
    draft: Draft, conversation_id: str, decision: Decision, kind: str, player: str, causes: tuple[str, ...]
) -> None:
    conversation = draft.conversations[conversation_id]
    is_player = player in conversation.members and conversation.members[player].kind == PLAYER
    floor.grant(
        draft,
        conversation_id,
        Turn(
            id="",
            npc_id=decision.speakers[0],
            npc_name="",
            lane=CONVERSATION,
            kind=kind,
            reason=decision.reason,
            phase=floor.QUEUED,
            granted_ms=0,
            min_revision=0,
            causes=causes,
            cause_player=player if is_player else next(iter(conversation.players()), ""),
            stand_in=decision.speakers[1] if len(decision.speakers) > 1 else "",
            decision=decision,
        ),
    )


def _grant_wish(draft: Draft, conversation: Conversation) -> None:
    """Let one NPC that has reasons to decide do so: urgent ones first."""
    waiting = [draft.wishes[npc] for npc in conversation.npcs() if npc in draft.wishes and not _busy(draft, npc)]
    if not waiting:
        return
    wish = min(waiting, key=lambda each: not each.urgent)
    del draft.wishes[wish.npc_id]
    draft.decided_ms[wish.npc_id] = draft.at
    floor.grant(
        draft,
        conversation.id,
        Turn(
            id="",
            npc_id=wish.npc_id,
            npc_name="",
            lane=URGENT if wish.urgent else CONVERSATION,
            kind=DECIDE,
            reason="DECIDE",
            phase=floor.QUEUED,
            granted_ms=0,
            min_revision=0,
            cause_player=next(iter(conversation.players()), ""),
            speech=wish.speech and _may_add_a_line(draft, conversation),
            decide_reasons=wish.reasons,
            requests=wish.requests,
        ),
    )


def _keep_silent(draft: Draft, conversation_id: str, utterance: Utterance, decision: Decision) -> None:
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


# -- what a decision looks at ----------------------------------------------------------------------------------------


def _scene(draft: Draft, conversation: Conversation, speaker: str, *, utterance: Utterance | None = None) -> Scene:
    return Scene(
        present=conversation.people,
        rhythm=conversation.rhythm,
        speaker=speaker,
        addressed=utterance.addressed if utterance else (),
        direct=utterance.direct if utterance else "",
        excluded=_excluded(draft, conversation, utterance),
        npc_turns=conversation.npc_turns,
        seed=f"{conversation.id}/{conversation.decisions}",
    )


def _excluded(draft: Draft, conversation: Conversation, utterance: Utterance | None) -> dict[str, str]:
    """Why NPCs may not speak now unless obliged."""
    found: dict[str, str] = {}
    last = conversation.rhythm.speaker
    for npc in conversation.npcs():
        pair = floor.pair_of(last, npc)
        if utterance is not None and utterance.waiting and npc not in utterance.waiting:
            found[npc] = NOT_WAITING
        elif _busy(draft, npc):
            found[npc] = "BUSY"
        elif draft.at - draft.spoke_ms.get(npc, -draft.rules.cooldown_npc_ms) < draft.rules.cooldown_npc_ms:
            found[npc] = "COOLDOWN"
        elif pair in conversation.closed_pairs:
            found[npc] = "GOODBYE"
        elif _pair_is_hot(draft, conversation, pair):
            found[npc] = "PAIR_COOLDOWN"
    return found


def _pair_is_hot(draft: Draft, conversation: Conversation, pair: str) -> bool:
    times = conversation.pair_turns.get(pair, ())
    recent = sum(draft.at - at < draft.rules.pair_window_ms for at in times)
    return recent >= draft.rules.pair_turns


def _has_listeners(draft: Draft, conversation: Conversation) -> bool:
    """NPCs talk where a player is; among themselves only when the rules allow it."""
    return bool(conversation.players()) or draft.rules.npc_to_npc


def _may_add_a_line(draft: Draft, conversation: Conversation) -> bool:
    """A decision may be spoken as well, within the limits of a chain; an NPC alone talks to nobody but who asked."""
    if conversation.id.startswith(SOLO):
        return True
    return _has_listeners(draft, conversation) and conversation.npc_turns < draft.rules.turns_hard


def _busy(draft: Draft, npc_id: str) -> bool:
    return any(turn.npc_id == npc_id for _, turn in draft.floors())


def _addressed(conversation: Conversation, turn: Turn) -> tuple[str, ...]:
    people = conversation.people
    me = next((i for i, person in enumerate(people) if person.id == turn.npc_id), -1)
    found = vocative.parse(" ".join(turn.sentences), [person.names or (person.name,) for person in people], me)
    return tuple(people[i].id for i in found.addressed)


def _without(owed: tuple[Owed, ...], one: Owed) -> tuple[Owed, ...]:
    return tuple(other for other in owed if other is not one)
