"""Urgent writes: what is urgent, how many a world may have, and that turns and outages do not wait for it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from earshot.type.v1 import type_pb2
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from services.sync.runtimes.port import ServerFault
from services.sync.schedule.urgency import RESERVE, SWEEP_MIN, Urgency, Vitals, WriteBudget, urgency
from tests.unit.sync.fake_runtime import FakeRuntime, Plan
from tests.unit.sync.room import Room, room

HIGH, MEDIUM = type_pb2.LANE_HIGH, type_pb2.LANE_MEDIUM
# As they are by default.
BURST, LONGEST_S = 14, 15.0
ALARMS = BURST - int(RESERVE)
CALM = Vitals(False, 80, "I am at the Mill.")


@pytest.mark.parametrize(
    ("told", "now", "how"),
    [
        (None, CALM, Urgency.GRAVE),
        (CALM, Vitals(True, 80, CALM.status), Urgency.GRAVE),
        (CALM, Vitals(False, 0, CALM.status), Urgency.GRAVE),
        (Vitals(False, 0, CALM.status), CALM, Urgency.GRAVE),
        (CALM, Vitals(False, 80, "The bridge is down."), Urgency.GRAVE),
        (CALM, Vitals(False, 70, CALM.status), Urgency.ALARM),
        (CALM, Vitals(False, 71, CALM.status), None),
        (CALM, Vitals(False, 100, CALM.status), None),
        (CALM, CALM, None),
        (Vitals(True, -1, ""), Vitals(True, 50, ""), None),
    ],
)
def test_what_is_urgent_is_measured_against_what_was_told(
    told: Vitals | None, now: Vitals, how: Urgency | None
) -> None:
    assert urgency(told, now) is how


@examples(max_examples=200)
@given(
    st.floats(0.5, 20),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(Urgency)), max_size=200),
)
def test_no_window_has_more_than_the_burst_and_its_share(per_s: float, asked: list[tuple[float, Urgency]]) -> None:
    budget, now = WriteBudget(per_s, BURST), 0.0
    taken: list[tuple[float, Urgency]] = []
    for pause, how in asked:
        now += pause
        if budget.take("w", how, now):
            taken.append((now, how))
        else:
            assert budget.next_at("w", how) > now
            # Graver news never wait longer than others.
            assert budget.next_at("w", Urgency.GRAVE) <= budget.next_at("w", Urgency.ALARM)
    for first, (start, _) in enumerate(taken):
        for last in range(first, len(taken)):
            window = taken[last][0] - start
            assert last - first + 1 <= BURST + per_s * window + 1
            alarms = sum(how is Urgency.ALARM for _, how in taken[first : last + 1])
            assert alarms <= ALARMS + per_s * window + 1
    assert budget.take("another", Urgency.ALARM, now)


@examples(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2 * SWEEP_MIN), st.floats(0, 0.5), st.booleans()), max_size=400))
def test_worlds_that_are_quiet_again_are_forgotten_and_nobody_notices(asked: list[tuple[int, float, bool]]) -> None:
    budget, alone = WriteBudget(8, BURST), {world: WriteBudget(8, BURST) for world in range(2 * SWEEP_MIN + 1)}
    now = 0.0
    for world, pause, unneeded in asked:
        now += pause
        assert budget.take(world, Urgency.ALARM, now) == alone[world].take(world, Urgency.ALARM, now)
        if unneeded:
            budget.give_back(world)
            alone[world].give_back(world)
    # A world that wrote once is whole again within 125 ms: only those since the last look are there.
    for other in range(1000):
        now += 0.1
        assert budget.take(f"other {other}", Urgency.ALARM, now)
    assert len(budget) <= SWEEP_MIN


def hurt(sync: Room, npcs: list[str], health: int, *, heard: bool = True) -> None:
    for npc in npcs:
        sync.state.put(npc, lane=HIGH, combat=True, health=health, heard=heard)


async def fight(sync: Room, npcs: list[str], *, heard: bool = True) -> None:
    """All are there and were told that they fight, and their world's burst is whole again."""
    for npc in npcs:
        sync.state.put(npc, heard=True, combat=True, health=100)
    await asyncio.sleep(60)
    for npc in npcs:
        sync.state.put(npc, heard=heard, combat=True, health=100, lane=type_pb2.LANE_LOW)
    await asyncio.sleep(60)


