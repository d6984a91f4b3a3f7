"""Every bench in turn, each a process of its own; then the page that shows them. `make bench` runs it.

    python -m bench.everything [--only NAME ...] [--corpus DIRECTORY] [--check]

Writes `bench/results/latest.json`, `docs/benchmarks.md` and `docs/pictures/bench-*.svg`, and says what became worse
than the results before by more than REGRESSION, compared by ratio to the peers of the same run: absolute figures change
with the machine. --check writes nothing and exits 1 on such a regression. A bench that fails or takes too long is
written down as not measured, with the reason, and does not stop the others. Results and page are written after each
part, so that a run that is ended has not been for nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import comparison, page
from bench.catalogue import machine, progress
from bench.peers import environment
from services.common.errors import EarshotError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "latest.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURES = ROOT / "docs" / "pictures"
VERSIONS = ("earshot", "grpcio", "protobuf", "msgspec", "numpy", "numba", "uvicorn", "letta-client", "openai")
# Conversations: needed, or of use.
CORPUS, MAYBE_CORPUS = "--corpus=DIRECTORY", "[--corpus=DIRECTORY]"
# A bench that is ended ends its servers, and gets so long for it.
GOODBYE_S = 30.0
# Lines of a bench's own words that may say why it failed.
WORDS = 20


@dataclass(frozen=True, slots=True)
class Part:
    """One command of the whole. limit_s: ended after this long; usual runs take less than half of it.

    These are the short forms: docs of each bench and `make soak` have the long ones.
    """

    arguments: tuple[str, ...]
    limit_s: float


PARTS = {
    "cluster": Part(("cluster", "--rounds=5"), 200),
    "ingest": Part(("ingest", "--rounds=2"), 300),
    "profile of a snapshot": Part(("ingest", "--profile", "--seconds=4"), 180),
    "sync": Part(("sync", "--seconds=60"), 300),
    "hour": Part(("hour", "--seconds=40"), 240),
    "load": Part(("load",), 240),
    "chat": Part(("chat", "--brief"), 360),
    "profile of a turn": Part(("chat", "--profile", "--seconds=10"), 200),
    "turns": Part(("turns", CORPUS), 300),
    "runtimes": Part(("runtimes",), 240),
    "recall": Part(("recall", MAYBE_CORPUS), 300),
    "edge": Part(("edge", "--seconds=6"), 400),
    "telemetry": Part(("telemetry", "--rounds=2"), 300),
    "scale": Part(("scale",), 300),
    "store": Part(("store", "--rounds=2"), 300),
    "letta": Part(("letta", "--seconds=10", "--rounds=1"), 420),
}


def main(argv: Sequence[str] | None = None) -> int:
    """0 = all parts were run and written down; 1 = --check found what became worse."""
    parser = argparse.ArgumentParser(prog="python -m bench.everything", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), help="these; the others keep their last results")
    parser.add_argument("--corpus", type=Path, help="directory of the conversations that `turns` reads")
    parser.add_argument("--check", action="store_true", help="compare with the committed results and write nothing")
    parsed = parser.parse_args(argv)
    before: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"benches": []}
    kept = {report["bench"]: report for report in before["benches"]}
    ran: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    with contextlib.suppress(EarshotError, OSError, subprocess.SubprocessError):  # the parts that need it say so
        environment.python()
    for number, name in enumerate(parsed.only or PARTS, 1):
        progress(f"== {name} ({number} of {len(parsed.only or PARTS)}, {time.monotonic() - began:.0f} s so far)")
        ran[name] = one(name, PARTS[name], parsed.corpus)
        if not parsed.check:
            write(_keep(before, kept, ran))
    worse = comparison.worse(before["benches"], list(ran.values()))
    for line in worse:
        print(f"worse: {line}")
    if parsed.check:
        return 1 if worse else 0
    after = _keep(before, kept, ran)
    missing = [name for name, report in ran.items() if report.get("error")]
    print(f"{sum(len(report['results']) for report in after['benches'])} figures: {PAGE}")
    print(f"not measured: {', '.join(missing) or 'nothing'}; {time.monotonic() - began:.0f} s")
    return 0


def _keep(before: dict[str, Any], kept: dict[str, Any], ran: dict[str, Any]) -> dict[str, Any]:
    """The results so far, on the disk."""
    after = {
        "machine": machine().partition(", load before")[0],
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "worse": comparison.worse(before["benches"], list(ran.values())),
        "benches": [report for name in PARTS if (report := ran.get(name, kept.get(name))) is not None],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(after, indent=1) + "\n")
    return after


def one(name: str, part: Part, corpus: Path | None) -> dict[str, Any]:
    """The report of a part, with its command and how long it took; {"error"} and no results when it failed."""
    told = machine()
    started, before = time.monotonic(), _processor_s()
    report: dict[str, Any]
    try:
        report = _measured(part, corpus)
    except NotMeasured as error:
        progress(f"{name} was not measured: {error}")
        report = {"error": str(error)}
    # As it was run: what may be given was given or not.
    given = {MAYBE_CORPUS: CORPUS if corpus is not None else ""}
    said = filter(None, (given.get(argument, argument) for argument in part.arguments))
    command = " ".join(("earshot", "bench", *said))
    took, spent = round(time.monotonic() - started), round(_processor_s() - before)
    return {
        "machine": told, "results": [], **report, "bench": name, "command": command, "s": took, "processor_s": spent,
    }  # fmt: skip


def _processor_s() -> float:
    """Of all processes that this one waited for, and those that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class NotMeasured(RuntimeError):
    """Why, for the page."""


