"""A fleet simulated from measured costs: where work waits, and whether any step is shared by all worlds. Pure.

Each operation of a game server visits stations one after the other. A station serves one operation at a time, first
come first served; which of its copies serves it is decided by what the step is keyed by: the world's partition (owners
as the replicas themselves plan them), the world itself, any copy, every copy (what is told to all), or nothing (one for
all). Between stations an operation travels.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

from services.common.ownership import partition_of
from services.common.replicas import plan


class Key(Enum):
    """What decides which copy of a station serves an operation."""

    WORLD = "world"
    PARTITION = "partition"
    ANY = "any"
    EVERY = "every"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Step:
    """A visit of an operation to a station: how long it is served, microseconds, and how long it then travels."""

    station: str
    key: Key
    us: float
    travel_us: float = 0.0


@dataclass(frozen=True, slots=True)
class Operation:
    """What a game server does so often, and the way through the stations."""

    name: str
    per_minute: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Station:
    """How it went for all copies of a station: busy share of the mean and of the busiest copy."""

    copies: int
    busy: float
    busiest: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """stations by name; p50 and p99 of each operation's time, milliseconds, without what models take."""

    stations: Mapping[str, Station]
    p50_ms: Mapping[str, float]
    p99_ms: Mapping[str, float]


@cache
def owners(copies: int) -> tuple[int, ...]:
    """Which of so many replicas owns each partition."""
    planned = plan(f"replica-{number}" for number in range(copies))
    return tuple(int(planned[one].rpartition("-")[2]) for one in sorted(planned))


@cache
def partition(world: int) -> int:
    return partition_of("tenant", f"world-{world}")


def simulate(
    operations: Sequence[Operation], copies: Mapping[str, int], worlds: int, seconds: float, seed: int = 0
) -> Outcome:
    """Play `worlds` game servers for so long. copies: of each station keyed by partition or any."""
    rng = random.Random(seed)
    told = _told(operations, worlds)
    free: dict[tuple[str, int], float] = {}
    work: dict[tuple[str, int], float] = {}
    times: dict[str, list[float]] = {operation.name: [] for operation in operations}
    # (when it arrives, which operation, world, which step, when it began): stations serve in the order of arrival.
    waiting = [(at, index, world, 0, at) for at, index, world in _arrivals(operations, worlds, seconds, rng)]
    heapq.heapify(waiting)
    while waiting:
        at, index, world, number, began = heapq.heappop(waiting)
        steps = operations[index].steps
        step = steps[number]
        end = at
        if step.key is not Key.EVERY:
            place = (step.station, _copy(step, copies, world, rng))
            # What a copy is told of everybody else's takes its share of every second.
            served = step.us / 1e6 / max(1.0 - told.get(step.station, 0.0), 1e-3)
            end = max(at, free.get(place, 0.0)) + served
            free[place] = end
            work[place] = work.get(place, 0.0) + step.us / 1e6
        if number + 1 < len(steps):
            heapq.heappush(waiting, (end + step.travel_us / 1e6, index, world, number + 1, began))
        else:
            times[operations[index].name].append((end - began) * 1e3)
    stations = {
        name: _station(name, work, copies, seconds, told.get(name, 0.0)) for name in sorted({one for one, _ in work})
    }
    sorted_times = {name: sorted(values) for name, values in times.items() if values}
    return Outcome(
        stations,
        {name: values[len(values) // 2] for name, values in sorted_times.items()},
        {name: values[len(values) * 99 // 100] for name, values in sorted_times.items()},
    )


def _arrivals(
    operations: Sequence[Operation], worlds: int, seconds: float, rng: random.Random
) -> Iterator[tuple[float, int, int]]:
    """Each game server on its own beat, begun at a random moment, a fifth early or late."""
    for index, operation in enumerate(operations):
        if not operation.per_minute:
            continue
        period = 60.0 / operation.per_minute
        for world in range(worlds):
            at = rng.random() * period
            while at < seconds:
                yield at, index, world
                at += period * rng.uniform(0.8, 1.2)


def _copy(step: Step, copies: Mapping[str, int], world: int, rng: random.Random) -> int:
    match step.key:
        case Key.WORLD:
            return world
        case Key.PARTITION:
            return owners(copies[step.station])[partition(world)]
        case Key.ANY:
            return rng.randrange(copies[step.station])
        case Key.SHARED | Key.EVERY:
            return 0


def _told(operations: Sequence[Operation], worlds: int) -> dict[str, float]:
    """Share of every second that each copy of a station spends on what all copies are told."""
    shares: dict[str, float] = {}
    for one in operations:
        for step in one.steps:
            if step.key is Key.EVERY:
                shares[step.station] = shares.get(step.station, 0.0) + step.us / 1e6 * one.per_minute / 60 * worlds
    return shares


def _station(
    name: str, work: Mapping[tuple[str, int], float], copies: Mapping[str, int], seconds: float, told: float
) -> Station:
    loads = [seconds_of for (station, _), seconds_of in work.items() if station == name]
    count = copies.get(name, len(loads))
    return Station(count, sum(loads) / count / seconds + told, max(loads) / seconds + told)


def serialising(operations: Sequence[Operation]) -> list[str]:
    """Stations with work that grows with all worlds on each copy: what no number of copies helps."""
    everybody = (Key.SHARED, Key.EVERY)
    return sorted({step.station for one in operations for step in one.steps if step.key in everybody and step.us})
