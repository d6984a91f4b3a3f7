"""The store of the room: a full disk, a fence that was taken, a damaged document, writes behind."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from earshot.state.v1 import state_pb2

from services.common.clock import LoopClock
from services.common.errors import Conflict
from services.common.ownership import EmbeddedOwnership
from services.common.store import Database
from services.state.document import blank
from services.state.store import SCHEMA, StateStore
from tests.unit.state.room import NPC, PLAYER, Room, Rows, running

PAIR: Rows = {"pete": (NPC, 0, 0), "ann": (PLAYER, 5, 0)}
CROWD: Rows = {f"p{n}": (PLAYER, n * 20, 0) for n in range(400)}


async def limit_pages(room: Room, pages: int) -> None:
    """Stands in for a full disk: SQLite answers it the same way."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}").fetchall()

    await room.app.database.write(work)


@pytest.mark.real_time
async def test_a_full_disk_is_told_and_heals(tmp_path: Path) -> None:
    async with running(str(tmp_path), LoopClock()) as room:
        epoch = await room.open()
        await room.snapshot(PAIR, epoch=epoch, seq=1)
        await limit_pages(room, 1)
        big = {"details": [b'{"a": "' + b"x" * 200 + b'"}'] * len(CROWD)}
        failed = await room.snapshot(CROWD, epoch=epoch, seq=2, **big)
        assert (failed.status.reason, failed.status.retryable) == ("STORE_UNAVAILABLE", True)
        assert (await room.earshot()).entity_count == 400  # memory went on: reads are served
        still = await room.snapshot(CROWD, epoch=epoch, seq=2, **big)
        assert still.status.reason == "STORE_UNAVAILABLE"  # a duplicate is no proof of being stored
        await limit_pages(room, 100_000)
        healed = await room.snapshot(CROWD, epoch=epoch, seq=2, **big)
        assert healed.outcome == state_pb2.INGEST_OUTCOME_DUPLICATE
    async with running(str(tmp_path), LoopClock()) as room:
        assert (await room.earshot()).entity_count == 400


async def test_what_failed_is_written_again_without_being_asked() -> None:
    async with running() as room:
        await room.snapshot(PAIR)
        await limit_pages(room, 1)
        await room.snapshot(CROWD, details=[b'"' + b"x" * 300 + b'"'] * len(CROWD))
        await limit_pages(room, 100_000)
        assert room.app.database.read("SELECT revision FROM world") == [(1,)]
        await asyncio.sleep(1.5)  # the saver's next round
        assert room.app.database.read("SELECT revision FROM world") == [(2,)]


@pytest.mark.real_time
async def test_an_owner_that_lost_its_fence_writes_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db", SCHEMA)
    store = StateStore(database)
    await store.save(("t", "w"), blank(5))
    database.ownership = EmbeddedOwnership(99)
    with pytest.raises(Conflict) as failure:
        await store.save(("t", "w"), blank(6))
    assert failure.value.reason == "FENCED"
    (stored,) = database.read("SELECT revision FROM world")
    await database.close()
    assert stored == (5,)


@pytest.mark.real_time
async def test_an_older_document_never_overwrites_a_newer_one(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db", SCHEMA)
    store = StateStore(database)
    await store.save(("t", "w"), blank(6))
    await store.save(("t", "w"), blank(5))
    assert database.read("SELECT revision FROM world") == [(6,)]
    await database.close()


@pytest.mark.real_time
async def test_writes_behind_one_another_become_the_newest(tmp_path: Path) -> None:
    """What waits for the writer is replaced, and everybody who waits is told when the newest is down."""
    database = Database(tmp_path / "state.db", SCHEMA)
    store = StateStore(database)
    await asyncio.gather(*(store.save(("t", f"w{n % 3}"), blank(n + 1)) for n in range(300)))
    assert database.read("SELECT world, revision FROM world ORDER BY world") == [
        ("w0", 298),
        ("w1", 299),
        ("w2", 300),
    ]
    await database.close()


@pytest.mark.real_time
async def test_a_damaged_document_costs_its_content_not_its_numbers(tmp_path: Path) -> None:
    async with running(str(tmp_path), LoopClock()) as room:
        await room.snapshot(PAIR)
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("UPDATE world SET document = x'00ff'")
    connection.commit()
    connection.close()
    async with running(str(tmp_path), LoopClock()) as room:
        answer = await room.earshot()
        assert (answer.revision, answer.entity_count) == (65_537, 0)
        assert (await room.snapshot(PAIR)).revision == 65_538
