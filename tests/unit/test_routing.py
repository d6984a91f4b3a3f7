"""Calls find the replica that owns their world, all replicas, or any; and what they do when it is another one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from earshot.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.directory import Directory
from services.common.errors import NotFound, NotOwner, Unavailable, from_rpc
from services.common.inprocess import InProcessServer
from services.common.interceptors import RoomInterceptor
from services.common.ownership import PARTITIONS, partition_of
from services.common.routing import PATIENCE_S, RoutedChannel
from services.common.telemetry import Metrics
from tests.fakes.registry import FakeRegistry

LEASE_MS = 5000


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Replica(  # type: ignore[misc]  # three rooms in one: their ErasePlayer differs, and is not called
    state_pb2_grpc.StateServiceServicer, sync_pb2_grpc.SyncServiceServicer, cluster_pb2_grpc.ClusterServiceServicer
):
    """Answers with its address; does as `fails` says before that."""

    address: str
    asked: list[Any] = field(default_factory=list)
    fails: Callable[[], None] = lambda: None
    watched: int = 0
    told: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    def _enter(self, request: Any) -> None:
        self.asked.append(request)
        self.fails()

    async def GetWorld(self, request: state_pb2.GetWorldRequest, context: Any) -> state_pb2.GetWorldResponse:
        self._enter(request)
        return state_pb2.GetWorldResponse(world=request.world, revision=ord(self.address))

    async def ListNpcs(self, request: state_pb2.ListNpcsRequest, context: Any) -> state_pb2.ListNpcsResponse:
        self._enter(request)
        key = state_pb2.NpcKey(world=ref(self.address), npc_id="mara")
        return state_pb2.ListNpcsResponse(resume_token="7", npcs=[state_pb2.NpcChange(key=key)])

    async def WatchWorlds(
        self, request: state_pb2.WatchWorldsRequest, context: Any
    ) -> AsyncIterator[state_pb2.WatchWorldsResponse]:
        self._enter(request)
        self.watched += 1
        try:
            while (ring := await self.told.get()) is not None:
                yield ring
        finally:
            self.watched -= 1

    async def BatchGetNpcContext(
        self, request: state_pb2.BatchGetNpcContextRequest, context: Any
    ) -> state_pb2.BatchGetNpcContextResponse:
        self._enter(request)
        return state_pb2.BatchGetNpcContextResponse(
            contexts=[state_pb2.NpcContext(key=key, revision=ord(self.address)) for key in request.npcs]
        )

    async def Converse(
        self, request: sync_pb2.ConverseRequest, context: Any
    ) -> AsyncIterator[sync_pb2.ConverseResponse]:
        self._enter(request)
        yield sync_pb2.ConverseResponse(started=sync_pb2.ConverseStarted(runtime=self.address))

    async def Assign(self, request: cluster_pb2.AssignRequest, context: Any) -> cluster_pb2.AssignResponse:
        self._enter(request)
        return cluster_pb2.AssignResponse()


class Room:
    """Replicas by address, and stubs that find them."""

    def __init__(self, *addresses: str) -> None:
        served = {partition: addresses[partition % len(addresses)] for partition in range(PARTITIONS)}
        self.registry = FakeRegistry(served, dict.fromkeys(addresses, LEASE_MS))
        self.directory = Directory(self.registry, "", LEASE_MS)
        self.replicas: dict[str, Replica] = {}
        self.channels: dict[str, Any] = {}
        for address in addresses:
            self.start(address)
        routed: Any = RoutedChannel(self.directory, self.channels.__getitem__)
        self.state: Any = state_pb2_grpc.StateServiceStub(routed)
        self.sync: Any = sync_pb2_grpc.SyncServiceStub(routed)
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(routed)

    def start(self, address: str) -> None:
        server: Any = InProcessServer([RoomInterceptor(Metrics())])
        replica = self.replicas[address] = Replica(address)  # type: ignore[abstract]  # a fake of part of the services
        state_pb2_grpc.add_StateServiceServicer_to_server(replica, server)
        sync_pb2_grpc.add_SyncServiceServicer_to_server(replica, server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(replica, server)
        self.channels[address] = server.channel()

    def owner(self, world: str) -> Replica:
        return self.replicas[self.registry.served[partition_of("t", world)]]

    def other(self, world: str) -> Replica:
        return next(one for one in self.replicas.values() if one is not self.owner(world))

    async def revision(self, world: str, timeout: float = 5) -> str:
        """The address of who answered."""
        answer = await self.state.GetWorld(state_pb2.GetWorldRequest(world=ref(world)), timeout=timeout)
        return chr(answer.revision)

    @property
    def counts(self) -> dict[str, int]:
        return {address: len(one.asked) for address, one in self.replicas.items()}


def ref(world: str) -> type_pb2.WorldRef:
    return type_pb2.WorldRef(tenant="t", world=world)


def failing(error: Exception, times: int = 1) -> Callable[[], None]:
    left = iter([error] * times)

    def fail() -> None:
        found = next(left, None)
        if found is not None:
            raise found

    return fail


async def test_a_call_goes_to_the_owner_of_its_world_and_to_nobody_else() -> None:
    room = Room("a", "b", "c")
    answered = {world: await room.revision(world) for world in map(str, range(30))}
    assert answered == {world: room.owner(world).address for world in answered}
    assert room.counts == Counter(answered.values())


async def test_who_is_not_the_owner_any_more_says_who_is() -> None:
    room = Room("a", "b")
    owner, other = room.owner("w"), room.other("w")
    owner.fails = failing(NotOwner(other.address))
    assert await room.revision("w") == other.address
    assert (len(owner.asked), len(other.asked)) == (1, 1)


async def test_a_call_follows_one_step_and_no_more() -> None:
    room = Room("a", "b")
    for replica in room.replicas.values():
        replica.fails = failing(NotOwner(room.owner("w").address), 9)
    room.owner("w").fails = failing(NotOwner(room.other("w").address), 9)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.revision("w")
    assert from_rpc(caught.value).reason == "NOT_OWNER"
    assert room.counts == {"a": 1, "b": 1}


async def test_who_knows_no_other_owner_is_believed_when_the_registry_names_one() -> None:
    room = Room("a", "b")
    owner, other = room.owner("w"), room.other("w")
    owner.fails = failing(NotOwner(""))
    asking = asyncio.create_task(room.revision("w"))
    await asyncio.sleep(1)
    assert not asking.done()
    room.registry.served[partition_of("t", "w")] = other.address
    assert await asking == other.address


async def test_a_world_that_nobody_serves_is_waited_for_and_then_told_as_moving() -> None:
    room = Room("a", "b")
    address = room.registry.served.pop(partition_of("t", "w"))
    began = now()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.revision("w", timeout=30)
    error = from_rpc(caught.value)
    assert (error.reason, error.retryable) == ("MOVING", True)
    assert now() - began == pytest.approx(PATIENCE_S, abs=0.2)
    began = now()
    with pytest.raises(grpc.aio.AioRpcError):
        await room.revision("w", timeout=1)
    assert now() - began < 1.01
    room.registry.served[partition_of("t", "w")] = address
    assert await room.revision("w") == address


async def test_an_owner_that_cannot_be_reached_is_told_as_moving_until_its_lease_is_over() -> None:
    room = Room("a", "b")
    await room.directory.refresh()
    await asyncio.sleep(1)
    room.owner("w").fails = failing(Unavailable("connection refused"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.revision("w")
    error = from_rpc(caught.value)
    assert error.reason == "MOVING"
    assert error.retry_after_ms is not None
    assert LEASE_MS - 1000 <= error.retry_after_ms <= LEASE_MS + 2000


async def test_other_errors_of_the_owner_are_the_callers_and_are_not_tried_again() -> None:
    room = Room("a", "b")
    for error in (NotFound("no such world"), Unavailable("no disk", reason="STORE_UNAVAILABLE")):
        room.owner("w").fails = failing(error)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await room.revision("w")
        assert from_rpc(caught.value).reason == error.reason
    assert len(room.owner("w").asked) == 2
    assert not room.other("w").asked


async def test_a_call_about_npcs_of_several_worlds_is_one_for_each_owner_answered_in_order() -> None:
    room = Room("a", "b", "c")
    keys = [state_pb2.NpcKey(world=ref(str(number % 7)), npc_id=f"n{number}") for number in range(20)]
    answer = await room.state.BatchGetNpcContext(state_pb2.BatchGetNpcContextRequest(npcs=keys), timeout=5)
    assert [one.key.npc_id for one in answer.contexts] == [key.npc_id for key in keys]
    assert [chr(one.revision) for one in answer.contexts] == [room.owner(key.world.world).address for key in keys]


async def test_a_stream_follows_to_the_owner_as_long_as_nothing_was_said() -> None:
    room = Room("a", "b")
    room.owner("w").fails = failing(NotOwner(room.other("w").address))
    request = sync_pb2.ConverseRequest(npc=state_pb2.NpcKey(world=ref("w"), npc_id="mara"))
    told = [message async for message in room.sync.Converse(request, timeout=5)]
    assert [message.started.runtime for message in told] == [room.other("w").address]


async def test_what_concerns_all_is_asked_of_all_and_put_together() -> None:
    room = Room("a", "b", "c")
    answer = await room.state.ListNpcs(state_pb2.ListNpcsRequest(), timeout=5)
    assert sorted(one.key.world.world for one in answer.npcs) == ["a", "b", "c"]


async def test_what_concerns_some_partitions_is_asked_of_their_owners() -> None:
    room = Room("a", "b", "c")
    answer = await room.state.ListNpcs(state_pb2.ListNpcsRequest(partitions=[0, 3, 1]), timeout=5)
    assert sorted(one.key.world.world for one in answer.npcs) == ["a", "b"]
    assert room.counts == {"a": 1, "b": 1, "c": 0}
    assert list(room.replicas["a"].asked[0].partitions) == [0, 3, 1]


async def test_a_listing_while_worlds_change_hands_is_refused_rather_than_partial() -> None:
    room = Room("a", "b")

    def move() -> None:
        room.registry.served[0] = "b"

    room.replicas["a"].fails = move
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.state.ListNpcs(state_pb2.ListNpcsRequest(), timeout=5)
    assert from_rpc(caught.value).reason == "MOVING"
    del room.registry.served[5]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.state.ListNpcs(state_pb2.ListNpcsRequest(), timeout=5)
    assert from_rpc(caught.value).reason == "MOVING"


async def test_streams_of_all_are_one_that_ends_when_others_serve() -> None:
    room = Room("a", "b", "c")
    call = room.state.WatchWorlds(state_pb2.WatchWorldsRequest(partitions=[0, 1]))
    first = asyncio.create_task(call.read())
    await asyncio.sleep(0.1)
    assert [one.watched for one in room.replicas.values()] == [1, 1, 0]
    room.replicas["b"].told.put_nowait(state_pb2.WatchWorldsResponse(world=ref("w"), revision=3))
    assert (await first).revision == 3
    second = asyncio.create_task(call.read())
    await asyncio.sleep(0.1)
    room.registry.served[0] = "c"
    await room.directory.refresh()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await second
    assert from_rpc(caught.value).reason == "MOVING"
    await asyncio.sleep(0.1)
    assert [one.watched for one in room.replicas.values()] == [0, 0, 0]


async def test_a_stream_of_all_that_is_cancelled_leaves_nothing_behind() -> None:
    room = Room("a", "b")
    call = room.state.WatchWorlds(state_pb2.WatchWorldsRequest())
    reading = asyncio.create_task(call.read())
    await asyncio.sleep(0.1)
    reading.cancel()
    call.cancel()
    await asyncio.sleep(0.1)
    assert [one.watched for one in room.replicas.values()] == [0, 0]


async def test_what_any_can_answer_goes_to_the_next_when_one_is_gone() -> None:
    room = Room("a", "b", "c")
    await room.directory.refresh()
    first, second, _ = room.directory.nearest()
    room.replicas[first].fails = failing(Unavailable("gone"), 9)
    await room.cluster.Assign(cluster_pb2.AssignRequest(), timeout=5)
    assert (len(room.replicas[first].asked), len(room.replicas[second].asked)) == (1, 1)
    room.replicas[first].fails = failing(NotFound("no"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await room.cluster.Assign(cluster_pb2.AssignRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_many_worlds_streams_are_opened_to_each_replica_by_their_callers() -> None:
    room = Room("a")
    with pytest.raises(NotImplementedError):
        room.state.Ingest()
