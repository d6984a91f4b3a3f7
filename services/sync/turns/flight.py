"""Identical questions one at a time: who asks second waits for what comes of the first (single flight)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Flights:
    """`await landed(key)`, then `async with flight(key)`."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Future[None]] = {}

    async def landed(self, key: Hashable, timeout: float) -> None:
        """Wait until nobody asks this, at most so many seconds."""
        if (flight := self._under_way.get(key)) is not None:
            await asyncio.wait((flight,), timeout=timeout)

    @asynccontextmanager
    async def flight(self, key: Hashable) -> AsyncIterator[None]:
        """This caller asks. Who comes later waits for the latest of those that ask."""
        mark = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            if self._under_way.get(key) is mark:
                del self._under_way[key]
            mark.set_result(None)
