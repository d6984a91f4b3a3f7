"""The reconciler on virtual time: when it writes, what it never writes, and what it survives."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2
from structlog.testing import capture_logs

from services.common.errors import from_rpc
from services.sync.runtimes.port import Raced, RateLimited, ServerFault, TimedOut, TurnState
from tests.unit.sync.fake_runtime import FakeRuntime, Plan, mark_of
from tests.unit.sync.fake_state import FakeState
from tests.unit.sync.room import Room, room

HIGH, MEDIUM, LOW = type_pb2.LANE_HIGH, type_pb2.LANE_MEDIUM, type_pb2.LANE_LOW


def situation(runtime: FakeRuntime) -> str:
    return runtime.agent().blocks["situation"]


# -- when --------------------------------------------------------------------------------------------------------------


async def test_an_agent_is_made_when_a_player_first_comes_within_earshot() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(heard=False, lane=HIGH, combat=True)
        await asyncio.sleep(100)
        assert runtime.agents == {}
        sync.state.put(place="the Lantern", players=["Ada"])
        await asyncio.sleep(0.1)
        assert "the Lantern" in situation(runtime)
        spec = runtime.agent().spec
        assert spec.tag == "earshot:t:w:mara"
        assert spec.name == "Mara"
        status = await sync.status()
        assert (status.agent_id, status.dirty, status.runtime) == ("agent-1", False, "fake")


async def test_lazy_lets_a_change_wait_for_its_turn_or_five_minutes() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        for _ in range(20):
            sync.state.put(place="the Mill")
            await asyncio.sleep(10)
        assert runtime.writes == []
        assert (await sync.status()).dirty
        await asyncio.sleep(101)
        assert [label for _, _, label, _ in runtime.writes] == ["situation"]
        # Nobody hears it: nothing is written, however long.
        sync.state.put(heard=False, place="the Harbour")
        await asyncio.sleep(3000)
        assert len(runtime.writes) == 1


async def test_lazy_writes_combat_at_once_and_then_once_a_second() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put()
        await asyncio.sleep(5)
        start = asyncio.get_running_loop().time()
        for number in range(50):
            sync.state.put(lane=HIGH, combat=True, health=100 - number)
            await asyncio.sleep(0.1)
        times = [at - start for at, _, _, _ in runtime.writes]
        assert times[0] < 0.01
        assert 5 <= len(times) <= 6
        assert all(later - earlier >= 0.999 for earlier, later in pairwise(times))
        await asyncio.sleep(2)
        assert "about 51 percent" in situation(runtime)


async def test_blocks_that_earshot_holds_itself_are_written_with_the_turn_alone() -> None:
    runtime = FakeRuntime(stateful=False, remote=False)
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        reads = len(sync.state.reads)
        for number in range(20):
            sync.state.put(lane=HIGH, combat=True, health=100 - number)
            await asyncio.sleep(30)
        assert runtime.writes == []
        assert len(sync.state.reads) == reads
        assert (await sync.status()).dirty
        heard = await sync.converse()
        assert "about 81 percent" in situation(runtime)
        assert heard.started[0].revision == 21
        sync.state.put(place="the Mill")
        await sync.refresh("mara", force=True)
        await asyncio.sleep(1)
        assert "the Mill" in situation(runtime)


async def test_documented_waits_for_quiet_but_not_for_ever() -> None:
    runtime = FakeRuntime()
    async with room(runtime, schedule="documented") as sync:
        sync.state.put()
        await asyncio.sleep(5)
        start = asyncio.get_running_loop().time()
        sync.state.put(place="the Mill")
        await asyncio.sleep(4.9)
        assert runtime.writes == []
        await asyncio.sleep(0.2)
        assert len(runtime.writes) == 1
        for number in range(20):
            sync.state.put(place=f"Place {number}")
            await asyncio.sleep(2)
        assert runtime.writes[1][0] - start == pytest.approx(5.1 + 30, abs=0.3)
        writes = len(runtime.writes)
        sync.state.put(lane=LOW, action="Patrolling")
        await asyncio.sleep(31)
        assert len(runtime.writes) == writes + 1
        sync.state.put(heard=False, place="the Harbour")
        await asyncio.sleep(59)
        assert "the Harbour" not in situation(runtime)
        await asyncio.sleep(2)
        assert "the Harbour" in situation(runtime)


async def test_text_that_reverted_is_not_written() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.marks = False
        sync.state.put(place="the Lantern")
        await sync.converse()
        sync.state.put(place="the Mill")
        sync.state.put(place="the Lantern")
        heard = await sync.converse()
        assert runtime.writes == []
        assert heard.started[0].revision == 3
        assert (await sync.status()).confirmed_revision == 3


async def test_only_what_differs_is_written() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await sync.converse()
        sync.state.put(place="the Mill")
        await sync.converse()
        assert [label for _, _, label, _ in runtime.writes] == ["situation"]


# -- the feed ----------------------------------------------------------------------------------------------------------


async def test_a_gap_in_the_feed_lists_again() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1)
        sync.state.silent = True
        sync.state.put(place="the Mill", lane=HIGH)
        await asyncio.sleep(1)
        assert not (await sync.status()).dirty
        sync.state.gap()
        await asyncio.sleep(1)
        assert (await sync.status()).dirty
        assert (await sync.status()).desired_revision == 2


async def test_the_informer_survives_a_state_that_is_down() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put()
        await asyncio.sleep(1)
        sync.state.down = True
        sync.state.gap()
        await asyncio.sleep(60)
        sync.state.down = False
        sync.state.put("brom", players=["Ada"])
        await asyncio.sleep(6)
        assert {agent.spec.tag for agent in runtime.agents.values()} == {"earshot:t:w:mara", "earshot:t:w:brom"}


# -- never an older value last -----------------------------------------------------------------------------------------


async def test_a_slow_reader_does_not_overwrite_what_is_newer() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await sync.converse()
        # The first flow reads, and its answer takes two seconds; meanwhile the world moves on and a turn writes it.
        sync.state.read_delay = 2.0
        sync.state.put(place="the Mill", lane=HIGH)
        await asyncio.sleep(0.1)
        sync.state.read_delay = 0.0
        sync.state.put(place="the Harbour", tell=False)
        await sync.converse()
        await asyncio.sleep(10)
        assert "the Harbour" in situation(runtime)
        assert not any("the Mill" in text for _, _, _, text in runtime.writes)


class Chaos:
    """Faults of every kind for every operation, by a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.on = True

    def __call__(self, operation: str) -> Plan:
        rng = self.rng
        wait = rng.choice((0.0, 0.01, 0.3, 1.5))
        if not self.on or rng.random() < 0.5:
            return Plan(wait=wait if self.on else 0.0)
        if operation in ("write", "send"):
            late = rng.choice((0.0, 1.0, 5.0, 20.0, 50.0))
            unknown = Plan(wait=rng.choice((0.5, 3.0)), fault=TimedOut("t"), lands=rng.choice((None, late)))
            return rng.choice((
                unknown, Plan(hang=True, lands=rng.choice((None, late))), Plan(wait=wait, fault=ServerFault("500")),
                Plan(fault=RateLimited("429", rng.choice((0.0, 0.5)))), Plan(fault=Raced("409")),
            ))  # fmt: skip
        return rng.choice((Plan(wait=wait, fault=ServerFault("500")), Plan(wait=wait, fault=TimedOut("t"), lands=wait)))


