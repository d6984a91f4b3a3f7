"""Token bucket: the one mechanism of every rate in sync (a key's allowance, a tenant's). Pure; time is passed in."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """`rate` tokens a second up to `burst`; starts full. burst inf = no limit. Times are loop time, seconds.

    The level may be below 0: what was taken ahead of its time, by somebody who waits for it.
    """

    rate: float = math.inf
    burst: float = math.inf
    _used: float = 0.0
    _at: float = 0.0

    def level(self, now: float) -> float:
        """Tokens that are there."""
        return self.burst - self._used_at(now) if math.isfinite(self.burst) else math.inf

    def ready_at(self, amount: float, now: float) -> float:
        """When so much is there; more than the burst is there once the bucket is full. inf = never (rate 0)."""
        missing = self._used_at(now) - (self.burst - min(amount, self.burst)) if math.isfinite(self.burst) else 0.0
        if missing <= 0:
            return now
        return now + missing / self.rate if self.rate > 0 else math.inf

    def take(self, amount: float, now: float) -> float:
        """Take so much, there or not; when it may be used. Who cannot wait that long gives it back."""
        ready = self.ready_at(amount, now)
        if math.isfinite(self.burst):
            self._used, self._at = self._used_at(now) + amount, now
        return ready

    def give_back(self, amount: float) -> None:
        """What was taken and not used."""
        self._used = max(self._used - amount, 0.0)

    def learn(self, limit: float, remaining: float, reset_s: float, now: float, pending: float = 0.0) -> None:
        """What the other side says of its own bucket: full again in `reset_s` seconds.

        pending: taken here by calls whose answers are still out, which it may not have counted yet.
        """
        if limit <= 0 or not math.isfinite(limit):
            return
        used = min(max(limit - remaining, 0.0), limit)
        if used > 0 and reset_s > 0:
            self.rate = used / reset_s
        elif not math.isfinite(self.rate):
            self.rate = limit / 60.0  # per minute, until it says more
        self.burst, self._used, self._at = limit, used + pending, now

    def _used_at(self, now: float) -> float:
        if self._used <= 0 or not math.isfinite(self.burst):
            return 0.0
        return max(self._used - max(now - self._at, 0.0) * self.rate, 0.0)
