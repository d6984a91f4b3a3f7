"""What the room repeats: retention."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.chat.store import ChatStore
from services.common.clock import Clock
from services.common.errors import EarshotError
from services.common.logs import get_logger

PERIOD_S = 60.0

_log = get_logger("chat")


@dataclass(frozen=True, slots=True)
class Retention:
    """Drops log entries past their time or number, and worlds of which nothing is left (D7).

    in_use: whether a world is in memory; those are trimmed but never dropped.
    """

    store: ChatStore
    clock: Clock
    keep_ms: int
    keep: int
    in_use: Callable[[tuple[str, str]], bool]

    async def run(self) -> None:
        """Trim every world now and then, for ever."""
        while True:
            await self.trim()
            await asyncio.sleep(PERIOD_S)

    async def trim(self) -> int:
        """Trim every world once. Answers how many entries went."""
        removed = 0
        for world in self.store.worlds():
            try:
                removed += await self._trim(world)
            except EarshotError as error:
                _log.warning("trim_failed", reason=error.reason)
        return removed

    async def _trim(self, world: tuple[str, str]) -> int:
        before = self.clock.now_ms() - self.keep_ms
        removed = await self.store.trim(world, before, self.keep)
        last = self.store.newest(world, 1)
        if last and last[0].at_ms < before and not self.in_use(world):
            await self.store.drop(world)
            removed += 1
        return removed
