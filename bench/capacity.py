"""docs/capacity.md, from measured costs: what a machine holds, what a fleet needs, what breaks first.

    python -m bench.capacity [--measure] [--check]

Reads `bench/results/scale.json`; --measure takes the measurement anew first (`earshot bench scale`, two minutes on a quiet
machine). --check writes nothing and exits 1 when the page is not what the measurement says.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.scale import LINES, SNAPSHOTS
from bench.simulation import Key, Operation, Outcome, Step, serialising, simulate

ROOT = Path(__file__).parents[1]
COSTS = ROOT / "bench" / "results" / "scale.json"
PAGE = ROOT / "docs" / "capacity.md"
# A busy game server: what the Roblox module does with twenty players who talk.
SNAPSHOTS_PER_MINUTE, POLLS_PER_MINUTE, LINES_PER_MINUTE = 24.0, 60.0, 6.0
# Of a core, so that the 99th percentile stays near the median.
FILLED = 0.6
# Of a core of every edge, for what it is told of the others' worlds: a cell of the fleet is as large as that allows.
TOLD = 0.15
# What a clock that ticks a hundred times a second cannot tell from nothing, by operation: four ticks over so many.
BLUR_US = {"snapshot": 40_000 / SNAPSHOTS, "line": 40_000 / LINES}
# Who serves what: asked of the registry so often by every process for each room that it calls, and what that costs Redis.
LOOKS_PER_S, LOOK_US = 2.0, 135.0
CALLED = {"edge": 3, "state": 1, "sync": 1, "chat": 2}
# A model's answer, and tokens of a call with 1,500 of history.
MODEL_S, TOKENS = 2.0, 2200
# Between processes of one data centre, and a commit that is flushed to a disk or by Redis.
TRAVEL_US, COMMIT_US = 300.0, 2000.0
# Of one Redis: commands that it takes are single-threaded. A write of one row's batch, from facts of its own.
REDIS_US, REDIS_BYTES_PER_S = 110.0, 100e6
FLEETS = (100, 1_000, 10_000, 100_000)
SIMULATED = (100, 1_000, 10_000)
SIMULATED_S = 10.0
ROOMS = ("edge", "state", "sync", "chat")


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of processor time by room of each operation; KiB by room of a world; what was measured where."""

    snapshot: Mapping[str, float]
    poll: Mapping[str, float]
    line: Mapping[str, float]
    # What an edge that nobody calls does about one snapshot and one line at another.
    told: Mapping[str, float]
    calls: float
    world_kib: Mapping[str, float]
    written_kib: Mapping[str, float]
    machine: str

    def per_minute(self, room: str) -> float:
        """Processor microseconds a minute that one busy game server costs a room."""
        return (
            self.snapshot[room] * SNAPSHOTS_PER_MINUTE
            + self.poll[room] * POLLS_PER_MINUTE
            + self.line[room] * LINES_PER_MINUTE
        )

    @property
    def told_per_minute(self) -> float:
        """Processor microseconds a minute that one busy game server costs every edge."""
        return self.told["snapshot"] * SNAPSHOTS_PER_MINUTE + self.told["line"] * LINES_PER_MINUTE

    def cores(self, room: str, servers: int) -> float:
        return self.per_minute(room) * servers / 60e6


def costs(report: Mapping[str, Any]) -> Costs:
    """From the object that `earshot bench scale --json` prints."""
    figures = {one["name"]: float(one["value"]) for one in report["results"]}

    def of(what: str) -> dict[str, float]:
        return {room: figures[f"{what}: {room}"] for room in ROOMS}

    return Costs(
        snapshot=of("a snapshot of 80 entities"),
        poll=of("an empty poll"),
        line=of("a line and its turn"),
        told={
            one: 0.0 if figures[name] < BLUR_US[one] else figures[name]
            for one, name in (
                ("snapshot", "a snapshot of 80 entities: another edge"),
                ("line", "a line and its turn: another edge"),
            )
        },
        calls=figures["model calls a line, to an NPC by name"],
        world_kib=of("a world of 80 entities"),
        written_kib={
            "snapshot": figures["a snapshot of 80 entities: written"],
            "line": figures["a line and its turn: written"],
        },
        machine=str(report["machine"]),
    )


