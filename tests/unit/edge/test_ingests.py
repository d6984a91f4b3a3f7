"""Streams to the replicas of state: opened where something is to be said, ended where nobody serves any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.directory import Directory
from services.common.errors import NotOwner, to_status
from services.common.inprocess import InProcessServer
from services.common.ownership import PARTITIONS, partition_of
from services.edge.ingests import LOOK_S, Ingests
from tests.fakes.registry import FakeRegistry


class State(state_pb2_grpc.StateServiceServicer):
    """Applies everything but what is said to be elsewhere."""

    def __init__(self) -> None:
        self.streams = 0
        self.elsewhere: dict[str, str] = {}

    async def Ingest(self, requests: Any, context: Any) -> AsyncIterator[state_pb2.IngestResponse]:
        self.streams += 1
        try:
            async for request in requests:
                yield state_pb2.IngestResponse(results=[self._result(item) for item in request.items])
        finally:
            self.streams -= 1

    def _result(self, item: state_pb2.SnapshotItem) -> state_pb2.SnapshotResult:
        result = state_pb2.SnapshotResult(id=item.id, revision=1)
        if item.world.world in self.elsewhere:
            result.status.CopyFrom(to_status(NotOwner(self.elsewhere[item.world.world])))
        return result


class Replicas:
    def __init__(self) -> None:
        served = {partition: "ab"[partition % 2] for partition in range(PARTITIONS)}
        self.registry = FakeRegistry(served, dict.fromkeys("abc", 5000))
        self.directory = Directory(self.registry, "", 5000)
        self.states: dict[str, State] = {}
        stubs: dict[str, Any] = {}
        for address in "abc":
            server: Any = InProcessServer([])
            self.states[address] = State()  # type: ignore[abstract]  # a fake of part of the service
            state_pb2_grpc.add_StateServiceServicer_to_server(self.states[address], server)
            stubs[address] = state_pb2_grpc.StateServiceStub(server.channel())
        self.ingests = Ingests(self.directory, stubs.__getitem__, asyncio.get_running_loop().time)

    async def send(self, world: str) -> None:
        item = state_pb2.SnapshotItem(world=type_pb2.WorldRef(tenant="t", world=world))
        await self.ingests.submit(item, asyncio.get_running_loop().time() + 1)

    def owner(self, world: str) -> str:
        return self.registry.served[partition_of("t", world)]

    @property
    def streams(self) -> dict[str, int]:
        return {address: state.streams for address, state in self.states.items()}


@asynccontextmanager
async def replicas() -> AsyncIterator[Replicas]:
    there = Replicas()
    await there.directory.refresh()
    running = asyncio.create_task(there.ingests.run())
    await asyncio.sleep(0)
    try:
        yield there
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_one_stream_to_each_replica_that_is_asked() -> None:
    async with replicas() as there:
        assert there.streams == {"a": 0, "b": 0, "c": 0}
        for number in range(20):
            await there.send(f"w{number}")
        assert there.streams == {"a": 1, "b": 1, "c": 0}


async def test_a_stream_ends_when_its_replica_serves_nothing_any_more() -> None:
    async with replicas() as there:
        for number in range(20):
            await there.send(f"w{number}")
        there.registry.served = dict.fromkeys(range(PARTITIONS), "b")
        await there.directory.refresh()
        await asyncio.sleep(0.1)
        assert there.streams == {"a": 0, "b": 1, "c": 0}


async def test_changes_that_follow_each_other_at_once_are_all_seen() -> None:
    async with replicas() as there:
        for number in range(20):
            await there.send(f"w{number}")
        for address in "bc":
            there.registry.served = dict.fromkeys(range(PARTITIONS), address)
            await there.directory.refresh()
        await there.send("w")
        await asyncio.sleep(0.1)
        assert there.streams == {"a": 0, "b": 0, "c": 1}


async def test_a_stream_to_who_was_named_but_serves_nothing_does_not_stay() -> None:
    async with replicas() as there:
        owner = there.owner("w")
        # A hint that is older than the table: c has handed everything on.
        there.states[owner].elsewhere["w"] = "c"
        await there.send("w")
        assert there.streams["c"] == 1
        await asyncio.sleep(LOOK_S + 0.1)
        assert there.streams["c"] == 0
        assert there.streams[owner] == 1


async def test_stopping_ends_them_all() -> None:
    async with replicas() as there:
        for number in range(20):
            await there.send(f"w{number}")
    await asyncio.sleep(0.1)
    assert there.streams == {"a": 0, "b": 0, "c": 0}
