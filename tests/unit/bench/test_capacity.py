"""The simulated fleet behaves as queues do, notices what serialises, and the capacity page is what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import capacity
from bench.simulation import Key, Operation, Step, owners, serialising, simulate

ROOT = Path(__file__).parents[3]


def one(key: Key, us: float, per_minute: float = 60.0) -> tuple[Operation, ...]:
    return (Operation("work", per_minute, (Step("room", key, us),)),)


def test_a_queue_is_as_busy_as_what_comes_in() -> None:
    outcome = simulate(one(Key.PARTITION, 5_000), {"room": 1}, worlds=100, seconds=60)
    assert outcome.stations["room"].busy == pytest.approx(0.5, abs=0.02)  # 100 a second, 5 ms each
    assert outcome.p50_ms["work"] >= 5.0
    # D/D/1 with a little jitter stays below M/D/1, whose mean at one half is 1.5 times the service.
    assert outcome.p50_ms["work"] <= 7.5


def test_copies_share_partitions_and_nobody_is_left_out() -> None:
    outcome = simulate(one(Key.PARTITION, 1_000), {"room": 8}, worlds=2_000, seconds=10)
    station = outcome.stations["room"]
    assert station.busy == pytest.approx(0.25, abs=0.02)
    assert station.busy < station.busiest < 3 * station.busy
    assert set(owners(8)) == set(range(8))
    assert len(owners(8)) == 256


def test_a_step_of_all_worlds_is_found_and_makes_times_grow_with_the_fleet() -> None:
    shared = one(Key.SHARED, 200)
    alone, many = (simulate(shared, {}, worlds, 20) for worlds in (100, 6_000))
    assert serialising(shared) == ["room"]
    assert many.stations["room"].busy > 50 * alone.stations["room"].busy
    assert many.p99_ms["work"] > 100 * alone.p99_ms["work"]
    assert serialising(one(Key.PARTITION, 200)) == []


def test_what_everybody_is_told_fills_every_copy() -> None:
    told = (
        Operation("line", 60.0, (Step("edge", Key.ANY, 100), Step("edge", Key.EVERY, 50), Step("chat", Key.ANY, 1))),
    )
    few, many = (simulate(told, {"edge": worlds // 100, "chat": 1}, worlds, 10) for worlds in (100, 10_000))
    assert serialising(told) == ["edge"]
    # In proportion to the fleet, though there are a hundred times as many edges.
    assert many.stations["edge"].busy - few.stations["edge"].busy == pytest.approx(0.495, abs=0.02)


def test_more_processes_as_the_fleet_grows() -> None:
    cost = capacity.costs(json.loads(capacity.COSTS.read_text()))
    needed = [capacity.copies(cost, servers) for servers in (100, 1_000, 10_000)]
    for room in ("state", "sync", "chat"):
        counts = [need[room] for need in needed]
        assert counts == sorted(counts)
        assert counts[-1] == pytest.approx(cost.cores(room, 10_000) / capacity.FILLED, abs=1)
    silent = replace(cost, told={"snapshot": 0.0, "line": 0.0})
    assert capacity.cell(silent) == 10_000  # no more has been simulated
    assert serialising(capacity.operations(silent)) == []
    assert capacity.cell(replace(cost, told={"snapshot": 0.0, "line": 1500.0})) == 1000  # 0.15 of a core


def test_the_page_is_what_was_measured() -> None:
    assert capacity.page(capacity.costs(json.loads(capacity.COSTS.read_text()))) == capacity.PAGE.read_text(), (
        "run: python -m bench.capacity"
    )
