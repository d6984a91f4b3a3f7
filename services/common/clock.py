"""Two times, never mixed: the event loop's monotonic seconds for durations, the wall clock for what people read.

Client timestamps order nothing; wall time may jump and no decision depends on its steps (R8).
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Port of time. Rooms get one from their app and pass its values into nouns."""

    def now_ms(self) -> int:
        """Wall clock, unix milliseconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow; comparable within one process."""
        ...


class SystemClock:
    """The machine's clocks. Monotonic time is the running loop's, so a virtual-time loop moves both sleeps and it."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class LoopClock:
    """Wall time that follows the loop's time from a fixed start: what virtual-time tests and replays use."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._start_ms = start_ms

    def now_ms(self) -> int:
        return self._start_ms + round(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
