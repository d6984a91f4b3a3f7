"""Snapshots while the runtime hangs: state, cluster and sync in one process, on virtual time (R4)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from earshot.state.v1 import state_pb2_grpc

from bench.feed import Feed
from services.cluster import server as cluster_room
from services.common.app import App
from services.common.clock import LoopClock
from services.demo.frame import Frame, Row, Step
from services.state import server as state_room
from services.sync import server as sync_room
from services.sync.store import SyncStore
from tests.unit.sync.fake_runtime import FakeRuntime, Plan
from tests.unit.sync.room import settings

NPCS, SNAPSHOTS = 50, 40
# A snapshot's answer needs no timer; one that waited for a runtime would go round until this.
TURNS_MAX = 2_000


@asynccontextmanager
async def rooms(runtime: FakeRuntime) -> AsyncIterator[tuple[App, Any]]:
    app = App(settings(), ("cluster", "state", "sync"), clock=LoopClock(), inline_stores=True)
    await cluster_room.bind(app)
    await state_room.bind(app)
    await sync_room.serve(app, SyncStore(app.open_store("sync", sync_room.TABLES)), {"fake": runtime}, ("fake",))
    async with app:
        yield app, state_pb2_grpc.StateServiceStub(app.channels.to("state"))


def brawl(chance: random.Random, second: int) -> Step:
    """Everybody fights; each NPC stands beside a player, far from the next pair."""
    rows = {}
    for n in range(NPCS):
        health, action = chance.randrange(10, 100), chance.choice(("Combat", "Idle"))
        rows[f"npc{n}"] = Row(f"npc{n}", f"Npc{n}", "npc", 60.0 * n, 0, chance.random(), health, 100, action, "")
        rows[f"ada{n}"] = Row(f"ada{n}", f"Ada{n}", "player", 60.0 * n + 3, 0, 0, 100, 100, "Idle", "")
    return Step(at=float(second), frame=Frame("w", rows), events=(), utterances=())


async def turns_of_the_loop(work: Any) -> int:
    """How often the loop goes round until it is done."""
    count = 0

    async def counting() -> None:
        nonlocal count
        while count < TURNS_MAX:  # time stands still as long as this goes round
            count += 1
            await asyncio.sleep(0)
        raise AssertionError("a snapshot waited for something else than the loop")

    async with asyncio.TaskGroup() as group:
        counter = group.create_task(counting())
        await work
        counter.cancel()
    return count


async def played(runtime: FakeRuntime, *, hangs: bool) -> tuple[list[int], int, int]:
    """Turns of the loop of each snapshot; the most that waited in the queue; tasks that were left."""
    chance, counts, pending = random.Random(4), list[int](), 0
    async with rooms(runtime) as (app, state):
        feed = Feed(state)
        await feed.apply(brawl(chance, 0), "w")
        await asyncio.sleep(30)
        assert len(runtime.agents) == NPCS
        if hangs:
            runtime.chooser = lambda operation: Plan(hang=True)
        for second in range(SNAPSHOTS):
            counts.append(await turns_of_the_loop(feed.apply(brawl(chance, second), "w")))
            await asyncio.sleep(1)
            waiting = (sample.value for metric in app.metrics.sync_pending.collect() for sample in metric.samples)
            pending = max(pending, int(sum(waiting)))
        tasks = len(asyncio.all_tasks())
        feed.close()
    return counts, pending, tasks


def percentile(counts: list[int], share: float) -> int:
    return sorted(counts)[int(share * len(counts))]


async def test_a_runtime_that_hangs_costs_a_snapshot_nothing() -> None:
    well, failing = FakeRuntime(), FakeRuntime()
    usual, _, tasks = await played(well, hangs=False)
    beside, pending, tasks_beside = await played(failing, hangs=True)
    assert failing.count("write") >= 5  # it was asked, in vain
    assert len(well.writes) > len(failing.writes)
    for share in (0.5, 0.99):
        assert percentile(beside, share) <= 1.2 * percentile(usual, share)
    assert 0 < pending <= NPCS
    assert tasks_beside <= tasks + 10
