"""Turns of a world: one at a time, in order, whatever is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from services.state.agenda import Agenda
from services.state.lane import Lane, LaneFull, Superseded


async def hold(lane: Lane, log: list[str], name: str, seconds: float = 1.0, **how: bool) -> None:
    async with lane.turn(**how):
        log.append(f"+{name}")
        await asyncio.sleep(seconds)
        log.append(f"-{name}")


async def test_in_order_and_one_at_a_time() -> None:
    lane, log = Lane(), list[str]()
    await asyncio.gather(*(hold(lane, log, name) for name in "abc"))
    assert log == ["+a", "-a", "+b", "-b", "+c", "-c"]


async def test_nobody_slips_in_between() -> None:
    """The turn is passed on before its next holder runs: who asks in that moment waits behind."""
    lane, log = Lane(), list[str]()
    async with asyncio.TaskGroup() as group:
        group.create_task(hold(lane, log, "a"))
        group.create_task(hold(lane, log, "b"))
        await asyncio.sleep(1.0)
        group.create_task(hold(lane, log, "c"))
    assert log == ["+a", "-a", "+b", "-b", "+c", "-c"]


async def test_a_cancelled_waiter_is_skipped() -> None:
    lane, log = Lane(), list[str]()
    first = asyncio.create_task(hold(lane, log, "a"))
    await asyncio.sleep(0.1)
    second, third = (asyncio.create_task(hold(lane, log, name)) for name in "bc")
    await asyncio.sleep(0.1)
    second.cancel()
    await asyncio.wait([first, second, third])
    assert log == ["+a", "-a", "+c", "-c"]


async def test_a_turn_given_to_one_who_is_cancelled_at_that_moment_is_passed_on() -> None:
    lane, log = Lane(), list[str]()
    first = asyncio.create_task(hold(lane, log, "a"))
    await asyncio.sleep(0.1)
    second, third = (asyncio.create_task(hold(lane, log, name)) for name in "bc")
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.sleep(0)  # the first leaves and hands over
    second.cancel()
    await asyncio.wait([first, second, third])
    assert log == ["+a", "+c", "-c"]


async def test_a_failure_frees_the_lane() -> None:
    lane = Lane()
    with pytest.raises(ValueError, match="boom"):
        async with lane.turn():
            raise ValueError("boom")
    async with lane.turn():
        assert lane.waiting == 0


async def test_only_a_newer_replaceable_one_supersedes_and_it_keeps_the_place() -> None:
    lane, log = Lane(), list[str]()
    running = asyncio.create_task(hold(lane, log, "a"))
    await asyncio.sleep(0.1)
    old = asyncio.create_task(hold(lane, log, "old", replaceable=True))
    await asyncio.sleep(0.1)
    fixed = asyncio.create_task(hold(lane, log, "fixed"))
    await asyncio.sleep(0.1)
    new = asyncio.create_task(hold(lane, log, "new", replaceable=True))
    results = await asyncio.gather(running, old, fixed, new, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), Superseded, type(None), type(None)]
    assert log == ["+a", "-a", "+new", "-new", "+fixed", "-fixed"]


async def test_the_bound_is_for_those_who_are_bound() -> None:
    lane, log = Lane(), list[str]()
    tasks = [asyncio.create_task(hold(lane, log, str(n))) for n in range(5)]
    await asyncio.sleep(0.1)
    with pytest.raises(LaneFull):
        await hold(lane, log, "six")
    tasks.append(asyncio.create_task(hold(lane, log, "own", bounded=False)))
    await asyncio.gather(*tasks)
    assert log[-1] == "-own"


class TestAgenda:
    async def test_the_earliest_first_and_each_once(self) -> None:
        agenda, now = Agenda(), 0
        for world, tick in (("b", 20), ("a", 10), ("b", 5), ("b", 30)):
            agenda.add(("t", world), tick)
        taken = []
        for now in range(0, 40, 5):
            for _ in range(4):
                try:
                    async with asyncio.timeout(0.001):
                        ref = await agenda.next(now)
                except TimeoutError:
                    break
                if ref:
                    taken.append((now, ref[1]))
        assert taken == [(5, "b"), (10, "a")]

    async def test_an_earlier_appointment_wakes_the_waiting(self) -> None:
        agenda = Agenda()
        agenda.add(("t", "late"), 60_000)
        waiting = asyncio.create_task(agenda.next(0))
        await asyncio.sleep(1)
        agenda.add(("t", "soon"), 500)
        assert await waiting is None
        assert await agenda.next(1000) == ("t", "soon")
