"""Doorbells: who is rung for which worlds, and what becomes of a watch."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.chat.bell import ELSEWHERE, Bell, World
from services.common.errors import from_rpc
from tests.unit.chat.neighbours import TENANT, WORLD, ref, tavern

ONE, TWO = ("t", "one"), ("t", "two")


class Heard:
    """What a watcher heard since it was asked last."""

    def __init__(self, bell: Bell) -> None:
        self.watcher = bell.watch()
        self._rings: list[tuple[World, int]] = []
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for ring in self.watcher.rings():
            self._rings.append(ring)

    async def taken(self) -> list[tuple[World, int]]:
        await asyncio.sleep(0.01)
        rings, self._rings = self._rings, []
        return rings


async def test_a_watcher_hears_of_the_worlds_that_it_named_and_of_no_other() -> None:
    bell = Bell()
    one, both = Heard(bell), Heard(bell)
    one.watcher.listen(ONE, 4)
    for world in (ONE, TWO):
        both.watcher.listen(world, 0)
    assert (await one.taken(), await both.taken()) == ([(ONE, 4)], [(ONE, 0), (TWO, 0)])
    bell.ring(TWO, 1)
    bell.ring(("u", "one"), 9)
    assert (await one.taken(), await both.taken()) == ([], [(TWO, 1)])
    both.watcher.leave([TWO])
    bell.ring(TWO, 2)
    bell.ring(ONE, 5)
    assert (await one.taken(), await both.taken()) == ([(ONE, 5)], [(ONE, 5)])
    for heard in (one, both):
        bell.close_watch(heard.watcher)
        heard.task.cancel()
    assert not bell._watchers
    assert not bell._all


async def test_a_slow_watcher_keeps_the_latest_number_of_each_world() -> None:
    bell = Bell()
    heard = Heard(bell)
    for world in (ONE, TWO):
        heard.watcher.listen(world, 0)
    for number in range(1, 50):
        bell.ring(ONE, number)
    assert await heard.taken() == [(ONE, 49), (TWO, 0)]


async def test_worlds_that_go_to_another_replica_are_told_once_and_rung_no_more() -> None:
    bell = Bell()
    heard = Heard(bell)
    for world in (ONE, TWO):
        heard.watcher.listen(world, 0)
    await heard.taken()
    bell.hand_on(lambda world: world == ONE)
    bell.ring(ONE, 7)
    bell.ring(TWO, 3)
    assert await heard.taken() == [(ONE, ELSEWHERE), (TWO, 3)]
    bell.hand_on(lambda world: world == ONE)
    assert await heard.taken() == []


async def test_closing_lets_everybody_go_after_what_they_have_not_heard_yet() -> None:
    bell = Bell()
    heard, idle = Heard(bell), Heard(bell)
    await idle.taken()
    heard.watcher.listen(ONE, 3)
    bell.close()
    assert await heard.taken() == [(ONE, 3)]
    await idle.taken()
    assert heard.task.done()
    assert idle.task.done()
    late = Heard(bell)
    await late.taken()
    assert late.task.done()


async def test_a_watch_over_the_contract_changes_what_it_listens_to() -> None:
    async with tavern() as room:
        room.state.move({"L1": ["mara", "p1"]})
        watch = room.chat.WatchEvents()
        await watch.write(chat_pb2.WatchEventsRequest(listen=[ref(), ref("w2")]))
        first = {(ring.world.world, ring.last_seq) for ring in [await watch.read(), await watch.read()]}
        assert {world for world, _ in first} == {WORLD, "w2"}
        await watch.write(chat_pb2.WatchEventsRequest(leave=[ref()]))
        await asyncio.sleep(0.01)
        await room.say("p1", "Mara, hello.")
        ringing = asyncio.ensure_future(watch.read())
        await asyncio.sleep(1)
        assert not ringing.done()
        await watch.write(chat_pb2.WatchEventsRequest(listen=[ref()]))
        ring = await ringing
        assert (ring.world.tenant, ring.world.world, ring.elsewhere) == (TENANT, WORLD, False)
        assert ring.last_seq == (await room.events())[-1].seq
        watch.cancel()


async def test_a_watch_that_names_no_world_is_told_so() -> None:
    async with tavern() as room:
        watch = room.chat.WatchEvents()
        await watch.write(chat_pb2.WatchEventsRequest(listen=[type_pb2.WorldRef(tenant=TENANT)]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert from_rpc(caught.value).reason == "WORLD_REQUIRED"
