"""The floor: one turn at a time per conversation, its grant, its worker, its sentences and its end (D2, D3).

A turn is known by its id while it has the floor; whatever arrives for another id is stale and dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from services.chat import cues, outside, share, vocative
from services.chat.conversation import CONVERSATION, URGENT, Conversation, Reply, Spent, Turn
from services.chat.draft import Draft
from services.chat.effects import Ask, Cancel, Explain, Replied, WishSettled
from services.chat.events import Did, Said, Turned
from services.chat.inputs import Acted, Spoke, TurnStarted
from services.chat.policy import NPC, Decision
from services.chat.rhythm import hear

ASKED = "asked"
QUEUED = "queued"
SPEAKING = "speaking"
DAY_MS = 86_400_000


def causes_of(draft: Draft, conversation_id: str, player_id: str) -> tuple[str, ...]:
    """Open utterances that a reply to this player would answer, oldest first; the newest pays for the call.

    What may not enter the game is answered by itself.
    """
    side = draft.apart(player_id)
    return tuple(
        utterance.id
        for utterance in draft.utterances(conversation_id)
        if not utterance.gathering and draft.apart(utterance.speaker_id) == side
    )


def calls_left(draft: Draft, causes: tuple[str, ...]) -> bool:
    """Whether the newest of these utterances may cause one more runtime call."""
    newest = draft.open.get(causes[-1]) if causes else None
    return newest is None or newest.calls < draft.rules.calls_per_message


def capped(draft: Draft, player_id: str) -> str:
    """Why no NPC may speak to the player any more today, "" = it may (D5)."""
    rules, spent = draft.rules, _spent(draft, player_id)
    if 0 < rules.player_turns_day <= spent.turns:
        return "PLAYER_CAP"
    return "TIME_CAP" if 0 < rules.player_talk_day_ms <= spent.talk_ms else ""


def talked(draft: Draft, player_id: str) -> None:
    """A player said something that an NPC hears: the time since its line before counts, up to a bound."""
    spent = _spent(draft, player_id)
    since = min(draft.at - spent.last_ms, draft.rules.talk_gap_ms) if spent.last_ms else 0
    draft.spent[player_id] = replace(spent, talk_ms=spent.talk_ms + since, last_ms=draft.at)


def _spent(draft: Draft, player_id: str) -> Spent:
    today = draft.at // DAY_MS
    spent = draft.spent.get(player_id)
    return spent if spent is not None and spent.day == today else Spent(today)


def grant(draft: Draft, conversation_id: str, turn: Turn) -> Turn:
    """Give the floor to `turn` (its id and times are set here) and ask it when a worker is free."""
    utterances = draft.utterances(conversation_id)
    turn = replace(
        turn,
        id=f"t-{draft.digest}-{draft.next_seq}",
        npc_name=draft.conversations[conversation_id].members[turn.npc_id].name,
        granted_ms=draft.at,
        phase=QUEUED,
        min_revision=max([draft.revision, *(utterance.revision for utterance in utterances)]),
        apart=draft.apart(turn.cause_player, *(one.speaker_id for one in utterances if one.id in turn.causes)),
    )
    draft.change(conversation_id, floor=turn)
    if turn.cause_player and draft.rules.player_turns_day:
        spent = _spent(draft, turn.cause_player)
        draft.spent[turn.cause_player] = replace(spent, turns=spent.turns + 1)
    for cause in turn.causes:
        draft.change_utterance(cause, turn_id=turn.id)
    if turn.causes:
        share.called(draft, conversation_id)
    if turn.causes and turn.causes[-1] in draft.open:
        draft.change_utterance(turn.causes[-1], calls=draft.open[turn.causes[-1]].calls + 1)
    _tell(draft, conversation_id, turn, "started", turn.reason)
    explain(draft, conversation_id, turn)
    if _worker_free(draft, turn):
        ask(draft, conversation_id, turn)
    else:
        draft.arm(f"queue:{turn.id}", draft.rules.urgent_wait_ms if turn.lane == URGENT else _ageing_ms(draft))
    return turn


def ask(draft: Draft, conversation_id: str, turn: Turn) -> None:
    """Have the turn run: it holds a worker from now on."""
    draft.disarm(f"queue:{turn.id}")
    queued = draft.at - turn.granted_ms
    turn = draft.change_turn(conversation_id, phase=ASKED, asked_ms=draft.at, stages={**turn.stages, "queue": queued})
    conversation = draft.conversations[conversation_id]
    draft.do(
        Ask(
            turn_id=turn.id,
            npc_id=turn.npc_id,
            conversation_id=conversation_id,
            kind=turn.kind,
            min_revision=turn.min_revision,
            player_ids=conversation.players(),
            speech=turn.speech,
            decide_reasons=turn.decide_reasons,
            generation=draft.generations.get(turn.npc_id, 0),
            joined_ms=conversation.members[turn.npc_id].since_ms,
        )
    )


def pump(draft: Draft) -> None:
    """Give free workers to waiting turns: urgent ones first, then by age.

    A conversation turn that has waited half its bound may take an urgent worker (ageing).
    """
    waiting = [(where, turn) for where, turn in draft.floors() if turn.phase == QUEUED]
    waiting.sort(key=lambda pair: (pair[1].lane != URGENT, pair[1].granted_ms, pair[1].id))
    for where, turn in waiting:
        if f"retry:{turn.id}" not in draft.timers and _worker_free(draft, turn):
            ask(draft, where, turn)


def wait_over(draft: Draft, conversation_id: str, turn: Turn) -> bool:
    """The queue's timer fired: True when the turn has waited its whole bound, else it is set for the rest."""
    bound = draft.rules.urgent_wait_ms if turn.lane == URGENT else draft.rules.conversation_wait_ms
    left = turn.granted_ms + bound - draft.at
    if left > 0:
        draft.arm(f"queue:{turn.id}", left)
    return left <= 0


