"""`earshot bench chat`: the whole stack over HTTP before a model that takes a second, and how soon a barge-in cancels.

Earshot runs as its users start it, one process; the clients and the model are this one. `--seconds` is the time under
load (120 by default; `make soak` takes 600). `--brief` is what `make bench` takes: fewer lines, 20 s. `--profile` says
where the time of a line and its turn goes, instead.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench import profiling
from bench.catalogue import Options, progress
from bench.figures import percentile, slope
from bench.hall import TIMEOUT_S, Hall, Talk
from bench.result import Result
from bench.target import Target, earshot
from bench.turns import barge_in
from bench.wire import Client, Model

SECONDS, BRIEF_SECONDS = 120.0, 20.0
MODEL_MS = 1000.0
WORLDS, TABLES, RATE = 100, 10, 50.0
ACTIVE_WORLDS, ACTIVE_RATE = 10, 20.0
# Lines of one client; seconds of talk beside others; barge-ins.
LONG, SHORT = (200, 20.0, 40), (100, 10.0, 15)
PROFILE_SECONDS = 15.0
ALONE_MS, ACTIVE_MS = 10.0, 100.0
BOUNDS_S = {"urgent": 0.5, "conversation": 2.0}
# Memory is looked at once the worlds' memories of their logs are full or this share of the time has passed.
SETTLED = 0.4
GROWTH_PERCENT = 3.0
_WAIT = re.compile(
    r'^earshot_queue_wait_seconds_(bucket|count)\{(?:le="([^"]+)",)?queue="(\w+)"(?:,le="([^"]+)")?\} (\S+)'
)

Waits = Mapping[tuple[str, str], float]


def run(options: Options) -> list[dict[str, Any]]:
    """Records of all parts, or of the profile."""
    with tempfile.TemporaryDirectory() as folder:
        if options.profile:
            return asyncio.run(_profiled(Path(folder), options.seconds or PROFILE_SECONDS))
        lines, seconds, barge_ins = SHORT if options.brief else LONG
        progress(f"chat: {barge_ins} barge-ins")
        records = list(barge_in.run(options.rounds or barge_ins))
        records += asyncio.run(_latency(Path(folder), lines, seconds))
        loaded = options.seconds or (BRIEF_SECONDS if options.brief else SECONDS)
        return records + asyncio.run(_load(Path(folder), loaded))


async def _profiled(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Where the time of one process goes for a line with its turn."""
    async with Model(MODEL_MS) as model:
        under = [sys.executable, "-m", "bench.sampler", str(folder)]
        target = _target("profile", folder, model, under)
        await asyncio.to_thread(target.start, folder)
        try:
            hall = Hall(Client(target.port), ACTIVE_WORLDS, TABLES)
            await hall.open()
            await hall.greet()
            (pid,) = target.pids
            os.kill(pid, signal.SIGUSR1)
            before = sum(target.cpu_seconds())
            progress(f"chat: sampling for {seconds:g} s, {ACTIVE_RATE:g} lines/s")
            talk = await hall.talk(ACTIVE_RATE, seconds)
            spent = sum(target.cpu_seconds()) - before
        finally:
            await asyncio.to_thread(target.stop)
    samples = msgspec.json.decode((folder / f"{pid}.json").read_bytes())
    return [result.record() for result in profiling.results("[all]", samples, spent / len(talk.said) * 1e6)]


async def _latency(folder: Path, lines: int, seconds: float) -> list[dict[str, Any]]:
    """Utterance in to runtime asked: alone before a model that is quick, then beside others before a slow one."""
    alone = await _asked("alone", folder, 50.0, lambda hall: hall.alone(lines))
    active = await _asked("active", folder, MODEL_MS, lambda hall: hall.talk(ACTIVE_RATE, seconds))
    name, many = "utterance in to runtime asked", f"{ACTIVE_WORLDS * TABLES} conversations active"
    return [
        Result(f"{name}, one client, p50", percentile(alone, 0.5), "ms", ALONE_MS, "less").record(),
        Result(f"{name}, one client, p99", percentile(alone, 0.99), "ms", better="less").record(),
        Result(f"{name}, {many}, p50", percentile(active, 0.5), "ms", better="less").record(),
        Result(f"{name}, {many}, p99", percentile(active, 0.99), "ms", ACTIVE_MS, "less").record(),
    ]


async def _asked(name: str, folder: Path, model_ms: float, speak: Callable[[Hall], Awaitable[Talk]]) -> list[float]:
    """Milliseconds until the model was asked, in a server that has known this model only."""
    async with Model(model_ms) as model:
        target = _target(name, folder, model)
        await asyncio.to_thread(target.start, folder)
        try:
            hall = Hall(Client(target.port), ACTIVE_WORLDS, TABLES)
            await hall.open()
            await hall.greet()
            progress(f"chat: {ACTIVE_WORLDS * TABLES} conversations, the model takes {model_ms:g} ms")
            talk = await speak(hall)
            progress(f"chat: outcomes {dict(talk.outcomes)}")
            return talk.waits(model.asked)
        finally:
            await asyncio.to_thread(target.stop)


