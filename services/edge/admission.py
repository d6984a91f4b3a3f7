"""What may enter: bounded work in flight, shedding when the loop falls behind, a rate per session.

Refusals are decided before any work is done and carry Retry-After (operations.md, R3). Probes are never refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from services.common.errors import Overloaded, Unavailable
from services.edge.routes import Route

# Requests being worked on. A held poll does not count: it does nothing until its world's log grows.
IN_FLIGHT_MAX = 512
HELD_MAX = 20_000
# The loop's own delay: one late tick is a pause of the machine, several in a row are overload.
TICK_S = 0.05
LAG_MAX_S = 0.05
LATE_TICKS = 5
RETRY_MS = 1000
# One session: the platform allows a game server 500 requests a minute.
SESSION_RATE = 500 / 60
SESSION_BURST = 60.0
SESSIONS_TRACKED = 20_000


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


class Admission:
    """The gates of one edge process."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._in_flight = 0
        self._held = 0
        self._late = 0
        self._buckets: dict[str, Bucket] = {}
        self.draining = False

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def admitted(self, route: Route) -> _Admitted:
        """Enter, or raise Overloaded or Unavailable; leaving the context makes room."""
        if not route.open:
            if self._in_flight >= IN_FLIGHT_MAX:
                raise Overloaded("too many requests in flight", retry_after_ms=RETRY_MS)
            if self._late >= LATE_TICKS:
                raise Overloaded("the edge is overloaded", retry_after_ms=RETRY_MS)
        return _Admitted(self)

    def rate(self, session: str) -> None:
        """Count a request of a session. Raises Overloaded (RATE_LIMITED) above its rate."""
        bucket = self._buckets.get(session)
        if bucket is None:
            if len(self._buckets) >= SESSIONS_TRACKED:
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[session] = Bucket(SESSION_RATE, SESSION_BURST)
        wait = bucket.take(self._monotonic())
        if wait:
            raise Overloaded("more requests than a session may make", reason="RATE_LIMITED",
                             retry_after_ms=round(wait * 1000) + 1)  # fmt: skip

    def hold(self) -> _Held:
        """Step out of the requests in flight while a poll is held, or raise Unavailable when too many are."""
        if self._held >= HELD_MAX:
            raise Unavailable("too many polls are held", reason="OVERLOADED", retry_after_ms=RETRY_MS)
        return _Held(self)

    async def watch_lag(self) -> None:
        """Measure how late the loop wakes, for ever."""
        while True:
            expected = self._monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            late = self._monotonic() - expected > LAG_MAX_S
            self._late = min(self._late + 1, LATE_TICKS * 2) if late else 0

    def enter(self, change: int) -> None:
        self._in_flight += change

    def held(self, change: int) -> None:
        self._held += change
        self._in_flight -= change


class _Admitted:
    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.enter(1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._admission.enter(-1)


class _Held:
    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __enter__(self) -> None:
        self._admission.held(1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._admission.held(-1)