@pytest.mark.parametrize("seed", range(12))
async def test_no_interleaving_leaves_an_older_value_or_asks_on_one(seed: int) -> None:
    """Changes, turns, cancels, refreshes and faults at random; then quiet: the newest value is the last one."""
    chaos = Chaos(seed)
    rng = random.Random(seed * 7919)
    runtime = FakeRuntime()
    runtime.chooser = chaos
    asked_at: dict[str, int] = {}
    async with room(runtime, turn_deadline_s=6.0) as sync:
        sync.state.put()

        async def talk(cancel: bool) -> None:
            request = sync.request()
            asked_at[request.turn_id] = request.min_revision
            call = sync.stub.Converse(request, timeout=rng.choice((1.0, 4.0, 10.0)))
            if cancel:
                await asyncio.sleep(rng.choice((0.0, 0.2, 1.0)))
                call.cancel()
            try:
                heard = await Room.hear(call)
            except (grpc.aio.AioRpcError, asyncio.CancelledError):
                return
            assert heard.started[-1].revision >= request.min_revision

        async def refresh() -> None:
            try:
                await sync.refresh(
                    "mara", force=rng.random() < 0.3, invalidate=rng.random() < 0.3, wait=True, timeout=3
                )
            except grpc.aio.AioRpcError:
                return

        async with asyncio.TaskGroup() as group:
            for number in range(80):
                sync.state.read_delay = rng.choice((0.0, 0.0, 0.0, 0.2, 1.2))
                kind = rng.random()
                if kind < 0.45:
                    lane = rng.choice((HIGH, MEDIUM, LOW))
                    sync.state.put(place=f"Place {number}", lane=lane, heard=rng.random() < 0.9)
                elif kind < 0.85:
                    group.create_task(talk(rng.random() < 0.3))
                else:
                    group.create_task(refresh())
                await asyncio.sleep(rng.choice((0.0, 0.0, 0.1, 0.7, 3.0)))
        chaos.on = False
        sync.state.read_delay = 0.0
        newest = sync.state.put(place="the Harbour", lane=HIGH)
        await asyncio.sleep(200)
        assert len(runtime.agents) >= 1
        status = await sync.status()
        assert status.confirmed_revision >= newest
        mine = runtime.agents[status.agent_id]
        assert "the Harbour" in mine.blocks["situation"]
        assert not status.suspect
        assert (await sync.converse()).sentences
    assert runtime.violations == []
    for agent_id in runtime.agents:
        sent = [mark_of(text) for one, label, text in runtime.issued if (one, label) == (agent_id, "situation")]
        assert sent == sorted(sent), "an older value was sent after a newer one"
    for asked in runtime.asked:
        if asked.turn.turn_id in asked_at:
            assert asked.mark >= asked_at[asked.turn.turn_id], asked.turn.turn_id
    for agent in runtime.agents.values():
        assert len(agent.turns) == len(set(agent.turns)), "a turn was executed twice"


