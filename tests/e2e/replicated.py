"""Earshot as several replicas of every room on one real Redis: an edge, and processes that come, die and hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from services.common.ownership import PARTITIONS
from tests.e2e.stack import ROOT, START_S, Stack, free_ports
from tests.redis_server import RedisServer

ROOMS = ("cluster", "state", "sync", "chat")
LEASE_S = 5.0
# The machine may be very busy: starting, and compiling, is what takes long.
SHARED_S = 240.0


class Replicated(Stack):
    """An edge and replicas by name, each of some rooms. `start` starts the edge and two replicas of all rooms."""

    def __init__(self, data: Path, server: RedisServer, first: Sequence[str] = ("a", "b")) -> None:
        super().__init__(data, (("edge",),), {"EARSHOT_STORE": server.url})
        self.server = server
        self._first = first

    def __enter__(self) -> Replicated:
        super().__enter__()
        return self

    def start(self) -> None:
        for name in self._first:
            self.join(name)
        self.shared_by(len(self._first))
        super().start()

    def join(self, name: str, rooms: Sequence[str] = ROOMS) -> None:
        """Start a replica, which takes its share once it can."""
        ports = free_ports(len(rooms))
        addresses = {
            f"EARSHOT_{room.upper()}_ADDR": f"127.0.0.1:{port}" for room, port in zip(rooms, ports, strict=True)
        }
        self.data.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "services", "up", "--target", ",".join(rooms)],
                env={**self._environment, **addresses}, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def hang(self, name: str) -> None:
        os.kill(self.processes[name].pid, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        os.kill(self.processes[name].pid, signal.SIGCONT)

    def owners(self, room: str) -> dict[str, int]:
        """How many partitions each address serves."""
        import redis

        with redis.Redis.from_url(self.server.url, decode_responses=True) as store:
            shown: Any = store.hgetall(f"{{earshot:{room}}}:owners")
        counts: dict[str, int] = {}
        for owner in shown.values():
            counts[owner] = counts.get(owner, 0) + 1
        return counts

    def kept(self) -> bytes:
        """Everything that the store holds."""
        import redis

        found: list[bytes] = []
        with redis.Redis.from_url(self.server.url) as store:
            for name in store.scan_iter(count=1000):
                if store.type(name) == b"hash":
                    found += [part for pair in store.hgetall(name).items() for part in pair]
        return b"\n".join(found)

    def shared_by(self, number: int) -> None:
        """Wait until so many replicas share all of every room's work."""
        self.wait(
            lambda: all(
                len(owners := self.owners(room)) == number and sum(owners.values()) == PARTITIONS
                for room in ("state", "sync", "chat")
            ),
            f"not shared by {number}",
            SHARED_S,
        )

    def wait(self, done: Callable[[], bool], complaint: str, seconds: float = START_S) -> float:
        """Wait for something; how long it took."""
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > seconds:
                raise AssertionError(f"{complaint} after {seconds} s:\n{self.output()[-4000:]}")
            time.sleep(0.05)
        return time.monotonic() - began

    def insist(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[httpx.Response, int]:
        """A client that retries as it is told, once; the answer, and how many tries it took."""
        for tries in (1, 2):
            response = self.http.request(method, path, json=body, **more)
            if tries == 1 and response.status_code in (429, 503, 504):
                time.sleep(float(response.headers.get("retry-after", "1")))
                continue
            return response, tries
        raise AssertionError("two tries")
