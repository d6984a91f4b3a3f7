"""`earshot bench ingest`: snapshots of 80 entities, HTTP in to 200 out, beside peers that run in the same rounds.

Every world's snapshots are applied and on disk (level soft) before they are answered; metrics are on, one per cent of
traces is exported. What comes after the answer is the room's own business, except that greetings are off: a world that
lives a hundred times faster than a game would greet a hundred times more often.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench import crowd, profiling, target
from bench.catalogue import Options, progress
from bench.figures import median, slope
from bench.load import LoadProcess, Order, Outcome
from bench.peers import environment
from bench.result import Result
from bench.target import Command, Target, TargetFailed
from bench.trace_sink import TraceSink

ROUNDS = 3
SECONDS = 1.5
MANY = 32
# Agents are made when a player first hears an NPC: that belongs to a world's first moments, not to every snapshot.
WARM_UPS = 2
WARM_UP_S = 1.0
SETTLE_FIRST_S = 5.0
SETTLE_S = 1.5
# Worlds of the check that peers do the same job; not used under load.
CHECKED = (90_001, 90_002, 90_003)
MEMORY_WORLDS = (100, 200, 300, 400, 500)
MEMORY_FULL = 10_000
MEMORY_OF = {"edge, state and cluster": "edge,state,cluster", "all rooms": "all"}
OVERLOADED_TRIES = 60
# A server that cannot take the worlds in this time is measured with those that it took.
MEMORY_S = 40.0
QUIET = {"EARSHOT_GREETINGS": "false"}

ONE, TWO = "one process", "edge, state+cluster"
ZERO, FASTAPI, NESTED = "0-hop", "FastAPI unary", "gRPC unary, nested"
# Goals: snapshots a second, share of the 0-hop edge, times the FastAPI peer.
GOALS: Mapping[str, tuple[float, float, float]] = {ONE: (3500, 0.55, 6), TWO: (4500, 0.7, 6)}
P50_MS, P99_MS = 1.0, 15.0
WORLD_KIB, FULL_MIB = 64.0, 1024.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One target in one round."""

    many: Outcome
    single: Outcome
    # CPU of each process, microseconds a snapshot, at MANY connections.
    cpu_us: tuple[float, ...]


@dataclass(slots=True)
class Measures:
    """Every target's rounds."""

    of: dict[str, list[Measure]] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """Median snapshots a second at MANY connections."""
        return median([measure.many.rate for measure in self.of[name]])

    def ratio(self, name: str, other: str) -> float:
        """Median over the rounds of one rate by the other's in the same round."""
        pairs = zip(self.of[name], self.of[other], strict=True)
        return median([a.many.rate / b.many.rate for a, b in pairs if b.many.rate])

    def p50(self, name: str) -> float:
        """Median over the rounds of the median latency on one connection, milliseconds."""
        return median([measure.single.p50 for measure in self.of[name]])

    def p99(self, name: str) -> float:
        """Median over the rounds of the 99th percentile at MANY connections, milliseconds."""
        return median([measure.many.p99 for measure in self.of[name]])

    def cpu(self, name: str) -> float:
        """Median CPU of all processes, microseconds a snapshot."""
        return median([sum(measure.cpu_us) for measure in self.of[name]])


def run(options: Options) -> list[dict[str, Any]]:
    """Records of the bench, or of the profile. Raises TargetFailed and Unavailable."""
    with own_folder("ingest") as folder:
        if options.profile:
            return profiling.run(folder, options.seconds or SECONDS * 3, QUIET)
        measures = _measured(folder, options.rounds or ROUNDS, options.seconds or SECONDS)
        records = [result.record() for result in results(measures)]
        return [*records, *(result.record() for result in _memory(folder))]


