"""The part of `earshot bench sync` that runs against a real Letta server, where LETTA_BASE_URL names one.

State, cluster and sync in one process in real time; beside every figure the same done with the raw `letta-client`
in the same run, by turns, so that a noisy machine is noisy for both. The model behind the server should answer at 0 ms.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from bench.catalogue import progress
from bench.feed import TENANT, Disturbed, Feed
from bench.result import Result
from bench.troupe import troupe
from services.cluster import server as cluster_room
from services.common.app import App
from services.common.clock import SystemClock
from services.common.settings import Settings
from services.demo.frame import Frame, Row, Step
from services.state import server as state_room
from services.sync import server as sync_room
from services.sync.agents.embodiments import Embodiments
from services.sync.agents.record import tag_of
from services.sync.context import Key
from services.sync.reader import to_proto
from services.sync.runtimes.letta import LettaRuntime
from services.sync.runtimes.port import Block
from services.sync.schedule.due import Lane
from services.sync.store import SyncStore

NPCS, CONCURRENCY = 50, 8
CHANGES, MESSAGES = 40, 120
SIEGE_S = 30.0
MODEL = "openai-proxy/gpt-4o-mini"
# Goals: times the raw client's figure, milliseconds.
ONE_TIMES, SIEGE_MS, ALL_TIMES, P50_TIMES, P99_TIMES = 1.3, 300.0, 0.4, 1.10, 1.25


class Timed(LettaRuntime):
    """Says when a block was confirmed."""

    def __init__(self, url: str) -> None:
        super().__init__(url, model=MODEL)
        self.confirmed: asyncio.Queue[float] = asyncio.Queue()

    async def write_block(self, agent_id: str, block: Block, timeout: float) -> None:
        await super().write_block(agent_id, block, timeout)
        self.confirmed.put_nowait(time.perf_counter())


class Rig:
    """The rooms, a world in them, and the raw client with an agent of its own."""

    def __init__(self, app: App, runtime: Timed, client: Any) -> None:
        self.runtime, self.client = runtime, client
        self.world = f"bench-{uuid.uuid4().hex[:8]}"
        self.raw: list[str] = []
        self.sync: Any = sync_pb2_grpc.SyncServiceStub(app.channels.to("sync"))
        self.metrics = app.metrics
        self._state: Any = state_pb2_grpc.StateServiceStub(app.channels.to("state"))
        self._feed = Feed(self._state)

    async def raw_agent(self) -> str:
        """An agent of the raw client's own."""
        agent = await self.client.agents.create(
            name="raw", agent_type="letta_v1_agent", model=MODEL, embedding="openai/text-embedding-3-small",
            memory_blocks=[{"label": label, "value": "x"} for label in ("status", "group_members", "location")],
            include_base_tools=False,
        )  # fmt: skip
        self.raw.append(agent.id)
        return str(agent.id)

    async def enrol(self, npcs: Iterable[str]) -> None:
        """Give these a profile each, and nothing else."""
        profiles = [type_pb2.NpcProfile(id=npc, display_name=npc, persona=f"You are {npc}.") for npc in npcs]
        await self._state.ImportRoster(state_pb2.ImportRosterRequest(tenant=TENANT, npcs=profiles), timeout=10)

    async def snapshot(self, rows: dict[str, Row]) -> int:
        """Apply it; its revision."""
        step = Step(at=0.0, frame=Frame(self.world, rows), events=(), utterances=())
        return await self.step(step)

    async def step(self, step: Step) -> int:
        return (await self._feed.apply(step, self.world)).revision

    async def converse(self, npc: str, number: int, revision: int) -> None:
        line = sync_pb2.Line(
            log_seq=number, speaker_id="ada", speaker_name="Ada", speaker_kind=type_pb2.ENTITY_KIND_PLAYER, text="Well?"
        )
        request = sync_pb2.ConverseRequest(
            npc=to_proto(Key(TENANT, self.world, npc)), turn_id=f"{self.world}-{npc}-{number}", min_revision=revision,
            reason=sync_pb2.CONVERSE_REASON_REPLY, lines=[line], player_ids=["ada"], speech=True,
        )  # fmt: skip
        async for _ in self.sync.Converse(request, timeout=30):
            pass

    async def settled(self) -> None:
        """Those that a player hears have their agents and nothing is under way: for two seconds all is as it was."""
        request = sync_pb2.GetSyncStatusRequest(world=type_pb2.WorldRef(tenant=TENANT, world=self.world))
        before, same = -1, 0
        async with asyncio.timeout(120):
            while same < 10:
                found = (await self.sync.GetSyncStatus(request, timeout=5)).npcs
                made = sum(bool(one.agent_id) for one in found)
                same = same + 1 if made == before and made and not any(one.in_flight for one in found) else 0
                before = made
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        """Delete everything that this run made."""
        self._feed.close()
        for agent_id in self.raw:
            await self.client.agents.delete(agent_id)
        tags = [tag_of(Key(TENANT, self.world, f"npc-{n:03}")) for n in range(200)]
        wanted = set(tags)
        async for agent in self.client.agents.list(include=["agent.tags"]):
            tag = next((tag for tag in agent.tags or () if tag in wanted), "")
            if tag:
                await self.runtime.delete_agent(agent.id, tag, 10)


