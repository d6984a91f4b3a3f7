"""A provider's key with an allowance, and a storm of turns on it: for tests and for the bench, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from services.common.telemetry import Metrics
from services.sync.routing.endpoint import Endpoint
from services.sync.runtimes.port import Delta, End, Limit, Limits, RateLimited, TextDelta, TimedOut, UsageDelta
from tests.unit.sync.fake_runtime import FakeRuntime


class Key(FakeRuntime):
    """So many requests a second after a burst, told by headers or not; 429 until the time that it names."""

    def __init__(self, rate: float, burst: float, *, headers: bool) -> None:
        super().__init__("key", stateful=False, remote=False)
        self.rate, self.burst, self.headers = rate, burst, headers
        self.good = self.refused = self.too_early = 0
        self._level, self._at = burst, 0.0
        self._closed_until = 0.0

    def allowance(self, seconds: float) -> float:
        """What it could have answered in that time."""
        return self.burst + self.rate * seconds

    def _limits(self) -> Limits:
        return Limits(Limit(self.burst, int(self._level), (self.burst - self._level) / self.rate))

    async def send(self, agent_id: str, turn: Any, timeout: float) -> AsyncIterator[Delta]:
        now = asyncio.get_running_loop().time()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        self.too_early += now < self._closed_until - 1e-6
        if self._level < 1:
            self.refused += 1
            wait = (1 - self._level) / self.rate
            self._closed_until = now + wait
            raise RateLimited("429", wait, self._limits() if self.headers else None)
        self._level -= 1
        if self.headers:
            yield self._limits()
        await asyncio.sleep(0.2)
        self.good += 1
        yield TextDelta("Hello.")
        yield UsageDelta(5, 5)
        yield End("m")


async def storm(key: Key, *, seconds: float, times: float) -> int:
    """Turns at `times` the key's rate, each with a second of patience; how many were answered."""
    endpoint = Endpoint(key, 8, Metrics(), random.Random(1))
    answered = 0

    async def turn() -> None:
        nonlocal answered
        try:
            async for delta in endpoint.stream("send", lambda left: key.send("a", None, left), timeout=1.0):
                answered += isinstance(delta, End)
        except (RateLimited, TimedOut):
            return

    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.TaskGroup() as group:
        while loop.time() < started + seconds:
            group.create_task(turn())
            await asyncio.sleep(1 / (times * key.rate))
    return answered
