"""Token buckets: how much a player, and a conversation, may say (D5). Time is passed in."""

from __future__ import annotations

from dataclasses import dataclass, field

# Buckets that are full again are forgotten when there are more than this.
BUCKETS_MAX = 4096
# The same line again within this is one more call for it: the existing game makes one for each NPC in earshot.
SAME_LINE_S = 1.0


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


@dataclass(slots=True)
class Toll:
    """An allowance that a line is charged to once, however many calls bring it."""

    allowance: Allowance
    _charged: dict[str, tuple[str, float]] = field(default_factory=dict)

    def charge(self, key: str, speaker: str, line: str, now: float) -> float:
        """Take one of `key` for a speaker's line. 0 when it may pass, else the seconds until it may."""
        last = self._charged.get(speaker)
        if last is not None and last[0] == line and now - last[1] < SAME_LINE_S:
            return 0.0
        wait = self.allowance.take(key, now)
        if wait == 0:
            if len(self._charged) > BUCKETS_MAX:
                self._charged = {who: seen for who, seen in self._charged.items() if now - seen[1] < SAME_LINE_S}
            self._charged[speaker] = (line, now)
        return wait