# -- runtimes that fail ------------------------------------------------------------------------------------------------


def held_by_sync() -> int:
    """Bytes that the room's code allocated and that are still there; not what the fakes and the test's log keep."""
    if not tracemalloc.is_tracing():
        return 0
    own = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/services/sync/*")])
    return sum(trace.size for trace in own.traces)


async def test_ten_minutes_without_the_runtime_keep_one_item_per_npc_and_heal_within_thirty_seconds() -> None:
    runtime = FakeRuntime()
    npcs = [f"npc{number:03}" for number in range(500)]
    async with room(runtime) as sync:
        sync.state.marks = False
        # As many calls a second as a real server takes.
        runtime.chooser = lambda operation: Plan(wait=0.25)
        for npc in npcs:
            sync.state.put(npc, action="Idle")
        await asyncio.sleep(60)
        assert len(runtime.agents) == len(npcs)
        runtime.down = True
        before = len(runtime.calls)
        sizes = []
        for minute in range(10):
            for npc in npcs:
                sync.state.put(npc, lane=HIGH, combat=minute % 2 == 0, action=f"Minute{minute}")
            await asyncio.sleep(60)
            pending = [sync.app.metrics.sync_pending.labels(lane)._value.get() for lane in ("high", "medium", "low")]
            assert sum(pending) <= len(npcs)
            assert len(asyncio.all_tasks()) < 60
            sync.state.reads.clear()
            gc.collect()
            sizes.append(held_by_sync())
            if minute == 1:
                tracemalloc.start()
        # From the third minute to the last one nothing grew with the changes, the retries or the time.
        assert sizes[-1] - sizes[2] < 100 * len(npcs)
        tracemalloc.stop()
        status = await sync.stub.GetSyncStatus(sync_pb2.GetSyncStatusRequest(world=FakeState.key().world), timeout=5)
        assert len(status.npcs) == len(npcs)
        (one,) = status.runtimes
        assert (one.healthy, one.breaker) in ((False, "open"), (False, "half_open"))
        # The breaker: few calls in ten minutes, not one per NPC and retry.
        assert len(runtime.calls) - before < 200
        runtime.down = False
        await asyncio.sleep(30)
        assert all("Minute9" in agent.blocks["situation"] for agent in runtime.agents.values())
        await asyncio.sleep(300)
        assert all("Minute9" in agent.blocks["situation"] for agent in runtime.agents.values())
        # Nothing older was sent after it was back, and nothing twice.
        assert len([text for _, _, text in runtime.issued[-len(npcs) :] if "Minute9" in text]) == len(npcs)


async def test_a_defect_neither_spins_nor_stops_the_others() -> None:
    runtime = FakeRuntime()
    with capture_logs() as logs:
        await defective(runtime)
    assert [log["error"] for log in logs if log["event"] == "reconcile_failed"] == ["ZeroDivisionError"] * 3


async def defective(runtime: FakeRuntime) -> None:
    async with room(runtime) as sync:
        sync.state.put()
        sync.state.put("brom")
        await asyncio.sleep(5)
        runtime.plan("write", *[Plan(fault=ZeroDivisionError())] * 3)  # type: ignore[arg-type]  # no fault of the port
        sync.state.put(lane=HIGH, place="the Mill")
        await asyncio.sleep(0.1)
        assert runtime.count("write") == 1
        assert (await sync.status()).last_error == "INTERNAL"
        sync.state.put("brom", lane=HIGH, place="the Harbour")
        await asyncio.sleep(20)
        texts = sorted(agent.blocks["situation"] for agent in runtime.agents.values())
        assert "the Harbour" in texts[0]
        assert "the Mill" in texts[1]


async def test_rate_limits_are_obeyed() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put()
        sync.state.put("brom")
        await asyncio.sleep(5)
        runtime.plan("write", Plan(fault=RateLimited("429", 7.0)))
        sync.state.put(lane=HIGH, place="the Mill")
        await asyncio.sleep(0.1)
        calls = runtime.count("write")
        sync.state.put("brom", lane=HIGH, place="the Mill")
        await asyncio.sleep(6)
        assert runtime.count("write") == calls
        await asyncio.sleep(5)
        assert all("the Mill" in agent.blocks["situation"] for agent in runtime.agents.values())


async def test_a_dead_runtime_is_asked_at_most_once_in_five_seconds_and_checked_as_often() -> None:
    """Its checks pass all the time, so that nothing but its own failures keeps us away."""
    for plan in (Plan(fault=ServerFault("500")), Plan(hang=True), Plan(wait=30.0)):
        runtime, npcs = FakeRuntime(), [f"npc{number}" for number in range(15)]
        async with room(runtime) as sync:
            for npc in npcs:
                sync.state.put(npc, combat=True, health=100)
            await asyncio.sleep(60)
            now, asked = asyncio.get_running_loop().time, list[float]()

            def dead(operation: str, plan: Plan = plan, asked: list[float] = asked) -> Plan:
                asked.append(asyncio.get_running_loop().time())
                return plan

            runtime.chooser, runtime.checked = dead, []
            for second in range(180):
                for npc in npcs:
                    sync.state.put(npc, lane=HIGH, combat=second % 2 == 0, health=100 - second % 100)
                await asyncio.sleep(1)
                if second == 30:
                    opened = now()
                    assert len(asked) <= 30
            work = [at for at in asked if at > opened]
            assert len(work) > 5
            assert len(runtime.checked) >= 9
            for calls in (work, runtime.checked):
                assert all(later - earlier >= 5.0 - 1e-6 for earlier, later in pairwise(calls))


async def test_concurrency_stays_within_the_setting() -> None:
    runtime = FakeRuntime()
    runtime.chooser = lambda operation: Plan(wait=0.2)
    async with room(runtime, runtime_concurrency=3) as sync:
        for number in range(30):
            sync.state.put(f"npc{number}")
        await asyncio.sleep(20)
        assert len(runtime.agents) == 30
        assert runtime.most_in_flight <= 3


async def test_the_background_takes_half_of_a_runtime_and_urgent_news_two_places_more() -> None:
    runtime, npcs = FakeRuntime(), [f"npc{number}" for number in range(30)]
    async with room(runtime, runtime_concurrency=8, schedule="documented") as sync:
        for npc in npcs:
            sync.state.put(npc)
        await asyncio.sleep(70)
        runtime.chooser, runtime.most_in_flight = (lambda operation: Plan(wait=0.2)), 0
        for npc in npcs:
            sync.state.put(npc, place="the Mill")
        await asyncio.sleep(20)
        assert runtime.most_in_flight == 4
        for npc in npcs:
            sync.state.put(npc, lane=HIGH, place="the Harbour")
        await asyncio.sleep(20)
        assert runtime.most_in_flight == 6
        assert all("the Harbour" in agent.blocks["situation"] for agent in runtime.agents.values())


async def test_urgent_news_of_one_world_go_two_at_a_time_and_no_world_waits_for_another() -> None:
    runtime, npcs = FakeRuntime(), [f"npc{number}" for number in range(8)]
    async with room(runtime) as sync:
        for world in ("w", "v"):
            for npc in npcs:
                sync.state.put(npc, world=world, combat=True, health=100)
        await asyncio.sleep(60)
        runtime.chooser = lambda operation: Plan(wait=0.2)
        for worlds, most in ((("w",), 2), (("w", "v"), 4)):
            runtime.most_in_flight = 0
            for world in worlds:
                for npc in npcs:
                    sync.state.put(npc, world=world, lane=HIGH, combat=True, health=80 if most == 2 else 50)
            await asyncio.sleep(5)
            assert runtime.most_in_flight == most
        assert all("about 50 percent" in agent.blocks["situation"] for agent in runtime.agents.values())


async def test_high_does_not_wait_behind_low() -> None:
    runtime = FakeRuntime()
    async with room(runtime, runtime_concurrency=2, schedule="documented") as sync:
        for number in range(20):
            sync.state.put(f"npc{number}")
        await asyncio.sleep(70)
        runtime.chooser = lambda operation: Plan(wait=1.0)
        for number in range(20):
            sync.state.put(f"npc{number}", lane=LOW, place="the Mill")
        await asyncio.sleep(31)
        start = asyncio.get_running_loop().time()
        sync.state.put("npc19", lane=HIGH, place="the Harbour")
        await asyncio.sleep(3)
        written = [at for at, _, _, text in runtime.writes if "the Harbour" in text]
        assert written
        assert written[0] - start <= 2.1


# -- what outlives the process -----------------------------------------------------------------------------------------


async def test_a_restart_writes_nothing_that_is_confirmed_and_keeps_the_agent(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    async with room(runtime, data=str(tmp_path)) as sync:
        state = sync.state
        sync.state.put(place="the Lantern")
        sync.state.put("brom")
        await sync.converse(history_generation=3)
    calls = len(runtime.calls)
    async with room(runtime, state=state, data=str(tmp_path)) as sync:
        await asyncio.sleep(400)
        assert runtime.calls[calls:] == []
        status = await sync.status()
        assert status.agent_id == "agent-1"
        assert status.confirmed_revision > 0
        await sync.converse(history_generation=3, seq=99)
        assert runtime.calls[calls:] == ["send"]
        revision = sync.state.put(place="the Mill", lane=HIGH)
        await asyncio.sleep(2)
        assert runtime.calls[calls:] == ["send", "write"]
        assert (await sync.status()).confirmed_revision == revision
    assert len(runtime.agents) == 2


async def test_an_agent_whose_creation_was_never_confirmed_is_found_again(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    runtime.plan("create", Plan(wait=1.0, fault=TimedOut("late"), lands=0.5))
    async with room(runtime, data=str(tmp_path)) as sync:
        state = sync.state
        sync.state.put(place="the Lantern")
        await asyncio.sleep(1.1)
    async with room(runtime, state=state, data=str(tmp_path)) as sync:
        await sync.converse()
        assert runtime.count("create") == 1
        assert (await sync.status()).agent_id == "agent-1"
        assert "the Lantern" in situation(runtime)


async def test_an_agent_that_appeared_late_goes_with_its_world() -> None:
    runtime = FakeRuntime()
    runtime.plan("create", Plan(wait=1.0, fault=TimedOut("late"), lands=20.0))
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await asyncio.sleep(60)
        assert sorted(runtime.agents) == ["agent-1", "agent-2"]
        assert (await sync.status()).agent_id == "agent-2"
        sync.state.close()
        await asyncio.sleep(10)
        assert runtime.agents == {}
        status = await sync.stub.GetSyncStatus(sync_pb2.GetSyncStatusRequest(world=FakeState.key().world), timeout=5)
        assert list(status.npcs) == []


async def test_a_write_that_the_process_did_not_survive_is_read_back(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    async with room(runtime, data=str(tmp_path)) as sync:
        state = sync.state
        sync.state.put(place="the Lantern")
        await sync.converse()
        sync.state.put(place="the Mill", lane=HIGH)
        runtime.plan("write", Plan(hang=True, lands=2.0))
        await asyncio.sleep(0.5)
    reads = runtime.count("read")
    async with room(runtime, state=state, data=str(tmp_path)) as sync:
        assert (await sync.status()).suspect
        await asyncio.sleep(3)
        writes = len(runtime.writes)
        await sync.converse()
        assert runtime.count("read") == reads + 1
        assert len(runtime.writes) == writes  # it had landed
        assert runtime.asked[-1].mark == 2


async def test_a_turn_that_the_process_did_not_survive_is_looked_up(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    async with room(runtime, data=str(tmp_path)) as sync:
        state = sync.state
        sync.state.put()
        runtime.plan("send", Plan(wait=5.0, hang=True, lands=9.0))
        call = sync.stub.Converse(sync.request(seq=10), timeout=10)
        await asyncio.sleep(1)
    call.cancel()
    async with room(runtime, state=state, data=str(tmp_path)) as sync:
        request = sync.request(seq=11)
        request.turn_id = "turn-new"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Room.hear(sync.stub.Converse(request, timeout=2))
        assert from_rpc(caught.value).reason == "AGENT_BUSY"
        await asyncio.sleep(10)
        request = sync.request(seq=11)
        request.turn_id = "turn-1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Room.hear(sync.stub.Converse(request, timeout=10))
        assert from_rpc(caught.value).reason == "TURN_EXECUTED"
        request.turn_id = "turn-newer"
        await Room.hear(sync.stub.Converse(request, timeout=10))
        assert runtime.agent().turns == ["turn-1", "turn-newer"]
        assert runtime.violations == []


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_agents_are_deleted_with_their_world_however_often_it_takes(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    async with room(runtime, data=str(tmp_path)) as sync:
        state = sync.state
        sync.state.put()
        sync.state.put("brom", world="other")
        await asyncio.sleep(1)
        runtime.plan("delete", *[Plan(fault=ServerFault("500"))] * 3)
        sync.state.close()
        await asyncio.sleep(1)
        assert len(runtime.agents) == 2
    async with room(runtime, state=state, data=str(tmp_path)):
        await asyncio.sleep(60)
        assert [agent.spec.tag for agent in runtime.agents.values()] == ["earshot:t:other:brom"]


async def test_a_world_that_closed_unseen_is_noticed_at_the_next_list(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    async with room(runtime, data=str(tmp_path)) as sync:
        state = sync.state
        sync.state.put()
        await asyncio.sleep(1)
    state.close()
    async with room(runtime, state=state, data=str(tmp_path)):
        await asyncio.sleep(5)
        assert runtime.agents == {}


async def test_a_state_that_lost_its_store_is_believed() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        for _ in range(9):
            sync.state.put(place="the Lantern")
        await sync.converse()
        sync.state.worlds.clear()
        revision = sync.state.put(place="the Mill")
        heard = await sync.converse()
        assert heard.started[0].revision == revision == 1
        assert "the Mill" in runtime.asked[-1].situation


async def test_a_world_that_closes_while_its_agent_is_made_leaves_none_behind() -> None:
    runtime = FakeRuntime()
    runtime.plan("create", Plan(wait=5.0))
    async with room(runtime) as sync:
        sync.state.put()
        await asyncio.sleep(1)
        sync.state.close()
        await asyncio.sleep(30)
        assert runtime.agents == {}
        assert runtime.count("create") == 1


# -- on demand ---------------------------------------------------------------------------------------------------------


async def test_refresh_waits_forces_and_fails_alone() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        revision = sync.state.put(place="the Lantern")
        sync.state.put("brom")
        mara, ghost = await sync.refresh("mara", "ghost", wait=True)
        assert mara.outcome == sync_pb2.REFRESH_OUTCOME_CONFIRMED
        assert mara.revision >= revision
        assert ghost.outcome == sync_pb2.REFRESH_OUTCOME_REFUSED
        assert ghost.status.reason == "NOT_FOUND"
        # Confirmed and equal: nothing to do, unless forced.
        (again,) = await sync.refresh("mara")
        assert again.outcome == sync_pb2.REFRESH_OUTCOME_CONFIRMED
        assert runtime.writes == []
        (forced,) = await sync.refresh("mara", force=True, wait=True)
        assert {block.label for block in forced.blocks if block.written} >= {"situation", "persona"}
        (pending,) = await sync.refresh("mara", force=True)
        assert pending.outcome == sync_pb2.REFRESH_OUTCOME_PENDING
        await asyncio.sleep(1)
        assert len([label for _, _, label, _ in runtime.writes if label == "situation"]) == 2


async def test_refresh_of_a_world_takes_those_with_an_agent() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put()
        sync.state.put("brom", heard=False)
        await sync.converse()
        request = sync_pb2.RefreshRequest(world=FakeState.key().world, force=True, wait=True)
        response = await sync.stub.Refresh(request, timeout=10)
        assert [result.key.npc_id for result in response.results] == ["mara"]


async def test_refresh_says_pending_when_the_runtime_fails() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put()
        await sync.converse()
        sync.state.put(place="the Mill")
        runtime.plan("write", Plan(fault=ServerFault("500")))
        (result,) = await sync.refresh("mara", wait=True)
        assert (result.outcome, result.status.reason) == (sync_pb2.REFRESH_OUTCOME_PENDING, "RUNTIME_FAILED")
        await asyncio.sleep(3)
        assert "the Mill" in situation(runtime)


async def test_status_tells_what_waits() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(place="the Lantern")
        await sync.converse()
        await asyncio.sleep(5)
        sync.state.put(place="the Mill")
        sync.state.put(place="the Harbour")
        await asyncio.sleep(1)
        status = await sync.status()
        assert (status.dirty, status.confirmed_revision, status.desired_revision) == (True, 1, 3)
        assert status.revisions_behind == 2
        assert status.lane == MEDIUM
        assert status.age_ms == pytest.approx(6050, abs=100)
        assert (status.writes, status.turns) == (0, 1)
        assert {block.label for block in status.blocks} >= {"situation"}


async def test_erasing_a_player_deletes_agents_and_makes_them_anew() -> None:
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put(players=["Ada"])
        sync.state.put("brom")
        await sync.converse()
        await asyncio.sleep(1)
        request = sync_pb2.ErasePlayerRequest(tenant="t", player_id="id-Ada", npcs=[FakeState.key()])
        runtime.plan("delete", Plan(fault=ServerFault("500")))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sync.stub.ErasePlayer(request, timeout=10)
        assert from_rpc(caught.value).reason == "ERASURE_PENDING"
        sync.state.put(players=[])
        response = await sync.stub.ErasePlayer(request, timeout=10)
        assert {receipt.store for receipt in response.receipts} == {
            "sync.notes", "sync.markov", "sync.replies", "sync.summaries", "sync.agents.fake",
        }  # fmt: skip
        await asyncio.sleep(10)
        assert "agent-1" not in runtime.agents
        tags = sorted(agent.spec.tag for agent in runtime.agents.values())
        assert tags == ["earshot:t:w:brom", "earshot:t:w:mara"]
        assert not any("Ada" in str(agent.blocks) + str(agent.messages) for agent in runtime.agents.values())


async def test_look_up_says_running_until_the_turn_ends() -> None:
    """The fake keeps the port's promise that the reconciler relies on."""
    runtime = FakeRuntime()
    async with room(runtime) as sync:
        sync.state.put()
        runtime.plan("send", Plan(wait=3.0))
        task = asyncio.ensure_future(sync.converse())
        await asyncio.sleep(1)
        assert await runtime.look_up("agent-1", "turn-1", 1.0) is TurnState.RUNNING
        await task
        assert await runtime.look_up("agent-1", "turn-1", 1.0) is TurnState.DONE
        assert await runtime.look_up("agent-1", "other", 1.0) is TurnState.ABSENT
