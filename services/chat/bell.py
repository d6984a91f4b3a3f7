"""Doorbells: a world's log has grown. Who hears one reads the log; only the latest number is kept for a slow hearer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

World = tuple[str, str]


class Bell:
    """Waiters of one world, and watchers of many."""

    def __init__(self) -> None:
        self._waiters: dict[World, set[asyncio.Event]] = {}
        self._watchers: set[_Watcher] = set()
        self._closed = False

    def ring(self, world: World, last_seq: int) -> None:
        """The world's log ends at `last_seq` now."""
        for event in self._waiters.get(world, ()):
            event.set()
        for watcher in self._watchers:
            watcher.put(world, last_seq)

    async def wait(self, world: World, event: asyncio.Event, seconds: float) -> None:
        """Wait until an event from `listen` is set, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return

    def listen(self, world: World) -> asyncio.Event:
        """An event that is set when the world's log grows; give it back to `leave`."""
        event = asyncio.Event()
        self._waiters.setdefault(world, set()).add(event)
        if self._closed:
            event.set()
        return event

    def leave(self, world: World, event: asyncio.Event) -> None:
        """Listen no more."""
        waiters = self._waiters.get(world, set())
        waiters.discard(event)
        if not waiters:
            self._waiters.pop(world, None)

    async def watch(self, tenant: str) -> AsyncIterator[tuple[World, int]]:
        """(world, last number) of a tenant's worlds, "" = of all, until closed."""
        watcher = _Watcher(tenant)
        self._watchers.add(watcher)
        try:
            while not self._closed:
                await watcher.changed.wait()
                watcher.changed.clear()
                for world, last_seq in watcher.drain():
                    yield world, last_seq
        finally:
            self._watchers.discard(watcher)

    @property
    def closed(self) -> bool:
        """Whether nothing will ring any more."""
        return self._closed

    def close(self) -> None:
        """Let everybody go."""
        self._closed = True
        for waiters in self._waiters.values():
            for event in waiters:
                event.set()
        for watcher in self._watchers:
            watcher.changed.set()


class _Watcher:
    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._last: dict[World, int] = {}
        self.changed = asyncio.Event()

    def put(self, world: World, last_seq: int) -> None:
        if self._tenant in ("", world[0]):
            self._last[world] = last_seq
            self.changed.set()

    def drain(self) -> list[tuple[World, int]]:
        rung, self._last = list(self._last.items()), {}
        return rung
