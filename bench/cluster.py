"""`earshot bench cluster`: connected components within earshot, beside scipy and scikit-learn on the same points.

Times are CPU times: every method runs in one thread, and what else the machine does counts less.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.catalogue import Options, progress
from bench.figures import growth, median
from bench.peers import environment
from bench.result import Result
from services.cluster.assignment import layout
from services.cluster.compiled import CompiledMethod
from services.cluster.proximity import Batch

Floats = npt.NDArray[np.float64]

ROUNDS = 7
SIZE, WORLDS = 80, 1000
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
# Entities per square stud: 80 in a village of 100 by 100 studs.
DENSITY = 0.008
JOIN, LEAVE = 10.0, 12.0
SCIPY, ONE_TREE, DBSCAN = "scipy", "scipy, worlds in one tree", "DBSCAN"
OURS, SINGLE = "earshot", "earshot, one world a call"
# Goals.
BATCH_US, SCIPY_TIMES, DBSCAN_TIMES, LARGE_MS, LARGE_TIMES = 10.0, 10.0, 50.0, 25.0, 2.0


class WrongAnswer(RuntimeError):
    """A peer found other components: the times cannot be compared."""


@dataclass(frozen=True, slots=True)
class Points:
    """Worlds laid end to end."""

    places: Floats
    offsets: npt.NDArray[np.int64]

    @property
    def batch(self) -> Batch:
        """The same, as Earshot's methods take it; nobody was together before."""
        worlds = len(self.offsets) - 1
        x, y, z = (np.ascontiguousarray(column) for column in self.places.T)
        return Batch(
            offsets=self.offsets, x=x, y=y, z=z,
            before=np.full(len(x), -1, np.int32),
            link_offsets=np.zeros(worlds + 1, np.int64), link_a=np.zeros(0, np.int32), link_b=np.zeros(0, np.int32),
            join=np.full(worlds, JOIN), leave=np.full(worlds, LEAVE), weight=np.ones(worlds),
        )  # fmt: skip


def scattered(size: int, worlds: int, seed: int) -> Points:
    """Uniform worlds of `size` entities at DENSITY on hilly ground. Equal arguments give equal points."""
    chance = np.random.default_rng(seed)
    side = (size / DENSITY) ** 0.5
    places = chance.uniform(0, side, (size * worlds, 3))
    places[:, 1] = chance.uniform(0, 4, size * worlds)
    return Points(places, layout([size] * worlds))


