"""`earshot backup`, `restore` and `import` as a person runs them: what they print and refuse, what is there then."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from services.chat import recall_store
from services.chat.recall_store import Line
from services.chat.store import SCHEMA
from services.cli.commands import main
from services.common.store import Database

pytestmark = pytest.mark.real_time


def remembered(data: Path) -> list[str]:
    with closing(sqlite3.connect(data / "chat.db")) as db:
        return [body for (body,) in db.execute("SELECT body FROM utterances ORDER BY id")]


def remember(data: Path, *texts: str) -> None:
    async def put() -> None:
        store = Database(data / "chat.db", SCHEMA)
        for number, text in enumerate(texts):
            line = Line(number, "L1", f"u-{text}", "", "p1", "Ada", "player", "p1", 1, text, ("mara",))
            await store.write(lambda db, line=line: recall_store.put(db, ("t", "w"), [line], embed=False))  # type: ignore[misc]  # bound now
        await store.close()

    asyncio.run(put())


def test_a_restore_brings_back_what_was_backed_up_and_puts_the_rest_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept"
    remember(data, "the red door")
    assert main(["backup", str(kept), "--data", str(data)]) == 0
    assert "chat" in capsys.readouterr().out
    remember(data, "the blue door")
    assert main(["restore", str(kept), "--data", str(data)]) == 1
    assert "DATA_NOT_EMPTY" in capsys.readouterr().err
    assert remembered(data) == ["the red door", "the blue door"]
    assert main(["restore", str(kept), "--data", str(data), "--force"]) == 0
    told = capsys.readouterr().out
    assert remembered(data) == ["the red door"]
    (aside,) = tmp_path.glob("data.before-*")
    assert str(aside) in told
    assert remembered(aside) == ["the red door", "the blue door"]
    # What came back is a store like any other: it is written to, and found by its words.
    remember(data, "the green door")
    assert remembered(data) == ["the red door", "the green door"]
    with closing(sqlite3.connect(data / "chat.db")) as db:
        (scope,) = db.execute("SELECT id FROM scopes").fetchone()
        assert len(recall_store.RecallReader(db).with_word(scope, "door")) == 2


def test_only_so_many_backups_stay_and_wrong_wishes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept"
    remember(data, "the red door")
    for _ in range(3):
        assert main(["backup", str(kept), "--data", str(data), "--keep", "2"]) == 0
    assert len(list(kept.iterdir())) == 2
    capsys.readouterr()
    for arguments, reason in (
        (["backup", str(kept), "--data", str(data), "--keep", "-1"], "INVALID_KEEP"),
        (["backup", str(kept), "--data", str(tmp_path / "nowhere")], "NO_DATA"),
        (["backup", str(kept), "--data", ":memory:"], "NO_DATA"),
        (["restore", str(tmp_path / "nowhere"), "--data", str(tmp_path / "fresh")], "NO_BACKUP"),
    ):
        assert main(arguments) == 1
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "fresh").exists()


def test_a_backup_that_was_tampered_with_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept"
    remember(data, "the red door")
    assert main(["backup", str(kept), "--data", str(data)]) == 0
    (made,) = kept.iterdir()
    (made / "chat.db").write_bytes((made / "chat.db").read_bytes()[:-1] + b"x")
    assert main(["restore", str(made), "--data", str(data), "--force"]) == 1
    assert "BACKUP_CORRUPT" in capsys.readouterr().err
    assert remembered(data) == ["the red door"]
    assert list(tmp_path.glob("data.*")) == []


def test_an_import_may_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps([{"message": "the old mill burnt"}, {"message": ""}]), encoding="utf-8")
    arguments = ["import", str(file), "--npc", "mara", "--data", str(tmp_path / "data")]
    assert main(arguments) == 0
    assert "1 of 2 entries are new" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "0 of 2 entries are new" in capsys.readouterr().out
    assert remembered(tmp_path / "data") == ["the old mill burnt"]
    assert main(["import", str(tmp_path / "none.json"), "--npc", "mara", "--data", str(tmp_path / "data")]) == 1
    assert "NO_FILE" in capsys.readouterr().err
