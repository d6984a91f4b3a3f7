"""A long run with churn and faults: does anything grow that should not (R10)?

    python -m tests.faults.soak [--minutes 60] [--servers 24] [--seed N]

Game servers come, play and go, for as long as it lasts; the model behind them fails in every way now and then. What is
kept has short ages and small numbers here, so that it is full, and must stop growing, early on. Memory, tasks,
descriptors, threads, rows of every table and metric series are looked at every few seconds; each game server's history
is judged as it leaves. Kills are not in it: they would begin the counting anew (`python -m tests.faults.rounds`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.e2e.stack import EMBEDDED, Stack, free_ports
from tests.fakes.fake_model import FakeModel
from tests.faults.bed import ROOMY, cast
from tests.faults.game import Game, ends
from tests.faults.history import History, violations
from tests.faults.proxy import NONE, Fault, Proxy

# Everything that ages does so within a minute or two; what has a number has a small one.
AGEING = {
    **ROOMY,
    "EARSHOT_EVENTS_PER_WORLD": "300",
    "EARSHOT_RETENTION_H": "0.01",
    "EARSHOT_RECALL_DAYS": "0.0004",
    "EARSHOT_RECALL_LINES": "2000",
    "EARSHOT_WORLD_EXPIRY_S": "30",
    "EARSHOT_SESSION_ABSENCE_S": "20",
    "EARSHOT_FIRST_SENTENCE_S": "0.5",
    "EARSHOT_PATIENCE_S": "1.5",
    "EARSHOT_TURN_DEADLINE_S": "5",
}
FAULTS = (
    NONE, Fault(delay_s=0.3), NONE, Fault(reset=True), NONE, Fault(black_hole=True), NONE, Fault(bytes_per_s=2000),
    NONE, Fault(drop=True), NONE, Fault(refuse=True),
)  # fmt: skip
FAULT_S = 10.0
LOOK_S = 5.0
# Seconds that a game server lives.
LIVES = (15.0, 40.0)
# Rows that are kept for a day whatever the settings: turns that were answered, so that none is executed twice.
DAY_LONG = {"sync.intent"}
# Of the run; what comes before is filling.
WARM = 0.4


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw. Sizes in bytes."""

    at: float
    memory: int
    tasks: int
    descriptors: int
    threads: int
    series: int
    rows: int
    files: int
    tables: dict[str, int]


@dataclass
class Soak:
    """One run. `looks` and `wrong` are its result."""

    seconds: float
    servers: int
    rng: random.Random
    looks: list[Look] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    acknowledged: int = 0
    lived: int = 0

    def run(self, folder: Path) -> None:
        asyncio.run(self._run(folder))

    async def _run(self, folder: Path) -> None:
        (port,) = free_ports(1)
        async with FakeModel(port=port), Proxy(("127.0.0.1", port)) as model:
            chosen = {
                "EARSHOT_OPENAI_BASE_URL": f"http://127.0.0.1:{model.port}/v1",
                "EARSHOT_OPENAI_API_KEY": "unused",
            }
            stack = Stack(folder / "data", EMBEDDED, {**AGEING, **chosen})
            try:
                await asyncio.to_thread(stack.start)
                await asyncio.to_thread(cast, stack)
                await self._live(stack, model)
            finally:
                await asyncio.to_thread(stack.stop)
                stack.http.close()

    async def _live(self, stack: Stack, model: Proxy) -> None:
        until = time.monotonic() + self.seconds
        client = httpx.AsyncClient(base_url=stack.url, timeout=10, trust_env=False)
        async with client as http, asyncio.TaskGroup() as group:
            for place in range(self.servers):
                group.create_task(self._place(stack, http, place, until))
            group.create_task(self._trouble(model, until))
            group.create_task(self._watch(stack, http, until))

    async def _place(self, stack: Stack, http: httpx.AsyncClient, place: int, until: float) -> None:
        """One game server after the other."""
        number = 0
        while time.monotonic() < until:
            number += 1
            game = Game(f"soak-{place}-{number}", History(), http, pace_s=0.5, expires=True)
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as playing:
                playing.create_task(game.play(stop))
                playing.create_task(game.listen(stop))
                await asyncio.sleep(min(self.rng.uniform(*LIVES), max(until - time.monotonic(), 1.0)))
                stop.set()
            found = await asyncio.to_thread(ends, stack.http, [game.world], trimmed=True)
            self.wrong += [f"{one.kind} {one.world}: {one.what}" for one in violations(game.history, found)]
            self.acknowledged += game.history.acknowledged()
            self.lived += 1
            with contextlib.suppress(httpx.HTTPError):
                await http.delete("/v1/sessions/current", headers=game.headers)

    async def _trouble(self, model: Proxy, until: float) -> None:
        number = 0
        while time.monotonic() < until:
            model.fault = FAULTS[number % len(FAULTS)]
            number += 1
            await asyncio.sleep(FAULT_S)
        model.fault = NONE

    async def _watch(self, stack: Stack, http: httpx.AsyncClient, until: float) -> None:
        began = time.monotonic()
        (process,) = stack.processes.values()
        while time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(httpx.HTTPError):
                metrics = (await http.get("/metrics")).text
                self.looks.append(look(time.monotonic() - began, process.pid, metrics, stack.data))


