"""Watching: the informer's resume points, gaps and lanes, and the doorbell of worlds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.ownership import partition_of
from services.state.change import Change, Lane
from services.state.feed import KEPT, Doorbells, Feed
from tests.unit.state.room import NPC, PLAYER, WORLD, Room, Rows, running

HIGH, MEDIUM, LOW = type_pb2.LANE_HIGH, type_pb2.LANE_MEDIUM, type_pb2.LANE_LOW
PETE: Rows = {"pete": (NPC, 0, 0)}
PAIR: Rows = PETE | {"ann": (PLAYER, 5, 0)}


class Watch:
    """What a watcher was told so far."""

    def __init__(self) -> None:
        self.told: list[state_pb2.NpcChange] = []
        self.gap = False
        self.token = ""

    async def taken(self) -> list[tuple[str, int, int]]:
        """(npc, lane, revision) since the last look."""
        await asyncio.sleep(0.01)
        told, self.told = self.told, []
        return [(c.key.npc_id, c.lane, c.revision) for c in told]


@asynccontextmanager
async def watching(
    room: Room, tenant: str = "", token: str = "", partitions: Sequence[int] = ()
) -> AsyncIterator[Watch]:
    watch = Watch()

    async def follow() -> None:
        request = state_pb2.WatchNpcsRequest(tenant=tenant, resume_token=token, partitions=partitions)
        async for response in room.stub.WatchNpcs(request):
            watch.told += response.changes
            watch.gap, watch.token = response.gap, response.resume_token

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.01)
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait([task])


async def list_npcs(room: Room, tenant: str = "") -> state_pb2.ListNpcsResponse:
    return await room.stub.ListNpcs(state_pb2.ListNpcsRequest(tenant=tenant), timeout=5)


async def test_lanes_say_how_urgent_a_change_is() -> None:
    async with running() as room, watching(room) as watch:
        await room.roster(locations=[type_pb2.Location(slug="well", position=type_pb2.Vector3())])
        fit = {"health": [100], "max_health": [100]}
        await room.snapshot(PETE, **fit)
        assert await watch.taken() == [("pete", MEDIUM, 1)]  # new
        await room.snapshot({"pete": (NPC, 2, 0)}, **fit)
        assert await watch.taken() == []  # a step that text cannot say
        await room.snapshot({"pete": (NPC, 20, 0)}, **fit)
        assert await watch.taken() == [("pete", MEDIUM, 3)]  # away from the well
        await room.snapshot(PETE, health=[92], max_health=[100])
        assert await watch.taken() == [("pete", MEDIUM, 4)]
        await room.snapshot(PETE, health=[90], max_health=[100])
        assert await watch.taken() == [("pete", HIGH, 5)]  # 10 % since the last alarm
        await room.snapshot(PETE, **fit)
        assert await watch.taken() == [("pete", LOW, 6)]  # regeneration
        await room.snapshot(PETE, actions=["Combat"], **fit)
        assert await watch.taken() == [("pete", HIGH, 7)]
        await room.snapshot(PETE | {"ann": (PLAYER, 5, 0)})
        ((_, lane, _),) = await watch.taken()
        assert lane == MEDIUM


async def test_a_slow_fall_adds_up_to_an_alarm() -> None:
    async with running() as room, watching(room) as watch:
        lanes = []
        for health in (100, 96, 92, 88, 84, 81):
            await room.snapshot(PETE, health=[health], max_health=[100])
            lanes.append([lane for _, lane, _ in await watch.taken()])
        assert lanes == [[MEDIUM], [], [LOW], [HIGH], [], [LOW]]


async def test_death_is_an_alarm() -> None:
    async with running() as room, watching(room) as watch:
        await room.snapshot(PETE, health=[5], max_health=[100])
        await watch.taken()
        await room.snapshot(PETE, health=[0], max_health=[100])
        assert await watch.taken() == [("pete", HIGH, 2)]


async def test_a_critical_result_is_urgent() -> None:
    async with running() as room, watching(room) as watch:
        await room.snapshot(PETE)
        await watch.taken()
        await room.observe(state_pb2.ActionResult(npc_id="pete", action_id="a", success=True, critical=True))
        assert await watch.taken() == [("pete", HIGH, 2)]


async def test_players_are_not_told_of() -> None:
    async with running() as room, watching(room) as watch:
        await room.snapshot({"ann": (PLAYER, 0, 0), "bob": (PLAYER, 1, 0)})
        assert await watch.taken() == []


async def test_leaving_and_closing() -> None:
    async with running() as room, watching(room) as watch:
        await room.snapshot(PETE | {"bob": (NPC, 50, 0)}, epoch=await room.open(), seq=1)
        await watch.taken()
        await room.snapshot(PETE, epoch=1, seq=2)
        await asyncio.sleep(0.01)
        (gone,) = watch.told
        assert (gone.key.npc_id, gone.gone, gone.world_closed) == ("bob", True, False)
        await room.stub.CloseSession(state_pb2.CloseSessionRequest(world=WORLD, epoch=1), timeout=5)
        await asyncio.sleep(0.01)
        assert [(c.key.npc_id, c.gone, c.world_closed) for c in watch.told[1:]] == [("pete", True, True)]


async def test_heard_by_a_player() -> None:
    async with running() as room:
        await room.snapshot(PAIR | {"bob": (NPC, 50, 0)})
        listed = await list_npcs(room)
        assert {c.key.npc_id: c.heard for c in listed.npcs} == {"pete": True, "bob": False}


async def test_resuming_where_the_list_was_taken() -> None:
    async with running() as room:
        await room.snapshot(PETE)
        listed = await list_npcs(room)
        assert [c.key.npc_id for c in listed.npcs] == ["pete"]
        await room.snapshot(PAIR)
        await room.snapshot(PAIR, actions=["Combat", ""])
        await room.snapshot(PAIR, actions=["Idle", ""])
        async with watching(room, token=listed.resume_token) as watch:
            # Three changes of one NPC are one: the latest revision, the most urgent lane.
            assert await watch.taken() == [("pete", HIGH, 4)]
            token = watch.token
        async with watching(room, token=token) as watch:
            assert await watch.taken() == []


async def test_a_token_of_another_life_is_a_gap() -> None:
    async with running() as room, watching(room, token="other.5") as watch:
        assert watch.gap
        assert watch.token == (await list_npcs(room)).resume_token


async def test_tenants_see_their_own() -> None:
    async with running() as room, watching(room, "u") as watch:
        await room.snapshot(PETE)
        assert await watch.taken() == []
        assert len((await list_npcs(room, "u")).npcs) == 0


async def test_the_doorbell_rings_for_clusters_and_events() -> None:
    async with running() as room:
        rings: list[tuple[int, bool]] = []

        async def follow() -> None:
            async for ring in room.stub.WatchWorlds(state_pb2.WatchWorldsRequest(tenant="t")):
                rings.append((ring.revision, ring.closed))

        task = asyncio.create_task(follow())
        await asyncio.sleep(0.01)
        await room.snapshot(PAIR, epoch=await room.open(), seq=1)
        await asyncio.sleep(0.01)
        await room.snapshot({"pete": (NPC, 1, 0), "ann": (PLAYER, 5, 0)}, epoch=1, seq=2)  # nobody came or went
        await room.snapshot(PAIR, epoch=1, seq=3, events=[type_pb2.GameEvent(type="rain")])
        await room.stub.CloseSession(state_pb2.CloseSessionRequest(world=WORLD, epoch=1), timeout=5)
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert rings == [(1, False), (3, False), (4, True)]


class TestFeed:
    REF = ("t", "w")

    def change(self, npc: str, revision: int, lane: Lane = Lane.LOW) -> Change:
        return Change(npc, revision, lane, heard=False, combat=False)

    def test_what_is_forgotten_is_a_gap(self) -> None:
        feed = Feed("life", kept=4)
        start = feed.token
        for revision in range(5):
            feed.append(self.REF, [self.change("pete", revision)])
        assert feed.after(start).gap
        assert not feed.after("life.1").gap

    def test_tokens_that_are_none(self) -> None:
        feed = Feed("life")
        feed.append(self.REF, [self.change("pete", 1)])
        for token in ("", "life", "life.", "life.x", "life.-1", "life.2", "life.1e3"):
            assert feed.after(token).gap, token

    def test_a_watcher_of_some_partitions_is_rung_and_told_of_their_worlds_alone(self) -> None:
        feed = Feed("life")
        here, there = partition_of("t", "here"), partition_of("t", "there")
        assert here != there
        start, bell, all_bell = feed.token, feed.bell(frozenset({here})), feed.bell()
        feed.append(("t", "there"), [self.change("mara", 1)])
        assert (bell.is_set(), all_bell.is_set()) == (False, True)
        page = feed.after(start, partitions=frozenset({here}))
        assert (page.told, page.token) == ((), feed.token)
        feed.append(("t", "here"), [self.change("pete", 2)])
        assert bell.is_set()
        assert [told.change.npc for told in feed.after(start, partitions=frozenset({here})).told] == ["pete"]
        assert [told.change.npc for told in feed.after(start).told] == ["mara", "pete"]

    def test_a_watcher_of_quiet_worlds_moves_on_before_its_place_is_forgotten(self) -> None:
        feed = Feed("life")
        here = partition_of("t", "here")
        token, bell = feed.token, feed.bell(frozenset({here}))
        other = next(str(n) for n in range(99) if partition_of("t", str(n)) != here)
        rung = 0
        for revision in range(3 * KEPT // 64):
            feed.append(("t", other), [self.change(str(npc), revision) for npc in range(64)])
            if bell.is_set():
                bell.clear()
                rung += 1
                page = feed.after(token, partitions=frozenset({here}))
                assert (page.gap, page.told) == (False, ())
                token = page.token
        assert 3 <= rung <= 16

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Lane)))),
        st.integers(0, 30),
        st.sampled_from([3, 1024]),
    )
    def test_pages_add_up_to_the_latest_of_each_key(self, told: list[tuple[str, Lane]], start: int, kept: int) -> None:
        feed = Feed("life", kept)
        for revision, (npc, lane) in enumerate(told):
            feed.append(self.REF, [self.change(npc, revision, lane)])
        page = feed.after(f"life.{start}")
        assert page.token == feed.token
        if start > len(told) or start < len(told) - kept:
            assert page.gap
            return
        expected: dict[str, tuple[int, Lane]] = {}
        for revision, (npc, lane) in enumerate(told[start:], start):
            expected[npc] = (revision, min(lane, expected.get(npc, (0, lane))[1]))
        assert {t.change.npc: (t.change.revision, t.change.lane) for t in page.told} == expected


async def test_listing_and_watching_some_partitions() -> None:
    async with running() as room:
        here, there = partition_of("t", "w"), (partition_of("t", "w") + 1) % 256
        await room.snapshot(PAIR)
        for partitions, expected in (([here], 1), ([there], 0), ([there, here], 1), ([], 1)):
            request = state_pb2.ListNpcsRequest(partitions=partitions)
            assert len((await room.stub.ListNpcs(request, timeout=5)).npcs) == expected
        async with watching(room, partitions=[here]) as mine, watching(room, partitions=[there]) as other:
            await room.snapshot({"pete": (NPC, 50, 0), "ann": (PLAYER, 5, 0)})
            assert [npc for npc, _, _ in await mine.taken()] == ["pete"]
            assert await other.taken() == []
            assert not other.gap


async def test_a_doorbell_of_some_partitions() -> None:
    bells = Doorbells()
    bell = bells.open("", frozenset({partition_of("t", "here")}))
    bells.ring(("t", "there"), 1, closed=False)
    bells.ring(("t", "here"), 2, closed=False)
    assert [(ring.ref, ring.revision) for ring in await bell.next()] == [(("t", "here"), 2)]


async def test_a_doorbell_keeps_only_the_latest_of_a_world() -> None:
    bells = Doorbells()
    bell, other = bells.open("t"), bells.open("u")
    bells.ring(("t", "w"), 1, closed=False)
    bells.ring(("t", "w"), 2, closed=True)
    bells.ring(("u", "w"), 3, closed=False)
    assert [(ring.ref, ring.revision, ring.closed) for ring in await bell.next()] == [(("t", "w"), 2, True)]
    assert [ring.revision for ring in await other.next()] == [3]