@contextmanager
def own_folder(bench: str) -> Iterator[Path]:
    """A directory on the checkout's disk: a temporary one may be memory only."""
    environment.FOLDER.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{bench}-", dir=environment.FOLDER))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(folder: Path, rounds: int, seconds: float) -> Measures:
    with ExitStack() as stack:
        sink = stack.enter_context(TraceSink())
        targets = _targets(folder, {"EARSHOT_OTLP_ENDPOINT": sink.endpoint})
        for one in targets:
            progress(f"ingest: starting {one.name}")
            stack.callback(one.stop)
            one.start(folder)
        progress("ingest: do all give the same clusters?")
        _check_same_job(targets)
        load = stack.enter_context(LoadProcess())
        for one in targets * WARM_UPS:
            load.run(Order(one.port, one.path, MANY, seconds=WARM_UP_S, marker=one.marker))
            if not one.settle(SETTLE_FIRST_S):
                progress(f"ingest: {one.name} is still busy {SETTLE_FIRST_S:g} s after its warm-up")
        measures = Measures({one.name: [] for one in targets})
        for number in range(rounds):
            # Another one begins each round: who comes first meets another machine.
            for one in (*targets[number % len(targets) :], *targets[: number % len(targets)]):
                measure = _measure(load, one, seconds)
                measures.of[one.name].append(measure)
                progress(f"ingest: round {number + 1} of {rounds}: {_line(one.name, measure)}")
        if not sink.exports:
            raise TargetFailed("no trace was exported: tracing was not on")
        return measures


def _line(name: str, measure: Measure) -> str:
    many, single = measure.many, measure.single
    bad = f", {many.bad} refused ({many.complaint[9:12]})" if many.bad else ""
    cpu = " + ".join(f"{value:.0f}" for value in measure.cpu_us)
    return f"{name}: {many.rate:.0f}/s, p99 {many.p99:.1f} ms, c=1 p50 {single.p50:.2f} ms, CPU {cpu} us{bad}"


def _measure(load: LoadProcess, one: Target, seconds: float) -> Measure:
    before = one.cpu_seconds()
    many = load.run(Order(one.port, one.path, MANY, seconds=seconds, marker=one.marker))
    cpu = tuple((after - earlier) / many.sent * 1e6 for earlier, after in zip(before, one.cpu_seconds(), strict=True))
    one.settle(SETTLE_S)
    single = load.run(Order(one.port, one.path, 1, seconds=seconds / 2, marker=one.marker))
    one.settle(SETTLE_S)
    return Measure(many, single, cpu)


def _targets(folder: Path, tracing: Mapping[str, str]) -> list[Target]:
    return [
        zero_hop(),
        target.earshot(ONE, folder, "all", environment={**QUIET, **tracing}),
        target.earshot(TWO, folder, "edge", "state,cluster", environment=tracing),
        fastapi(folder),
        nested(folder),
    ]


def zero_hop() -> Target:
    """The ceiling."""
    (port,) = target.free_ports(1)
    return Target(ZERO, port, [Command([sys.executable, "-m", "bench.peers.zero_hop", str(port)])], marker='"entities"')


def fastapi(folder: Path) -> Target:
    """The peer that a competent engineer writes first: three processes."""
    port, state, rooms = _unary_rooms(folder, "fastapi.db")
    serve = ["uvicorn", "bench.peers.fastapi_unary.edge:application", "--host", "127.0.0.1", "--port", str(port)]
    edge = Command(
        [str(environment.python()), "-m", *serve, "--http", "httptools", "--no-access-log", "--log-level", "warning"],
        {"PYTHONPATH": environment.path(), "PEER_STATE": state},
    )
    return Target(FASTAPI, port, [*rooms, edge])


def nested(folder: Path) -> Target:
    """The same behind an edge without a framework."""
    port, state, rooms = _unary_rooms(folder, "nested.db")
    edge = [sys.executable, "-m", "bench.peers.unary_nested", str(port), state]
    return Target(NESTED, port, [*rooms, Command(edge, {"PYTHONPATH": environment.path()})])


def _unary_rooms(folder: Path, database: str) -> tuple[int, str, list[Command]]:
    """A port for an edge, and state's address; the two processes that those peers share."""
    python, package = str(environment.python()), "bench.peers.fastapi_unary"
    port, *others = target.free_ports(3)
    state, clusters = (f"127.0.0.1:{other}" for other in others)
    shared = {"PYTHONPATH": environment.path()}
    return (
        port,
        state,
        [
            Command([python, "-m", f"{package}.clusters", clusters], shared),
            Command([python, "-m", f"{package}.state", state, clusters, str(folder / database)], shared),
        ],
    )


def _check_same_job(targets: Sequence[Target]) -> None:
    """Every target that clusters finds the same ones, frame after frame. Raises TargetFailed."""
    for world in CHECKED:
        for frame, body in enumerate(crowd.frames(world)):
            found = {}
            for one in targets:
                status, answer = one.post(body)
                if status != 200:
                    raise TargetFailed(f"{one.name} answered {status} to a plain snapshot: {answer[:300]!r}")
                if one.name != ZERO:
                    found[one.name] = clusters_of(answer)
            if not any(found[ONE]):
                raise TargetFailed("the check has no clusters to compare")
            for name, clusters in found.items():
                if clusters != found[ONE]:
                    raise TargetFailed(f"{name} does another job: other clusters than {ONE} in frame {frame}")