@asynccontextmanager
async def rig(url: str) -> AsyncIterator[Rig]:
    settings = Settings.model_validate(
        {"data": ":memory:", "runtimes": "offline", "otlp_endpoint": "", "schedule": "lazy", "freshness": "strict"}
    )
    app = App(settings, ("cluster", "state", "sync"), clock=SystemClock())
    await cluster_room.bind(app)
    await state_room.bind(app)
    runtime = Timed(url)
    client, _ = await runtime.open()
    await sync_room.serve(app, SyncStore(app.open_store("sync", sync_room.TABLES)), {"letta": runtime}, ("letta",))
    async with app:
        made = Rig(app, runtime, client)
        try:
            yield made
        finally:
            await made.close()


def crowd(only: str = "", health: int = 100, action: str = "Idle", z: float = 0.0) -> dict[str, Row]:
    """Pairs of an NPC and a player, far from each other. only: the one that the health is of, "" = all."""
    rows = {}
    for n in range(NPCS):
        npc, at = f"npc-{n:03}", 60.0 * n
        own = health if only in ("", npc) else 100
        rows[npc] = Row(npc, npc, "npc", at, 0, z, own, 100, action, "")
        rows[f"ada-{n}"] = Row(f"ada-{n}", f"Ada{n}", "player", at + 2, 0, z, 100, 100, "Idle", "")
    return rows


