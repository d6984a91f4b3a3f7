"""What the room repeats: retention."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.chat import recall_store
from services.chat.store import ChatStore
from services.common.clock import Clock
from services.common.errors import EarshotError
from services.common.logs import get_logger

PERIOD_S = 60.0
# Lines that recall forgets in one commit.
PRUNED = 500

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
    recall_ms: int = 90 * 86_400_000
    recall_keep: int = 1_000_000

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
        return removed + await self._prune()

    async def _prune(self) -> int:
        """Recall: lines of sessions go with the log, those that outlive sessions at their own age; a cap a tenant."""
        now, removed = self.clock.now_ms(), 0
        while True:
            gone = await self.store.change(
                lambda db: recall_store.prune(db, now - self.keep_ms, now - self.recall_ms, self.recall_keep, PRUNED),
                durable=False,
            )
            removed += gone
            if gone < PRUNED:
                return removed

    async def _trim(self, world: tuple[str, str]) -> int:
        before = self.clock.now_ms() - self.keep_ms
        removed = await self.store.trim(world, before, self.keep)
        last = self.store.newest(world, 1)
        if last and last[0].at_ms < before and not self.in_use(world):
            await self.store.drop(world)
            removed += 1
        return removed
