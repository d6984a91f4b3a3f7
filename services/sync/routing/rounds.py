"""Whether turns of one endpoint go in parallel or one after the other (C10). Pure: time passed in.

Turns of different NPCs run at once, within the concurrency limit. A model server may do worse so: while the 95th
percentile of turns that overlapped lies more than 500 ms above that of turns that ran alone, they go one by one.
Whether parallel is still slow only a trial tells: after 30 s, then after twice as long each time it was.
"""

from __future__ import annotations

from collections import deque

# Turns of either kind that must be known; how many are remembered.
SAMPLES, KEPT = 20, 100
# Seconds: slower by this, one by one; by no more than this, parallel is well again.
WORSE_S, WELL_S = 0.5, 0.25
TRIAL_S, TRIAL_MAX_S = 30.0, 480.0


class Rounds:
    """`record` every turn that ended well; `serial` says how the next ones go."""

    def __init__(self) -> None:
        self._alone: deque[float] = deque(maxlen=KEPT)
        self._together: deque[float] = deque(maxlen=KEPT)
        self._serial_until = 0.0
        self._trial_s = TRIAL_S

    def serial(self, now: float) -> bool:
        """Whether turns go one after the other now."""
        return now < self._serial_until

    def record(self, seconds: float, *, alone: bool, now: float) -> None:
        """A turn took so long; alone: none other ran at any time of it."""
        if alone:
            self._alone.append(seconds)
            return
        if self.serial(now):
            return  # it began before
        self._together.append(seconds)
        if min(len(self._alone), len(self._together)) < SAMPLES:
            return
        worse = p95(self._together) - p95(self._alone)
        if worse > WORSE_S:
            self._serial_until = now + self._trial_s
            self._trial_s = min(2 * self._trial_s, TRIAL_MAX_S)
            self._together.clear()
        elif worse <= WELL_S:
            self._trial_s = TRIAL_S


def p95(values: deque[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[min(int(0.95 * len(values)), len(values) - 1)]