async def seconds(work: Awaitable[Any]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


async def one_change(rig: Rig) -> list[Result]:
    """One combat change at a time, from the snapshot to the confirmed block, beside one raw update."""
    agent = rig.raw[0]
    ours, raw = [], []
    down: dict[str, Row] = crowd()
    for n in range(CHANGES):
        raw.append(await seconds(rig.client.agents.blocks.update("status", agent_id=agent, value=f"health {n}")))
        npc = f"npc-{n:03}"
        down[npc] = crowd(only=npc, health=50)[npc]
        while not rig.runtime.confirmed.empty():
            rig.runtime.confirmed.get_nowait()
        started = time.perf_counter()
        await rig.snapshot(down)
        async with asyncio.timeout(10):
            ours.append(await rig.runtime.confirmed.get() - started)
    times = statistics.median(ours) / statistics.median(raw)
    return [
        Result(
            "letta, combat change to confirmed block beside one raw update", times, "x", ONE_TIMES, "less",
            {"ours p50, ms": 1e3 * statistics.median(ours), "ours p95, ms": 1e3 * percentile(ours, 0.95),
             "raw p50, ms": 1e3 * statistics.median(raw), "raw p95, ms": 1e3 * percentile(raw, 0.95)},
        )
    ]  # fmt: skip


async def all_at_once(rig: Rig) -> list[Result]:
    """Place, status and company of every NPC change in one snapshot; all confirmed, beside three raw updates each."""
    ours, raw = [], []
    for number in range(2):
        gate = asyncio.Semaphore(CONCURRENCY)

        async def patch(agent: str, label: str, text: str, gate: asyncio.Semaphore = gate) -> None:
            async with gate:
                await rig.client.agents.blocks.update(label, agent_id=agent, value=text)

        labels = ("status", "group_members", "location")
        raw.append(
            await seconds(
                asyncio.gather(
                    *(patch(a, label, f"{label} {number} {uuid.uuid4()}") for a in rig.raw for label in labels)
                )
            )
        )
        rows = crowd(action=f"Task {number}", z=8.0 * (number + 1), health=90 - 20 * number)
        rows |= {f"bo-{n}": Row(f"bo-{n}", f"Bo{n}{number}", "player", 60.0 * n + 3, 0, 8.0 * (number + 1), 100, 100,
                                "Idle", "") for n in range(NPCS)}  # fmt: skip
        started = time.perf_counter()
        revision = await rig.snapshot(rows)
        npcs = [to_proto(Key(TENANT, rig.world, f"npc-{n:03}")) for n in range(NPCS)]
        answer = await rig.sync.Refresh(
            sync_pb2.RefreshRequest(npcs=npcs, min_revision=revision, wait=True), timeout=60
        )
        ours.append(time.perf_counter() - started)
        if any(one.outcome != sync_pb2.REFRESH_OUTCOME_CONFIRMED for one in answer.results):
            raise Disturbed("not every NPC was confirmed")
    return [
        Result(
            "letta, 50 NPCs, place, status and company changed, beside 150 raw updates", sum(ours) / sum(raw), "x",
            ALL_TIMES, "less", {"ours, ms": 1e3 * sum(ours) / 2, "raw, ms": 1e3 * sum(raw) / 2},
        )
    ]  # fmt: skip


async def one_message(rig: Rig) -> list[Result]:
    """A turn whose blocks are fresh, beside the raw client's message with the same two messages in it."""
    revision = await rig.snapshot(crowd())
    agent, ours, raw = rig.raw[1], list[float](), list[float]()
    await rig.converse("npc-000", 1, revision)

    async def message(number: int) -> None:
        stream = await rig.client.agents.messages.create(
            agent, streaming=True, stream_tokens=True, include_pings=False,
            messages=[{"role": "system", "content": "Answer what was said last."},
                      {"role": "user", "content": f'{{"speaker": "Ada", "text": "Well? {number}"}}'}],
        )  # fmt: skip
        async for _ in stream:
            pass

    await message(0)
    for number in range(MESSAGES):
        # By turns first, so that neither always meets the other's echo.
        steps: list[tuple[list[float], Callable[[], Awaitable[None]]]] = [
            (raw, lambda number=number: message(number)),  # type: ignore[misc]  # a default binds it now
            (ours, lambda number=number: rig.converse("npc-000", number + 2, revision)),  # type: ignore[misc]  # as above
        ]
        for kept, step in steps if number % 2 else reversed(steps):
            kept.append(await seconds(step()))
    peers = {
        "ours p50, ms": 1e3 * statistics.median(ours), "raw p50, ms": 1e3 * statistics.median(raw),
        "ours p99, ms": 1e3 * percentile(ours, 0.99), "raw p99, ms": 1e3 * percentile(raw, 0.99),
    }  # fmt: skip
    p50 = peers["ours p50, ms"] / peers["raw p50, ms"]
    p99 = peers["ours p99, ms"] / peers["raw p99, ms"]
    return [
        Result("letta, one message beside the raw client, p50", p50, "x", P50_TIMES, "less", peers),
        Result("letta, one message beside the raw client, p99", p99, "x", P99_TIMES, "less", peers),
    ]


@contextmanager
def admitted(times: list[float]) -> Iterator[None]:
    """Collects how long urgent writes take from when the schedule lets them go to the confirmation."""
    bring = Embodiments.bring

    async def timed(self: Embodiments, *arguments: Any, lane: Lane, **named: Any) -> Any:
        started = time.perf_counter()
        written = await bring(self, *arguments, lane=lane, **named)
        if lane is Lane.HIGH and written.labels:
            times.append(time.perf_counter() - started)
        return written

    Embodiments.bring = timed  # type: ignore[method-assign]  # for this measurement
    try:
        yield
    finally:
        Embodiments.bring = bring  # type: ignore[method-assign]  # as it was


async def siege(rig: Rig) -> list[Result]:
    """The siege in real time; beside it the raw client updates one block a second of an agent that nobody else uses."""
    cast = troupe("siege")
    loop, times, changes = asyncio.get_running_loop(), list[float](), Observations()
    steps = list(cast.steps(SIEGE_S))
    await rig.enrol(cast.cast)
    await rig.step(Step(at=0.0, frame=Frame(rig.world, steps[0].frame.rows), events=(), utterances=()))
    await rig.settled()
    agent, raw = await rig.raw_agent(), list[float]()

    async def updating() -> None:
        while True:
            raw.append(await seconds(rig.client.agents.blocks.update("status", agent_id=agent, value=f"{len(raw)}")))
            await asyncio.sleep(1)

    rig.metrics.sync_lag_seconds = changes  # type: ignore[assignment]  # every value instead of buckets
    async with asyncio.TaskGroup() as group:
        beside = group.create_task(updating())
        with admitted(times):
            started = loop.time()
            for step in steps:
                await asyncio.sleep(max(started + step.at - loop.time(), 0.0))
                await rig.step(Step(at=step.at, frame=Frame(rig.world, step.frame.rows), events=(), utterances=()))
            await asyncio.sleep(2)
        beside.cancel()
    late = [value for lane, value in changes.values if lane == "high"]
    if not times or not late:
        raise Disturbed("nothing urgent was written in the siege")
    return [
        Result(
            "letta, siege in real time, urgent write let go to confirmed, p95", 1e3 * percentile(times, 0.95), "ms",
            SIEGE_MS, "less",
            {"p50, ms": 1e3 * statistics.median(times), "writes": float(len(times)), "writes/s": len(times) / SIEGE_S,
             "raw update beside it p50, ms": 1e3 * statistics.median(raw),
             "raw update beside it p95, ms": 1e3 * percentile(raw, 0.95),
             "first change to confirmed p50, ms": 1e3 * statistics.median(late),
             "first change to confirmed p95, ms": 1e3 * percentile(late, 0.95)},
        )
    ]  # fmt: skip


class Observations:
    """A histogram that keeps what it observes."""

    def __init__(self) -> None:
        self.values: list[tuple[str, float]] = []
        self._lane = ""

    def labels(self, lane: str) -> Observations:
        self._lane = lane
        return self

    def observe(self, value: float) -> None:
        self.values.append((self._lane, value))


async def measured(url: str) -> list[Result]:
    found: list[Result] = []
    async with rig(url) as calm:
        for _ in range(NPCS):
            await calm.raw_agent()
        await calm.enrol(npc for npc, row in crowd().items() if row.kind == "npc")
        await calm.snapshot(crowd())
        await calm.settled()
        for measure in (one_change, one_message, all_at_once):
            progress(f"sync: letta, {measure.__name__}")
            found += await measure(calm)
    async with rig(url) as wild:
        progress("sync: letta, siege")
        found += await siege(wild)
    return found


def run() -> list[Result]:
    """Nothing where LETTA_BASE_URL names no server."""
    url = os.environ.get("LETTA_BASE_URL", "")
    if not url:
        progress("sync: no LETTA_BASE_URL, so nothing is measured on a real Letta (deploy/letta/start.sh --fake-model)")
        return []
    return asyncio.run(measured(url))