def operations(cost: Costs) -> tuple[Operation, ...]:
    """What a busy game server does, as ways through stations."""

    def step(room: str, us: float, travel: float = TRAVEL_US) -> Step:
        return Step(room, Key.ANY if room == "edge" else Key.PARTITION, us, travel)

    return (
        Operation(
            "snapshot",
            SNAPSHOTS_PER_MINUTE,
            (
                step("edge", cost.snapshot["edge"]),
                step("state", cost.snapshot["state"]),
                Step("redis", Key.PARTITION, REDIS_US, COMMIT_US),
                step("sync", cost.snapshot["sync"]),
                step("chat", cost.snapshot["chat"]),
                Step("edge", Key.EVERY, cost.told["snapshot"]),
            ),
        ),
        Operation("poll", POLLS_PER_MINUTE, (step("edge", cost.poll["edge"]), step("chat", cost.poll["chat"]))),
        Operation(
            "line",
            LINES_PER_MINUTE,
            (
                step("edge", cost.line["edge"]),
                step("chat", cost.line["chat"]),
                # The line, the turn's start and end, its intent.
                Step("redis", Key.PARTITION, 4 * REDIS_US, 2 * COMMIT_US),
                step("state", cost.line["state"]),
                step("sync", cost.line["sync"]),
                Step("edge", Key.EVERY, cost.told["line"]),
            ),
        ),
    )


def copies(cost: Costs, servers: int) -> dict[str, int]:
    """Processes of each room, and Redis shards, for so many busy game servers."""
    redis = servers * (SNAPSHOTS_PER_MINUTE + 4 * LINES_PER_MINUTE) / 60 * REDIS_US / 1e6
    bytes_per_s = servers * 1024 / 60 * sum(
        kib * rate
        for kib, rate in (
            (cost.written_kib["snapshot"], SNAPSHOTS_PER_MINUTE),
            (cost.written_kib["line"], LINES_PER_MINUTE),
        )
    )  # fmt: skip
    needed = {room: math.ceil(cost.cores(room, servers) / FILLED) for room in ROOMS if room != "edge"}
    told = cost.told_per_minute / 60e6 * servers
    # Where what all edges are told fills them no number is enough; the simulation shows what comes of it.
    needed["edge"] = math.ceil(cost.cores("edge", servers) / (FILLED - told if told < FILLED else FILLED))
    needed["redis"] = max(math.ceil(redis / FILLED), math.ceil(bytes_per_s / REDIS_BYTES_PER_S))
    return {name: max(needed[name], 1) for name in ("edge", "state", "sync", "chat", "redis")}


def cell(cost: Costs) -> int:
    """Busy game servers of one cell: as many as were simulated, and fewer where what every edge is told takes TOLD."""
    if not cost.told_per_minute:
        return SIMULATED[-1]
    return min(max(math.floor(TOLD * 60e6 / cost.told_per_minute / 100) * 100, 100), SIMULATED[-1])


def page(cost: Costs) -> str:
    """docs/capacity.md."""
    ways = operations(cost)
    simulated = {
        f"{servers:,} in one": simulate(ways, copies(cost, servers), servers, SIMULATED_S) for servers in SIMULATED
    }
    one = min(cell(cost), SIMULATED[-1])
    cells = math.ceil(SIMULATED[-1] / one)
    if cells > 1:
        each = math.ceil(SIMULATED[-1] / cells)
        simulated[f"{SIMULATED[-1]:,} in {cells} cells of {each:,}: one of them"] = simulate(
            ways, copies(cost, each), each, SIMULATED_S
        )
    return "\n".join(
        (
            *_head(cost),
            *_costs(cost),
            *_machine(cost),
            *_fleets(cost),
            *_simulation(cost, simulated),
            *_breaks(cost),
            "",
        )
    )


