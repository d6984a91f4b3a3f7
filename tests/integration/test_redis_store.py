"""The shared store on a real Redis: who may write, what a kill and a restart leave, what is told at start."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from services.common.errors import BadInput, Conflict, NotOwner, Unavailable
from services.common.mirror import Layout
from services.common.ownership import LeasedOwnership, partition_of
from services.common.redis_rows import Batch, RedisRows, complaints, fit
from services.common.registry import Registry, Replica, client
from services.common.store import Database
from tests.contract.stores import Redis
from tests.redis_server import RedisServer, redis_server

ITEMS = (
    "CREATE TABLE IF NOT EXISTS item (tenant TEXT, world TEXT, n INTEGER, body TEXT, PRIMARY KEY (tenant, world, n))",
)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def put(n: int, body: str, world: str = "w") -> Callable[[sqlite3.Connection], None]:
    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT OR REPLACE INTO item VALUES ('t', ?, ?, ?)", (world, n, body))

    return work


def bodies(database: Database) -> list[str]:
    return [body for (body,) in database.read("SELECT body FROM item ORDER BY world, n")]


async def test_an_owner_that_was_replaced_writes_nothing_and_is_told(server: RedisServer, tmp_path: Path) -> None:
    engine, lost = Redis(server.url, tmp_path), set[int]()
    old = await engine.open("item", ITEMS, Layout())
    old._lost = lost.update
    await old.write(put(1, "first"))
    elsewhere = next(f"w{n}" for n in range(99) if partition_of("t", f"w{n}") != partition_of("t", "w"))
    new = await engine.open("item", ITEMS, Layout())
    assert bodies(new) == ["first"]
    # The same group holds a write of a world that it still owns.
    await engine.take(old, "item", "r1", [partition_of("t", elsewhere)])
    late, kept = old.submit(put(1, "zombie")), old.submit(put(1, "mine", elsewhere))
    with pytest.raises(Conflict) as refused:
        await late
    await kept
    assert refused.value.reason == "FENCED"
    assert lost == {partition_of("t", "w")}
    await new.write(put(2, "second"))
    await engine.take(new, "item", "r3", [partition_of("t", elsewhere)])
    assert bodies(new) == ["first", "second", "mine"]
    await old.close()
    await new.close()


async def test_a_row_of_somebody_elses_world_is_refused(server: RedisServer, tmp_path: Path) -> None:
    engine = Redis(server.url, tmp_path)
    database = await engine.open("item", ITEMS, Layout())
    assert isinstance(database.ownership, LeasedOwnership)
    gone = {partition_of("t", "w")}
    database.ownership.drop(gone)
    await database.leave(gone)
    with pytest.raises(NotOwner):
        await database.write(put(1, "stray"))
    with pytest.raises(NotOwner):
        database.ownership.fence("t", "w")
    assert bodies(database) == []
    await database.close()


async def test_who_serves_what_is_read_when_it_has_changed(server: RedisServer) -> None:
    store = client(server.url)
    a, b = Replica("a", "10.0.0.1:1"), Replica("b", "10.0.0.2:1")
    ours, theirs = Registry(store, "chat"), Registry(store, "chat")
    assert await ours.look() == ({}, {})
    for one in (a, b):
        await theirs.beat(one, 5000)
    await theirs.show(a, [1, 2])
    await theirs.show(b, [3])
    owners, left = await ours.look()
    assert owners == {1: a.address, 2: a.address, 3: b.address}
    assert left.keys() == {a.address, b.address}
    assert all(4000 < one <= 5000 for one in left.values())
    # Nobody said that anything changed.
    await store.hset("{earshot:chat}:owners", "9", a.shown)
    assert (await ours.look())[0] == owners
    await theirs.unshow(b, [2, 3])
    assert (await ours.look())[0] == {1: a.address, 2: a.address, 9: a.address}
    assert (await theirs.look())[0] == (await Registry(store, "chat").look())[0] == (await ours.look())[0]
    # The server lost everything.
    await store.flushall()
    assert await ours.look() == ({}, {})
    await theirs.show(a, [4])
    assert (await ours.look())[0] == {4: a.address}
    await store.aclose()


def test_a_batch_that_was_given_up_does_not_land_after_its_successor(server: RedisServer) -> None:
    rows = RedisRows(server.url, "item")
    with redis.Redis.from_url(server.url) as store:
        store.hset("{earshot:item:3}:fence", mapping={"token": 5, "owner": "me", "batch": 0})
        older = Batch(3, 5, 1, {"item": {b"k": b"old"}})
        newer = Batch(3, 5, 2, {"item": {b"k": b"new", b"gone": None}})
        assert rows.write([newer]) == set()
        assert rows.write([older]) == set()
        assert rows.write([newer]) == set()
        assert store.hget("{earshot:item:3}:item", "k") == b"new"
        assert rows.write([Batch(3, 4, 9, {"item": {b"k": b"zombie"}})]) == {3}
        store.script_flush()
        assert rows.write([Batch(3, 5, 3, {"item": {b"k": None}})]) == set()
        assert store.hget("{earshot:item:3}:item", "k") is None
    rows.close()


async def test_kill_of_the_server_loses_nothing_and_writes_are_refused_within_a_second(
    server: RedisServer, tmp_path: Path
) -> None:
    engine = Redis(server.url, tmp_path)
    database = await engine.open("item", ITEMS, Layout())
    acknowledged: set[int] = set()
    unknown: set[int] = set()
    refused = asyncio.Event()

    async def write() -> None:
        n = 0
        while not refused.is_set():
            n += 1
            try:
                await database.write(put(n, f"{n}"))
                acknowledged.add(n)
            except Unavailable:
                unknown.add(n)
                refused.set()
            if n == 200:
                server.kill()

    await write()
    assert len(acknowledged) >= 100
    with pytest.raises(Unavailable):
        database.submit(put(999, "at once"))
    server.start()
    while True:
        try:
            await database.write(put(1000, "after"))
            break
        except Unavailable:
            await asyncio.sleep(0.05)
    again = await engine.open("item", ITEMS, Layout())
    found = {n for (n,) in again.read("SELECT n FROM item")}
    assert acknowledged | {1000} <= found <= acknowledged | unknown | {1000}
    # What was given up was kept in the end, here and there alike.
    assert found == {n for (n,) in database.read("SELECT n FROM item")}
    await database.close()
    await again.close()


async def test_a_server_that_hangs_is_waited_for_and_nothing_is_written_twice(
    server: RedisServer, tmp_path: Path
) -> None:
    engine = Redis(server.url, tmp_path)
    database = await engine.open("item", ITEMS, Layout())
    await database.write(put(1, "one"))
    server.signal(signal.SIGSTOP)
    hung = database.submit(lambda db: db.execute("UPDATE item SET body = body || '+'"))
    with pytest.raises(Unavailable):
        await hung
    server.signal(signal.SIGCONT)
    while True:
        try:
            await database.write(put(2, "two"))
            break
        except Unavailable:
            await asyncio.sleep(0.05)
    again = await engine.open("item", ITEMS, Layout())
    assert bodies(database) == bodies(again) == ["one+", "two"]
    await database.close()
    await again.close()


def test_what_is_wrong_with_a_server_is_told_with_what_to_do(server: RedisServer) -> None:
    good = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always"}
    fit(server.url)
    assert list(complaints({"redis_version": "7.0.15"}, good)) == []
    assert list(complaints({"redis_version": "8.1.0"}, {})) == []
    (old,) = complaints({"redis_version": "6.2.9"}, good)
    assert "7.0" in old
    (evicts,) = complaints({"redis_version": "7.2.4"}, {**good, "maxmemory-policy": "allkeys-lru"})
    assert "noeviction" in evicts
    (replica,) = complaints({"redis_version": "7.2.4", "role": "slave"}, good)
    assert "primary" in replica
    with redis.Redis.from_url(server.url) as store:
        store.config_set("appendonly", "no")
    with pytest.raises(BadInput, match="--appendonly yes"):
        fit(server.url)
    server.kill()
    with pytest.raises(Unavailable, match="is redis-server running"):
        fit("redis://someone:secret@127.0.0.1:1/0")
    with pytest.raises(Unavailable) as told:
        fit("redis://someone:secret@127.0.0.1:1/0")
    assert "secret" not in told.value.message
    with pytest.raises(BadInput, match="not an address"):
        fit("http://nothing")
