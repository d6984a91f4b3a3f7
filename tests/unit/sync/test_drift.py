"""Drift on virtual time: blocks that somebody else changed are found by sample, repaired and counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.sync.runtimes.port import ServerFault, TimedOut
from tests.unit.sync.fake_runtime import FakeRuntime, Plan, mark_of
from tests.unit.sync.room import Room, room

HIGH, MEDIUM, LOW = type_pb2.LANE_HIGH, type_pb2.LANE_MEDIUM, type_pb2.LANE_LOW
# Long enough for the one NPC there is to be looked at.
LOOKED_AT_S = 65.0
TAMPERED = "Somebody else's hand was here."


def counted(sync: Room) -> float:
    counter = sync.app.metrics.block_writes
    return sum(float(counter.labels(lane, "drift")._value.get()) for lane in ("high", "medium", "low"))


def labels(runtime: FakeRuntime) -> list[str]:
    return [label for _, _, label, _ in runtime.writes]


async def test_drift_is_found_by_sampling_and_repaired() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await sync.converse()
        runtime.agent().blocks["situation"] = TAMPERED
        runtime.agent().blocks["scratch"] = "the agent's own"
        await asyncio.sleep(LOOKED_AT_S)
        assert "the Lantern" in runtime.agent().blocks["situation"]
        assert runtime.agent().blocks["scratch"] == "the agent's own"
        assert counted(sync) == 1
        assert labels(runtime) == ["situation"]
        await asyncio.sleep(300)
        assert labels(runtime) == ["situation"]
        assert counted(sync) == 1


async def test_news_that_wait_for_their_turn_neither_hide_drift_nor_are_written_for_it() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        sync.state.put(lane=LOW, place="the Mill")
        runtime.agent().blocks["persona"] = TAMPERED
        await asyncio.sleep(LOOKED_AT_S)
        assert "You are Mara." in runtime.agent().blocks["persona"]
        assert counted(sync) == 1
        assert labels(runtime) == ["persona"]
        status = await sync.status()
        assert (status.dirty, status.lane) == (True, LOW)
        await sync.converse()
        assert "the Mill" in runtime.asked[-1].situation
        assert labels(runtime) == ["persona", "situation"]


async def test_what_has_not_drifted_costs_no_write_whatever_waits() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        sync.state.put(lane=LOW, place="the Mill")
        await asyncio.sleep(10 * LOOKED_AT_S)
        assert runtime.count("read") >= 9
        assert (runtime.writes, counted(sync)) == ([], 0)
        assert (await sync.status()).dirty


async def test_a_sample_does_not_put_off_what_waits() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        sync.state.put(place="the Mill")
        await asyncio.sleep(200)
        runtime.agent().blocks["persona"] = TAMPERED
        await asyncio.sleep(200)
        assert labels(runtime) == ["persona", "situation"]
        assert runtime.writes[-1][0] - began == pytest.approx(300, abs=1)


async def test_a_drifted_block_is_written_as_it_is_now_and_waits_no_more() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        newest = sync.state.put(place="the Mill")
        runtime.agent().blocks["situation"] = TAMPERED
        await asyncio.sleep(LOOKED_AT_S)
        assert mark_of(runtime.agent().blocks["situation"]) == newest
        assert not (await sync.status()).dirty
        await asyncio.sleep(600)
        assert (labels(runtime), counted(sync)) == (["situation"], 1)


async def test_drift_is_known_by_what_was_confirmed_before_a_restart(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    async with room(runtime, data=str(tmp_path)) as sync:
        state = sync.state
        state.put(place="the Lantern")
        await asyncio.sleep(1)
    runtime.agent().blocks["persona"] = TAMPERED
    state.put(lane=LOW, place="the Mill")
    async with room(runtime, state=state, data=str(tmp_path)) as sync:
        await asyncio.sleep(LOOKED_AT_S)
        assert "You are Mara." in runtime.agent().blocks["persona"]
        assert (labels(runtime), counted(sync)) == (["persona"], 1)


async def test_an_agent_that_somebody_deleted_is_made_anew() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        runtime.agents.clear()
        await asyncio.sleep(LOOKED_AT_S)
        assert "the Lantern" in runtime.agent().blocks["situation"]
        assert counted(sync) == len(runtime.agent().blocks)
        assert (await sync.status()).agent_id in runtime.agents


async def test_a_repair_that_fails_is_tried_until_it_is_done() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        runtime.agent().blocks["persona"] = TAMPERED
        runtime.plan("write", *[Plan(fault=ServerFault("500"))] * 2)
        await asyncio.sleep(LOOKED_AT_S)
        assert "You are Mara." in runtime.agent().blocks["persona"]
        assert (labels(runtime), counted(sync)) == (["persona"], 1)


async def test_a_failing_runtime_is_sampled_again_later() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        runtime.agent().blocks["persona"] = TAMPERED
        runtime.plan("read", Plan(hang=True), Plan(fault=ServerFault("500")))
        await asyncio.sleep(2 * LOOKED_AT_S)
        assert runtime.agent().blocks["persona"] == TAMPERED
        await asyncio.sleep(LOOKED_AT_S)
        assert (labels(runtime), counted(sync)) == (["persona"], 1)


async def test_a_write_of_ours_whose_outcome_was_unknown_is_no_drift() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        runtime.plan("write", Plan(wait=1, fault=TimedOut("t"), lands=0.5))
        sync.state.put(lane=HIGH, combat=True)
        await asyncio.sleep(200)
        assert mark_of(runtime.agent().blocks["situation"]) == 2
        assert counted(sync) == 0


async def test_a_write_that_began_and_ended_while_it_was_read_is_no_drift() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        agent = runtime.agent()
        # The answer holds what was there when the runtime was asked.
        old = dict(agent.blocks)
        real = runtime.read_blocks

        async def slow(agent_id: str, timeout: float) -> dict[str, str]:
            await real(agent_id, timeout)
            await asyncio.sleep(2)
            return old

        runtime.read_blocks = slow  # type: ignore[method-assign]  # a server that takes its time to answer
        while not runtime.count("read"):  # noqa: ASYNC110 - virtual time costs nothing
            await asyncio.sleep(1)
        newest = sync.state.put(lane=HIGH, combat=True)
        await asyncio.sleep(30)
        assert mark_of(agent.blocks["situation"]) == newest
        # Nor is what was read believed: the turn would write once more.
        await sync.converse()
        assert (labels(runtime), counted(sync)) == (["situation"], 0)


async def test_refresh_with_invalidate_repairs_drift() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await sync.converse()
        runtime.agent().blocks["situation"] = TAMPERED
        await sync.refresh("mara", wait=True)
        assert runtime.agent().blocks["situation"] == TAMPERED
        await sync.refresh("mara", invalidate=True, wait=True)
        assert "the Lantern" in runtime.agent().blocks["situation"]


async def test_an_invalidation_that_fails_is_tried_until_it_is_done() -> None:
    runtime = FakeRuntime()
    async with room(runtime, drift_every_s=1e6) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        runtime.agent().blocks["persona"] = TAMPERED
        runtime.plan("read", *[Plan(fault=ServerFault("500"))] * 2)
        (result,) = await sync.refresh("mara", invalidate=True, wait=True)
        assert result.outcome == sync_pb2.REFRESH_OUTCOME_PENDING
        await asyncio.sleep(10)
        assert "You are Mara." in runtime.agent().blocks["persona"]
        assert (labels(runtime), counted(sync)) == (["persona"], 1)


async def test_a_forced_write_that_fails_is_tried_until_it_is_done() -> None:
    runtime = FakeRuntime()
    async with room(runtime, drift_every_s=1e6) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        runtime.plan("write", *[Plan(fault=ServerFault("500"))] * 10)
        (result,) = await sync.refresh("mara", force=True, wait=True)
        assert result.outcome == sync_pb2.REFRESH_OUTCOME_PENDING
        await asyncio.sleep(60)
        assert set(labels(runtime)) == set(runtime.agent().blocks)


async def test_an_invalidated_agent_that_somebody_deleted_is_made_anew() -> None:
    runtime = FakeRuntime()
    async with room(runtime, drift_every_s=1e6) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        runtime.agents.clear()
        (result,) = await sync.refresh("mara", invalidate=True, wait=True)
        assert result.outcome == sync_pb2.REFRESH_OUTCOME_CONFIRMED
        assert "the Lantern" in runtime.agent().blocks["situation"]