async def test_a_storm_is_spread_and_its_newest_values_win() -> None:
    runtime, npcs, per_s = FakeRuntime(), [f"npc{number}" for number in range(50)], 4
    async with room(runtime, urgent_writes_per_s=per_s) as sync:
        sync.state.marks = False
        await fight(sync, npcs)
        start = asyncio.get_running_loop().time()
        for second in range(60):
            hurt(sync, npcs, 90 - second)
            await asyncio.sleep(1)
        times = [at - start for at, *_ in runtime.writes]
        assert sum(at < 0.01 for at in times) == ALARMS
        assert max(sum(at <= other < at + 10 for other in times) for at in times) <= 10 * per_s + ALARMS + 1
        # Nobody waits longer than it may, and each write tells the newest.
        for agent_id in runtime.agents:
            own = [0.0, *(at - start for at, one, *_ in runtime.writes if one == agent_id), 60.0]
            assert all(later - earlier <= LONGEST_S + 1.1 for earlier, later in pairwise(own))
        for at, _, _, text in runtime.writes:
            told = int(text.split("My health is about ")[1].split(" percent")[0])
            assert told == 90 - int(at - start + 0.001)


async def test_the_longest_wait_and_the_burst_are_settings() -> None:
    runtime, npcs = FakeRuntime(), [f"npc{number}" for number in range(40)]
    async with room(runtime, urgent_writes_per_s=1, urgent_burst=5, urgent_wait_max_s=3) as sync:
        sync.state.marks = False
        await fight(sync, npcs)
        start = asyncio.get_running_loop().time()
        hurt(sync, npcs, 50)
        await asyncio.sleep(10)
        times = [at - start for at, *_ in runtime.writes]
        assert len(times) == len(npcs)
        assert sum(at < 0.01 for at in times) == 1
        assert 3.0 <= max(times) < 3.5


async def test_grave_news_overtake_alarms_and_who_is_heard_overtakes_who_is_not() -> None:
    runtime = FakeRuntime()
    heard, unheard, dying = [f"heard{n}" for n in range(15)], [f"unheard{n}" for n in range(15)], ["brom", "tom"]
    async with room(runtime) as sync:
        sync.state.marks = False
        await fight(sync, [*heard, *dying])
        await fight(sync, unheard, heard=False)
        names = {agent_id: agent.spec.name.lower() for agent_id, agent in runtime.agents.items()}
        # The burst goes to those who nobody hears; then the others come.
        hurt(sync, unheard, 80, heard=False)
        await asyncio.sleep(0.01)
        hurt(sync, heard, 80)
        await asyncio.sleep(0.5)
        hurt(sync, dying, 0)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(20)
        order = [(at - now, names[agent_id]) for at, agent_id, *_ in runtime.writes]
        dead = [at for at, name in order if name in dying]
        assert max(dead) < 0.01
        late = [name for at, name in order if at > 0.3 and name not in dying]
        first_unheard = next(place for place, name in enumerate(late) if name.startswith("unheard"))
        assert not any(name.startswith("heard") for name in late[first_unheard + 1 :])
        assert {name for _, name in order} == {*heard, *unheard, *dying}


async def test_a_turn_never_waits_for_the_budget() -> None:
    runtime, npcs = FakeRuntime(), [f"npc{number}" for number in range(30)]
    async with room(runtime) as sync:
        sync.state.marks = False
        await fight(sync, npcs)
        hurt(sync, npcs, 50)
        await asyncio.sleep(0.01)
        started = asyncio.get_running_loop().time()
        await sync.converse("npc29")
        assert asyncio.get_running_loop().time() - started < 0.1
        assert "about 50 percent" in runtime.asked[-1].situation
        # What the turn wrote is not written once more.
        await asyncio.sleep(20)
        assert len(runtime.writes) == len(npcs)


