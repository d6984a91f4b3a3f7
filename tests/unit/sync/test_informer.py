"""The informer of one replica among several: what it lists and follows is what it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from services.common.errors import Unavailable
from services.sync.context import Key
from services.sync.reader import Change, Changes
from services.sync.schedule.due import Lane
from services.sync.worker import Informer

Asked = list[frozenset[int]]


class Feed:
    """A state that is listed and followed, as the reader and the reconciler of a replica see it."""

    def __init__(self, here: frozenset[int] | None) -> None:
        self.here = here
        self.listed: Asked = []
        self.taken_lists: Asked = []
        self.followed: list[tuple[str, frozenset[int]]] = []
        self.taken: list[Change] = []
        self.pages: asyncio.Queue[Changes] = asyncio.Queue()
        self.slow_s = 0.0
        self.failures = 0
        self.reader = self
        self.agents = SimpleNamespace(store=self)

    async def list(self, partitions: Iterable[int]) -> Changes:
        self.listed.append(frozenset(partitions))
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        await asyncio.sleep(self.slow_s)
        return Changes(f"token-{len(self.listed)}", ())

    async def watch(self, token: str, partitions: Iterable[int]) -> AsyncIterator[Changes]:
        self.followed.append((token, frozenset(partitions)))
        while True:
            yield await self.pages.get()

    def take_list(self, changes: Any, partitions: Iterable[int]) -> Sequence[Key]:
        self.taken_lists.append(frozenset(partitions))
        return []

    def take(self, changes: Iterable[Change]) -> Sequence[Key]:
        self.taken += changes
        return []

    async def release_vanished(self, keys: Any) -> None:
        assert keys == []


@asynccontextmanager
async def informed(feed: Feed) -> AsyncIterator[Informer]:
    informer = Informer(feed)  # type: ignore[arg-type]  # what it uses of a reconciler
    task = asyncio.create_task(informer.run())
    await asyncio.sleep(0.1)
    try:
        yield informer
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_where_all_is_one_everything_is_listed_and_followed() -> None:
    feed = Feed(None)
    async with informed(feed):
        assert (feed.listed, feed.followed) == ([frozenset()], [("token-1", frozenset())])
        change = Change(Key("t", "w", "mara"), 3, Lane.LOW, True, False, False, False)
        feed.pages.put_nowait(Changes("token-2", (change,)))
        await asyncio.sleep(0.1)
        assert feed.taken == [change]


async def test_a_replica_that_serves_nothing_asks_for_nothing() -> None:
    feed = Feed(frozenset())
    async with informed(feed) as informer:
        await asyncio.sleep(60)
        assert (feed.listed, feed.followed) == ([], [])
        feed.here = frozenset({3})
        informer.list_again()
        await asyncio.sleep(0.1)
        assert feed.followed == [("token-1", frozenset({3}))]


async def test_what_came_is_listed_and_followed_with_the_rest() -> None:
    feed = Feed(frozenset({1}))
    async with informed(feed) as informer:
        feed.here = frozenset({1, 2})
        informer.list_again()
        await asyncio.sleep(1)
        assert feed.listed == feed.taken_lists == [frozenset({1}), frozenset({1, 2})]
        assert feed.followed[-1] == ("token-2", frozenset({1, 2}))


async def test_what_came_while_it_was_listed_is_listed_too() -> None:
    feed = Feed(frozenset({1}))
    feed.slow_s = 1.0
    async with informed(feed) as informer:
        feed.here = frozenset({1, 2})
        informer.list_again()
        await asyncio.sleep(3)
        assert feed.listed == [frozenset({1}), frozenset({1, 2})]
        assert feed.followed == [("token-2", frozenset({1, 2}))]


async def test_a_listing_that_failed_is_made_before_anything_is_followed_again() -> None:
    feed = Feed(frozenset({1}))
    async with informed(feed) as informer:
        feed.failures, feed.here = 1, frozenset({1, 2})
        informer.list_again()
        await asyncio.sleep(5)
        assert feed.listed == [frozenset({1}), frozenset({1, 2}), frozenset({1, 2})]
        assert feed.followed[1:] == [("token-3", frozenset({1, 2}))]


async def test_a_gap_lists_again() -> None:
    feed = Feed(frozenset({1}))
    async with informed(feed):
        feed.pages.put_nowait(Changes("token-9", (), gap=True))
        await asyncio.sleep(1)
        assert [token for token, _ in feed.followed] == ["token-1", "token-2"]
