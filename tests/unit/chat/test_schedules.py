"""The promises of the floor over random schedules, and replay to the byte."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.chat import reducer
from services.chat.conversation import World
from services.chat.effects import Ask
from services.chat.events import Turned
from services.chat.rules import Rules
from tests.unit.chat.schedule import Schedule


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
# Three are owed an answer, one of them is busy alone, and meanwhile an NPC decides aloud: four in a chain of three.
@example(seed=3206)
def test_promises_hold_on_any_schedule(seed: int) -> None:
    schedule = Schedule(seed)
    schedule.run(60)
    assert list(schedule.promises()) == []


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_replaying_the_input_log_gives_the_same_bytes(seed: int) -> None:
    schedule = Schedule(seed)
    schedule.run(50)
    world, log, effects = reducer.replay(World(), schedule.inputs)
    again, log_again, effects_again = reducer.replay(World(), schedule.inputs)
    assert reducer.encode(world) == reducer.encode(again) == reducer.encode(schedule.world)
    assert log == log_again == schedule.log
    assert effects == effects_again
    # From any checkpoint on it is the same as from the start.
    middle = len(schedule.inputs) // 2
    half, _, _ = reducer.replay(World(), schedule.inputs[:middle])
    rest, _, _ = reducer.replay(reducer.decode(reducer.encode(half)), schedule.inputs[middle:])
    assert reducer.encode(rest) == reducer.encode(world)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), npc_to_npc=st.booleans())
def test_npcs_that_always_reply_and_name_each_other_come_to_an_end(seed: int, npc_to_npc: bool) -> None:
    rules = Rules(tau=0.0, tau_silence=0.0, soft_margin=0.0, npc_to_npc=npc_to_npc)
    schedule = Schedule(seed, rules=rules, always_reply=True)
    schedule.run(40)
    assert list(schedule.promises()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_is_held_for_its_turn(workers: int) -> None:
    rules = Rules(urgent_workers=workers, conversation_workers=0, tau=0.0)
    for seed in range(8):
        schedule = Schedule(seed, rules=rules)
        schedule.run(40)
        assert list(schedule.promises()) == []


def test_the_schedules_reach_what_they_are_for() -> None:
    """A harness that never interrupts, merges or fails would prove nothing."""
    seen: set[tuple[str, str]] = set()
    asks = 0
    for seed in range(20):
        schedule = Schedule(seed)
        schedule.run(60)
        asks += schedule.asks
        _, _, effects = reducer.replay(World(), schedule.inputs)
        assert schedule.asks == sum(isinstance(effect, Ask) for effect in effects)
        seen |= {(body.phase, body.reason) for e in schedule.log if isinstance(body := e.body, Turned)}
    assert asks > 200
    assert seen >= {
        ("cancelled", "BARGE_IN"),
        ("failed", "LEFT"),
        ("cancelled", "MERGED"),
        ("failed", "OWNER_LOST"),
        ("declined", "PASSED"),
        ("failed", "DEADLINE"),
        ("silent", "GATE"),
        ("silent", "ADDRESSED_PLAYER"),
        ("started", "VOCATIVE"),
        ("started", "SILENCE"),
        ("started", "GREETING"),
        ("started", "STAND_IN"),
    }, seen
