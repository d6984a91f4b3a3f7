"""Backups: whole or not there, checked, the newest kept; and the way back, which refuses what is not what was saved."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.common import backup
from services.common.errors import BadInput, Unavailable
from services.common.store import Database
from services.sync.agents import copies
from services.sync.runtimes.port import Missing
from services.sync.store import SCHEMA

pytestmark = pytest.mark.real_time


def a_store(path: Path, rows: int = 100) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE IF NOT EXISTS things (n INTEGER PRIMARY KEY, body BLOB)")
        db.executemany("INSERT OR REPLACE INTO things VALUES (?,?)", [(n, bytes(100)) for n in range(rows)])


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM things").fetchone()[0])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    a_store(folder / "chat.db")
    a_store(folder / "state.db", 10)
    (folder / "keys.json").write_text("{}", encoding="utf-8")
    (folder / "chat.db.lock").write_text("", encoding="utf-8")
    return folder


def test_a_restore_is_what_was_backed_up(data: Path, tmp_path: Path) -> None:
    made = backup.take(data, tmp_path / "kept", 1000, 7, [{"npc": "mara"}])
    assert made.stores == ("chat", "state")
    a_store(data / "chat.db", 500)
    told = backup.restore(tmp_path / "kept", data, 2000, force=True)
    assert (told.name, told.agents) == (made.path.name, [{"npc": "mara"}])
    assert told.aside is not None
    assert (count(data / "chat.db"), count(data / "state.db"), count(told.aside / "chat.db")) == (100, 10, 500)
    assert sorted(one.name for one in data.iterdir()) == ["chat.db", "keys.json", "state.db"]


async def test_a_backup_is_taken_while_the_store_is_written(data: Path, tmp_path: Path) -> None:
    running = Database(data / "chat.db", ("CREATE TABLE IF NOT EXISTS more (n INTEGER)",))
    for number in range(50):
        await running.write(lambda db, number=number: db.execute("INSERT INTO more VALUES (?)", (number,)))  # type: ignore[misc]  # bound now
        if number == 25:
            made = backup.take(data, tmp_path / "kept", 1000, 7)
    with pytest.raises(BadInput) as refused:
        backup.restore(made.path, data, 2000, force=True)
    assert refused.value.reason == "DATA_IN_USE"
    await running.close()
    backup.restore(made.path, tmp_path / "fresh", 2000, force=False)
    with closing(sqlite3.connect(tmp_path / "fresh" / "chat.db")) as db:
        assert db.execute("SELECT count(*) FROM more").fetchone() == (26,)


def test_so_many_stay(data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    names = [backup.take(data, kept, n * 1000, 2).path.name for n in range(4)]
    assert sorted(one.name for one in kept.iterdir()) == names[2:]
    backup.take(data, kept, 9000, 0)
    assert len(list(kept.iterdir())) == 3


def test_a_damaged_store_is_no_backup_and_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(data / "chat.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with (data / "chat.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 3000)
    with pytest.raises(Unavailable) as failed:
        backup.take(data, tmp_path / "kept", 1000, 7)
    assert failed.value.reason in ("BACKUP_CORRUPT", "BACKUP_FAILED")
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "gone", "manifest", "path"])
def test_a_backup_that_is_not_what_was_saved_is_refused_and_the_data_stay(
    data: Path, tmp_path: Path, damage: str
) -> None:
    made = backup.take(data, tmp_path / "kept", 1000, 7)
    match damage:
        case "flip":
            whole = bytearray((made.path / "chat.db").read_bytes())
            whole[-1] ^= 1
            (made.path / "chat.db").write_bytes(whole)
        case "gone":
            (made.path / "state.db").unlink()
        case "manifest":
            (made.path / "manifest.json").write_text("[]", encoding="utf-8")
        case "path":
            manifest = json.loads((made.path / "manifest.json").read_text())
            manifest["files"]["../outside"] = "x"
            (made.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(Unavailable) as failed:
        backup.restore(made.path, data, 2000, force=True)
    assert failed.value.reason == "BACKUP_CORRUPT"
    assert count(data / "chat.db") == 100


def test_what_is_there_is_not_overwritten_unasked(data: Path, tmp_path: Path) -> None:
    backup.take(data, tmp_path / "kept", 1000, 7)
    for source, reason in ((tmp_path / "kept", "DATA_NOT_EMPTY"), (tmp_path / "nowhere", "NO_BACKUP")):
        with pytest.raises(BadInput) as failed:
            backup.restore(source, data, 2000, force=False)
        assert failed.value.reason == reason
    with pytest.raises(BadInput):
        backup.take(tmp_path / "nowhere", tmp_path / "kept", 1000, 7)


class Shelf:
    """A runtime of which only reading is asked."""

    class capabilities:
        stateful = True

    async def read_blocks(self, agent_id: str, timeout: float) -> dict[str, str]:
        if agent_id == "gone":
            raise Missing("no such agent")
        return {"persona": "I am Mara.", "diary": "The mill burnt."}


async def test_blocks_of_agents_are_read_and_wait_for_the_agents_that_are_made_anew(tmp_path: Path) -> None:
    rows = [
        ("t", "w", "mara", "letta", "a1"),
        ("t", "w", "brom", "letta", "gone"),
        ("t", "w", "wyn", "offline", "a3"),
    ]
    runtimes: Any = {"letta": Shelf()}
    found, unread = await copies.read_from(runtimes, rows)
    assert ([one["npc"] for one in found], unread) == (["mara"], ["gone"])
    path = tmp_path / "sync.db"
    store = Database(path, SCHEMA, inline=True)
    await store.write(
        lambda db: db.execute("INSERT INTO agent VALUES ('t','w','mara','letta','a1',0,5,1,1,0)"), durable=False
    )
    await store.close()
    assert copies.seed(path, found, anew=True) == 1
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM agent").fetchone() == (0,)
        assert json.loads(db.execute("SELECT blocks FROM seed").fetchone()[0])["diary"] == "The mill burnt."
