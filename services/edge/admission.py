"""What may enter: bounded work in flight, shedding when the loop falls behind, rates per session, tenant and address.

Refusals are decided before any work is done and carry Retry-After (operations.md, R3). Probes are never refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from types import TracebackType

from services.common.errors import Overloaded, Unavailable
from services.common.settings import Settings
from services.common.telemetry import Metrics
from services.edge.keys import Caller
from services.edge.limit import Limit
from services.edge.routes import Route

# How often the loop's own delay is looked at.
TICK_S = 0.02
RETRY_MS = 1000
# Sessions, tenants and addresses whose rate is known; the one that came first is forgotten for one more.
TRACKED = 20_000
STRANGER_BURST = 20.0
GATES = ("in_flight", "held", "session", "tenant", "address")


@dataclass(slots=True)
class Bucket:
    """A token bucket; pure but for the time it is given."""

    rate: float
    burst: float
    tokens: float = field(default=0.0)
    at: float = field(default=float("-inf"))

    def take(self, now: float) -> float:
        """Take a token: 0 when there was one, else the seconds until there is."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens >= 1.0:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) / self.rate


class Buckets:
    """A bucket for each name, at most TRACKED."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, Bucket] = {}

    def take(self, name: str, now: float) -> float:
        """Take one of the name's tokens: 0 when there was one, else the seconds until there is."""
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= TRACKED:
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[name] = Bucket(self._rate, self._burst)
        return bucket.take(now)


class Admission:
    """The gates of one edge process."""

    def __init__(self, settings: Settings, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._metrics = metrics
        self._limit = Limit(settings.in_flight_max, settings.lag_max_s)
        self._held_max = settings.held_max
        self._sessions = Buckets(settings.session_requests_per_minute / 60, settings.session_burst)
        self._tenants = Buckets(settings.tenant_requests_per_s, settings.tenant_burst)
        self._strangers = Buckets(settings.wrong_keys_per_minute / 60, STRANGER_BURST)
        self._in_flight = 0
        # Let in by the listener in this turn of the loop, and not begun yet.
        self._arriving = 0
        self._most_in_flight = 0
        self._held = 0
        self.draining = False
        # Labels are slow to look up for every refusal.
        self._refusals = {gate: metrics.admission_refused.labels(gate) for gate in GATES}
        metrics.requests_in_flight.set_function(lambda: self._in_flight)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def admitted(self, route: Route) -> _Admitted:
        """Enter, or raise Overloaded; leaving the context makes room."""
        if not route.open:
            self.check_room()
        return _Admitted(self)

    def check_room(self) -> None:
        """Raise Overloaded when as many are worked on as the loop keeps up with."""
        if self._in_flight >= self._limit.value:
            self._refused("in_flight")
            raise Overloaded("the edge is overloaded", retry_after_ms=RETRY_MS)

    def arrives(self) -> bool:
        """Whether there is room for one more request, asked before anything is done for it.

        Its task enters in the next turn of the loop: until then it counts as arriving.
        """
        if self._in_flight + self._arriving >= self._limit.value:
            self._refused("in_flight")
            return False
        self._arriving += 1
        # Not in the caller's context: in the queue just before the request's task, which is made next.
        asyncio.get_running_loop().call_soon(self._arrived, context=Context())
        return True

    def _arrived(self) -> None:
        self._arriving -= 1

    def waiting(self) -> _Waiting:
        """Step out while a body arrives, and come back, or raise Overloaded when others have taken the place.

        Who sends slowly would else keep others out.
        """
        return _Waiting(self)

    def count(self, caller: Caller) -> None:
        """Count a request of a session and of a tenant. Raises Overloaded (RATE_LIMITED) above the rate of either.

        Without keys there is one tenant, and nobody to be fair to.
        """
        now = self._monotonic()
        if caller.session is not None:
            self._limited("session", self._sessions.take(caller.session.id, now))
        if caller.key_id:
            self._limited("tenant", self._tenants.take(caller.tenant, now))

    def count_stranger(self, address: str) -> None:
        """Count a request without a good key. Raises Overloaded (RATE_LIMITED) for an address that sends too many."""
        self._limited("address", self._strangers.take(address, self._monotonic()))

    def _limited(self, gate: str, wait_s: float) -> None:
        if wait_s:
            self._refused(gate)
            raise Overloaded(
                f"more requests than this {gate} may make", reason="RATE_LIMITED",
                retry_after_ms=round(wait_s * 1000) + 1,
            )  # fmt: skip

    def _refused(self, gate: str) -> None:
        self._refusals[gate].inc()

    def hold(self) -> _Held:
        """Step out of the requests in flight while a poll is held, or raise Unavailable when too many are."""
        if self._held >= self._held_max:
            self._refused("held")
            raise Unavailable("too many polls are held", reason="OVERLOADED", retry_after_ms=RETRY_MS)
        return _Held(self)

    async def watch_lag(self) -> None:
        """Measure how late the loop wakes, for ever: late means that more is in flight than it can work on."""
        while True:
            expected = self._monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            lag = self._monotonic() - expected
            self._metrics.loop_lag.observe(max(lag, 0.0))
            self._limit.look(lag, self._most_in_flight)
            self._most_in_flight = self._in_flight

    def enter(self, change: int) -> None:
        self._in_flight += change
        self._most_in_flight = max(self._most_in_flight, self._in_flight)

    def held(self, change: int) -> None:
        self._held += change
        self.enter(-change)


class _Admitted:
    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.enter(1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._admission.enter(-1)


class _Waiting:
    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.enter(-1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._admission.check_room()
        finally:
            self._admission.enter(1)


class _Held:
    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.held(1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._admission.held(-1)
