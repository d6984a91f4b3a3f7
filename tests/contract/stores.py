"""A room's store over each engine: in memory, SQLite in a file, and Redis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from services.common.mirror import Layout, Mirror
from services.common.ownership import LeasedOwnership
from services.common.redis_rows import RedisRows
from services.common.registry import Registry, Replica, client
from services.common.replicas import EVERYTHING
from services.common.store import Database
from services.common.store_file import MEMORY


class Engine(Protocol):
    """Opens stores over the same kept rows. survives: whether a store that is opened again finds them."""

    survives: bool

    async def open(self, room: str, schema: Sequence[str], layout: Layout) -> Database: ...


class Memory:
    survives = False

    async def open(self, room: str, schema: Sequence[str], layout: Layout) -> Database:
        return Database(MEMORY, schema)


class Files:
    survives = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def open(self, room: str, schema: Sequence[str], layout: Layout) -> Database:
        return Database(self._folder / f"{room}.db", schema)


class Redis:
    """Each store that is opened is another replica, which takes everything."""

    survives = True

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._numbers = itertools.count(1)

    async def open(self, room: str, schema: Sequence[str], layout: Layout) -> Database:
        number = next(self._numbers)
        mirror = Mirror(layout, RedisRows(self.url, room), number)
        database = Database(self._folder / f"{room}.{number}.db", schema, mirror=mirror)
        await self.take(database, room, f"r{number}")
        return database

    async def take(self, database: Database, room: str, who: str, partitions: Sequence[int] = ()) -> dict[int, int]:
        """Take partitions from whoever has them, [] = all."""
        store = client(self.url)
        try:
            tokens = await Registry(store, room).take(partitions or sorted(EVERYTHING), Replica(who, ""), [])
        finally:
            await store.aclose()
        await database.enter(tokens)
        assert isinstance(database.ownership, LeasedOwnership)
        database.ownership.hold(tokens)
        database.ownership.until = float("inf")
        return tokens