async def test_what_passed_before_it_was_told_is_not_told() -> None:
    runtime, npcs = FakeRuntime(), [f"npc{number}" for number in range(20)]
    async with room(runtime) as sync:
        sync.state.marks = False
        await fight(sync, npcs)
        hurt(sync, npcs, 50)
        await asyncio.sleep(0.01)
        told = len(runtime.writes)
        assert told == ALARMS
        for npc in npcs:
            sync.state.put(npc, combat=True, health=95, lane=type_pb2.LANE_LOW)
        await asyncio.sleep(60)
        assert len(runtime.writes) == told


async def test_urgent_news_take_no_leisurely_block_along() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(health=100)
        await asyncio.sleep(1)
        sync.state.npc().recent_events.add(type="trade", text="Ada bought a pie", at_ms=60_000)
        sync.state.put(lane=HIGH, combat=True)
        await asyncio.sleep(1)
        assert [label for _, _, label, _ in runtime.writes] == ["situation"]
        status = await sync.status()
        assert (status.dirty, status.lane) == (True, type_pb2.LANE_LOW)
        # The turn brings what is left, itself.
        await sync.converse()
        assert "Ada bought a pie" in runtime.asked[-1].turn.system
        assert [label for _, _, label, _ in runtime.writes] == ["situation"]


async def test_after_an_outage_nobody_waits_for_the_budget() -> None:
    runtime, npcs = FakeRuntime(), [f"npc{number}" for number in range(100)]
    async with room(runtime) as sync:
        await fight(sync, npcs)
        runtime.down = True
        hurt(sync, npcs, 50)
        await asyncio.sleep(120)
        runtime.down = False
        await asyncio.sleep(15)
        assert all("about 50 percent" in agent.blocks["situation"] for agent in runtime.agents.values())


async def test_news_ride_until_they_are_too_many_and_a_fault_or_a_reset_ends_the_ride() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.marks = False
        sync.state.put()
        await asyncio.sleep(1)

        async def turn(**fields: Any) -> str:
            await sync.converse(**fields)
            return runtime.asked[-1].turn.system

        for number in range(6):
            sync.state.npc().recent_events.add(type="trade", text=f"pie {number}", at_ms=60_000)
            system = await turn()
            assert [f"pie {told}" in system for told in range(6)] == [told <= number for told in range(6)]
        assert runtime.writes == []
        sync.state.npc().recent_events.add(type="trade", text="pie 6", at_ms=60_000)
        assert "pie" not in await turn()
        assert [label for _, _, label, _ in runtime.writes] == ["memory"]
        sync.state.npc().recent_events.add(type="trade", text="pie 7", at_ms=60_000)
        assert "pie 7" in await turn()
        # What must be forgotten is written away, whatever else is new.
        del sync.state.npc().recent_events[2]
        system = await turn()
        assert "pie" not in system
        assert "pie 2" not in runtime.agent().blocks["memory"]
        # Another generation: nothing that was told beyond the blocks may be relied on.
        sync.state.npc().recent_events.add(type="trade", text="pie 8", at_ms=60_000)
        assert "pie" not in await turn(history_generation=1)
        assert "pie 8" in runtime.agent().blocks["memory"]
        # A write of unknown outcome: nobody knows what it holds, so all of it goes along.
        sync.state.npc().recent_events.add(type="trade", text="pie 9", at_ms=60_000)
        runtime.plan("write", *[Plan(fault=ServerFault("500"))] * 3)
        await sync.refresh("mara", force=True, wait=True)
        system = await turn(history_generation=1)
        assert "pie 9" in system + runtime.agent().blocks["memory"]


async def test_what_a_turn_left_does_not_make_the_next_change_overdue() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.marks = False
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        sync.state.npc().recent_events.add(type="trade", text="pie", at_ms=60_000)
        sync.state.put(lane=type_pb2.LANE_LOW)
        await asyncio.sleep(1000)
        await sync.converse()  # the event rides along, its block waits on
        for number in range(20):
            sync.state.put(place=f"Place {number}")
            await asyncio.sleep(20)
        # Once when it has been dirty for five minutes, and once more after five others.
        assert len(runtime.writes) == 1
