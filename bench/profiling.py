"""`earshot bench ingest --profile`: where each process's time goes for a snapshot, by function and by line.

Figures are microseconds of CPU a snapshot: "in" counts a function with all that it calls, "at" a line by itself.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import target
from bench.catalogue import progress
from bench.load import LoadProcess, Order
from bench.result import Result

CONNECTIONS = 32
TOPOLOGIES = (("all",), ("edge", "state,cluster"))
FUNCTIONS, LINES = 60, 40
PREFIX = re.compile(rf"^{re.escape(str(target.ROOT))}/|^.*/(?:site|dist)-packages/|^.*/lib/python[\d.]+/")


def run(folder: Path, seconds: float, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Profile one process with all rooms, then an edge before state and cluster, under load."""
    found: list[Result] = []
    with LoadProcess() as load:
        for processes in TOPOLOGIES:
            found += _profiled(load, folder, processes, seconds, environment)
    return [result.record() for result in found]


def _profiled(
    load: LoadProcess, folder: Path, processes: Sequence[str], seconds: float, environment: Mapping[str, str]
) -> list[Result]:
    name = " | ".join(processes)
    under = [sys.executable, "-m", "bench.sampler", str(folder)]
    one = target.earshot("profile", folder, *processes, environment=environment, under=under)
    try:
        progress(f"ingest: starting {name} under the sampler")
        one.start(folder)
        for _ in range(2):
            load.run(Order(one.port, connections=CONNECTIONS, seconds=2.0, marker=one.marker))
            one.settle(60.0)
        pids = one.pids
        for pid in pids:
            os.kill(pid, signal.SIGUSR1)
        before = one.cpu_seconds()
        progress(f"ingest: sampling for {seconds:g} s")
        outcome = load.run(Order(one.port, connections=CONNECTIONS, seconds=seconds, marker=one.marker))
        after = one.cpu_seconds()
    finally:
        one.stop()
    found: list[Result] = []
    for process, pid, earlier, later in zip(processes, pids, before, after, strict=True):
        samples: dict[str, Any] = msgspec.json.decode((folder / f"{pid}.json").read_bytes())
        found += results(f"[{process}]", samples, (later - earlier) / outcome.sent * 1e6)
    return found


def results(process: str, samples: Mapping[str, Any], cpu_us: float) -> list[Result]:
    """One process: the sampler's counts as microseconds a snapshot, of `cpu_us` in all."""
    total: int = max(samples["samples"], 1)

    def micros(count: int) -> float:
        return cpu_us * count / total

    parts: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for file, function, line, count in samples["lines"]:
        parts[part(file)] += count
        lines[f"{short(file)}:{line} {function}"] += count
    under = [(f"{short(file)} {function}", count) for file, function, count in samples["under"] if ours(file)]
    return [
        Result(f"{process} all", cpu_us, "us"),
        *_top(f"{process} own time of", parts.most_common(), micros, len(parts)),
        *_top(f"{process} in", under, micros, FUNCTIONS),
        *_top(f"{process} at", lines.most_common(), micros, LINES),
    ]


def _top(what: str, counts: Iterable[tuple[str, int]], micros: Callable[[int], float], most: int) -> list[Result]:
    return [Result(f"{what} {name}", micros(count), "us") for name, count in list(counts)[:most]]


def short(file: str) -> str:
    """A path from the package on."""
    return PREFIX.sub("", file)


def ours(file: str) -> bool:
    """Whether a file is Earshot's."""
    return short(file).startswith("services/") and "services/cli/" not in file


def part(file: str) -> str:
    """The room of a file of ours, else its package; python for the standard library."""
    names = short(file).split("/")
    if names[0] == "services":
        return "/".join(names[:2])
    return "python" if "/lib/python" in file and "-packages/" not in file else names[0]