def look(at: float, process: int, metrics: str, data: Path) -> Look:
    """A process and its stores, now."""
    status = Path(f"/proc/{process}/status").read_text()
    samples = [line for line in metrics.splitlines() if line and not line.startswith("#")]
    tasks = next((float(line.split()[-1]) for line in samples if line.startswith("earshot_loop_tasks ")), 0.0)
    tables = {f"{store.stem}.{name}": rows for store in data.glob("*.db") for name, rows in _tables(store).items()}
    return Look(
        at,
        memory=_field(status, "VmRSS") * 1024,
        tasks=round(tasks),
        descriptors=len(list(Path(f"/proc/{process}/fd").iterdir())),
        threads=_field(status, "Threads"),
        series=len(samples),
        rows=sum(rows for table, rows in tables.items() if table not in DAY_LONG),
        files=sum(file.stat().st_size for file in data.glob("*.db*")),
        tables=tables,
    )


def _field(status: str, name: str) -> int:
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


def _tables(store: Path) -> dict[str, int]:
    """Rows of every table of a store, counted beside whoever writes it."""
    plain = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)) as db:
        names = [name for (name,) in db.execute(plain)]
        return {name: int(db.execute(f"SELECT count(*) FROM '{name}'").fetchone()[0]) for name in names}


def slope(looks: Sequence[Look], what: str) -> float:
    """Growth an hour, as a share of the median, after the warm-up: the median of all pairs' slopes (Theil and Sen)."""
    kept = [one for one in looks if one.at >= WARM * looks[-1].at]
    middle = statistics.median(getattr(one, what) for one in kept)
    slopes = [
        (getattr(later, what) - getattr(earlier, what)) / (later.at - earlier.at)
        for place, earlier in enumerate(kept)
        for later in kept[place + 1 :]
    ]
    return statistics.median(slopes) * 3600 / middle if slopes and middle else 0.0


def grown(looks: Sequence[Look], what: str) -> float:
    """Median of the last fifth over the median of the first fifth after the warm-up."""
    kept = [getattr(one, what) for one in looks if one.at >= WARM * looks[-1].at]
    fifth = max(len(kept) // 5, 1)
    return float(statistics.median(kept[-fifth:]) / max(statistics.median(kept[:fifth]), 1))


COUNTED = ("tasks", "descriptors", "threads", "series", "rows")
# Of an hour's run: growth an hour of memory, and of what must not grow at all, between the first and the last of it.
MEMORY_AN_HOUR, GROWN = 0.01, 1.1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--servers", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    soak = Soak(options.minutes * 60, options.servers, random.Random(options.seed))
    with tempfile.TemporaryDirectory() as folder:
        soak.run(Path(folder))
    print(f"{options.minutes:g} minutes: {soak.lived} game servers lived, {soak.acknowledged} writes acknowledged")
    missed = list(soak.wrong)
    for what in ("memory", *COUNTED, "files"):
        first, last = getattr(soak.looks[0], what), getattr(soak.looks[-1], what)
        an_hour, times = slope(soak.looks, what), grown(soak.looks, what)
        print(f"{what:12} {first:>12} at first, {last:>12} at last; {an_hour:+8.2%} an hour, x{times:.3f} when warm")
        if an_hour >= MEMORY_AN_HOUR if what == "memory" else what in COUNTED and times > GROWN:
            missed.append(f"{what} grows")
    warm = next(one for one in soak.looks if one.at >= WARM * soak.looks[-1].at)
    for table, rows in sorted(soak.looks[-1].tables.items()):
        if rows > warm.tables.get(table, 0) + 20:
            print(f"  {table}: {warm.tables.get(table, 0)} rows after the warm-up, {rows} at last")
    for line in missed:
        print(f"MISSED: {line}")
    print(json.dumps([[round(one.at), one.memory, one.tasks, one.rows, one.files] for one in soak.looks[::6]]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
