"""A tenant's tokens of a UTC day: what its turns have cost, and whether the budget is spent.

Counted from what runtimes report at the end of a turn; a turn that was cut off reports nothing. Kept in the store, so a
restart does not open the purse again; each chat process has its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.chat.floor import DAY_MS
from services.chat.store import ChatStore
from services.common.clock import Clock


@dataclass(slots=True)
class Purse:
    """budget: tokens a day; 0 = no budget, and nothing is counted."""

    store: ChatStore
    clock: Clock
    budget: int
    _spent: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def today(self) -> int:
        """UTC day since 1970."""
        return self.clock.now_ms() // DAY_MS

    def broke(self, tenant: str) -> bool:
        """Whether today's tokens are spent."""
        return 0 < self.budget <= self._known(tenant)

    async def spend(self, tenant: str, tokens: int) -> bool:
        """Count tokens. True when these were the last ones of today. Raises what the store raises."""
        if not self.budget or tokens <= 0:
            return False
        before, day = self._known(tenant), self.today
        self._spent[tenant] = (day, before + tokens)
        await self.store.add_tokens(tenant, day, tokens)
        return before < self.budget <= before + tokens

    def _known(self, tenant: str) -> int:
        day = self.today
        known = self._spent.get(tenant)
        if known is None or known[0] != day:
            known = self._spent[tenant] = (day, self.store.tokens(tenant, day) if self.budget else 0)
        return known[1]
