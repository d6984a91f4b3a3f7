"""`earshot bench telemetry`: what measuring, tracing and looking cost.

Two Earshots run at once and take their turns: one as users run it (metrics on, one per cent of requests traced and
exported), one with EARSHOT_TELEMETRY=false. Ratios are taken within a round, medians over the rounds.
"""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import crowd, target
from bench.catalogue import Options, progress
from bench.figures import median
from bench.ingest import own_folder
from bench.load import LoadProcess, Order
from bench.result import Result
from bench.scope import measured as scope_measured
from bench.target import Target, TargetFailed
from bench.trace_sink import TraceSink

ROUNDS, SECONDS = 7, 2.0
CONNECTIONS, WORLDS = 32, 1000
TURNS, TRIES = 60, 25
# Conversations have an allowance: turns go round among as many.
INNS = 6
QUIET = {"EARSHOT_GREETINGS": "false", "EARSHOT_PLAYER_MESSAGES_PER_10S": "100000", "EARSHOT_WORLDS_MAX": "2000"}
ON, OFF = "telemetry on", "telemetry off"


def run(options: Options) -> list[dict[str, Any]]:
    """Records of the bench. Raises TargetFailed."""
    rounds, seconds = options.rounds or ROUNDS, options.seconds or SECONDS
    with own_folder("telemetry") as folder:
        found = _cost(folder, rounds, seconds)
        return [result.record() for result in [*found, *scope_measured(folder)]]


def _cost(folder: Path, rounds: int, seconds: float) -> list[Result]:
    rates: list[float] = []
    cpus: list[float] = []
    turns: list[float] = []
    with ExitStack() as stack:
        sink = stack.enter_context(TraceSink())
        measured = {"EARSHOT_OTLP_ENDPOINT": sink.endpoint, "EARSHOT_TRACE_SAMPLE": "0.01"}
        both = [
            target.earshot(ON, folder, "all", environment={**QUIET, **measured}),
            target.earshot(OFF, folder, "all", environment={**QUIET, "EARSHOT_TELEMETRY": "false"}),
        ]
        for one in both:
            progress(f"telemetry: starting {one.name}")
            stack.callback(one.stop)
            one.start(folder)
        load = stack.enter_context(LoadProcess())
        for one in both * 2:
            load.run(Order(one.port, connections=CONNECTIONS, seconds=2.0, marker=one.marker))
            one.settle(30.0)
        for one in both:
            _people(one)
        for number in range(rounds):
            order = both if number % 2 == 0 else both[::-1]
            of = {one.name: _round(load, one, seconds) for one in order}
            p50 = _turns(order)
            rates.append(of[ON][0] / of[OFF][0])
            cpus.append(of[ON][1] / of[OFF][1])
            turns.append(p50[ON] / p50[OFF])
            progress(
                f"telemetry: round {number + 1} of {rounds}: "
                + ", ".join(f"{name} {rate:.0f}/s {cpu:.0f} us {p50[name]:.1f} ms" for name, (rate, cpu) in of.items())
            )
        if not sink.exports:
            raise TargetFailed("no trace was exported: tracing was not on")
        series = _series(both[0])
    return [
        Result("snapshots a second, telemetry on by off", median(rates), "ratio", 0.90),
        Result("CPU a snapshot, telemetry on by off", median(cpus), "ratio"),
        Result("p50 of a turn, telemetry on by off", median(turns), "ratio", 1.05, "less"),
        Result(f"series of a process with {WORLDS} worlds", series, "series", 1000, "less"),
    ]


def _round(load: LoadProcess, one: Target, seconds: float) -> tuple[float, float]:
    """(snapshots a second, CPU microseconds a snapshot)."""
    before = sum(one.cpu_seconds())
    outcome = load.run(Order(one.port, connections=CONNECTIONS, seconds=seconds, marker=one.marker))
    cpu = (sum(one.cpu_seconds()) - before) / outcome.sent * 1e6
    one.settle(10.0)
    return outcome.rate, cpu


def _people(one: Target) -> None:
    """Worlds of two, for turns."""
    entities = [
        {"id": "mara", "kind": "npc", "name": "Mara", "position": {"x": 0, "y": 0, "z": 0}},
        {"id": "p1", "kind": "player", "name": "Ada", "position": {"x": 3, "y": 0, "z": 0}},
    ]
    for inn in range(INNS):
        patiently(one, json.dumps({"world": f"inn-{inn}", "entities": entities}).encode())


def _turns(both: Sequence[Target]) -> dict[str, float]:
    """p50 of POST /v1/messages from the request to the end of the turn, milliseconds, by target.

    One turn here, one there: what else the machine does meets both alike.
    """
    taken: dict[str, list[float]] = {one.name: [] for one in both}
    for number in range(TURNS):
        for one in both if number % 2 else both[::-1]:
            say = {"world": f"inn-{number % INNS}", "player_id": "p1", "text": f"Mara, number {number}?"}
            began = time.perf_counter()
            told = post(one.port, "/v1/messages", say)
            taken[one.name].append((time.perf_counter() - began) * 1000)
            if told["outcome"] != "replied":
                raise TargetFailed(f"a turn came to nothing: {told['outcome']} {told.get('reason', '')}")
    return {name: median(times) for name, times in taken.items()}


def _series(one: Target) -> int:
    """Series that a scrape answers once WORLDS worlds were used."""
    body = crowd.frames(0, 1)[0]
    world = json.loads(body)["world"]
    for number in range(WORLDS):
        other = body.replace(json.dumps(world).encode(), json.dumps(f"many-{number}").encode(), 1)
        patiently(one, other)
    text = fetch(one.port, "/metrics").decode()
    if int(float(re.findall(r"^earshot_worlds (\S+)", text, re.MULTILINE)[0])) < WORLDS:
        raise TargetFailed("the worlds are not there")
    return sum(1 for line in text.splitlines() if line and not line.startswith("#"))


def patiently(one: Target, body: bytes) -> None:
    """A snapshot that must arrive and is not timed: a busy machine may need several tries. Raises TargetFailed."""
    for _ in range(TRIES):
        status, _ = one.post(body)
        if status == 200:
            return
        time.sleep(0.2)
    raise TargetFailed(f"a snapshot was refused {TRIES} times: {status}")


def post(port: int, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON request on a connection of its own. Raises TargetFailed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise TargetFailed(f"{path}: {response.status} {content[:200]!r}")
        return dict(json.loads(content))
    finally:
        connection.close()


def fetch(port: int, path: str) -> bytes:
    """What is at a path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()
