"""Where a process's CPU time goes: its main thread's stack, looked at a thousand times per CPU second.

`python -m bench.sampler FOLDER up ...` runs the command line and writes FOLDER/PID.json at the end; SIGUSR1 begins the
count anew, so that start-up is left out. The timer counts the CPU time of all threads: what other threads use while
the main thread waits shows up as time of the wait. Costs a few per cent, unlike a tracing profiler, whose cost per
call makes small functions look expensive.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from services.cli import main

INTERVAL_S = 0.001
DEPTH = 120


class Sampler:
    """Counts of functions by where time was spent and under what."""

    def __init__(self) -> None:
        self.samples = 0
        # (file, function, line) of the innermost frame.
        self.lines: Counter[tuple[str, str, int]] = Counter()
        # (file, function) anywhere on the stack, once per sample.
        self.under: Counter[tuple[str, str]] = Counter()

    def look(self, _number: int, frame: FrameType | None) -> None:
        """One sample."""
        self.samples += 1
        if frame is not None:
            self.lines[frame.f_code.co_filename, frame.f_code.co_qualname, frame.f_lineno] += 1
        seen: set[tuple[str, str]] = set()
        while frame is not None and len(seen) < DEPTH:
            seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))
            frame = frame.f_back
        self.under.update(seen)

    def reset(self, _number: int, _frame: FrameType | None) -> None:
        """Forget everything so far."""
        self.samples = 0
        self.lines.clear()
        self.under.clear()

    def record(self) -> dict[str, object]:
        """What was counted, as JSON."""
        return {
            "samples": self.samples,
            "lines": [[*where, count] for where, count in self.lines.most_common()],
            "under": [[*where, count] for where, count in self.under.most_common()],
        }


def run(out: Path, arguments: list[str]) -> int:
    """Run the command line under the sampler."""
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.look)
    signal.signal(signal.SIGUSR1, sampler.reset)
    # A system call that the timer interrupts goes on instead of failing where Python does not look.
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
    try:
        return main(arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        (out / f"{os.getpid()}.json").write_text(json.dumps(sampler.record()), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run(Path(sys.argv[1]), sys.argv[2:]))
