"""The benches by name, and what `earshot bench` gives to each."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import BadInput

# Name -> module with `run(options) -> list of records`.
BENCHES: Mapping[str, str] = {
    "ingest": "bench.ingest",
    "cluster": "bench.cluster",
    "turns": "bench.next_speaker",
    "sync": "bench.sync",
    "letta": "bench.letta_sync",
    "edge": "bench.edge.suite",
    "runtimes": "bench.runtimes",
    "chat": "bench.chat",
    "telemetry": "bench.telemetry",
    "recall": "bench.recall",
    "scale": "bench.scale",
    "hour": "bench.hour",
    "load": "bench.evening",
    "store": "bench.store",
}


@dataclass(frozen=True, slots=True)
class Options:
    """seconds: time under load of each measurement; None = the bench's own. corpus: directory that `turns` reads.

    profile: where the time goes, instead (ingest, chat). brief: the short form of a long one (chat).
    """

    seconds: float | None = None
    rounds: int | None = None
    profile: bool = False
    corpus: Path | None = None
    brief: bool = False


def run(name: str, options: Options) -> list[dict[str, Any]]:
    """The results of one bench. Raises BadInput with the known names, and what the bench raises."""
    if name not in BENCHES:
        raise BadInput(f"no bench {name}; benches: {', '.join(BENCHES)}", reason="UNKNOWN_BENCH")
    records: list[dict[str, Any]] = importlib.import_module(BENCHES[name]).run(options)
    return records


def machine() -> str:
    """What the figures were measured on, in one line."""
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load before {os.getloadavg()[0]:.2f}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def progress(text: str) -> None:
    """One line on stderr: stdout is the result's."""
    print(text, file=sys.stderr, flush=True)
