"""The snapshot hop: coalescing, the window, deadlines, and what a lost stream does to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from earshot.state.v1 import state_pb2, state_pb2_grpc

from services.common.errors import Conflict, DeadlineExceeded, EarshotError, Overloaded, Unavailable
from services.common.inprocess import InProcessServer
from services.edge import ingest as module
from services.edge.ingest import Ingest
from tests.unit.edge.fakes import FakeState


def item(world: str = "w", seq: int = 0) -> state_pb2.SnapshotItem:
    made = state_pb2.SnapshotItem(seq=seq, epoch=1 if seq else 0)
    made.world.tenant, made.world.world = "t", world
    made.entities.ids.append("a")
    made.entities.kinds = b"\1"
    return made


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def running(*, started: bool = True) -> AsyncIterator[tuple[Ingest, FakeState, Callable[[], Awaitable[None]]]]:
    state, server = FakeState(), InProcessServer()
    channel: Any = server.channel()
    add: Any = state_pb2_grpc.add_StateServiceServicer_to_server
    add(state, server)
    hop = Ingest(state_pb2_grpc.StateServiceStub(channel), now)
    tasks: list[asyncio.Task[None]] = []

    async def start() -> None:
        tasks.append(asyncio.create_task(hop.run()))
        await asyncio.sleep(0)

    if started:
        await start()
    try:
        yield hop, state, start
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop(0)


async def submitted(hop: Ingest, *items: state_pb2.SnapshotItem, budget: float = 1.0) -> list[object]:
    calls = (hop.submit(one, now() + budget) for one in items)
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_answers_find_their_caller_in_any_order() -> None:
    async with running() as (hop, state, _):
        results = await submitted(hop, *(item(f"w{number % 7}", number + 1) for number in range(200)))
        assert [type(result) for result in results] == [state_pb2.SnapshotResult] * 200
        worlds = {one.id: one.world.world for one in state.items}
        assert len(worlds) == 200
        for number, result in enumerate(results):
            assert isinstance(result, state_pb2.SnapshotResult)
            assert worlds[result.id] == f"w{number % 7}"


async def test_what_waits_goes_out_together_and_an_idle_stream_sends_at_once() -> None:
    async with running() as (hop, state, _):
        await hop.submit(item(), now() + 1)
        assert state.messages == [1]
        state.gate = asyncio.Event()
        waiting = asyncio.create_task(submitted(hop, *(item(f"w{number}") for number in range(300))))
        await asyncio.sleep(0.01)
        # Without an answer only the window is out, in full messages.
        assert sum(state.messages[1:]) <= module.WINDOW * module.BATCH
        state.gate.set()
        assert not [one for one in await waiting if isinstance(one, Exception)]
        assert len(state.messages) < 20


async def test_a_window_of_unanswered_messages() -> None:
    async with running() as (hop, state, _):
        state.gate = asyncio.Event()
        calls = []
        for number in range(module.WINDOW + 3):
            calls.append(asyncio.create_task(hop.submit(item(f"w{number}"), now() + 5)))
            await asyncio.sleep(0.001)
        assert hop._in_flight == module.WINDOW
        state.gate.set()
        await asyncio.gather(*calls)
        assert hop._in_flight == 0
        assert state.messages == [1] * module.WINDOW + [3]


async def test_the_budget_is_what_is_left_when_it_is_sent() -> None:
    async with running(started=False) as (hop, state, start):
        call = asyncio.create_task(hop.submit(item(), now() + 1))
        await asyncio.sleep(0.4)
        await start()
        await call
        assert state.items[0].budget_ms == 600


async def test_nobody_sends_what_nobody_waits_for() -> None:
    async with running(started=False) as (hop, state, start):
        with pytest.raises(Unavailable):
            await hop.submit(item("late"), now() + 0.2)
        call = asyncio.create_task(hop.submit(item("cancelled"), now() + 5))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await start()
        await hop.submit(item("next"), now() + 1)
        assert [one.world.world for one in state.items] == ["next"]


async def test_a_silent_state_frees_the_window_when_deadlines_pass() -> None:
    async with running() as (hop, state, _):
        state.gate = asyncio.Event()
        results = await submitted(hop, *(item(f"w{number}") for number in range(10)), budget=0.3)
        assert {type(one) for one in results} == {DeadlineExceeded}
        state.gate.set()
        await asyncio.sleep(0.01)
        assert isinstance((await submitted(hop, item()))[0], state_pb2.SnapshotResult)
        assert hop._in_flight == 0
        assert not hop._sent


async def test_a_lost_stream_fails_what_has_no_number_and_repeats_what_has_one_once() -> None:
    async with running() as (hop, state, _):
        state.drop_streams = 1
        plain, numbered = await submitted(hop, item("plain"), item("numbered", seq=1), budget=3)
        assert isinstance(plain, Unavailable)
        assert plain.retryable
        assert isinstance(numbered, state_pb2.SnapshotResult)
        assert [one.world.world for one in state.items] == ["numbered"]
        assert state.streams == 2


async def test_a_numbered_item_is_repeated_only_once() -> None:
    async with running() as (hop, state, _):
        state.drop_streams = 2
        (numbered,) = await submitted(hop, item("numbered", seq=1), budget=5)
        assert isinstance(numbered, Unavailable)
        assert state.items == []
        assert isinstance((await submitted(hop, item("next", seq=1), budget=5))[0], state_pb2.SnapshotResult)


async def test_reconnecting_backs_off() -> None:
    async with running() as (hop, state, _):
        state.drop_streams = 1000
        started = now()
        for number in range(8):
            await submitted(hop, item(f"w{number}"), budget=10)
        assert state.streams <= 9
        assert now() - started > module.BACKOFF_MAX_S


async def test_while_state_is_away_one_waits_and_the_others_are_told_at_once() -> None:
    async with running() as (hop, state, _):
        state.drop_streams = 1000
        await submitted(hop, item("first"), budget=1)
        started = now()
        waiting = asyncio.create_task(submitted(hop, item("waits"), budget=1))
        await asyncio.sleep(0)
        others = await submitted(hop, *(item(f"w{number}") for number in range(20)), budget=1)
        assert {type(one) for one in others} == {Unavailable}
        assert now() == started
        assert isinstance((await waiting)[0], Unavailable)
        assert not hop._queue, "nobody waits, nothing is kept"
        state.drop_streams = 0
        await asyncio.sleep(module.BACKOFF_MAX_S + 0.1)
        back = await submitted(hop, item("back"), budget=1)
        back += await submitted(hop, *(item(f"w{number}") for number in range(20)), budget=1)
        assert {type(one) for one in back} == {state_pb2.SnapshotResult}


async def test_an_idle_stream_that_is_lost_is_no_state_that_is_away() -> None:
    async with running() as (hop, state, _):
        await asyncio.sleep(module.STEADY_S * 2)
        state.drop_streams = 1
        numbered = [item(f"w{number}", seq=1) for number in range(20)]
        assert {type(one) for one in await submitted(hop, *numbered, budget=5)} == {state_pb2.SnapshotResult}


async def test_too_many_waiting_are_refused_at_once() -> None:
    async with running(started=False) as (hop, _, _):
        calls = [asyncio.create_task(hop.submit(item(), now() + 1)) for _ in range(module.PENDING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await hop.submit(item(), now() + 1)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(one) for one in results} == {Unavailable}


async def test_an_item_s_own_error_is_its_own() -> None:
    async with running() as (hop, state, _):
        state.failure = Conflict("gone", reason="STALE_EPOCH")
        with pytest.raises(EarshotError) as caught:
            await hop.submit(item(), now() + 1)
        assert caught.value.reason == "STALE_EPOCH"
        state.failure = None
        await hop.submit(item(), now() + 1)
        assert state.streams == 1
