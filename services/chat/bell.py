"""Doorbells: a world's log has grown. Who hears one reads the log; only the latest number is kept for a slow hearer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

World = tuple[str, str]
# Instead of a number: another replica keeps the world's log.
ELSEWHERE = -1


class Bell:
    """Waiters of one world, and watchers of the many that each names."""

    def __init__(self) -> None:
        self._waiters: dict[World, set[asyncio.Event]] = {}
        self._watchers: dict[World, set[Watcher]] = {}
        self._all: set[Watcher] = set()
        self._closed = False

    def ring(self, world: World, last_seq: int) -> None:
        """The world's log ends at `last_seq` now."""
        for event in self._waiters.get(world, ()):
            event.set()
        for watcher in self._watchers.get(world, ()):
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

    def watch(self) -> Watcher:
        """Somebody who names the worlds to hear of; `close` it in the end."""
        watcher = Watcher(self._watchers)
        self._all.add(watcher)
        if self._closed:
            watcher.end()
        return watcher

    def close_watch(self, watcher: Watcher) -> None:
        """Ring nobody who has gone."""
        watcher.leave(list(watcher.worlds))
        self._all.discard(watcher)

    def hand_on(self, gone: Callable[[World], bool]) -> None:
        """Tell who listens to such worlds that they are rung elsewhere from now on."""
        for world in [one for one in self._watchers if gone(one)]:
            for watcher in list(self._watchers[world]):
                watcher.elsewhere(world)

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
        for watcher in self._all:
            watcher.end()


class Watcher:
    """The worlds that one watch listens to, and what rang since it looked: the latest number of each."""

    def __init__(self, by_world: dict[World, set[Watcher]]) -> None:
        self._by_world = by_world
        self._last: dict[World, int] = {}
        self._changed = asyncio.Event()
        self._ended = False
        self.worlds: set[World] = set()

    def listen(self, world: World, last_seq: int) -> None:
        """Hear of a world from now on, and at once of where its log ends."""
        self.worlds.add(world)
        self._by_world.setdefault(world, set()).add(self)
        self.put(world, last_seq)

    def leave(self, worlds: Iterable[World]) -> None:
        """Hear of these no more."""
        for world in worlds:
            self.worlds.discard(world)
            self._last.pop(world, None)
            watchers = self._by_world.get(world, set())
            watchers.discard(self)
            if not watchers:
                self._by_world.pop(world, None)

    def elsewhere(self, world: World) -> None:
        """The world is rung elsewhere: say so, and of it nothing more."""
        self.leave((world,))
        self.put(world, ELSEWHERE)

    def put(self, world: World, last_seq: int) -> None:
        """Where a world's log ends, or ELSEWHERE."""
        self._last[world] = last_seq
        self._changed.set()

    def end(self) -> None:
        """Nothing will ring any more."""
        self._ended = True
        self._changed.set()

    async def rings(self) -> AsyncIterator[tuple[World, int]]:
        """(world, where its log ends) as they come, until the end."""
        while not self._ended:
            await self._changed.wait()
            self._changed.clear()
            rung, self._last = list(self._last.items()), {}
            for world, last_seq in rung:
                yield world, last_seq
