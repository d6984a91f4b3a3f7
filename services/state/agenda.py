"""What becomes due by itself: worlds that have something to end at a time."""

from __future__ import annotations

import asyncio
import heapq

from services.state.feed import Ref


class Agenda:
    """A heap of (tick, world). A world may stand in it more than once: who takes it looks what is due."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, Ref]] = []
        self._changed = asyncio.Event()
        self._earliest: dict[Ref, int] = {}

    def add(self, ref: Ref, tick: int) -> None:
        """Have `ref` taken at `tick`, monotonic ms. An earlier appointment makes a later one needless."""
        if tick < self._earliest.get(ref, tick + 1):
            self._earliest[ref] = tick
            heapq.heappush(self._heap, (tick, ref))
            if self._heap[0] == (tick, ref):
                self._changed.set()

    async def next(self, now: int) -> Ref | None:
        """Wait for the first world to become due; None when the agenda changed while waiting.

        `now`: monotonic ms.
        """
        if not self._heap:
            await self._changed.wait()
            self._changed.clear()
            return None
        tick, ref = self._heap[0]
        if tick > now:
            self._changed.clear()
            try:
                async with asyncio.timeout((tick - now) / 1000):
                    await self._changed.wait()
            except TimeoutError:
                pass
            return None
        heapq.heappop(self._heap)
        if self._earliest.get(ref) != tick:
            return None  # superseded by an earlier one that was taken already
        del self._earliest[ref]
        return ref
