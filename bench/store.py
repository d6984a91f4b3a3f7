"""`earshot bench store`: what the shared store costs, and what a second replica of every room costs on one machine.

Snapshots as in `earshot bench ingest`, on SQLite and on a redis-server that flushes every write; then over one replica
of state, sync and chat behind an edge, and over two. All servers of a comparison run in the same rounds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from bench import target
from bench.catalogue import Options, progress
from bench.figures import median
from bench.ingest import MANY, QUIET, SETTLE_FIRST_S, SETTLE_S, WARM_UP_S, own_folder
from bench.load import LoadProcess, Order, Outcome
from bench.result import Result
from bench.target import Command, Target, TargetFailed

ROUNDS = 5
SECONDS = 2.0
# A cold machine compiles first.
WARM_UPS = 2
SQLITE, REDIS = "SQLite", "Redis"
ONE, TWO = "1+1+1 replicas", "2+2+2 replicas"
OVERHEAD, SHARED, COST = 0.6, 0.8, 1.15
REPLICA = "cluster,state,sync,chat"
START_S = 20.0

Measured = dict[str, list[tuple[Outcome, float]]]
"""By target: each round's outcome and CPU of its processes, microseconds a snapshot."""


def run(options: Options) -> list[dict[str, Any]]:
    """Records of the bench. Raises TargetFailed, also where there is no redis-server."""
    rounds, seconds = options.rounds or ROUNDS, options.seconds or SECONDS
    with own_folder("store") as folder, redis_server(folder) as server:
        stores = [_one_process(folder, SQLITE), _one_process(folder, REDIS, f"{server}/0")]
        replicas = [replicated(folder, ONE, f"{server}/1", 1), replicated(folder, TWO, f"{server}/2", 2)]
        found = measured(folder, stores, rounds, seconds)
        found |= measured(folder, replicas, rounds, seconds)
    return [result.record() for result in results(found)]


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A server that keeps what it answers, on a free port; its address."""
    if shutil.which("redis-server") is None:
        raise TargetFailed("redis-server is not installed (Debian: apt-get install redis-server)")
    (port,) = target.free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
               "--appendonly", "yes", "--appendfsync", "always", "--save", ""]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        with redis.Redis(port=port) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.exceptions.RedisError:
                    if time.monotonic() > deadline:
                        raise TargetFailed("redis-server did not start") from None
                    time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _one_process(folder: Path, name: str, store: str = "") -> Target:
    return target.earshot(
        name, folder, "edge,state,cluster", environment={**QUIET, **({"EARSHOT_STORE": store} if store else {})}
    )


def replicated(folder: Path, name: str, store: str, replicas: int) -> Target:
    """An edge and so many processes of all other rooms."""
    (listen,) = target.free_ports(1)
    commands = [_process(folder, name, store, listen, "edge", 0)]
    commands += [_process(folder, name, store, listen, REPLICA, number + 1) for number in range(replicas)]
    return Target(name, listen, commands, marker='"outcome":"applied"')


def _process(folder: Path, name: str, store: str, listen: int, rooms: str, number: int) -> Command:
    names = ("STATE", "CLUSTER", "SYNC", "CHAT")
    ports: Mapping[str, int] = dict(zip(names, target.free_ports(len(names)), strict=True))
    return Command(
        [sys.executable, "-m", "services", "up", "--target", rooms],
        {
            **QUIET,
            **{f"EARSHOT_{room}_ADDR": f"127.0.0.1:{port}" for room, port in ports.items()},
            "EARSHOT_LISTEN": f"127.0.0.1:{listen}",
            "EARSHOT_LOG_LEVEL": "warning",
            "EARSHOT_RUNTIMES": "offline",
            "EARSHOT_STORE": store,
            "EARSHOT_DATA": str(folder / f"{name.replace(' ', '-')}-{number}"),
        },
    )


def measured(folder: Path, targets: list[Target], rounds: int, seconds: float) -> Measured:
    """Every target in every round, another one first each time."""
    found: Measured = {one.name: [] for one in targets}
    with ExitStack() as stack:
        for one in targets:
            progress(f"store: starting {one.name}")
            stack.callback(one.stop)
            one.start(folder)
        load = stack.enter_context(LoadProcess())
        for one in targets * WARM_UPS:
            load.run(Order(one.port, one.path, MANY, seconds=WARM_UP_S, marker=one.marker))
            one.settle(SETTLE_FIRST_S)
        for number in range(rounds):
            for one in (*targets[number % len(targets) :], *targets[: number % len(targets)]):
                before = sum(one.cpu_seconds())
                outcome = load.run(Order(one.port, one.path, MANY, seconds=seconds, marker=one.marker))
                cpu = (sum(one.cpu_seconds()) - before) / max(outcome.sent, 1) * 1e6
                found[one.name].append((outcome, cpu))
                bad = f", {outcome.bad} refused ({outcome.complaint[9:12]})" if outcome.bad else ""
                progress(f"store: round {number + 1}: {one.name}: {outcome.rate:.0f}/s, CPU {cpu:.0f} us{bad}")
                one.settle(SETTLE_S)
    return found


def results(found: Measured) -> list[Result]:
    """Ratios of the same round, and the rates that they come from."""
    rates = {name: median([outcome.rate for outcome, _ in rounds]) for name, rounds in found.items()}
    costs = {name: median([cpu for _, cpu in rounds]) for name, rounds in found.items()}

    def ratio(name: str, other: str) -> float:
        pairs = zip(found[name], found[other], strict=True)
        return median([a.rate / b.rate for (a, _), (b, _) in pairs if b.rate])

    return [
        Result("snapshots on Redis, times those on SQLite", ratio(REDIS, SQLITE), "x", OVERHEAD),
        Result("snapshots over 2+2+2 replicas, times those over 1+1+1", ratio(TWO, ONE), "x", SHARED),
        Result("CPU a snapshot, 2+2+2 by 1+1+1", costs[TWO] / costs[ONE], "x", COST, "less"),
        *(Result(f"{name}: c={MANY}", rate, "snapshots/s") for name, rate in rates.items()),
        *(Result(f"{name}: CPU of all its processes", cost, "us") for name, cost in costs.items()),
    ]
