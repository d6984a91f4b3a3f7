"""Whether turns of one endpoint go in parallel or one after the other (C10). Pure: time passed in.

Turns of different NPCs run at once, within the concurrency limit. A model server may do worse so: while the 95th
percentile of turns that overlapped lies more than 500 ms above that of turns that ran alone, and no more of them get
done than one by one, they go one by one: a round of ten that takes half a second longer than one alone is worth it.
Whether parallel is still slow only a trial tells: after 30 s, then after twice as long each time it was. A server that
has become slow for turns alone as well gets its trial at once.
"""

from __future__ import annotations

from collections import deque
from statistics import median

# Turns of either kind that must be known; how many are remembered.
SAMPLES, KEPT = 20, 100
# Seconds: slower by this, one by one; by no more than this, parallel is well again.
WORSE_S, WELL_S = 0.5, 0.25
# A turn's time by how many ran beside it, against that of one alone: below this share parallel gets more done.
WORTH = 0.8
# Turns alone, since they go one by one, that must be known to tell how slow those are by now.
FRESH = 5
TRIAL_S, TRIAL_MAX_S = 30.0, 480.0


class Rounds:
    """`record` every turn that ended well; `serial` says how the next ones go."""

    def __init__(self) -> None:
        self._alone: deque[float] = deque(maxlen=KEPT)
        self._together: deque[float] = deque(maxlen=KEPT)
        self._shares: deque[float] = deque(maxlen=KEPT)
        self._slow = 0.0
        self._fresh: deque[float] = deque(maxlen=FRESH)
        self._serial_until = 0.0
        self._trial_s = TRIAL_S

    def serial(self, now: float) -> bool:
        """Whether turns go one after the other now."""
        return now < self._serial_until

    def record(self, seconds: float, *, alone: bool, now: float, beside: float = 1.0) -> None:
        """A turn took so long. alone: none other ran at any time of it; beside: how many ran meanwhile, with it."""
        if alone:
            self._alone.append(seconds)
            self._look_again(seconds, now)
            return
        if self.serial(now):
            return  # it began before
        self._together.append(seconds)
        self._shares.append(seconds / beside)
        if min(len(self._alone), len(self._together)) < SAMPLES:
            return
        slow = p95(self._together)
        worse = slow - p95(self._alone)
        if worse > WORSE_S and median(self._shares) > WORTH * median(self._alone):
            self._serial_until = now + self._trial_s
            self._trial_s = min(2 * self._trial_s, TRIAL_MAX_S)
            self._slow = slow
            self._together.clear()
            self._shares.clear()
            self._fresh.clear()
        elif worse <= WELL_S:
            self._trial_s = TRIAL_S

    def _look_again(self, seconds: float, now: float) -> None:
        """Turns alone are as slow as those together were: it was not that they were together."""
        if not self.serial(now):
            return
        self._fresh.append(seconds)
        if len(self._fresh) == FRESH and median(self._fresh) > self._slow - WORSE_S:
            self._serial_until = now
            self._alone = deque(self._fresh, maxlen=KEPT)


def p95(values: deque[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[min(int(0.95 * len(values)), len(values) - 1)]