def _measured(part: Part, corpus: Path | None) -> dict[str, Any]:
    arguments = [argument for argument in part.arguments if argument not in (CORPUS, MAYBE_CORPUS)]
    if len(arguments) < len(part.arguments) and corpus is not None:
        arguments.append(f"--corpus={corpus}")
    elif CORPUS in part.arguments:
        raise NotMeasured("its conversations are not ours to ship; CORPUS=DIRECTORY names them")
    words: deque[str] = deque(maxlen=WORDS)
    with subprocess.Popen(
        [sys.executable, "-m", "services", "bench", *arguments, "--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        listener = threading.Thread(target=_listen, args=(process, words), daemon=True)
        listener.start()
        try:
            told, late = _output(process, part.limit_s)
        finally:
            _end(process)
            listener.join(GOODBYE_S)
    if late:
        raise NotMeasured(f"not done after {part.limit_s:.0f} s")
    if process.returncode:
        # The last line of a traceback of several errors is a frame of dashes.
        last = next((word for word in reversed(words) if re.search(r"\w", word)), "it said nothing")
        raise NotMeasured(f"exit status {process.returncode}, last words: {last}")
    try:
        report: dict[str, Any] = json.loads(told)
    except ValueError:
        raise NotMeasured("its output is not one JSON object") from None
    return report


def _output(process: subprocess.Popen[str], limit_s: float) -> tuple[str, bool]:
    """What it printed, and whether it had to be ended."""
    assert process.stdout is not None, "opened with a pipe"
    late = threading.Event()

    def end() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(limit_s, end)
    timer.start()
    try:
        told = process.stdout.read()
        process.wait()
    finally:
        timer.cancel()
    return told, late.is_set()


def _listen(process: subprocess.Popen[str], words: deque[str]) -> None:
    """Pass on what a bench says of its progress, with the time."""
    assert process.stderr is not None, "opened with a pipe"
    began = time.monotonic()
    for line in process.stderr:
        if line.strip():
            words.append(line.strip())
            progress(f"{time.monotonic() - began:5.0f} s  {line.rstrip()}")


def _end(process: subprocess.Popen[str]) -> None:
    """A bench with everything that it started: asked first, then not."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GOODBYE_S)
    with contextlib.suppress(ProcessLookupError):  # nothing of its group is left
        os.killpg(process.pid, signal.SIGKILL)


def write(results: dict[str, Any]) -> None:
    """The page and its pictures, of results as `latest.json` has them."""
    pictures = {page.picture_of(report): page.picture(report) for report in results["benches"]}
    for name, picture in pictures.items():
        if picture:
            (PICTURES / name).write_text(picture)
        else:
            (PICTURES / name).unlink(missing_ok=True)
    PAGE.write_text(page.markdown(results, {name for name, picture in pictures.items() if picture}))


if __name__ == "__main__":
    sys.exit(main())
