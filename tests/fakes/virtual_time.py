"""An event loop whose time jumps to the next timer: hours of waiting pass in milliseconds, exactly and repeatably.

Only for code that waits on timers and on itself; a test that waits for real I/O gets a clear error, not a hang.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# Real seconds to wait for a thread's or socket's wake-up when no timer is due: then it is a deadlock.
REAL_WAIT_S = 30.0


class Deadlock(RuntimeError):
    """Every task waits and no timer is set."""


class _JumpingSelector(selectors.DefaultSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            ready = super().select(REAL_WAIT_S)
            if not ready:
                raise Deadlock("every task waits and no timer is set")
            return ready
        self.loop.advance(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio loop with virtual time; starts at 1,000 s so that differences with 0 show."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self._now = 1000.0
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass without running anything: what a suspended machine sees."""
        self._now += max(seconds, 0.0)


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
