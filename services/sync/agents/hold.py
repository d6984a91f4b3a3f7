"""The right to ask an agent: one turn has it at a time, and may leave it to what outlives its caller."""

from __future__ import annotations

import asyncio

from services.common.errors import Unavailable

# Longest wait for an agent that is busy with another turn, seconds; then AGENT_BUSY.
BUSY_WAIT_S = 2.0


class AgentBusy(Unavailable):
    """The agent executes another turn, or nobody knows yet whether it still does."""

    default_reason = "AGENT_BUSY"

    def __init__(self) -> None:
        super().__init__("the agent is busy with another turn", retry_after_ms=500)


class TurnHold:
    """The right to ask an agent; given back once, by whoever has it last."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._kept = False
        self._released = False
        # Loop time since which nobody waits for the turn.
        self.abandoned_at: float | None = None

    def keep(self) -> None:
        """Somebody else gives it back, by `release`."""
        self._kept = True

    def abandon(self) -> None:
        """Nobody waits for the turn any more."""
        if self.abandoned_at is None:
            self.abandoned_at = asyncio.get_running_loop().time()

    def leave(self) -> None:
        if not self._kept:
            self.release()

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._lock.release()
