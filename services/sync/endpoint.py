"""One runtime as it is really called: with its breaker, its adaptive concurrency and its metrics (C11)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal, TypeVar

from opentelemetry.trace import SpanKind

from services.common import tracing
from services.common.telemetry import Metrics
from services.sync.breaker import Breaker, Ticket
from services.sync.gate import Gate
from services.sync.runtimes.pace import paced
from services.sync.runtimes.port import (
    Capabilities,
    Delta,
    Health,
    RateLimited,
    Runtime,
    RuntimeFault,
    TimedOut,
    Unreachable,
    UsageDelta,
)
from services.sync.schedule import Lane

T = TypeVar("T")
# A runtime keeps its own time; one that does not is stopped so much later.
GRACE_S = 0.25
# How long an endpoint rests after a 429 that does not say.
REST_S = 1.0
# Dollars per million prompt and completion tokens.
Prices = tuple[float, float]
FREE: Prices = (0.0, 0.0)
BREAKER = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class Tripped(Unreachable):
    """Not sent: the breaker is open."""


class Endpoint:
    """Calls go through `call`, turns through `stream`; each has its own gate, so that slow turns hold up no write."""

    def __init__(
        self, runtime: Runtime, concurrency: int, metrics: Metrics, rng: random.Random, prices: Prices = FREE
    ) -> None:
        self.runtime = runtime
        self._prices = prices
        self._metrics = metrics
        self._rng = rng
        self._breaker = Breaker()
        self.health = Health(True, "not checked yet")
        self._calls = Gate(concurrency)
        self._turns = Gate(concurrency)
        metrics.runtime_in_flight.labels(self.name).set_function(lambda: self.in_flight)
        metrics.runtime_breaker.labels(self.name).set_function(self._tripped)

    @property
    def name(self) -> str:
        return self.runtime.name

    @property
    def capabilities(self) -> Capabilities:
        return self.runtime.capabilities

    @property
    def in_flight(self) -> int:
        return self._calls.in_flight + self._turns.in_flight

    def breaker(self) -> Literal["closed", "open", "half_open"]:
        return self._breaker.state(_now())

    def _tripped(self) -> float:
        # Asked by whoever reads the metrics, perhaps from another thread: the loop's time is this clock.
        return BREAKER[self._breaker.state(time.monotonic())]

    def retry_at(self, *, turn: bool = False) -> float:
        """Loop time at which the next call (or turn) may go out; not later than now: at once."""
        gate = self._turns if turn else self._calls
        return max(self._breaker.retry_at(_now()), gate.closed_until())

    async def check(self, timeout: float) -> Health:
        """Ask the runtime whether it is well; a good answer lets an open breaker probe at once."""
        self.health = await self.runtime.check(timeout)
        if self.health.ok:
            self._breaker.healed(_now())
        return self.health

    async def call(self, operation: str, step: Callable[[float], Awaitable[T]], *, lane: Lane, timeout: float) -> T:
        """One call; `step` gets the seconds that are left. Raises RuntimeFault, Tripped when nothing was sent."""
        deadline = _now() + timeout
        async with self._calls.slot(lane, timeout):
            ticket = self._enter(operation)
            started = _now()
            fault: RuntimeFault | None = None
            ended = False
            try:
                left = max(deadline - started, 0.001)
                with tracing.span(f"runtime.{operation}", stage="runtime", kind=SpanKind.CLIENT):
                    async with asyncio.timeout(left + GRACE_S):
                        result = await step(left)
                ended = True
                return result
            except RuntimeFault as error:
                fault = error
                raise
            except TimeoutError as error:
                fault = TimedOut("no answer in time")
                raise fault from error
            finally:
                self._leave(operation, started, ticket, fault, self._calls, ended=ended)

    async def stream(
        self, operation: str, begin: Callable[[float], AsyncIterator[Delta]], *, timeout: float
    ) -> AsyncIterator[Delta]:
        """A turn's deltas; `begin` gets the seconds that are left."""
        deadline = _now() + timeout
        async with self._turns.slot(Lane.HIGH, timeout):
            ticket = self._enter(operation)
            started = _now()
            fault: RuntimeFault | None = None
            ended = False
            try:
                left = max(deadline - started, 0.001)
                deltas = paced(begin(left), left + GRACE_S)
                async with aclosing(deltas):
                    async for delta in deltas:
                        if isinstance(delta, UsageDelta):
                            self._count(delta)
                        yield delta
                ended = True
            except RuntimeFault as error:
                fault = error
                raise
            finally:
                self._leave(operation, started, ticket, fault, self._turns, ended=ended)

    def _enter(self, operation: str) -> Ticket:
        ticket = self._breaker.allow(_now())
        if ticket is None:
            self._metrics.runtime_calls.labels(self.name, operation, "tripped").inc()
            raise Tripped("the breaker is open")
        return ticket

    def _leave(
        self, operation: str, started: float, ticket: Ticket, fault: RuntimeFault | None, gate: Gate, *, ended: bool
    ) -> None:
        now = _now()
        outcome = "ok" if ended else type(fault).__name__.lower().lstrip("_") if fault is not None else "cancelled"
        self._metrics.runtime_calls.labels(self.name, operation, outcome).inc()
        self._metrics.runtime_seconds.labels(self.name, operation).observe(now - started)
        if fault is None and not ended:
            self._breaker.release(ticket)
            return
        self._breaker.record(now, ticket, failed=fault is not None and fault.trips, jitter=self._rng.random())
        if isinstance(fault, RateLimited):
            gate.aimd.slow_down()
            gate.rest(fault.retry_after_s or REST_S)
        elif isinstance(fault, TimedOut):
            gate.aimd.slow_down()
        elif fault is None:
            gate.aimd.succeeded()

    def _count(self, usage: UsageDelta) -> None:
        self._metrics.runtime_tokens.labels(self.name, "prompt").inc(usage.prompt_tokens)
        self._metrics.runtime_tokens.labels(self.name, "completion").inc(usage.completion_tokens)
        prompt, completion = self._prices
        self._metrics.runtime_cost.labels(self.name).inc(
            (usage.prompt_tokens * prompt + usage.completion_tokens * completion) / 1e6
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
