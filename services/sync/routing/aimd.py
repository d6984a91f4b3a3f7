"""Concurrency limit of one endpoint: grows by one per round of successes, halves when it is told to slow down (C11)."""

from __future__ import annotations


class Aimd:
    """limit(): calls that may be in flight. Pure: no clock; one backing off per round trip is the caller's call."""

    def __init__(self, maximum: int, minimum: int = 1) -> None:
        self._maximum = max(maximum, minimum)
        self._minimum = minimum
        self._limit = float(self._maximum)

    @property
    def limit(self) -> int:
        return max(self._minimum, int(self._limit))

    def succeeded(self) -> None:
        """Additive increase: one more after as many successes as the limit is."""
        self._limit = min(self._limit + 1.0 / self._limit, float(self._maximum))

    def slow_down(self) -> None:
        """Multiplicative decrease: the endpoint said 429, or timed out."""
        self._limit = max(self._limit / 2.0, float(self._minimum))
