"""Thousands of interleavings: NPCs of one room whose changes, turns, cancels, refreshes and faults meet at random, over
two lives of the process (C6). Each NPC is one of them: what it goes through is its own, and its agent is its own.

What must hold for every one: no older value is sent after a newer one, nor is one the last; never two messages, nor two
writes of a block, in flight; no turn on blocks older than it was asked at; no turn executed twice.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.sync.runtimes.port import Raced, ServerFault, TimedOut
from tests.unit.sync.fake_runtime import FakeRuntime, Plan, mark_of
from tests.unit.sync.fake_state import FakeState
from tests.unit.sync.room import Room, room

HIGH, MEDIUM, LOW = type_pb2.LANE_HIGH, type_pb2.LANE_MEDIUM, type_pb2.LANE_LOW
NPCS, STEPS = 500, 8
# One thousand in every run, ten thousand by `make fuzz`.
ROOMS = int(os.environ.get("INTERLEAVED_ROOMS", "2"))
PAUSES = (0.0, 0.0, 0.0, 0.001, 0.05, 0.7, 2.0, 6.0)


class Faults:
    """One call in twenty goes wrong, by seed: too few for a breaker, enough for every order of landing."""

    def __init__(self, seed: int) -> None:
        self.rng, self.on, self.given = random.Random(seed), True, 0

    def __call__(self, operation: str) -> Plan:
        rng = self.rng
        wait = rng.choice((0.0, 0.0, 0.01, 0.1, 0.5))
        if not self.on or rng.random() > 0.05:
            return Plan(wait=wait)
        self.given += 1
        late = rng.choice((None, 0.0, 0.5, 3.0, 20.0))
        if operation in ("write", "send"):
            return rng.choice((
                Plan(wait=0.5, fault=TimedOut("t"), lands=late), Plan(hang=True, lands=late),
                Plan(wait=wait, fault=ServerFault("500")), Plan(fault=Raced("409")),
                Plan(wait=wait, fault=ServerFault("reset", unknown=True), lands=late),
            ))  # fmt: skip
        return Plan(wait=wait, fault=TimedOut("t"), lands=wait)


class Cast:
    """What the NPCs of one room go through."""

    def __init__(self, seed: int, state: FakeState) -> None:
        self.rng = random.Random(seed)
        self.state = state
        self.asked: dict[str, int] = {}
        self.ran: Counter[str] = Counter()

    def put(self, npc: str) -> int:
        rng = self.rng
        lane = rng.choice((HIGH, HIGH, MEDIUM, LOW))
        health = rng.randrange(0, 101, 10)
        return self.state.put(npc, lane=lane, combat=rng.random() < 0.5, health=health, heard=rng.random() < 0.9)

    async def live(self, sync: Room, npc: str) -> None:
        """One NPC's share of one life of the process."""
        rng = self.rng
        async with asyncio.TaskGroup() as group:
            for _ in range(STEPS // 2):
                kind = rng.random()
                if kind < 0.45:
                    self.put(npc)
                elif kind < 0.85:
                    group.create_task(self.talk(sync, npc, cancel=rng.random() < 0.3))
                else:
                    group.create_task(self.refresh(sync, npc))
                await asyncio.sleep(rng.choice(PAUSES))

    async def talk(self, sync: Room, npc: str, *, cancel: bool) -> None:
        self.ran["turns"] += 1
        request = sync.request(npc)
        self.asked[request.turn_id] = mark_of(self.state.npc(npc).self.description)
        call = sync.stub.Converse(request, timeout=self.rng.choice((1.0, 4.0, 10.0)))
        if cancel:
            self.ran["cancels"] += 1
            await asyncio.sleep(self.rng.choice((0.0, 0.01, 0.3)))
            call.cancel()
        try:
            heard = await Room.hear(call)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            return
        self.ran["answered"] += 1
        assert heard.started[-1].revision >= request.min_revision

    async def refresh(self, sync: Room, npc: str) -> None:
        self.ran["refreshes"] += 1
        rng = self.rng
        try:
            await sync.refresh(
                npc, force=rng.random() < 0.3, invalidate=rng.random() < 0.3, wait=rng.random() < 0.7, timeout=3
            )
        except grpc.aio.AioRpcError:
            return


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: it is the waiting for a disk that would take most of the time."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as name:
        yield Path(name)


@pytest.mark.parametrize("seed", range(ROOMS))
async def test_whatever_meets_the_newest_is_last_and_nobody_speaks_of_older(seed: int, memory: Path) -> None:
    rng, runtime, faults = random.Random(seed), FakeRuntime(), Faults(seed)
    runtime.chooser = faults
    npcs = [f"npc{number}" for number in range(NPCS)]
    fields: dict[str, Any] = {
        "data": str(memory), "turn_deadline_s": 6.0, "runtime_concurrency": NPCS,
        "schedule": "lazy" if seed % 4 else "documented", "dirty_heard_max_s": rng.choice((3.0, 300.0)),
        # Agents are read back all the time, too.
        "drift_every_s": 0.1,
    }  # fmt: skip
    async with room(runtime, **fields) as sync:
        state, cast = sync.state, Cast(seed, sync.state)
        for npc in npcs:
            state.put(npc, health=100)
        state.read_delay = rng.choice((0.0, 0.0, 0.2))
        async with asyncio.TaskGroup() as group:
            for npc in npcs:
                group.create_task(cast.live(sync, npc))
        # The process ends while turns and writes are under way.
        for npc in npcs:
            cast.put(npc)
        late = [asyncio.ensure_future(cast.talk(sync, npc, cancel=False)) for npc in rng.sample(npcs, 50)]
        await asyncio.sleep(rng.choice((0.0, 0.02, 0.3)))
    await asyncio.gather(*late, return_exceptions=True)
    async with room(runtime, state=state, **fields) as sync:
        async with asyncio.TaskGroup() as group:
            for npc in npcs:
                group.create_task(cast.live(sync, npc))
        faults.on, state.read_delay = False, 0.0
        newest = {npc: state.put(npc, lane=HIGH, combat=True, health=50) for npc in npcs}
        # Longer than a write of unknown outcome may land late.
        await asyncio.sleep(200)
        request = sync.stub.GetSyncStatus
        # Nobody else writes: whatever landed when, none of it is taken for drift.
        drifts = [
            sync.app.metrics.block_writes.labels(lane, "drift")._value.get() for lane in ("high", "medium", "low")
        ]
        assert drifts == [0, 0, 0]
        statuses = (await request(sync_pb2.GetSyncStatusRequest(world=FakeState.key().world), timeout=5)).npcs
        assert len(statuses) == NPCS
        for status in statuses:
            assert not status.suspect
            assert mark_of(runtime.agents[status.agent_id].blocks["situation"]) == newest[status.key.npc_id]
    # Most of what they asked for was carried out, and much of it did go wrong.
    assert cast.ran["answered"] > 0.2 * cast.ran["turns"] > 0
    assert min(cast.ran["cancels"], cast.ran["refreshes"], faults.given) > 0.1 * NPCS
    assert runtime.violations == []
    sent: dict[str, int] = {}
    for agent_id, label, text in runtime.issued:
        if label == "situation":
            assert mark_of(text) >= sent.get(agent_id, 0), "an older value was sent after a newer one"
            sent[agent_id] = mark_of(text)
    for asked in runtime.asked:
        assert asked.mark >= cast.asked.get(asked.turn.turn_id, 0), "a turn on older blocks"
    for agent in runtime.agents.values():
        assert len(agent.turns) == len(set(agent.turns)), "a turn was executed twice"
