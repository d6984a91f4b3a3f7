"""Every bench in turn, each a process of its own; then the page that shows them. `make bench` runs it.

    python -m bench.everything [--only NAME ...] [--seconds S] [--rounds N] [--check]

Writes `bench/results/latest.json`, `docs/benchmarks.md` and `docs/pictures/bench-*.svg`, and prints what became worse
than the committed results by more than REGRESSION, compared by ratio to the peers of the same run: absolute figures
change with the machine. --check writes nothing and exits 1 on such a regression. A bench that fails is written down as
failed and does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import comparison, page
from bench.catalogue import BENCHES, machine, progress

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "latest.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURES = ROOT / "docs" / "pictures"
# One bench may take this long before it is ended and written down as failed.
LONGEST_S = 600.0
VERSIONS = ("earshot", "grpcio", "protobuf", "msgspec", "numpy", "numba", "uvicorn", "letta-client", "openai")


def main(argv: Sequence[str] | None = None) -> int:
    """0 = all ran and nothing became worse, or it was written down; 1 = --check found what did."""
    parser = argparse.ArgumentParser(prog="python -m bench.everything", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHES), help="these; the others keep their last results")
    parser.add_argument("--seconds", type=float, help="time under load of each measurement")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--check", action="store_true", help="compare with the committed results and write nothing")
    parsed = parser.parse_args(argv)
    options = [f"--{name}={value}" for name in ("seconds", "rounds") if (value := getattr(parsed, name)) is not None]
    before: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"benches": []}
    ran = {name: one(name, options) for name in parsed.only or BENCHES}
    kept = {report["bench"]: report for report in before["benches"]}
    after: dict[str, Any] = {
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "benches": [report for name in BENCHES if (report := ran.get(name, kept.get(name))) is not None],
    }
    worse = comparison.worse(before["benches"], list(ran.values()))
    for line in worse:
        print(f"worse: {line}")
    if parsed.check:
        return 1 if worse else 0
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(after, indent=1) + "\n")
    write(after)
    print(f"{sum(len(report['results']) for report in after['benches'])} figures: {PAGE.relative_to(ROOT)}")
    return 0


def one(name: str, options: Sequence[str]) -> dict[str, Any]:
    """The report of a bench, with how long it took; {"error"} and no results when it failed."""
    command = [sys.executable, "-m", "services", "bench", name, "--json", *options]
    progress(f"== {name}")
    started = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, timeout=LONGEST_S)
        report: dict[str, Any] = (
            json.loads(done.stdout) if done.returncode == 0 else {"error": f"exit status {done.returncode}"}
        )
    except subprocess.TimeoutExpired:
        report = {"error": f"not done after {LONGEST_S:.0f} s"}
    except ValueError:
        report = {"error": "its output is not one JSON object"}
    took = round(time.monotonic() - started)
    return {
        "bench": name,
        "machine": machine(),
        "results": [],
        **report,
        "command": " ".join(shown(command)),
        "s": took,
    }


def shown(command: Sequence[str]) -> list[str]:
    """A command as a reader would type it."""
    return ["earshot", *command[3:]]


def write(results: dict[str, Any]) -> None:
    """The page and its pictures, of results as `latest.json` has them."""
    pictures = {f"bench-{report['bench']}.svg": page.picture(report) for report in results["benches"]}
    for name, picture in pictures.items():
        if picture:
            (PICTURES / name).write_text(picture)
    PAGE.write_text(page.markdown(results, {name for name, picture in pictures.items() if picture}))


if __name__ == "__main__":
    sys.exit(main())
