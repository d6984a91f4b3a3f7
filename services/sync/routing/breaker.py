"""Circuit breaker of one endpoint: pure, time passed in (C11).

A 10 s window; open when >= 10 calls and >= 50 % of them failed (5xx, timeout, connect: `RuntimeFault.trips`), or when 5
in a row did, however long that took (an NPC that is asked twice a minute should not wait for ten). Open for 5 s,
doubling to 60 s, with jitter; then at most 2 probes, one at a time; both must pass.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Literal

WINDOW_S = 10.0
CALLS_MIN = 10
FAILED_SHARE = 0.5
IN_A_ROW = 5
OPEN_MIN_S = 5.0
OPEN_MAX_S = 60.0
PROBES = 2
# Each wait is longer by up to this share, so that replicas do not probe together.
JITTER = 0.2


class Ticket(Enum):
    """What let a call through."""

    CALL = 1
    PROBE = 2


class Breaker:
    """`allow` before a call, `record` or `release` after it with the ticket that it gave."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, bool]] = deque()
        self._streak = 0
        self._open_until = 0.0
        self._opened_at = 0.0
        self._open_s = OPEN_MIN_S
        self._opened = False
        self._probing = False
        self._passed = 0

    def state(self, now: float) -> Literal["closed", "open", "half_open"]:
        if not self._opened:
            return "closed"
        return "open" if now < self._open_until else "half_open"

    def retry_at(self, now: float) -> float:
        """When the next call may be let through; now when it may be already."""
        return max(now, self._open_until) if self._opened else now

    def allow(self, now: float) -> Ticket | None:
        """Whether a call may go out. In the half-open state only one probe at a time may."""
        state = self.state(now)
        if state == "closed":
            return Ticket.CALL
        if state == "open" or self._probing:
            return None
        self._probing = True
        return Ticket.PROBE

    def record(self, now: float, ticket: Ticket, *, failed: bool, jitter: float = 0.0) -> None:
        """The outcome of a call; `jitter` in 0..1 is a random number of the caller's."""
        if ticket is Ticket.PROBE:
            self._probe_ended(now, failed=failed, jitter=jitter)
            return
        if self._opened:
            return  # it went out before the breaker opened and says nothing new
        self._calls.append((now, failed))
        while self._calls and self._calls[0][0] < now - WINDOW_S:
            self._calls.popleft()
        self._streak = self._streak + 1 if failed else 0
        failures = sum(1 for _, bad in self._calls if bad)
        many = len(self._calls) >= CALLS_MIN and failures >= FAILED_SHARE * len(self._calls)
        if many or self._streak >= IN_A_ROW:
            self._open(now, jitter)

    def healed(self, now: float) -> None:
        """A check found the endpoint well: probe now instead of when the wait is over.

        Never sooner than after the shortest wait: a check may pass while every call fails.
        """
        self._open_until = min(self._open_until, max(now, self._opened_at + OPEN_MIN_S))

    def release(self, ticket: Ticket) -> None:
        """A call ended without an outcome (cancelled)."""
        if ticket is Ticket.PROBE:
            self._probing = False

    def _probe_ended(self, now: float, *, failed: bool, jitter: float) -> None:
        self._probing = False
        if failed:
            self._open_s = min(self._open_s * 2, OPEN_MAX_S)
            self._open(now, jitter)
            return
        self._passed += 1
        if self._passed >= PROBES:
            self._opened = False
            self._open_s = OPEN_MIN_S
            self._calls.clear()
            self._streak = 0

    def _open(self, now: float, jitter: float) -> None:
        self._opened = True
        self._passed = 0
        self._opened_at = now
        self._open_until = now + self._open_s * (1 + JITTER * jitter)