def first_of_each(labels: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Labels of any naming as the first row, of all rows, that carries the label in its world."""
    worlds = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    keys = worlds * (int(labels.max(initial=0)) + 1) + labels
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    found: npt.NDArray[np.int64] = first[inverse]
    return found


class Peers:
    """The peers' process; a context."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Peers:
        self._process = subprocess.Popen(
            [str(environment.python()), "-m", "bench.peers.clustering"],
            cwd=environment.ROOT,
            env={**os.environ, "PYTHONPATH": environment.path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "opened with a pipe"
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def seconds(self, method: str, points: Points) -> tuple[float, npt.NDArray[Any]]:
        """Time and labels of one method. Raises RuntimeError when the peers' process ended."""
        names = {name: str(self._folder / f"{name}.npy") for name in ("points", "offsets", "labels")}
        np.save(names["points"], points.places)
        np.save(names["offsets"], points.offsets)
        assert self._process.stdin is not None, "opened with a pipe"
        assert self._process.stdout is not None, "opened with a pipe"
        self._process.stdin.write(json.dumps({**names, "method": method, "join": JOIN}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peers' process ended; its reason is above")
        return json.loads(line)["seconds"], np.load(names["labels"])


def run(options: Options) -> list[dict[str, Any]]:
    """Records of the bench. Raises WrongAnswer and Unavailable."""
    method = CompiledMethod()
    method.warm_up(environment.FOLDER / "numba")
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder, Peers(Path(folder)) as peers:
        rounds = options.rounds or ROUNDS
        small = _small(method, peers, rounds)
        large = _large(method, peers, rounds)
    return [result.record() for result in results(small, large)]


def _small(method: CompiledMethod, peers: Peers, rounds: int) -> dict[str, list[float]]:
    """Microseconds a world of SIZE, by method, of every round; another thousand worlds each."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        points = scattered(SIZE, WORLDS, number)
        seconds, labels = _ours(method, points)
        times[OURS].append(seconds / WORLDS * 1e6)
        times[SINGLE].append(_one_by_one(method, points) / WORLDS * 1e6)
        for peer in (SCIPY, ONE_TREE, DBSCAN):
            seconds, others = peers.seconds(peer, points)
            _same(peer, labels, others, points)
            times[peer].append(seconds / WORLDS * 1e6)
        shown = ", ".join(f"{name} {taken[-1]:.1f}" for name, taken in times.items())
        progress(f"cluster: round {number + 1} of {rounds}, {SIZE} points, us a world: {shown}")
    return times


def _large(method: CompiledMethod, peers: Peers, rounds: int) -> dict[int, dict[str, list[float]]]:
    """Milliseconds of one world, by size and method, of every round."""
    times: dict[int, dict[str, list[float]]] = {size: {OURS: [], SCIPY: []} for size in SIZES}
    for number in range(rounds):
        for size in SIZES:
            points = scattered(size, 1, number)
            seconds, labels = _ours(method, points)
            times[size][OURS].append(seconds * 1e3)
            seconds, others = peers.seconds(SCIPY, points)
            _same(SCIPY, labels, others, points)
            times[size][SCIPY].append(seconds * 1e3)
        shown = ", ".join(f"{size:,}: {taken[OURS][-1]:.2f} ({taken[SCIPY][-1]:.2f})" for size, taken in times.items())
        progress(f"cluster: round {number + 1} of {rounds}, ms a world (scipy): {shown}")
    return times


def _ours(method: CompiledMethod, points: Points) -> tuple[float, npt.NDArray[Any]]:
    batch = points.batch
    started = time.process_time()
    labels = method(batch)
    return time.process_time() - started, labels


def _one_by_one(method: CompiledMethod, points: Points) -> float:
    batches = [Points(points.places[a:b], layout([b - a])).batch for a, b in _ends(points)]
    started = time.process_time()
    for batch in batches:
        method(batch)
    return time.process_time() - started


def _ends(points: Points) -> Sequence[tuple[int, int]]:
    return list(itertools.pairwise(points.offsets.tolist()))


def _same(peer: str, ours: npt.NDArray[Any], others: npt.NDArray[Any], points: Points) -> None:
    if not np.array_equal(first_of_each(ours, points.offsets), first_of_each(others, points.offsets)):
        raise WrongAnswer(f"{peer} finds other components than Earshot")


def results(small: dict[str, list[float]], large: dict[int, dict[str, list[float]]]) -> list[Result]:
    """Medians beside their goals; a ratio is of the same round."""
    middle = {name: median(times) for name, times in small.items()}
    peers = {name: middle[name] for name in (SCIPY, ONE_TREE, DBSCAN)}
    last = large[SIZES[-1]]
    sizes = {size: median(times[OURS]) for size, times in large.items()}
    grown = growth((SIZES[0], sizes[SIZES[0]]), (SIZES[-1], sizes[SIZES[-1]]))
    return [
        Result(f"{SIZE} points, {WORLDS:,} worlds a call", middle[OURS], "us a world", BATCH_US, "less", peers),
        Result("  times scipy", _times(small[SCIPY], small[OURS]), "x", SCIPY_TIMES),
        Result("  times DBSCAN", _times(small[DBSCAN], small[OURS]), "x", DBSCAN_TIMES),
        Result("  times scipy, worlds in one tree", _times(small[ONE_TREE], small[OURS]), "x"),
        Result(f"{SIZE} points, one world a call", middle[SINGLE], "us a world"),
        Result(
            f"{SIZES[-1]:,} points", sizes[SIZES[-1]], "ms", LARGE_MS, "less", {SCIPY: median(last[SCIPY])},
        ),
        Result("  times scipy", _times(last[SCIPY], last[OURS]), "x", LARGE_TIMES),
        Result(f"cost from {SIZES[0]:,} to {SIZES[-1]:,} by n log n", grown, "x", 1.0, "less"),
        *(
            Result(f"{size:,} points", sizes[size], "ms", peers={SCIPY: median(large[size][SCIPY])})
            for size in SIZES[:-1]
        ),
    ]  # fmt: skip


def _times(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return median([their / our for their, our in zip(theirs, ours, strict=True)])
