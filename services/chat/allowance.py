"""Token buckets: how much a player, and a conversation, may say (D5). Time is passed in."""

from __future__ import annotations

from dataclasses import dataclass, field

# Buckets that are full again are forgotten when there are more than this.
BUCKETS_MAX = 4096


@dataclass(slots=True)
class Allowance:
    """`count` per `period_s` for each key, refilled evenly."""

    count: int
    period_s: float
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, key: str, now: float) -> float:
        """Take one. 0 when it was there, else the seconds until it will be."""
        rate = self.count / self.period_s
        level, at = self._buckets.get(key, (float(self.count), now))
        level = min(float(self.count), level + (now - at) * rate)
        if level < 1:
            self._buckets[key] = (level, now)
            return (1 - level) / rate
        self._buckets[key] = (level - 1, now)
        if len(self._buckets) > BUCKETS_MAX:
            self._forget(now, rate)
        return 0.0

    def _forget(self, now: float, rate: float) -> None:
        self._buckets = {
            key: (level, at) for key, (level, at) in self._buckets.items() if level + (now - at) * rate < self.count
        }