def _head(cost: Costs) -> Sequence[str]:
    return (
        "# Capacity",
        "",
        "Made by `python -m bench.capacity` from `bench/results/scale.json`; do not edit. `python -m bench.capacity --measure`",
        "measures anew (`earshot bench scale`) and writes both. Measured on: " + cost.machine + ".",
        "Figures of a fleet are **computed** from what one machine was measured to need, and say so; nobody has run a fleet.",
        "",
        f"A *busy game server* here: 50 NPCs and 30 players, {SNAPSHOTS_PER_MINUTE:g} snapshots, {POLLS_PER_MINUTE:g} polls "
        f"and {LINES_PER_MINUTE:g} lines to NPCs a minute.",
        "An idle one costs a tenth of it: the Roblox module sends nine requests a minute then.",
        "",
    )


def _costs(cost: Costs) -> Sequence[str]:
    def row(name: str, values: Mapping[str, float]) -> str:
        return (
            f"| {name} | " + " | ".join(f"{values[room]:,.0f}" for room in ROOMS) + f" | {sum(values.values()):,.0f} |"
        )

    busy = {room: cost.per_minute(room) / 1000 for room in ROOMS}
    return (
        "## Measured: one operation",
        "",
        "| processor microseconds | edge | state with cluster | sync | chat | all |",
        "|---|---:|---:|---:|---:|---:|",
        row("a snapshot of 80 entities", cost.snapshot),
        row("an empty poll", cost.poll),
        row("a line and its turn", cost.line),
        row("a busy game server, milliseconds a minute", busy),
        "",
        f"A line to an NPC by name asks a model {cost.calls:.2f} times. {_told(cost)} A world holds {sum(cost.world_kib.values()):,.0f} KiB of memory; a snapshot writes "
        f"{cost.written_kib['snapshot']:.1f} KiB to the disk, a line with its turn {cost.written_kib['line']:.1f} KiB.",
        "",
    )


def _told(cost: Costs) -> str:
    if not cost.told_per_minute:
        return "What is said and sent at one edge costs another one nothing that can be measured."
    return (
        f"An edge that nobody calls spends {cost.told['line']:,.0f} us on a line at another edge, "
        f"{cost.told['snapshot']:,.0f} us on a snapshot."
    )


def _machine(cost: Costs) -> Sequence[str]:
    whole = sum(cost.per_minute(room) for room in ROOMS)
    one_core = math.floor(FILLED * 60e6 / whole)
    two = math.floor(FILLED * 60e6 / max(cost.per_minute(room) for room in ROOMS))
    return (
        "## Computed: one machine",
        "",
        f"* `earshot up`, one process: **{one_core} busy game servers** at {FILLED:.0%} of the one core that it uses.",
        f"* One process a room (`docker compose up`), four cores: {two}; the busiest room fills its core first.",
        "* Memory is not what ends it: "
        f"{one_core} worlds hold {one_core * sum(cost.world_kib.values()) / 1024:,.0f} MiB beside some 300 MiB of programs.",
        "",
    )


def _fleets(cost: Costs) -> Sequence[str]:
    rows = []
    for servers in FLEETS:
        cells = math.ceil(servers / cell(cost))
        need = copies(cost, math.ceil(servers / cells))
        calls = servers * LINES_PER_MINUTE * cost.calls / 60
        processes = " | ".join(f"{cells * count:,}" for count in need.values())
        tokens = calls * TOKENS * 60 / 1e6
        rows.append(f"| {servers:,} | {cells} | {processes} | {calls:,.0f} | {calls * MODEL_S:,.0f} | {tokens:,.1f} |")
    return (
        "## Computed: a fleet",
        "",
        f"Processes at {FILLED:.0%} of a core each (state with cluster); Redis by its one thread ({REDIS_US:g} us a write) and",
        f"{REDIS_BYTES_PER_S / 1e6:g} MB/s of log. All game servers are busy at once. A cell is edges, rooms and a Redis of its own;",
        "worlds never speak to each other, so cells share nothing and a game server belongs to one by its place or region.",
        "",
        "| busy game servers | cells | edge | state | sync | chat | Redis shards | model calls/s | at once, "
        f"{MODEL_S:g} s each | million tokens/min |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
    )