def started(draft: Draft, item: TurnStarted) -> None:
    """The model has been asked: remember how fresh the NPC is."""
    found = draft.turn(item.turn_id)
    if found is None:
        return
    where, turn = found
    draft.change_turn(
        where,
        revision_seen=item.revision,
        age_ms=item.age_ms,
        runtime=item.runtime,
        degraded=item.degraded,
        stages={**turn.stages, **item.stages},
        notes=(*turn.notes, *item.notes, *(("inlined",) if item.inlined else ())),
        recalled=item.recalled or turn.recalled,
    )


def speak(draft: Draft, item: Spoke) -> bool:
    """Log one sentence. True when the turn has to end with it (a player spoke meanwhile).

    A turn that was asked for actions only has no voice, whatever its runtime says.
    """
    found = draft.turn(item.turn_id)
    if found is None or not found[1].speech:
        return False
    where, turn = found
    conversation = draft.conversations[where]
    apart = turn.apart or (item.quotes and not draft.rules.outside_in_game)
    audience = conversation.players()
    if apart:
        audience = outside.only(audience) or outside.only((turn.cause_player,))
    if audience or not apart:
        _say(draft, where, turn, item.text, audience)
    first = turn.first_ms or draft.at
    told = turn.told if apart else (*turn.told, item.text)
    turn = draft.change_turn(where, phase=SPEAKING, first_ms=first, sentences=(*turn.sentences, item.text), told=told)
    draft.change(where, cancels=0, last_ms=draft.at)
    return 0 <= turn.stop_after <= len(turn.sentences)


def _say(draft: Draft, where: str, turn: Turn, text: str, audience: tuple[str, ...]) -> None:
    cause = outside.cause(turn.cause_player, audience)
    draft.emit(
        where,
        Said(
            utterance_id=f"u-{draft.digest}-{draft.next_seq}",
            speaker_id=turn.npc_id,
            speaker_name=turn.npc_name,
            speaker_kind=NPC,
            text=text,
            turn_id=turn.id,
            sentence=len(turn.sentences),
            audience=audience,
            cause_user_id=cause,
            due_to=turn.cause_player if turn.cause_player != cause else "",
            ai=True,
            expires_at_ms=draft.at + draft.rules.utterance_ttl_ms,
            degraded=turn.degraded,
            hearers=draft.conversations[where].npcs(),
        ),
    )


def act(draft: Draft, item: Acted) -> None:
    """Log one action; a turn that was told to stop acts no more."""
    found = draft.turn(item.turn_id)
    if found is None or found[1].stop_after >= 0:
        return
    where, turn = found
    expires = draft.at + draft.rules.utterance_ttl_ms
    draft.emit(where, Did(turn.id, turn.npc_id, item.action, expires))
    draft.change_turn(where, actions=(*turn.actions, item.action))


def close(draft: Draft, conversation_id: str, phase: str, reason: str, *, running: bool = False) -> Turn:
    """Free the floor. phase: ended, declined, cancelled or failed; running: its call must be stopped."""
    turn = draft.conversations[conversation_id].floor
    assert turn is not None, "only a turn that has the floor is closed"
    if running and turn.phase != QUEUED:
        draft.do(Cancel(turn.id))
    draft.disarm(f"queue:{turn.id}")
    draft.disarm(f"retry:{turn.id}")
    _tell(draft, conversation_id, turn, phase, reason)
    explain(draft, conversation_id, turn)
    listen(draft, conversation_id, turn)
    conversation = draft.change(conversation_id, floor=None, last_ms=draft.at)
    if turn.sentences:
        draft.spoke_ms[turn.npc_id] = draft.at
        draft.change(conversation_id, npc_turns=conversation.npc_turns + 1, cancels=0)
    _answer(draft, turn, phase, reason)
    return turn