def clusters_of(answer: bytes) -> frozenset[tuple[frozenset[str], frozenset[str]]]:
    """Members of every cluster, and those of them with a position."""
    clusters = msgspec.json.decode(answer)["clusters"]
    return frozenset(
        (frozenset(one["members"]), frozenset(member["id"] for member in one["positions"])) for one in clusters
    )


def results(measures: Measures) -> list[Result]:
    """The figures of all rounds beside their goals."""
    rates = {name: measures.rate(name) for name in measures.of}
    found: list[Result] = []
    for name, (rate, share, times) in GOALS.items():
        others = {other: value for other, value in rates.items() if other != name}
        found += [
            Result(f"{name}: c={MANY}", rates[name], "snapshots/s", rate, peers=others),
            Result(f"{name}: share of the 0-hop edge", measures.ratio(name, ZERO), "", share),
            Result(f"{name}: share of the 0-hop edge, by CPU", measures.cpu(ZERO) / measures.cpu(name), ""),
            Result(f"{name}: times the FastAPI peer", measures.ratio(name, FASTAPI), "x", times),
            Result(f"{name}: p50, c=1", measures.p50(name), "ms", P50_MS, "less", _others(measures, "p50", name)),
            Result(f"{name}: p99, c={MANY}", measures.p99(name), "ms", P99_MS, "less", _others(measures, "p99", name)),
            Result(f"{name}: CPU of all its processes", measures.cpu(name), "us", peers=_others(measures, "cpu", name)),
        ]
    return found


def _others(measures: Measures, figure: str, name: str) -> dict[str, float]:
    return {other: getattr(measures, figure)(other) for other in measures.of if other != name}


def _memory(folder: Path) -> list[Result]:
    """Resident memory by the number of worlds: what a world's state takes, and with what other rooms keep of it."""
    found: list[Result] = []
    for name, rooms in MEMORY_OF.items():
        points = _memory_points(folder, name, rooms)
        if len(points) > 1:
            found += memory_results(name, points)
    return found


def _memory_points(folder: Path, name: str, rooms: str) -> list[tuple[float, float]]:
    """(worlds, resident bytes) of one process."""
    body = crowd.frames(0, 1)[0]
    one = target.earshot(f"memory of {name}", folder, rooms, environment=QUIET)
    points: list[tuple[float, float]] = []
    deadline = time.monotonic() + MEMORY_S
    try:
        one.start(folder)
        sent = 0
        for worlds in MEMORY_WORLDS:
            for number in range(sent, worlds):
                if time.monotonic() > deadline:
                    raise TargetFailed(f"{MEMORY_S:g} s were not enough")
                _put(one, crowd.retold(body, number))
            sent = worlds
            one.settle(SETTLE_FIRST_S)  # what is on its way to the disk and to other rooms
            points.append((worlds, one.resident_bytes()))
            progress(f"ingest: memory of {name} at {worlds} worlds: {points[-1][1] / 2**20:.0f} MiB")
    except TargetFailed as error:
        # What was measured so far is worth having; without two points there is no row.
        progress(f"ingest: memory of {name} was measured at {len(points)} of {len(MEMORY_WORLDS)} points: {error}")
    finally:
        one.stop()
    return points


def _put(one: Target, body: bytes) -> None:
    """Post until it is taken: what an overloaded server refuses is sent again. Raises TargetFailed."""
    for _ in range(OVERLOADED_TRIES):
        status, answer = one.post(body)
        if status == 200:
            return
        if status not in (429, 503, 504):
            break
        time.sleep(1.0)
    raise TargetFailed(f"{one.name} answered {status}: {answer[:300]!r}")


def memory_results(name: str, points: Sequence[tuple[float, float]]) -> tuple[Result, Result]:
    """Memory of one world, and of MEMORY_FULL as the line through the points goes on."""
    each = slope(points)
    full = points[-1][1] + each * (MEMORY_FULL - points[-1][0])
    return (
        Result(f"memory of a world, {name}", each / 1024, "KiB", WORLD_KIB, "less"),
        Result(f"{MEMORY_FULL:,} worlds, {name}, extrapolated", full / 2**20, "MiB", FULL_MIB, "less"),
    )