def _simulation(cost: Costs, simulated: Mapping[str, Outcome]) -> Sequence[str]:
    rows = []
    for fleet, outcome in simulated.items():
        busiest = ", ".join(
            f"{name} {one.copies} x {one.busy:.0%} ({one.busiest:.0%})" for name, one in outcome.stations.items()
        )
        times = ", ".join(f"{name} {outcome.p50_ms[name]:.1f} / {outcome.p99_ms[name]:.1f}" for name in outcome.p50_ms)
        rows.append(f"| {fleet} | {busiest} | {times} |")
    shared = serialising(operations(cost))
    return (
        "## Simulated: does anything serialise?",
        "",
        "Every operation of every game server goes through its stations (first come, first served, the measured time each; "
        f"{TRAVEL_US:g} us between processes, {COMMIT_US / 1000:g} ms a commit), worlds on the replicas that "
        "`services/common/replicas.py` plans for them. If a step were shared by all worlds, its station would fill and the "
        "times grow with the fleet although processes are added in proportion.",
        "",
        "| game servers | processes x busy (busiest) | p50 / p99 ms, without the model |",
        "|---:|---|---|",
        *rows,
        "",
        f"Work that each copy has of *all* worlds: {', '.join(shared) or 'none'}.",
        "",
    )


def _breaks(cost: Costs) -> Sequence[str]:
    room = max(ROOMS, key=cost.per_minute)
    share = cost.per_minute(room) / sum(cost.per_minute(one) for one in ROOMS)
    full = math.floor(FILLED * 60e6 / cost.told_per_minute) if cost.told_per_minute else 0
    return (
        "## What breaks first",
        "",
        "1. **The model.** Calls at once and tokens a minute, in the table above: on any hosted plan long before Earshot.",
        "   `EARSHOT_DAILY_TOKENS`, more providers and `EARSHOT_CALLS_PER_MESSAGE_MEAN` bound it ([runtimes](runtimes.md)).",
        f"2. **{room.capitalize()}'s loop**, {share:.0%} of what a game server costs: one process uses one core. Add replicas (`EARSHOT_STORE`).",
        f"3. **The disk**: {cost.written_kib['snapshot']:,.0f} KiB a snapshot, {cost.written_kib['line']:,.0f} KiB a line and its turn, mostly whole pages of the write-ahead log.",
        "4. **The busiest replica**, before the mean: 256 partitions do not divide evenly among many replicas of a room.",
        f"5. **What every edge is told.** It would fill each of them at {full:,} busy game servers in one cell."
        if full
        else "5. **256 partitions**: no room can use more replicas than that.",
        "6. **One Redis**: its thread, then its log's disk. Shards help: a partition's keys share one hash slot. What they do not "
        f"help is the registry: each process asks it {LOOKS_PER_S:g} times a second for every room that it calls, {LOOK_US:g} us of Redis "
        f"each: {_registry(cost, 1_000):.1%} of its thread at 1,000 busy game servers, {_registry(cost, 10_000):.0%} at 10,000. A cell",
        "   (edges, rooms and a Redis of its own) for each 10,000 keeps it there; game servers belong to one by place or region.",
    )


def _registry(cost: Costs, servers: int) -> float:
    """Share of a Redis' thread that answers who serves what."""
    need = copies(cost, servers)
    return sum(need[room] * called for room, called in CALLED.items()) * LOOKS_PER_S * LOOK_US / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity")
    parser.add_argument("--measure", action="store_true", help="measure anew first")
    parser.add_argument("--check", action="store_true", help="compare the page and write nothing")
    parsed = parser.parse_args(argv)
    if parsed.measure:
        command = [sys.executable, "-m", "services", "bench", "scale", "--json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
        COSTS.parent.mkdir(exist_ok=True)
        COSTS.write_text(json.dumps(json.loads(done.stdout), indent=1) + "\n")
    text = page(costs(json.loads(COSTS.read_text())))
    if parsed.check:
        return int(text != PAGE.read_text())
    PAGE.write_text(text)
    print(f"{PAGE.relative_to(ROOT)} is as {COSTS.relative_to(ROOT)} says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
