"""One runtime as it is really called: breaker, adaptive concurrency, its key's allowance, latency (C11, G1)."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal, TypeVar

from services.common import tracing
from services.common.telemetry import Metrics
from services.sync.routing.breaker import Breaker, Ticket
from services.sync.routing.gate import Gate
from services.sync.routing.latency import Latency
from services.sync.routing.provider import Provider
from services.sync.routing.quota import REST_S, Quota
from services.sync.routing.rounds import Rounds
from services.sync.runtimes.pace import paced
from services.sync.runtimes.port import (
    Capabilities,
    Delta,
    Health,
    Limits,
    RateLimited,
    Runtime,
    RuntimeFault,
    TextDelta,
    TimedOut,
    ToolCall,
    Unreachable,
)
from services.sync.schedule.due import Lane

T = TypeVar("T")
# A runtime keeps its own time; one that does not is stopped so much later.
GRACE_S = 0.25
# Who was given less time than this, because others had used it up, has not failed when it was not enough.
FAIR_S = 1.0
# Models of one key whose allowances are known; profiles may name others than the provider's.
MODELS_MAX = 64
BREAKER = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class Tripped(Unreachable):
    """Not sent: the breaker is open."""


class Endpoint:
    """Calls go through `call`, turns through `stream`; each has its own gate, so that slow turns hold up no write.

    home: the name that its agents are kept under; endpoints of one home share their agents.
    """

    def __init__(
        self,
        runtime: Runtime,
        concurrency: int,
        metrics: Metrics,
        rng: random.Random,
        *,
        home: str = "",
        provider: Provider | None = None,
    ) -> None:
        self.runtime = runtime
        self.provider = provider or Provider(runtime.name)
        self.home = home or runtime.name
        self.latency = Latency()
        self.health = Health(True, "not checked yet")
        self._metrics = metrics
        self._rng = rng
        self._breaker = Breaker()
        # A model that thinks a summary's tokens away, or a server without plain completions, still answers turns.
        self._completing = Breaker()
        self._calls = Gate(concurrency)
        self._turns = Gate(concurrency)
        self._turns.rounds = self.rounds = Rounds()
        for kind in ("prompt", "completion"):
            metrics.runtime_tokens.labels(self.name, kind)
        metrics.runtime_cost.labels(self.name)
        metrics.runtime_in_flight.labels(self.name).set_function(lambda: self.in_flight)
        metrics.runtime_breaker.labels(self.name).set_function(self._tripped)
        self._quotas: dict[str, Quota] = {}

    @property
    def name(self) -> str:
        return self.runtime.name

    @property
    def capabilities(self) -> Capabilities:
        return self.runtime.capabilities

    @property
    def in_flight(self) -> int:
        return self._calls.in_flight + self._turns.in_flight

    @property
    def cost(self) -> float:
        """What another turn here costs in waiting: latency x load / weight."""
        return self.latency.average * (self._turns.load + 1) / max(self.provider.weight, 1e-6)

    @property
    def queue_s(self) -> float:
        """About how long a turn waits for a slot here before it is asked."""
        beyond = self._turns.load - self._turns.aimd.limit + 1
        return self.latency.average * beyond / self._turns.aimd.limit if beyond > 0 else 0.0

    def breaker(self) -> Literal["closed", "open", "half_open"]:
        return self._breaker.state(_now())

    def _tripped(self) -> float:
        # Asked by whoever reads the metrics, perhaps from another thread: the loop's time is this clock.
        return BREAKER[self._breaker.state(time.monotonic())]

    def ready_at(self, model: str, tokens: float, now: float) -> float:
        """Loop time at which a turn of so many tokens may be asked; `now` = at once. inf = never."""
        return max(self.broken_until(now), self.quota(model).ready_at(tokens, now))

    def broken_until(self, now: float) -> float:
        """Loop time at which the breaker lets the next call through; `now` = at once."""
        return self._breaker.retry_at(now)

    def hold_ms(self) -> int:
        """Until the provider's own model may be asked again."""
        return round(min(max(self.quota().ready_at(1, _now()) - _now(), 0.0), 86_400.0) * 1000)

    def p95_ms(self) -> int:
        return round((self.latency.p95(_now()) or 0.0) * 1000)

    def retry_at(self) -> float:
        """Loop time at which the next call may go out; not later than now: at once."""
        return max(self.broken_until(_now()), self._calls.closed_until())

    def quota(self, model: str = "") -> Quota:
        """The allowance of this key for a model, "" = the provider's own."""
        quota = self._quotas.get(model)
        if quota is None:
            if len(self._quotas) >= MODELS_MAX:
                self._quotas.pop(next(iter(self._quotas)))
            quota = self._quotas[model] = self.provider.quota()
        return quota

    async def check(self, timeout: float) -> Health:
        """Ask the runtime whether it is well; a good answer lets an open breaker probe at once."""
        self.health = await self.runtime.check(timeout)
        if self.health.ok:
            self._breaker.healed(_now())
            self._completing.healed(_now())
        return self.health

    async def call(
        self,
        operation: str,
        step: Callable[[float], Awaitable[T]],
        *,
        lane: Lane,
        timeout: float,
        model: bool = False,
    ) -> T:
        """One call; `step` gets the seconds that are left. Raises RuntimeFault, Tripped when nothing was sent.

        model: a completion. Its failures stop completions only, and none is sent while turns are refused.
        What Earshot holds itself is read and written at once, however the model fares.
        """
        if not (model or self.capabilities.remote):
            result = await step(timeout)
            self._metrics.runtime_calls.labels(self.name, operation, "ok").inc()
            return result
        deadline = _now() + timeout
        breaker = self._completing if model else self._breaker
        async with self._calls.slot(lane, timeout):
            ticket = self._enter(operation, breaker)
            started = _now()
            fault: RuntimeFault | None = None
            ended = False
            try:
                left = max(deadline - started, 0.001)
                with tracing.span(f"runtime.{operation}", stage="runtime", kind="client"):
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
                self._leave(operation, started, ticket, fault, self._calls, breaker, ended=ended)
                if isinstance(fault, RateLimited):
                    self._calls.rest(fault.retry_after_s or REST_S)

    async def stream(
        self,
        operation: str,
        begin: Callable[[float], AsyncIterator[Delta]],
        *,
        timeout: float,
        first_by: float = math.inf,
        model: str = "",
        tokens: float = 0.0,
    ) -> AsyncIterator[Delta]:
        """A turn's deltas; `begin` gets the seconds that are left. tokens: what it will cost, as far as one can tell.

        It waits for the key's allowance when that fits, else raises RateLimited at once. first_by: loop time until
        which its first words are waited for; later ones count as a failure, whoever still listens.
        """
        deadline = _now() + timeout
        quota = self.quota(model)
        while True:
            await self._allowance(quota, tokens, min(deadline, first_by))
            answered = False
            try:
                async with self._turns.slot(Lane.HIGH, max(min(deadline, first_by) - _now(), 0.001)):
                    if quota.held_until > _now():
                        continue  # a 429 came while it waited for the slot
                    answered = True
                    sent = self._stream(operation, begin, deadline, quota, tokens, first_by)
                    async with aclosing(sent) as deltas:  # type: ignore[type-var]  # it is a generator
                        async for delta in deltas:
                            yield delta
                return
            finally:
                if not answered:
                    quota.give_back(tokens)

    async def _allowance(self, quota: Quota, tokens: float, deadline: float) -> None:
        """Take a call's place in the key's allowance, and wait for it."""
        now = _now()
        ready = quota.take(tokens, now)
        try:
            if ready > deadline:
                raise RateLimited("the key's allowance is used up", min(ready - now, 3600.0))
            if ready > now:
                # Never less than a clock can tell apart: who wakes a hair too early would not sleep again.
                await asyncio.sleep(max(ready - now, 0.001))
        except BaseException:
            quota.give_back(tokens)
            raise

    async def _stream(
        self,
        operation: str,
        begin: Callable[[float], AsyncIterator[Delta]],
        deadline: float,
        quota: Quota,
        tokens: float,
        first_by: float,
    ) -> AsyncIterator[Delta]:
        fault: RuntimeFault | None = None
        ended = counted = False
        first: _FirstWords | None = None
        started = _now()
        try:
            first = _FirstWords(self, self._enter(operation, self._breaker), first_by)
            left = max(deadline - started, 0.001)
            async with aclosing(paced(begin(left), left + GRACE_S)) as deltas:
                async for delta in deltas:
                    if not counted:
                        counted = True
                        quota.ended(tokens)
                    if isinstance(delta, Limits):
                        quota.learn(delta, _now())
                        continue
                    if isinstance(delta, TextDelta | ToolCall):
                        first.came()
                    yield delta
            ended = True
        except RuntimeFault as error:
            fault = error
            raise
        finally:
            if not counted:
                quota.ended(tokens)
            if isinstance(fault, RateLimited):
                if fault.limits is not None:
                    quota.learn(fault.limits, _now())
                quota.rest(fault.retry_after_s, _now())
            if first is not None:
                first.over()
                self._leave(operation, started, first.ticket, fault, self._turns, self._breaker, ended=ended)

    def _enter(self, operation: str, breaker: Breaker) -> Ticket:
        ticket = breaker.allow(_now()) if breaker is self._breaker or self.breaker() != "open" else None
        if ticket is None:
            self._metrics.runtime_calls.labels(self.name, operation, "tripped").inc()
            raise Tripped("the breaker is open")
        return ticket

    def _leave(
        self,
        operation: str,
        started: float,
        ticket: Ticket | None,
        fault: RuntimeFault | None,
        gate: Gate,
        breaker: Breaker,
        *,
        ended: bool,
    ) -> None:
        """ticket None: its outcome is recorded already."""
        now = _now()
        outcome = "ok" if ended else type(fault).__name__.lower().lstrip("_") if fault is not None else "cancelled"
        self._metrics.runtime_calls.labels(self.name, operation, outcome).inc()
        self._metrics.runtime_seconds.labels(self.name, operation).observe(now - started)
        self._metrics.turns_serial.labels(self.name).set(self.rounds.serial(now))
        if fault is None and not ended:
            if ticket is not None:
                breaker.release(ticket)
            return
        if ticket is not None:
            breaker.record(now, ticket, failed=fault is not None and fault.trips, jitter=self._rng.random())
        if isinstance(fault, RateLimited | TimedOut):
            gate.aimd.slow_down()
        elif fault is None:
            gate.aimd.succeeded()

    def late(self, ticket: Ticket, waited_s: float) -> None:
        """Its first words did not come in time."""
        self._breaker.record(_now(), ticket, failed=True, jitter=self._rng.random())
        self.latency.observe(waited_s, _now())
        self._turns.aimd.slow_down()


class _FirstWords:
    """Waits for a turn's first words. Who is late has failed, although a stateful runtime may go on."""

    def __init__(self, endpoint: Endpoint, ticket: Ticket, first_by: float) -> None:
        self.ticket: Ticket | None = ticket
        self._endpoint = endpoint
        self._started = _now()
        self._worded = False
        loop = asyncio.get_running_loop()
        fair = math.isfinite(first_by) and first_by - self._started >= FAIR_S
        self._timer = loop.call_at(first_by, self._late) if fair else None

    def came(self) -> None:
        if not self._worded:
            self._worded = True
            self.over()
            if self.ticket is not None:
                self._endpoint.latency.observe(_now() - self._started, _now())

    def over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _late(self) -> None:
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            self._endpoint.late(ticket, _now() - self._started)


def _now() -> float:
    return asyncio.get_running_loop().time()
