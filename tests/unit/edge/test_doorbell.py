"""The watches on chat's replicas: an edge hears of worlds that it serves, wherever they are, and of no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from earshot.chat.v1 import chat_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.directory import Directory
from services.common.inprocess import InProcessServer
from services.common.ownership import PARTITIONS, partition_of
from services.edge.doorbell import LOOK_S, Doorbell
from services.edge.events import Poll
from tests.fakes.registry import FakeRegistry
from tests.unit.edge.fakes import FakeChat

WORLDS = [("t", f"w{number}") for number in range(12)]


@dataclass
class Replicas:
    """Chat replicas by address behind one edge."""

    chats: dict[str, FakeChat]
    registry: FakeRegistry
    directory: Directory
    bell: Doorbell
    polls: dict[tuple[str, str], Poll] = field(default_factory=dict)

    def of(self, world: tuple[str, str]) -> str:
        return self.registry.served[partition_of(*world)]

    @contextmanager
    def listening(self, *worlds: tuple[str, str]) -> Iterator[None]:
        with ExitStack() as stack:
            for world in worlds:
                poll = self.polls[world] = Poll(cursor=len(self.chats[self.of(world)].logs[world]))
                stack.enter_context(self.bell.listening(type_pb2.WorldRef(tenant=world[0], world=world[1]), poll))
            yield

    def say(self, world: tuple[str, str]) -> None:
        self.chats[self.of(world)].utter(*world, "x")

    async def move(self, world: tuple[str, str], address: str) -> None:
        """Another replica keeps a world's partition, with what is in its log."""
        before = self.of(world)
        self.chats[address].logs[world] = self.chats[before].logs.pop(world, [])
        self.registry.served[partition_of(*world)] = address
        await self.directory.refresh()


@asynccontextmanager
async def replicas() -> AsyncIterator[Replicas]:
    served = {partition: "a" if partition % 2 else "b" for partition in range(PARTITIONS)}
    registry = FakeRegistry(served, {"a": 5000, "b": 5000})
    directory = Directory(registry, "", 5000)
    chats, stubs = {}, {}
    for address in "ab":
        server: Any = InProcessServer([])
        chats[address] = FakeChat()
        chat_pb2_grpc.add_ChatServiceServicer_to_server(chats[address], server)
        stubs[address] = chat_pb2_grpc.ChatServiceStub(server.channel())
    bell = Doorbell(lambda address: stubs[address], directory)
    tasks = [asyncio.create_task(one()) for one in (directory.run, bell.run)]
    await asyncio.sleep(1)
    try:
        yield Replicas(chats, registry, directory, bell)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def worlds_of(chat: FakeChat) -> set[tuple[str, str]]:
    return {world for watch in chat.watches for world in watch.worlds}


async def test_each_replica_is_asked_for_its_own_worlds_and_only_for_those_that_are_listened_to() -> None:
    async with replicas() as there:
        assert not any(chat.watches for chat in there.chats.values())
        with there.listening(*WORLDS[:8]):
            await asyncio.sleep(1)
            for address, chat in there.chats.items():
                assert worlds_of(chat) == {world for world in WORLDS[:8] if there.of(world) == address} != set()
                assert len(chat.watches) == 1
            assert not any(poll.wake.is_set() for poll in there.polls.values())
            for world in WORLDS:
                there.say(world)
            await asyncio.sleep(0.1)
            assert all(poll.wake.is_set() for poll in there.polls.values())


async def test_a_world_is_kept_for_a_client_that_comes_back_and_then_left() -> None:
    async with replicas() as there:
        chat = there.chats[there.of(WORLDS[0])]
        for _ in range(5):
            with there.listening(WORLDS[0]):
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(LOOK_S / 2)
        assert chat.watches[0].asked == [WORLDS[0]]
        await asyncio.sleep(3 * LOOK_S)
        assert not there.bell._heard
        assert [watch.ended for watch in chat.watches] == [True]


async def test_what_was_said_before_the_watch_began_to_listen_wakes_who_has_not_read_it() -> None:
    async with replicas() as there:
        there.say(WORLDS[0])
        with there.listening(WORLDS[0]):
            there.polls[WORLDS[0]].cursor = 0
            await asyncio.sleep(0.1)
            assert there.polls[WORLDS[0]].wake.is_set()
        with there.listening(WORLDS[0]):
            await asyncio.sleep(0.1)
            assert not there.polls[WORLDS[0]].wake.is_set()


async def test_a_world_that_moves_is_followed_and_nothing_is_missed() -> None:
    async with replicas() as there:
        world = WORLDS[0]
        before, after = sorted("ab", key=lambda one: one != there.of(world))
        with there.listening(world):
            await asyncio.sleep(1)
            # Said at the new owner before anybody here knows of it.
            moved = asyncio.create_task(there.move(world, after))
            there.chats[before].utter(*world, "x")
            await moved
            await asyncio.sleep(0.1)
            assert worlds_of(there.chats[after]) == {world}
            assert not worlds_of(there.chats[before])
            assert there.polls[world].wake.is_set()
            there.polls[world].wake.clear()
            there.say(world)
            await asyncio.sleep(0.1)
            assert there.polls[world].wake.is_set()


async def test_who_says_that_a_world_is_elsewhere_is_asked_again_until_somebody_has_it() -> None:
    async with replicas() as there:
        world = WORLDS[0]
        chat = there.chats[there.of(world)]
        chat.elsewhere.add(world)
        with there.listening(world):
            await asyncio.sleep(1.5)
            tries = chat.watches[0].asked.count(world)
            assert 2 <= tries <= 15
            chat.elsewhere.clear()
            await asyncio.sleep(1)
            assert worlds_of(chat) == {world}
            there.say(world)
            await asyncio.sleep(0.1)
            assert there.polls[world].wake.is_set()


async def test_a_lost_watch_listens_again_to_all_that_it_had() -> None:
    async with replicas() as there:
        with there.listening(*WORLDS):
            await asyncio.sleep(1)
            for chat in there.chats.values():
                chat.watches[0].rings.put_nowait(None)
            await asyncio.sleep(0.05)
            for world in WORLDS:
                there.say(world)
            await asyncio.sleep(1)
            assert {world for chat in there.chats.values() for world in worlds_of(chat)} == set(WORLDS)
            assert all(poll.wake.is_set() for poll in there.polls.values())


async def test_worlds_that_nobody_serves_just_now_are_listened_to_when_somebody_does() -> None:
    async with replicas() as there:
        world = WORLDS[0]
        with there.listening(world):
            await asyncio.sleep(1)
            address = there.registry.served.pop(partition_of(*world))
            await there.directory.refresh()
            await asyncio.sleep(0.5)
            assert not worlds_of(there.chats[address])
            there.registry.served[partition_of(*world)] = address
            there.say(world)
            await there.directory.refresh()
            await asyncio.sleep(0.5)
            assert worlds_of(there.chats[address]) == {world}
            assert there.polls[world].wake.is_set()


async def test_stopping_ends_every_watch() -> None:
    async with replicas() as there:
        with there.listening(*WORLDS):
            await asyncio.sleep(1)
    watches: list[Any] = [watch for chat in there.chats.values() for watch in chat.watches]
    for _ in range(5):
        await asyncio.sleep(0)
    assert watches
    assert all(watch.ended for watch in watches)
