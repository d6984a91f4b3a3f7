"""Replicas of every room on one Redis, which dies, hangs and is cut off, while they die and hang (R7, R11)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.replicated import LEASE_S, Replicated
from tests.e2e.stack import free_ports
from tests.faults.bed import ROOMY, cast, judge
from tests.faults.game import Troupe
from tests.faults.proxy import NONE, Fault, Proxy
from tests.redis_server import RedisServer, redis_server

WRITERS = 8
LOAD = 24
# Longer than a lease: whoever owned something has lost it.
AWAY_S = LEASE_S * 1.5
HEALED_S = 120.0
REFUSED_S = 30.0
# A world that no player is in.
ASIDE = "aside"


@dataclass
class Link:
    """The only way to Redis: a proxy in a thread of its own."""

    target: tuple[str, int]

    def __enter__(self) -> Link:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="link", daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Proxy(self.target) as self._proxy:
            self.port = self._proxy.port
            self._ready.set()
            await self._stop.wait()

    def fault(self, fault: Fault) -> None:
        self._loop.call_soon_threadsafe(setattr, self._proxy, "fault", fault)


@dataclass
class Shared:
    """Two replicas of all rooms behind one edge, the Redis, and the way to it."""

    stack: Replicated
    redis: RedisServer
    link: Link

    @contextlib.contextmanager
    def played(self, prefix: str) -> Iterator[Troupe]:
        """Players before, during and after; what they were told must be possible."""
        with Troupe([self.stack.url], WRITERS, pace_s=0.2, prefix=prefix) as troupe:
            assert troupe.wait_for(LOAD, HEALED_S) >= LOAD
            yield troupe
            assert troupe.wait_for(LOAD, HEALED_S) >= LOAD, f"it did not heal:\n{self.stack.output()[-3000:]}"
        assert judge(troupe, self.stack.http) == []

    def read_stale(self, world: str) -> None:
        """What is in memory is served on, and says of itself that it may be old once the lease is over."""
        until = time.monotonic() + HEALED_S
        while True:
            answer = self.stack.http.get(f"/v1/worlds/{world}")
            assert answer.status_code == 200, answer.text
            if answer.json().get("stale"):
                return
            assert time.monotonic() < until, "old worlds do not say so"
            time.sleep(0.1)

    def healed(self, world: str) -> None:
        """Written and read as ever: R11 asks for that within ten seconds, which a busy machine may exceed."""
        self.stack.wait(lambda: self._written(world), "no snapshot is applied", HEALED_S)
        assert "stale" not in self.stack.http.get(f"/v1/worlds/{world}").json()

    def _written(self, world: str) -> bool:
        body = {"world": world, "entities": [{"id": "p1", "kind": "player", "position": {"x": 0, "y": 0, "z": 0}}]}
        return self.stack.post("/v1/snapshots", body).status_code == 200

    def refused_in_time(self, world: str) -> None:
        """A write is refused, soon, with a reason and when to come back."""
        until = time.monotonic() + HEALED_S
        while True:
            answer = self.stack.post("/v1/snapshots", {"world": world, "entities": []})
            # One that was under way may not know what became of it: 504.
            if answer.status_code not in (200, 504) or time.monotonic() > until:
                break
        assert answer.status_code == 503, answer.text
        # R11 asks for one second; what hangs would take the client's thirty-five.
        assert answer.elapsed.total_seconds() < REFUSED_S
        assert answer.json()["error"]["retryable"]
        assert answer.headers["retry-after"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    (port,) = free_ports(1)
    with redis_server("--port", str(port)) as server, Link(("127.0.0.1", port)) as link:
        stack = Replicated(tmp_path_factory.mktemp("shared") / "data", server)
        stack.environment = {**stack.environment, **ROOMY}
        stack._environment.update({**ROOMY, "EARSHOT_STORE": f"redis://127.0.0.1:{link.port}/0"})
        with stack:
            stack.shared_by(2)
            cast(stack)
            yield Shared(stack, server, link)


def test_redis_is_killed_and_starts_again(shared: Shared) -> None:
    with shared.played("killed"):
        shared.healed(ASIDE)
        shared.redis.kill()
        shared.refused_in_time("killed-0")
        assert shared.stack.http.get("/healthz").status_code == 200
        shared.read_stale(ASIDE)
        shared.redis.start()
        shared.healed(ASIDE)


def test_redis_is_cut_off_for_longer_than_a_lease(shared: Shared) -> None:
    with shared.played("cut"):
        shared.link.fault(Fault(black_hole=True))
        shared.refused_in_time("cut-0")
        time.sleep(AWAY_S)
        shared.link.fault(NONE)
        shared.healed(ASIDE)


def test_redis_hangs(shared: Shared) -> None:
    with shared.played("hung"):
        shared.redis.signal(signal.SIGSTOP)
        shared.refused_in_time("hung-0")
        shared.redis.signal(signal.SIGCONT)


def test_a_replica_hangs_for_two_leases_and_comes_back(shared: Shared) -> None:
    with shared.played("zombie") as troupe:
        shared.stack.hang("a")
        try:
            assert troupe.wait_for(LOAD, HEALED_S) >= LOAD, "nobody took its worlds"
            time.sleep(2 * LEASE_S)
        finally:
            shared.stack.wake("a")


def test_a_replica_is_killed_and_another_joins(shared: Shared) -> None:
    with shared.played("died") as troupe:
        shared.stack.kill("b")
        assert troupe.wait_for(LOAD, HEALED_S) >= LOAD, "nobody took its worlds"
        shared.stack.join("b")
        shared.stack.shared_by(2)
