"""The siege on a real Letta: fifty NPCs hurt all the time, then the same writes once more by the raw `letta-client`.

Ours runs while the same process applies snapshots; the raw client's turn comes when nothing else is done.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.feed import Disturbed
from bench.letta_rig import Rig, percentile, seconds
from bench.result import Result
from bench.troupe import troupe
from services.demo.frame import Frame, Step
from services.sync.agents.embodiments import Embodiments
from services.sync.schedule.due import Lane
from services.sync.storms import TOGETHER

# Goal: milliseconds.
P95_MS = 300.0


@dataclass(frozen=True, slots=True)
class Urgent:
    """One urgent write: seconds into the siege at which the schedule let it go, its text, how long it took."""

    at: float
    text: str
    took: float


@dataclass(slots=True)
class Siege:
    """Seconds: our urgent writes, the raw client's of the same, first change to confirmed, one raw update meanwhile."""

    ours: list[Urgent] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)


@contextmanager
def admitted(found: list[Urgent]) -> Iterator[None]:
    """Collects how long urgent writes take from when the schedule lets them go to the confirmation."""
    bring, began = Embodiments.bring, time.perf_counter()

    async def timed(self: Embodiments, *arguments: Any, lane: Lane, **named: Any) -> Any:
        started = time.perf_counter()
        written = await bring(self, *arguments, lane=lane, **named)
        if lane is Lane.HIGH and written.labels:
            desired = arguments[3]
            text = "\n".join(desired.get(label).text for label in written.labels)
            found.append(Urgent(started - began, text, time.perf_counter() - started))
        return written

    Embodiments.bring = timed  # type: ignore[method-assign]  # for this measurement
    try:
        yield
    finally:
        Embodiments.bring = bring  # type: ignore[method-assign]  # as it was


async def besiege(rig: Rig, found: Siege, seconds_long: float) -> None:
    """One siege in real time, then what it wrote once more, by the raw client."""
    cast = troupe("siege")
    changes = Observations()
    steps = list(cast.steps(seconds_long))
    await rig.enrol(cast.cast)
    await rig.step(Step(at=0.0, frame=Frame(rig.world, steps[0].frame.rows), events=(), utterances=()))
    await rig.settled()
    agents = [await rig.raw_agent() for _ in cast.cast]
    rig.metrics.sync_lag_seconds = changes  # type: ignore[assignment]  # every value instead of buckets
    ours: list[Urgent] = []
    async with asyncio.TaskGroup() as group:
        beside = group.create_task(updating(rig, agents[0], found.beside))
        with admitted(ours):
            await play(rig, steps)
        beside.cancel()
    if not ours:
        raise Disturbed("nothing urgent was written in the siege")
    found.ours += ours
    found.changes += [value for lane, value in changes.values if lane == "high"]
    found.raw += await replay(rig, agents, ours)


async def updating(rig: Rig, agent: str, took: list[float]) -> None:
    """The raw client updates a block of an agent that nobody else uses, once a second."""
    while True:
        took.append(await seconds(rig.client.agents.blocks.update("status", agent_id=agent, value=f"{len(took)}")))
        await asyncio.sleep(1)


async def play(rig: Rig, steps: Sequence[Step]) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    for step in steps:
        await asyncio.sleep(max(started + step.at - loop.time(), 0.0))
        await rig.step(Step(at=step.at, frame=Frame(rig.world, step.frame.rows), events=(), utterances=()))
    await asyncio.sleep(2)


async def replay(rig: Rig, agents: Sequence[str], writes: Sequence[Urgent]) -> list[float]:
    """The same texts at the same times, as many at a time, each from when it has its place to the answer."""
    loop, gate, took = asyncio.get_running_loop(), asyncio.Semaphore(TOGETHER), list[float]()
    started = loop.time()

    async def write(number: int, one: Urgent) -> None:
        await asyncio.sleep(max(started + one.at - loop.time(), 0.0))
        async with gate:
            agent = agents[number % len(agents)]
            took.append(await seconds(rig.client.agents.blocks.update("status", agent_id=agent, value=one.text)))

    async with asyncio.TaskGroup() as group:
        for number, one in enumerate(writes):
            group.create_task(write(number, one))
    return took


def figures(found: Siege, seconds_long: float) -> list[Result]:
    """The sieges' figures."""
    ours = [one.took for one in found.ours]
    peers = {
        "p50, ms": 1e3 * statistics.median(ours), "writes": float(len(ours)),
        "raw, the same writes, p50, ms": 1e3 * statistics.median(found.raw),
        "raw, the same writes, p95, ms": 1e3 * percentile(found.raw, 0.95),
        "raw, one update a second meanwhile, p50, ms": 1e3 * statistics.median(found.beside),
        "raw, one update a second meanwhile, p95, ms": 1e3 * percentile(found.beside, 0.95),
        "first change to confirmed p50, ms": 1e3 * statistics.median(found.changes),
        "first change to confirmed p95, ms": 1e3 * percentile(found.changes, 0.95),
    }  # fmt: skip
    name, p95 = "letta, siege in real time, urgent write let go to confirmed", percentile(ours, 0.95)
    return [
        Result(f"{name}, p95", 1e3 * p95, "ms", P95_MS, "less", peers),
        Result(f"{name}, p95 beside the raw client's same writes", p95 / percentile(found.raw, 0.95), "x"),
        Result(f"{name}, writes/s", len(ours) / seconds_long, "writes/s"),
    ]


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
