"""Work that can wait: at once in a quiet loop, later in a busy one, and never too late."""

from __future__ import annotations

import asyncio

from services.common.leisure import BUSY_S, leisure
from tests.fakes.virtual_time import VirtualTimeLoop


async def keep_busy(turn_s: float) -> None:
    """Every turn of the loop takes `turn_s`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    while True:
        loop.advance(turn_s)
        await asyncio.sleep(0)


async def waited(most_s: float) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await leisure(most_s)
    return loop.time() - began


async def test_a_quiet_loop_is_not_waited_for() -> None:
    assert await waited(1.0) == 0.0


async def test_a_busy_loop_is_waited_for_but_not_longer_than_agreed() -> None:
    busy = asyncio.create_task(keep_busy(2 * BUSY_S))
    try:
        assert 0.5 <= await waited(0.5) < 0.6
    finally:
        busy.cancel()


async def test_work_goes_on_once_the_loop_has_a_moment() -> None:
    busy = asyncio.create_task(keep_busy(2 * BUSY_S))
    asyncio.get_running_loop().call_later(0.1, busy.cancel)
    assert 0.1 <= await waited(5.0) < 0.3
