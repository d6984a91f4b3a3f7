"""The sync room with its Letta adapter before a server that fails in every way (R4), in real time, over sockets.

What must hold, whatever the fault: at most one pending item per NPC, the breaker opens and lets only probes through,
one write per block and one message per agent in flight, turns end visibly, and when the server is well again every
NPC's newest version is confirmed within 30 s, with no older one after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.sync.runtimes.letta import LettaRuntime
from services.sync.runtimes.port import AgentSpec, Block, Garbled, Message, Missing, Role, RuntimeFault, TimedOut, Turn
from tests.fakes.fake_letta import FakeLetta, Fault
from tests.unit.sync.fake_runtime import mark_of
from tests.unit.sync.fake_state import FakeState
from tests.unit.sync.room import Room, room

NPCS = [f"npc{number:02}" for number in range(20)]
HIGH = type_pb2.LANE_HIGH
FAULTS = {
    "500": Fault("status", 500),
    "500 that landed": Fault("status", 500, lands=True),
    "429": Fault("status", 429, retry_after="1"),
    "409": Fault("status", 409),
    "reset": Fault("reset"),
    "reset that landed": Fault("reset", lands=True),
    "wrong JSON": Fault("garbage", lands=True),
    "another shape": Fault("shape"),
    "10 MB": Fault("huge", lands=True),
}
SLOW_FAULTS = {
    "drip": Fault("drip", ms=500),
    "hang": Fault("hang"),
    "hang that landed": Fault("hang", lands=True),
    "30 s": Fault("slow", ms=30_000),
}


@asynccontextmanager
async def staged() -> AsyncIterator[tuple[FakeLetta, Room]]:
    """A world of NPCs that a player hears, all with their agents."""
    async with AsyncExitStack() as stack:
        letta = await stack.enter_async_context(FakeLetta())
        runtime = LettaRuntime(letta.url)
        sync = await stack.enter_async_context(room(runtime))
        for npc in NPCS:
            sync.state.put(npc, combat=True, health=100)
        await until(lambda: len(letta.agents) == len(NPCS), 30)
        yield letta, sync


async def until(condition: object, seconds: float) -> None:
    """Wait for what another task brings about."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the server under test has no event for it
            await asyncio.sleep(0.02)


async def status(sync: Room) -> sync_pb2.GetSyncStatusResponse:
    request = sync_pb2.GetSyncStatusRequest(world=FakeState.key().world)
    response = await sync.stub.GetSyncStatus(request, timeout=5)
    assert isinstance(response, sync_pb2.GetSyncStatusResponse)
    return response


def storm(sync: Room, health: int) -> None:
    for npc in NPCS:
        sync.state.put(npc, lane=HIGH, combat=health % 20 == 0, health=health)


async def healed(letta: FakeLetta, newest: dict[str, int]) -> None:
    """Every NPC's newest version arrives, and nothing older after it."""

    def arrived() -> bool:
        return all(mark_of(text) >= newest[name.lower()] for name, text in letta.texts("situation").items())

    await until(arrived, 30)
    # Whatever was under way has landed by now; what a block held last is what counts.
    await asyncio.sleep(0.2)
    assert arrived()
    assert letta.violations == []
    for block in letta.blocks.values():
        if block.label == "situation":
            marks = [mark_of(text) for text in block.history]
            assert marks == sorted(marks), "an older value after a newer one"


async def storms(sync: Room, rounds: int) -> dict[str, int]:
    """Changes while the server fails; the newest revision of each NPC."""
    for number in range(rounds):
        storm(sync, 90 - 10 * (number % 9))
        await asyncio.sleep(0.25)
        response = await status(sync)
        assert len(response.npcs) == len(NPCS)
    return {npc: mark_of(f"mark {sync.state.npc(npc).status_revision}.") for npc in NPCS}


async def all_at_once(names: Iterable[str], endure: Callable[[str], Awaitable[None]]) -> None:
    """A server for each of them at the same time, since most of it is waiting. A failure says of which."""

    async def named(name: str) -> None:
        try:
            await endure(name)
        except Exception as error:
            error.add_note(f"the fault was {name}")
            raise

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(named(name))


async def test_a_failing_server_is_left_alone_and_gets_the_newest_when_it_is_back() -> None:
    async def endured(name: str) -> None:
        async with staged() as (letta, sync):
            letta.faults["write"] = FAULTS[name]
            before = letta.calls["write"]
            newest = await storms(sync, 6)
            if name not in ("429", "409"):  # a server that says so is well
                async with asyncio.timeout(15):
                    while (await status(sync)).runtimes[0].breaker == "closed":  # noqa: ASYNC110 - as `until`
                        await asyncio.sleep(0.05)
            # What was under way when the breaker opened, or while the server asked for rest, is all that came through.
            limit = {"409": 5 * 6 * len(NPCS)}.get(name, 24)
            assert letta.calls["write"] - before <= limit
            letta.faults.clear()
            await healed(letta, newest)

    await all_at_once(FAULTS, endured)


async def test_slow_servers_hold_up_nobody_for_long() -> None:
    async def endured(name: str) -> None:
        async with staged() as (letta, sync):
            letta.faults["write"] = SLOW_FAULTS[name]
            newest = await storms(sync, 3)
            # A turn meanwhile: its write does not pass, so the text goes along, in time.
            async with asyncio.timeout(15):
                heard = await sync.converse(NPCS[0], timeout=14)
            assert heard.sentences == ["I hear you."]
            assert heard.started[-1].inlined
            assert heard.started[-1].revision >= newest[NPCS[0]]
            letta.faults.clear()
            await healed(letta, newest)

    await all_at_once(SLOW_FAULTS, endured)


async def test_a_server_that_is_gone_is_not_asked_and_comes_back() -> None:
    async with staged() as (letta, sync):
        async with letta.refusing():
            newest = await storms(sync, 6)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await sync.converse(NPCS[0], timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            (runtime,) = (await status(sync)).runtimes
            assert not runtime.healthy
        await healed(letta, newest)
        assert (await sync.converse(NPCS[0])).sentences == ["I hear you."]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("garbage"), Garbled),
        (Fault("shape"), Garbled),
        (Fault("huge"), Garbled),
        (Fault("hang"), TimedOut),
        (Fault("drip", ms=200), TimedOut),
    ],
    ids=lambda value: value.mode if isinstance(value, Fault) else "",
)
async def test_answers_that_are_none_are_faults_of_known_kind(fault: Fault, kind: type[RuntimeFault]) -> None:
    async with FakeLetta() as letta:
        runtime = LettaRuntime(letta.url)
        try:
            agent_id = await runtime.create_agent(AgentSpec("earshot:t:w:n", "N", "", (Block("a", "b", 9),)), 10)
            letta.faults["*"] = fault
            with pytest.raises(kind):
                await runtime.read_blocks(agent_id, 1.0)
            turn = Turn("turn-1", "", "", (Message(Role.USER, "x"),))
            with pytest.raises(RuntimeFault):
                async for _ in runtime.send(agent_id, turn, 1.0):
                    pass
            letta.faults.clear()
            assert await runtime.read_blocks(agent_id, 5.0) == {"a": "b"}
            with pytest.raises(Missing):
                await runtime.read_blocks("agent-nobody", 5.0)
        finally:
            await runtime.close()
