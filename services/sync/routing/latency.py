"""How long an endpoint takes to its first words: a moving average, and the 95th percentile of the last minute. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Share of the newest sample in the average.
NEWEST = 0.2
KEPT = 64
KEPT_S = 60.0
# Fewer samples say nothing of a tail.
TELLING = 5
# Believed of an endpoint that was never asked, seconds.
UNKNOWN_S = 0.5


@dataclass(slots=True)
class Latency:
    """Seconds; times are loop time."""

    average: float = UNKNOWN_S
    _samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    # The percentile as last worked out, and until when it holds: every turn asks for it.
    _tail: float | None = None
    _tail_until: float = 0.0

    def observe(self, seconds: float, now: float) -> None:
        """One answer's first words came after so long, or did not come for so long."""
        self.average = seconds if not self._samples else (1 - NEWEST) * self.average + NEWEST * seconds
        self._samples.append((now, seconds))
        self._tail_until = 0.0

    def p95(self, now: float) -> float | None:
        """None = too few answers lately: who was slow a minute ago is tried again."""
        if now < self._tail_until:
            return self._tail
        while self._samples and self._samples[0][0] < now - KEPT_S:
            self._samples.popleft()
        self._tail = None
        if len(self._samples) >= TELLING:
            ordered = sorted(seconds for _, seconds in self._samples)
            self._tail = ordered[round(0.95 * (len(ordered) - 1))]
        self._tail_until = self._samples[0][0] + KEPT_S if self._samples else now + KEPT_S
        return self._tail
