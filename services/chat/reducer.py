"""The room's judgement as one pure function over the durable input log.

`reduce(world, input) -> Step(world, events, effects)`: no clock, no randomness, no I/O. Running the same inputs again
gives the same bytes; recovery is that replay with the effects left undone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from services.chat import (
    award,
    effects,
    events,
    floor,
    hearing,
    initiative,
    inputs,
    judgement,
    membership,
    sessions,
)
from services.chat.conversation import SOLO, Turn, Wish, World
from services.chat.draft import Draft

# Players whose turns are counted; beyond it those of other days are forgotten.
SPENT_MAX = 256

_state = msgspec.msgpack.Encoder()
_stored: msgspec.msgpack.Decoder[World] = msgspec.msgpack.Decoder(World)


@dataclass(frozen=True, slots=True)
class Step:
    """What one input led to."""

    world: World
    events: tuple[events.Event, ...]
    effects: tuple[effects.Effect, ...]


def reduce(world: World, item: inputs.Input) -> Step:
    """Apply one input. Pure: `world` stays as it was."""
    draft = Draft(world, item.at_ms)
    _apply(draft, item)
    _arrange_all(draft)
    _tidy(draft)
    floor.pump(draft)
    hearing.settle(draft)
    return Step(draft.finish(), tuple(draft.events), tuple(draft.effects))


def replay(world: World, items: Iterable[inputs.Input]) -> tuple[World, list[events.Event], list[effects.Effect]]:
    """Apply many inputs; the effects are told, not done."""
    log: list[events.Event] = []
    wanted: list[effects.Effect] = []
    for item in items:
        step = reduce(world, item)
        world = step.world
        log.extend(step.events)
        wanted.extend(step.effects)
    return world, log, wanted


def encode(world: World) -> bytes:
    """The state as bytes, for checkpoints and for comparing replays."""
    return _state.encode(world)


def decode(data: bytes) -> World:
    """The state again."""
    return _stored.decode(data)


def _apply(draft: Draft, item: inputs.Input) -> None:
    match item:
        case inputs.Heard():
            hearing.heard(draft, item)
        case inputs.Observed():
            membership.observed(draft, item)
        case inputs.TurnStarted():
            floor.started(draft, item)
        case inputs.Spoke():
            _spoke(draft, item)
        case inputs.Acted():
            floor.act(draft, item)
        case inputs.TurnEnded():
            _ended(draft, item)
        case inputs.TimerFired():
            _fired(draft, item.timer)
        case inputs.Wished():
            _wished(draft, item)
        case inputs.PlayerLocated():
            sessions.located(draft, item.player_id, present=item.present)
        case inputs.PlayerErased():
            sessions.erase(draft, item.player_id)
        case inputs.Retracted():
            sessions.retract(draft, item)
        case inputs.Loaded():
            _loaded(draft, item)


def _spoke(draft: Draft, item: inputs.Spoke) -> None:
    found = draft.turn(item.turn_id)
    if found is None or not floor.speak(draft, item):
        return
    where = found[0]
    reason = draft.conversations[where].floor
    floor.close(draft, where, "cancelled", reason.stop_reason if reason else "BARGE_IN", running=True)
    judgement.arrange(draft, where)


def _ended(draft: Draft, item: inputs.TurnEnded) -> None:
    found = draft.turn(item.turn_id)
    if found is None:
        return
    where, turn = found
    draft.change_turn(where, degraded=item.degraded or turn.degraded, stages={**turn.stages, **item.stages})
    if item.outcome == "failed":
        _failed(draft, where, turn, item.reason)
        return
    if item.outcome == "passed" and not turn.sentences:
        ended = floor.close(draft, where, "declined", "PASSED")
        if not judgement.step_in(draft, where, ended):
            judgement.arrange(draft, where)
        return
    ended = floor.close(draft, where, "ended", turn.reason)
    judgement.after_turn(draft, where, ended)


def _failed(draft: Draft, where: str, turn: Turn, reason: str) -> None:
    patience = draft.rules.busy_patience_ms
    if reason == "AGENT_BUSY" and turn.obliged and not turn.sentences and draft.at - turn.granted_ms < patience:
        draft.change_turn(where, phase=floor.QUEUED)
        draft.arm(f"retry:{turn.id}", draft.rules.busy_retry_ms)
        return
    if turn.sentences:
        ended = floor.close(draft, where, "ended", reason)
        judgement.after_turn(draft, where, ended)
        return
    ended = floor.close(draft, where, "failed", reason)
    if not judgement.step_in(draft, where, ended):
        judgement.arrange(draft, where)


def _wished(draft: Draft, item: inputs.Wished) -> None:
    draft.revision = max(draft.revision, item.revision)
    where = initiative.place(draft, item.npc)
    initiative.want(draft, Wish(item.npc.id, item.reasons, item.speech, item.urgent, (item.request_id,)))
    judgement.arrange(draft, where)


def _fired(draft: Draft, timer: str) -> None:
    """A timer that was disarmed meanwhile does nothing."""
    if draft.timers.pop(timer, None) is None:
        return
    kind, _, name = timer.partition(":")
    if kind == "gather":
        hearing.decide(draft, name)
    elif kind == "silence":
        initiative.break_silence(draft, name)
    elif kind == "greet":
        _greet(draft, name)
    elif kind == "absence":
        sessions.absent(draft, name)
    elif kind in ("queue", "retry"):
        _waited(draft, kind, name)


def _waited(draft: Draft, kind: str, turn_id: str) -> None:
    found = draft.turn(turn_id)
    if found is None or found[1].phase != floor.QUEUED:
        return
    where, turn = found
    if kind == "retry" or not floor.wait_over(draft, where, turn):
        floor.pump(draft)
        return
    floor.close(draft, where, "failed", "OVERLOADED")
    judgement.arrange(draft, where)


def _greet(draft: Draft, conversation_id: str) -> None:
    conversation = draft.conversations.get(conversation_id)
    if conversation is None:
        return
    for player in conversation.players():
        spoken = conversation.rhythm.seats.get(player)
        if (spoken is None or spoken.last < 0) and initiative.greet(draft, conversation_id, player):
            return


def _loaded(draft: Draft, item: inputs.Loaded) -> None:
    """A new owner: no turn of the old one goes on, what was owed is failed visibly, fresh questions are judged."""
    draft.rules, draft.places, draft.digest = item.rules, item.places, item.digest
    draft.next_seq = max(draft.next_seq, item.seq_floor + 1)
    for where, turn in list(draft.floors()):
        floor.close(draft, where, "cancelled" if turn.sentences else "failed", "OWNER_LOST")
        for owed in draft.conversations[where].owed:
            award.fail_owed(draft, where, owed, "OWNER_LOST")
        draft.change(where, owed=())
    for npc in list(draft.wishes):
        initiative.drop_wish(draft, npc, "OWNER_LOST")
    for utterance in list(draft.open.values()):
        if utterance.gathering and draft.at - utterance.at_ms > draft.rules.resume_ms:
            draft.disarm(f"gather:{utterance.id}")
            draft.change_utterance(utterance.id, gathering=False, reason="OWNER_LOST", failed=True)
    for conversation in list(draft.conversations.values()):
        waiting = draft.open.get(conversation.undecided)
        if waiting is not None and draft.at - waiting.at_ms > draft.rules.resume_ms:
            draft.change(conversation.id, undecided="")
            award.keep_silent(draft, waiting, "OWNER_LOST")


def _arrange_all(draft: Draft) -> None:
    """Fill free floors: an NPC that was busy elsewhere may have become free by this input."""
    for conversation in list(draft.conversations.values()):
        if conversation.floor is None and (conversation.owed or conversation.undecided or draft.wishes):
            judgement.arrange(draft, conversation.id)


def _tidy(draft: Draft) -> None:
    """Forget what can have no consequence any more."""
    for conversation in list(draft.conversations.values()):
        if conversation.id.startswith(SOLO) and conversation.floor is None:
            npc = conversation.id.removeprefix(SOLO)
            if npc not in draft.wishes:
                del draft.conversations[conversation.id]
    if len(draft.spent) > SPENT_MAX:
        today = draft.at // floor.DAY_MS
        draft.spent = {who: seen for who, seen in draft.spent.items() if seen.day == today}
    if len(draft.recent) > 64:
        fresh = draft.at - draft.rules.same_text_ms
        draft.recent = {who: seen for who, seen in draft.recent.items() if seen[2] > fresh}