def listen(draft: Draft, conversation_id: str, turn: Turn) -> None:
    """Let the conversation's rhythm hear what the turn has said so far, once."""
    conversation = draft.conversations[conversation_id]
    if turn.heard or not turn.sentences:
        return
    text = " ".join(turn.sentences)
    people = conversation.people
    address = vocative.parse(text, [p.names or (p.name,) for p in people], _index(conversation, turn.npc_id))
    found = cues.read(text)
    before = conversation.rhythm.speaker
    rhythm = hear(conversation.rhythm, turn.npc_id, address, [p.id for p in people], found)
    draft.change(conversation_id, rhythm=rhythm)
    if conversation.floor is not None and conversation.floor.id == turn.id:
        draft.change_turn(conversation_id, heard=True)
    if before in conversation.members and conversation.members[before].kind == NPC and before != turn.npc_id:
        _remember_pair(draft, conversation_id, before, turn.npc_id, found.parting)


def pair_of(one: str, other: str) -> str:
    """Name of an unordered pair."""
    return "\n".join(sorted((one, other)))


def explain(draft: Draft, conversation_id: str, turn: Turn) -> None:
    """Keep why the turn came about and where its time went."""
    decision = turn.decision or Decision((), turn.reason)
    stages = dict(turn.stages)
    if turn.first_ms:
        stages["first_sentence"] = turn.first_ms - turn.granted_ms
    draft.do(
        Explain(
            turn.id,
            conversation_id,
            decision.obligation or (turn.reason if turn.obliged else ""),
            decision.p_any_npc,
            decision.tau,
            decision.candidates,
            stages,
            turn.notes,
            turn.recalled,
        )
    )


def _tell(draft: Draft, conversation_id: str, turn: Turn, phase: str, reason: str) -> None:
    draft.emit(
        conversation_id,
        Turned(
            turn_id=turn.id,
            phase=phase,
            reason=reason,
            npc_id=turn.npc_id,
            npc_name=turn.npc_name,
            cause_utterance_id=turn.causes[-1] if turn.causes else "",
            revision_seen=turn.revision_seen,
            age_ms=turn.age_ms,
            runtime=turn.runtime,
            first_sentence_ms=turn.first_ms - turn.granted_ms if turn.first_ms else 0,
            total_ms=draft.at - turn.granted_ms,
        ),
    )


def _answer(draft: Draft, turn: Turn, phase: str, reason: str) -> None:
    """Attach what the turn said and did to the utterances and requests that caused it."""
    whole, shown = _reply(turn, turn.sentences), _reply(turn, turn.told)
    for cause in turn.causes:
        utterance = draft.open.get(cause)
        if utterance is None:
            continue
        reply = whole if outside.outside(utterance.speaker_id) else shown
        if reply.text or reply.actions:
            draft.change_utterance(cause, replies=(*utterance.replies, reply), failed=False, reason="")
            draft.do(Replied(cause, reply))
        elif not utterance.replies:
            why = "APART" if whole.text else reason
            draft.change_utterance(cause, reason=why, failed=phase == "failed")
    said = bool(shown.text or shown.actions)
    for number, request in enumerate(turn.requests):
        outcome = "failed" if phase in ("failed", "cancelled") and not said else "merged" if number else "decided"
        draft.do(WishSettled(request, turn.id, outcome, reason, shown if said else None))


def _reply(turn: Turn, sentences: Sequence[str]) -> Reply:
    return Reply(
        turn.id, turn.npc_id, turn.npc_name, " ".join(sentences), turn.actions, turn.revision_seen, turn.degraded
    )


def _worker_free(draft: Draft, turn: Turn) -> bool:
    rules = draft.rules
    running = [other.lane for _, other in draft.floors() if other.phase != QUEUED]
    if len(running) >= rules.urgent_workers + rules.conversation_workers:
        return False
    if turn.lane == URGENT:
        return running.count(URGENT) < rules.urgent_workers
    if running.count(CONVERSATION) < rules.conversation_workers:
        return True
    return draft.at - turn.granted_ms >= _ageing_ms(draft)


def _ageing_ms(draft: Draft) -> int:
    return draft.rules.conversation_wait_ms // 2


def _remember_pair(draft: Draft, conversation_id: str, one: str, other: str, parting: bool) -> None:
    """Count turns of NPC pairs; a goodbye that is returned closes the pair until a player speaks."""
    conversation = draft.conversations[conversation_id]
    pair = pair_of(one, other)
    recent = [at for at in conversation.pair_turns.get(pair, ()) if draft.at - at < draft.rules.pair_window_ms]
    draft.change(conversation_id, pair_turns={**conversation.pair_turns, pair: (*recent, draft.at)})
    if not parting:
        return
    if pair in conversation.goodbyes:
        draft.change(conversation_id, closed_pairs=(*conversation.closed_pairs, pair))
    else:
        draft.change(conversation_id, goodbyes=(*conversation.goodbyes, pair))


def _index(conversation: Conversation, who: str) -> int:
    return next((i for i, person in enumerate(conversation.people) if person.id == who), -1)
