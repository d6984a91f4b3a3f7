"""Work that can wait makes way for requests while the loop is busy, for a bounded time: put off, never starved.

A turn of the loop that takes long means that many wait for it. What is level-triggered (fresh memory ahead of a turn, a
look at a world whose bell rang) loses nothing by waiting: it is done once, with what is true then.
"""

from __future__ import annotations

import asyncio

# A turn of the loop longer than this has had much to do.
BUSY_S = 0.001
PAUSE_S = 0.02


async def leisure(most_s: float) -> None:
    """Wait until the loop has a moment, at most so long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + most_s
    while True:
        before = loop.time()
        await asyncio.sleep(0)
        now = loop.time()
        if now - before < BUSY_S or now >= end:
            return
        await asyncio.sleep(PAUSE_S)
