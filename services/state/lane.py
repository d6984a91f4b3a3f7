"""One apply in flight per world, at most a few waiting, and no snapshot waiting behind a newer copy of
itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

WAITING_MAX = 4


class LaneFull(Exception):
    """WAITING_MAX others wait already."""


class Superseded(Exception):
    """While this one waited, a newer snapshot took its place."""


@dataclass(slots=True, eq=False)
class _Waiter:
    turn: asyncio.Future[None]
    replaceable: bool


class Lane:
    """A world's turn-taking.

    `replaceable` marks an unsequenced full snapshot: a newer one takes its place.
    """

    __slots__ = ("_busy", "_waiting")

    def __init__(self) -> None:
        self._busy = False
        self._waiting: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether somebody holds it."""
        return self._busy

    def take(self) -> bool:
        """Hold the lane at once if nobody does; who did calls `leave`."""
        if self._busy:
            return False
        self._busy = True
        return True

    def leave(self) -> None:
        """Pass the lane on."""
        self._next()

    @asynccontextmanager
    async def turn(self, *, replaceable: bool = False, bounded: bool = True) -> AsyncIterator[None]:
        """Hold the lane. Raises LaneFull (only if `bounded`: our own work always may wait) or Superseded."""
        if self._busy:
            await self._wait(replaceable=replaceable, bounded=bounded)
        self._busy = True
        try:
            yield
        finally:
            self._next()

    async def _wait(self, *, replaceable: bool, bounded: bool) -> None:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), replaceable)
        place = self._replaced(waiter) if replaceable else None
        if place is None:
            if bounded and len(self._waiting) >= WAITING_MAX:
                raise LaneFull
            self._waiting.append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled():
                self._next()  # the turn was ours already: pass it on
            raise

    def _replaced(self, waiter: _Waiter) -> _Waiter | None:
        """Put `waiter` where an older replaceable one waits, which is told so."""
        for place, older in enumerate(self._waiting):
            if older.replaceable:
                self._waiting[place] = waiter
                if not older.turn.done():
                    older.turn.set_exception(Superseded())
                return older
        return None

    def _next(self) -> None:
        """Pass the turn to whoever waits longest. The lane stays busy in between: nobody slips in."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.turn.done():
                self._busy = True
                waiter.turn.set_result(None)
                return
        self._busy = False
