"""A thousand sessions that each hold a long poll, and a few events a second over all of them."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import target
from bench.catalogue import progress
from bench.edge.pollers import world_of
from bench.figures import percentile
from bench.load import ROOT
from bench.result import Result
from bench.target import Target, TargetFailed

SERVERS = 1000
HOLD_S = 20.0
EVENTS_PER_S = 20.0
# An utterance to an NPC without a model is four events: said, turn begun, answered, turn ended.
EVENTS_EACH = 4
SECONDS = 20.0
SETTLE_S = 60.0
LATENCY_MS, POLL_KIB, CPU_SHARE = 250.0, 60.0, 0.10
ROSTER = {"npcs": [{"id": "mara", "display_name": "Mara", "persona": "Keeps the inn.", "lines": ["Sit down."]}]}
SETTINGS = {"EARSHOT_GREETINGS": "false"}


class Pollers:
    """The pollers' process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, order: str = "") -> dict[str, Any]:
        """What they have seen since the last time. Raises TargetFailed when they are gone."""
        assert self._process.stdin is not None, "opened with a pipe"
        assert self._process.stdout is not None, "opened with a pipe"
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise TargetFailed("the pollers ended")
        return dict(json.loads(line))


@contextmanager
def pollers(port: int) -> Iterator[Pollers]:
    """So many sessions, open; ended by its own id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.edge.pollers", str(port), str(SERVERS), str(HOLD_S)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Pollers(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def run(folder: Path, seconds: float | None) -> list[Result]:
    """Results; starts its own server. Raises TargetFailed."""
    time_s = seconds or SECONDS
    one = target.earshot("held polls", folder, "all", environment=SETTINGS)
    try:
        one.start(folder)
        _ask(one, "PUT", "/v1/npcs", ROSTER)
        with pollers(one.port) as games:
            games.tell()
            one.settle(SETTLE_S)
            progress(f"edge: {SERVERS} sessions are open")
            before = one.resident_bytes()
            games.tell("poll")
            _wait_held(one)
            one.settle(SETTLE_S)
            each = (one.resident_bytes() - before) / SERVERS
            idle = _cpu(one, max(time_s, HOLD_S))
            games.tell()
            busy = one.cpu_seconds()[0]
            said, began = _say(one, time_s), time.monotonic()
            told = games.tell()
            took = time.monotonic() - began + time_s
            busy = (one.cpu_seconds()[0] - busy) / took
    finally:
        one.stop()
    latencies, late = sorted(told["latencies"]), sorted(told["late"])
    progress(
        f"edge: {said} sentences, {len(latencies)} events in {time_s:g} s; answers {told['statuses']}; CPU {busy:.2f}"
    )
    beside = {"a sleeping process wakes too late by": percentile(late, 0.99)}
    return [
        Result(f"{SERVERS} polls: events", len(latencies) / time_s, "1/s", EVENTS_PER_S),
        Result(f"{SERVERS} polls: event to client p50", percentile(latencies, 0.5), "ms"),
        Result(f"{SERVERS} polls: event to client p99", percentile(latencies, 0.99), "ms", LATENCY_MS, "less", beside),
        Result(f"{SERVERS} polls: memory of an idle poll", each / 1024, "KiB", POLL_KIB, "less"),
        Result(f"{SERVERS} polls: CPU while nothing happens", idle, "cores", CPU_SHARE, "less"),
    ]


def _ask(one: Target, method: str, path: str, body: Any) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=30)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        told = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise TargetFailed(f"{method} {path} answered {answer.status}: {told[:300]!r}")
    return told


def _wait_held(one: Target) -> None:
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        text = _ask(one, "GET", "/metrics", None).decode()
        held = [line for line in text.splitlines() if line.startswith('earshot_connections{transport="poll"}')]
        if held and float(held[0].split()[1]) >= SERVERS:
            return
        time.sleep(0.2)
    raise TargetFailed("the polls were not held")


def _cpu(one: Target, seconds: float) -> float:
    """Share of a core that the server uses."""
    before = sum(one.cpu_seconds())
    time.sleep(seconds)
    return (sum(one.cpu_seconds()) - before) / seconds


def _say(one: Target, seconds: float) -> int:
    """Sentences at an even pace, each in another world; how many."""
    pace = EVENTS_EACH / (EVENTS_PER_S * 1.1)
    began = time.monotonic()
    said = 0
    while time.monotonic() - began < seconds:
        number = said * 7 % SERVERS
        body = {"world": world_of(number), "player_id": f"77{number:05d}", "text": "Mara, good evening!", "wait": False}
        _ask(one, "POST", "/v1/messages", body)
        said += 1
        time.sleep(max(0.0, began + said * pace - time.monotonic()))
    time.sleep(1.0)  # the last ones' turns
    return said