async def _load(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """100 worlds, 1,000 conversations, 50 lines a second."""
    async with Model(MODEL_MS) as model:
        target = _target("load", folder, model)
        await asyncio.to_thread(target.start, folder)
        try:
            hall = Hall(Client(target.port), WORLDS, TABLES)
            progress(f"chat: {WORLDS} worlds of {TABLES} conversations sit down")
            await hall.open()
            await hall.greet()
            before = await asyncio.to_thread(_waits, target.port)
            progress(f"chat: {RATE:g} lines/s for {seconds:g} s")
            memory: list[tuple[float, float]] = []
            cpu, calls = sum(target.cpu_seconds()), model.calls

            def tick(at: float) -> None:
                if not memory or at - memory[-1][0] >= 1:
                    memory.append((at, sum(map(_resident_mib, target.pids))))

            talk = await hall.talk(RATE, seconds, tick)
            cpu, calls = sum(target.cpu_seconds()) - cpu, model.calls - calls
            after = await asyncio.to_thread(_waits, target.port)
        finally:
            await asyncio.to_thread(target.stop)
    return _loaded(talk, model, seconds, cpu, calls, memory, before, after)


def _loaded(
    talk: Talk,
    model: Model,
    seconds: float,
    cpu: float,
    calls: int,
    memory: list[tuple[float, float]],
    before: Waits,
    after: Waits,
) -> list[dict[str, Any]]:
    name = f"{WORLDS} worlds, {WORLDS * TABLES} conversations, {RATE:g} lines/s, {seconds:g} s"
    lost = sum(count for what, count in talk.outcomes.items() if what not in ("replied", "silent"))
    progress(f"chat: outcomes {dict(talk.outcomes)}")
    waits = talk.waits(model.asked)
    progress(f"chat: {model.summaries} summaries")
    records = [
        Result(f"{name}: lines that failed or were refused", lost, "lines", 0, "less").record(),
        Result(f"{name}: addressed and not answered", len(talk.addressed - talk.answered), "lines", 0, "less").record(),
        Result(f"{name}: utterance in to runtime asked, p50", percentile(waits, 0.5), "ms", better="less").record(),
        Result(f"{name}: utterance in to runtime asked, p99", percentile(waits, 0.99), "ms", better="less").record(),
        Result(f"{name}: runtime calls per line, half of them by name", calls / len(talk.said), "calls").record(),
        Result(f"{name}: processor time", cpu / seconds, "cores", better="less").record(),
    ]
    for queue, bound in BOUNDS_S.items():
        asked = _grown(before, after, queue, "count")
        late = asked - _grown(before, after, queue, str(bound))
        records.append(
            Result(f"{name}: {queue} waits over {bound:g} s, of {asked:g}", late, "turns", 0, "less").record()
        )
    settled = [(at, mib) for at, mib in memory if at >= SETTLED * seconds]
    per_s = slope(settled)
    growth = 100 * per_s * (settled[-1][0] - settled[0][0]) / settled[0][1]
    records += [
        Result(f"{name}: memory at the end", settled[-1][1], "MiB", better="less").record(),
        # Until the bounds of what is kept in memory are reached: log entries and outcomes of a world, traces, pages.
        Result(f"{name}: its growth a line", 1024 * per_s / RATE, "KiB", better="less").record(),
        Result(
            f"{name}: its growth in the last {100 * (1 - SETTLED):.0f} %", growth, "%", GROWTH_PERCENT, "less"
        ).record(),
    ]
    return records


def _target(name: str, folder: Path, model: Model, under: Sequence[str] = ()) -> Target:
    environment = {
        "EARSHOT_RUNTIMES": "openai",
        "EARSHOT_OPENAI_BASE_URL": model.base_url,
        "EARSHOT_OPENAI_API_KEY": "unused",
        "EARSHOT_GREETINGS": "false",
        "EARSHOT_RUNTIME_CONCURRENCY": "128",
    }
    return earshot(name, folder, "all", environment=environment, under=under)


def _waits(port: int) -> dict[tuple[str, str], float]:
    """The histogram of waits for a worker: (queue, upper edge or count) -> turns."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S).text
    found = {}
    for line in text.splitlines():
        match = _WAIT.match(line)
        if match is not None:
            kind, first, queue, last, value = match.groups()
            edge = "count" if kind == "count" else str(float(first or last))
            found[queue, edge] = float(value)
    return found


def _grown(before: Waits, after: Waits, queue: str, edge: str) -> float:
    return after.get((queue, edge), 0.0) - before.get((queue, edge), 0.0)


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0
