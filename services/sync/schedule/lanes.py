"""Who is written next: high never waits behind the others, and low is never starved (C5).

A queue of keys by lane and due time, of equal ones by rank; a key is in it at most once. Pure: time passed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

from services.sync.schedule.due import Lane

K = TypeVar("K", bound=Hashable)
# Medium items served for one low item while both wait.
MEDIUM_PER_LOW = 4


class Lanes(Generic[K]):
    """put replaces a key's place; pop gives what is due, by weighted service."""

    def __init__(self) -> None:
        self._heaps: dict[Lane, list[tuple[float, int, int, K]]] = {lane: [] for lane in Lane}
        self._places: dict[K, tuple[Lane, int]] = {}
        self._counts = dict.fromkeys(Lane, 0)
        self._serial = 0
        self._medium_served = 0

    def __len__(self) -> int:
        return len(self._places)

    def count(self, lane: Lane) -> int:
        return self._counts[lane]

    def put(self, key: K, lane: Lane, due: float, rank: int = 0) -> None:
        """Queue the key, or move it. rank: of those due at the same time the lowest goes first."""
        self.drop(key)
        self._serial += 1
        self._counts[lane] += 1
        self._places[key] = (lane, self._serial)
        heapq.heappush(self._heaps[lane], (due, rank, self._serial, key))

    def drop(self, key: K) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            self._counts[place[0]] -= 1

    def next_due(self, *, high_only: bool = False) -> float | None:
        """The earliest due time; None when nothing waits."""
        lanes = (Lane.HIGH,) if high_only else tuple(Lane)
        return min((self._heaps[lane][0][0] for lane in lanes if self._fresh(lane)), default=None)

    def pop(self, now: float, *, high_only: bool = False) -> tuple[K, Lane] | None:
        """A key that is due, removed; None when none is. high_only: room is kept for the high lane."""
        ready = [lane for lane in Lane if self._fresh(lane) and self._heaps[lane][0][0] <= now]
        if high_only:
            ready = [lane for lane in ready if lane is Lane.HIGH]
        if not ready:
            return None
        lane = ready[0]
        if lane is Lane.MEDIUM and Lane.LOW in ready and self._medium_served >= MEDIUM_PER_LOW:
            lane = Lane.LOW
        if lane is Lane.MEDIUM:
            self._medium_served += 1
        elif lane is Lane.LOW:
            self._medium_served = 0
        *_, key = heapq.heappop(self._heaps[lane])
        self.drop(key)
        return key, lane

    def _fresh(self, lane: Lane) -> bool:
        """Whether the lane has an item, once places that were left are gone from its head."""
        heap = self._heaps[lane]
        while heap and self._places.get(heap[0][3]) != (lane, heap[0][2]):
            heapq.heappop(heap)
        return bool(heap)
