"""How many calls to an endpoint are in flight: an adaptive limit, urgent lanes first, closed while it wants rest.

One at a time while more of them make each other slow.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.sync.routing.aimd import Aimd
from services.sync.routing.rounds import Rounds
from services.sync.runtimes.port import RateLimited, TimedOut
from services.sync.schedule.due import Lane


class Gate:
    """`async with gate.slot(lane, timeout)`: waits for a slot; the more urgent lane goes first, then who came first."""

    def __init__(self, concurrency: int) -> None:
        self.aimd = Aimd(concurrency)
        self.rounds: Rounds | None = None
        self._in_flight = 0
        # Bumped whenever two calls are in flight: a call that saw no bump was alone.
        self._met = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serial = 0
        self._closed_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def load(self) -> int:
        """In flight and waiting."""
        return self._in_flight + len(self._waiting)

    def closed_until(self) -> float:
        """Loop time until which the endpoint must not be called."""
        return self._closed_until

    def rest(self, seconds: float) -> None:
        """The endpoint asked to be left alone for so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if until > self._closed_until:
            self._closed_until = until
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(until, self._admit)

    @asynccontextmanager
    async def slot(self, lane: Lane, timeout: float) -> AsyncIterator[None]:
        """Hold a slot. Raises RateLimited at once when the rest outlasts the timeout, TimedOut (without effect)."""
        loop = asyncio.get_running_loop()
        rest = self._closed_until - loop.time()
        if rest > timeout:
            raise RateLimited("the endpoint asked for rest", rest)
        if rest > 0 or self._waiting or self._in_flight >= self.limit(loop.time()):
            await self._wait(lane, timeout)
        else:
            self._enter()
        met, started = self._met if self._in_flight == 1 else -1, loop.time()
        others = self._in_flight
        try:
            yield
            if self.rounds is not None:
                took, beside = loop.time() - started, (others + self._in_flight) / 2
                self.rounds.record(took, alone=met == self._met, now=loop.time(), beside=beside)
        finally:
            self._in_flight -= 1
            self._admit()

    def limit(self, now: float) -> int:
        """How many may be in flight."""
        return 1 if self.rounds is not None and self.rounds.serial(now) else self.aimd.limit

    def _enter(self) -> None:
        self._in_flight += 1
        self._met += self._in_flight > 1

    async def _wait(self, lane: Lane, timeout: float) -> None:
        self._serial += 1
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (int(lane), self._serial, admitted))
        self._admit()
        try:
            async with asyncio.timeout(timeout):
                await admitted
        except TimeoutError as error:
            self._give_up(admitted)
            raise TimedOut("no free slot in time", unknown=False) from error
        except asyncio.CancelledError:
            self._give_up(admitted)
            raise

    def _give_up(self, admitted: asyncio.Future[None]) -> None:
        if admitted.done() and not admitted.cancelled():
            self._in_flight -= 1  # admitted at the very moment
        else:
            admitted.cancel()
        self._admit()

    def _admit(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._closed_until:
            return
        while self._waiting and self._in_flight < self.limit(now):
            _, _, admitted = heapq.heappop(self._waiting)
            if not admitted.done():
                self._enter()
                admitted.set_result(None)
