"""Replicas over one table: shares that follow who is alive, hand on before they are taken, and survive a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.common.ownership import PARTITIONS, LeasedOwnership
from services.common.registry import Replica
from services.common.replicas import Holder, Partitions, Replicas, plan
from tests.fakes.registry import SharedRegistry, Table

LEASE_S = 5.0


@dataclass
class Store:
    """What of the rows is here; as a database does, it takes no partition twice."""

    ownership: LeasedOwnership
    rows: dict[int, int] = field(default_factory=dict)

    async def enter(self, tokens: Mapping[int, int]) -> None:
        assert not self.rows.keys() & tokens.keys()
        self.rows.update(tokens)

    async def leave(self, partitions: Collection[int]) -> None:
        for one in partitions:
            del self.rows[one]

    async def flush(self) -> None:
        return


class One:
    """A replica of a room that does nothing but hold."""

    def __init__(self, name: str, table: Table) -> None:
        clock = asyncio.get_running_loop().time
        self.registry = SharedRegistry(table)
        self.ownership = LeasedOwnership(clock)
        self.store = Store(self.ownership)
        self.held: set[int] = set()
        self.fails = 0
        database: Any = self.store
        holder = Holder(self._entered, self._leaving)
        self.replicas = Replicas(self.registry, database, holder, Replica(name, f"{name}:1"), LEASE_S, clock)
        self.task = asyncio.create_task(self._supervised())

    async def _entered(self, partitions: Partitions) -> None:
        if self.fails:
            self.fails -= 1
            raise ValueError("a row that cannot be read")
        self.held |= partitions

    async def _leaving(self, partitions: Partitions) -> None:
        self.held -= partitions

    async def _supervised(self) -> None:
        """As an app's: a worker that fails is run again."""
        while True:
            with suppress(ExceptionGroup):
                await self.replicas.run()
            await asyncio.sleep(0.2)

    def freeze(self) -> None:
        """It does nothing any more, not even stop."""
        self.registry.away = Unavailable("frozen")

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def table() -> AsyncIterator[Table]:
    shared = Table()

    async def tick() -> None:
        while True:
            shared.now = asyncio.get_running_loop().time()
            await asyncio.sleep(0.05)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    yield shared
    ticking.cancel()


def shares(*replicas: One) -> list[set[int]]:
    """What each serves: in its store, in its room and before its callers alike, nobody's twice, and all of it."""
    found = []
    for one in replicas:
        assert one.held == one.store.rows.keys() == one.ownership.parts.keys()
        found.append(set(one.held))
    assert sorted(partition for share in found for partition in share) == list(range(PARTITIONS))
    return found


async def test_one_has_everything_and_a_second_gets_what_the_plan_says() -> None:
    async with table() as shared:
        first = One("a", shared)
        await asyncio.sleep(1)
        assert shares(first) == [set(range(PARTITIONS))]
        await first.replicas.ready()
        second = One("b", shared)
        await asyncio.sleep(3)
        for one, share in zip("ab", shares(first, second), strict=True):
            assert share == {partition for partition, owner in plan("ab").items() if owner == one}
            assert {shared.shown[partition] for partition in share} == {f"{one} {one}:1"}
        for each in (first, second):
            await each.stop()
        assert shared.shown == {}


async def test_what_a_stopped_one_had_is_taken_at_once_and_a_frozen_ones_after_its_lease() -> None:
    async with table() as shared:
        first, second, third = (One(name, shared) for name in "abc")
        await asyncio.sleep(4)
        shares(first, second, third)
        await third.stop()
        await asyncio.sleep(2.5)
        shares(first, second)
        second.freeze()
        await asyncio.sleep(LEASE_S - 1)
        assert first.held != set(range(PARTITIONS))
        await asyncio.sleep(4)
        assert shares(first) == [set(range(PARTITIONS))]
        # It does not know, but its lease is over: it writes nothing.
        with pytest.raises(Unavailable):
            second.ownership.fence("t", next(str(n) for n in range(999) if second.ownership.owns("t", str(n))))
        second.registry.away = None
        await asyncio.sleep(4)
        shares(first, second)
        for each in (first, second):
            await each.stop()


async def test_one_whose_room_fails_to_take_rows_up_serves_them_when_it_can() -> None:
    async with table() as shared:
        first = One("a", shared)
        first.fails = 2
        await asyncio.sleep(5)
        assert shares(first) == [set(range(PARTITIONS))]
        assert all(shared.tokens[partition] == token for partition, token in first.store.rows.items())
        await first.stop()


async def test_the_table_is_away_for_a_while_and_nobody_loses_anything() -> None:
    async with table() as shared:
        first, second = One("a", shared), One("b", shared)
        await asyncio.sleep(3)
        before = shares(first, second)
        for one in (first, second):
            one.registry.away = Unavailable("away", reason="STORE_UNAVAILABLE")
        await asyncio.sleep(2 * LEASE_S)
        for one in (first, second):
            with pytest.raises(Unavailable):
                one.ownership.fence("t", next(str(n) for n in range(999) if one.ownership.owns("t", str(n))))
        tokens = dict(shared.tokens)
        for one in (first, second):
            one.registry.away = None
        await asyncio.sleep(2)
        assert shares(first, second) == before
        assert shared.tokens == tokens
        for one in (first, second):
            await one.stop()
