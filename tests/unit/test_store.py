"""The store: group commit, isolation of failures, fences, kill-safety."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from services.common import store_file
from services.common.errors import Conflict, Unavailable
from services.common.ownership import Fence, partition_of
from services.common.store import Database
from services.common.store_file import MEMORY, StoreInUse

pytestmark = pytest.mark.real_time
SCHEMA = ("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, value TEXT NOT NULL)",)


def insert(number: int, value: str = "x") -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO item VALUES (?, ?)", (number, value))
        return number

    return work


async def test_writes_commit_in_order_and_answer(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", SCHEMA)
    futures = [database.submit(insert(number), durable=number % 2 == 0) for number in range(200)]
    assert [await future for future in futures] == list(range(200))
    assert database.read("SELECT count(*) FROM item") == [(200,)]
    await database.close()
    await database.close()


async def test_a_failing_write_leaves_its_neighbours(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", SCHEMA)

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO item VALUES (50, 'half')")
        raise ValueError("no")

    good = database.submit(insert(1))
    bad = database.submit(broken)
    duplicate = database.submit(insert(1))
    other = database.submit(insert(2))
    assert await good == 1
    with pytest.raises(ValueError, match="no"):
        await bad
    with pytest.raises(sqlite3.IntegrityError):
        await duplicate
    assert await other == 2
    assert database.read("SELECT id FROM item ORDER BY id") == [(1,), (2,)]
    await database.close()


async def test_a_stale_fence_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", SCHEMA)
    fence = database.ownership.fence("t", "w")
    assert fence.partition == partition_of("t", "w")
    await database.write(insert(1), fence=fence)
    with pytest.raises(Conflict) as caught:
        await database.write(insert(2), fence=Fence(fence.partition, fence.token - 1))
    assert caught.value.reason == "FENCED"
    await database.close()
    # Whoever opens the file next gets newer tokens.
    again = Database(tmp_path / "a.db", SCHEMA)
    assert again.ownership.fence("t", "w").token == fence.token + 1
    assert again.read("SELECT id FROM item") == [(1,)]
    await again.close()


async def test_two_processes_cannot_share_a_file(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", SCHEMA)
    with pytest.raises(StoreInUse, match="another Earshot process"):
        Database(tmp_path / "a.db", SCHEMA)
    await database.close()


async def test_a_store_that_cannot_write_says_so_and_heals(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", SCHEMA)
    await database.write(lambda c: c.execute("PRAGMA max_page_count=1").fetchall() and None)
    big = "x" * 200_000
    with pytest.raises(Unavailable) as caught:  # noqa: PT012 - one of these writes is the one that no longer fits
        for number in range(20):
            await database.write(insert(number, big))
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert caught.value.retryable
    await database.write(lambda c: c.execute("PRAGMA max_page_count=1000000").fetchall() and None)
    assert await database.write(insert(100, big)) == 100
    await database.close()


async def test_closed_and_memory() -> None:
    database = Database(MEMORY, SCHEMA)
    assert await database.write(insert(3)) == 3
    assert database.read("SELECT id FROM item") == [(3,)]
    await database.close()
    with pytest.raises(Unavailable):
        database.submit(insert(4))


async def test_purge_leaves_nothing_of_what_was_deleted(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", SCHEMA)
    secret = "said-by-a-child"
    await database.write(insert(1, secret * 50))
    await database.write(insert(2, "kept"))

    def remove(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM item WHERE id = 1")

    await database.write(remove)
    assert any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())
    await database.purge()
    assert not any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())
    assert database.read("SELECT value FROM item") == [("kept",)]
    await database.close()


async def test_the_log_of_a_store_that_is_never_quiet_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_file, "CHECKPOINT_PAGES", 40)
    monkeypatch.setattr(store_file, "LOG_PAGES", 100)
    database = Database(tmp_path / "a.db", SCHEMA)
    log = tmp_path / "a.db-wal"
    largest = 0
    # Somebody who reads keeps every copying back from the log's end.
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as reader:
        reader.execute("BEGIN").execute("SELECT count(*) FROM item").fetchall()
        for number in range(300):
            await database.write(insert(number, "x" * 10_000), durable=False)
            largest = max(largest, log.stat().st_size)
        reader.execute("COMMIT")
    numbers = iter(range(300, 100_000))
    async with asyncio.timeout(60):
        while log.stat().st_size >= largest // 2:
            await database.write(insert(next(numbers), "x"), durable=False)
    await database.close()


async def test_purge_says_when_a_reader_is_in_the_way(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", SCHEMA)
    await database.write(insert(1))
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM item").fetchall()
    await database.write(insert(2))
    await database.write(lambda connection: connection.execute("PRAGMA busy_timeout=0").fetchall() and None)
    with pytest.raises(Unavailable) as caught:
        await database.purge()
    assert caught.value.reason == "STORE_BUSY"
    other.execute("COMMIT")
    other.close()
    await database.purge()
    assert await database.write(insert(3)) == 3
    await database.close()
