"""What the room repeats: retention."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.chat.store import ChatStore
from services.common.clock import Clock
from services.common.errors import EarshotError
from services.common.logs import get_logger

PERIOD_S = 60.0

_log = get_logger("chat")


@dataclass(frozen=True, slots=True)
class Retention:
    """Drops log entries past their time or number (D7)."""

    store: ChatStore
    clock: Clock
    keep_ms: int
    keep: int

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
                removed += await self.store.trim(world, self.clock.now_ms() - self.keep_ms, self.keep)
            except EarshotError as error:
                _log.warning("trim_failed", reason=error.reason)
        return removed
