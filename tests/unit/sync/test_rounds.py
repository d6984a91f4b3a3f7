"""Parallel turns, and one by one while parallel makes them slow (C10): the rule, and the gate that keeps it."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from services.sync.routing.gate import Gate
from services.sync.routing.rounds import FRESH, KEPT, SAMPLES, TRIAL_MAX_S, TRIAL_S, Rounds
from services.sync.schedule.due import Lane


def fed(rounds: Rounds, count: int, seconds: float, *, alone: bool, now: float = 0.0) -> Rounds:
    for _ in range(count):
        rounds.record(seconds, alone=alone, now=now)
    return rounds


def test_it_takes_twenty_of_either_kind_to_tell() -> None:
    rounds = fed(Rounds(), SAMPLES, 1.0, alone=True)
    assert not fed(rounds, SAMPLES - 1, 9.0, alone=False).serial(0.0)
    assert fed(rounds, 1, 9.0, alone=False).serial(0.0)
    unknown = fed(fed(Rounds(), SAMPLES - 1, 1.0, alone=True), KEPT, 9.0, alone=False)
    assert not unknown.serial(0.0)


def test_five_hundred_milliseconds_make_the_difference() -> None:
    assert not fed(fed(Rounds(), 30, 1.0, alone=True), 30, 1.5, alone=False).serial(0.0)
    assert fed(fed(Rounds(), 30, 1.0, alone=True), 30, 1.51, alone=False).serial(0.0)


def test_parallel_that_gets_more_done_stays_parallel() -> None:
    """A provider that is busy at noon answers later than at night, and ten of its answers still come at once."""
    rounds = fed(Rounds(), 30, 1.0, alone=True)
    for _ in range(KEPT):
        rounds.record(1.8, alone=False, now=0.0, beside=10.0)
        assert not rounds.serial(0.0)
    for _ in range(KEPT):
        rounds.record(8.5, alone=False, now=0.0, beside=10.0)
    assert rounds.serial(0.0)


def test_a_server_that_became_slow_is_not_asked_one_by_one_for_it() -> None:
    rounds = fed(Rounds(), 30, 0.05, alone=True)
    for _ in range(SAMPLES):
        rounds.record(1.0, alone=False, now=0.0, beside=10.0)
    assert rounds.serial(0.0)
    for second in range(1, FRESH):
        rounds.record(1.0, alone=True, now=float(second))
        assert rounds.serial(float(second))
    rounds.record(1.0, alone=True, now=float(FRESH))
    assert not rounds.serial(float(FRESH))
    # What turns alone took before is forgotten: parallel ones are as they are now.
    for _ in range(KEPT):
        rounds.record(1.2, alone=False, now=FRESH + 1.0, beside=10.0)
    assert not rounds.serial(FRESH + 1.0)


def test_a_trial_tells_and_each_failed_one_is_followed_by_a_longer_wait() -> None:
    rounds, now, waits = fed(Rounds(), 30, 1.0, alone=True), 0.0, []
    for _ in range(6):
        fed(rounds, SAMPLES, 3.0, alone=False, now=now)
        assert rounds.serial(now)
        start = now
        while rounds.serial(now):
            rounds.record(1.0, alone=True, now=now)
            # What began before it went serial says nothing of a trial.
            rounds.record(9.0, alone=False, now=now)
            now += 1.0
        waits.append(now - start)
    assert waits == [TRIAL_S, 60.0, 120.0, 240.0, TRIAL_MAX_S, TRIAL_MAX_S]
    # Between well and worse nothing changes; well makes the next wait short again.
    fed(rounds, KEPT, 1.4, alone=False, now=now)
    fed(rounds, KEPT, 1.1, alone=False, now=now)
    fed(rounds, KEPT, 3.0, alone=False, now=now)
    assert rounds.serial(now + TRIAL_S - 0.1)
    assert not rounds.serial(now + TRIAL_S)


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=300))
def test_calls_that_are_never_worse_are_never_serial(calls: list[tuple[float, bool]]) -> None:
    rounds = Rounds()
    for seconds, alone in calls:
        rounds.record(seconds if alone else 0.5, alone=alone, now=0.0)
        assert not rounds.serial(0.0)


async def through(gate: Gate, server: asyncio.Lock, *, together: int, rounds: int) -> int:
    """So many turns at once, so often, at a server that works on one at a time; the most that were in flight."""
    most = 0

    async def turn() -> None:
        nonlocal most
        async with gate.slot(Lane.HIGH, 1000.0):
            most = max(most, gate.in_flight)
            async with server:
                await asyncio.sleep(1.0)

    for _ in range(rounds):
        await asyncio.gather(*(turn() for _ in range(together)))
    return most


async def test_a_server_that_works_on_one_at_a_time_gets_one_at_a_time() -> None:
    gate, server = Gate(8), asyncio.Lock()
    gate.rounds = Rounds()
    assert await through(gate, server, together=1, rounds=SAMPLES) == 1
    # The first rounds are parallel, and each turn waits inside the server for the others.
    assert await through(gate, server, together=8, rounds=3) == 8
    assert gate.rounds.serial(asyncio.get_running_loop().time())
    assert await through(gate, server, together=8, rounds=2) == 1
    # A trial finds it as it was; then it has become able to do more.
    await asyncio.sleep(TRIAL_MAX_S)

    class Free(asyncio.Lock):
        async def acquire(self) -> bool:  # type: ignore[override]  # a lock that keeps nobody out
            return True

        def release(self) -> None: ...

    assert await through(gate, Free(), together=8, rounds=5) == 8
    assert not gate.rounds.serial(asyncio.get_running_loop().time())
    assert gate.in_flight == 0
