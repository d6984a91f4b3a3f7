"""Recorded worlds: replayed to the same bytes, also across checkpoints; never kept without being asked for."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
from earshot.chat.v1 import chat_pb2

from services.chat import recording_store, replay
from services.chat.store import ChatStore
from services.chat.worker import Retention
from services.cli.commands import main
from services.common.clock import LoopClock
from tests.unit.chat.neighbours import FakeState, Tavern, tavern
from tests.unit.chat.test_recovery import database_of, settled


async def chatter(room: Tavern, count: int) -> None:
    room.state.move({"L1": ["mara", "brom", "p1", "p2"]})
    for number in range(count):
        speaker = "p1" if number % 2 else "p2"
        await room.say(speaker, f"Mara, number {number}?" if number % 3 else f"Well, {number}.", wait=0)
        await asyncio.sleep(1.2)


def rows_of(directory: Path) -> list[recording_store.Row]:
    ((_, rows),) = list(recording_store.read(directory / "chat.db"))
    return rows


async def test_a_recorded_world_replays_to_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with tavern(data=str(tmp_path), record=True) as room:
        await chatter(room, 100)
        # The file can be read beside the running room.
        while_running = replay.replay(rows_of(tmp_path))
    async with tavern(data=str(tmp_path), record=True, state=room.state) as room:
        room.spoken = 1000
        await chatter(room, 2)
        told = await room.phases()
    found = replay.replay(rows_of(tmp_path))
    assert found.inputs > while_running.inputs > 200
    assert (found.differs, found.gaps) == ((), 0)
    assert found.states >= 2, "checkpoints and the reload are compared too"
    phases = [phase for _, phase, _ in told]
    assert len({why.turn_id for why in found.decisions}) == phases.count("started") + phases.count("silent")
    assert main(["replay", str(tmp_path), "--decisions"]) == 0
    *decisions, verdict = capsys.readouterr().out.splitlines()
    assert verdict.endswith("0 gaps: identical")
    assert len(decisions) == len(found.decisions)
    assert {json.loads(line)["conversation"] for line in decisions} == {"L1"}


async def test_what_came_out_otherwise_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with tavern(data=str(tmp_path), record=True) as room:
        await chatter(room, 3)
    with sqlite3.connect(tmp_path / "chat.db") as db:
        (n,) = db.execute("SELECT max(n) FROM recorded WHERE is_state=0").fetchone()
        db.execute("UPDATE recorded SET fingerprint=x'00' WHERE is_state=0 AND n=?", (n,))
    assert main(["replay", str(tmp_path / "chat.db")]) == 1
    assert f"DIFFERS at {n}" in capsys.readouterr().out
    with sqlite3.connect(tmp_path / "chat.db") as db:
        db.execute("DELETE FROM recorded WHERE is_state=0 AND n=?", (n,))
    found = replay.replay(rows_of(tmp_path))
    assert (found.differs, found.gaps) == ((), 1), "a stretch that is missing is told, not guessed"


async def test_nothing_is_recorded_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with tavern(data=str(tmp_path)) as room:
        await chatter(room, 3)
    assert list(recording_store.read(tmp_path / "chat.db")) == []
    assert main(["replay", str(tmp_path)]) == 1
    assert main(["replay", str(tmp_path / "none.db")]) == 1
    (tmp_path / "other.db").write_text("no database at all")
    assert main(["replay", str(tmp_path / "other.db")]) == 1
    assert capsys.readouterr().err.count("NO_RECORDING") == 3


async def test_an_erased_player_leaves_the_recording(tmp_path: Path) -> None:
    state = FakeState()  # type: ignore[abstract]  # a fake of the part that chat calls
    state.move({"L1": ["mara", "p1", "p987654"]})
    async with tavern(data=str(tmp_path), record=True, state=state) as room:
        await room.say("p987654", "Mara, I am zebra777.")
        state.move({"L1": ["mara", "p1"]})
        await asyncio.sleep(1)
        begun = await room.chat.ErasePlayer(chat_pb2.ErasePlayerRequest(tenant="local", player_id="p987654"), timeout=5)
        await settled(room, begun.erasure_id)
        await room.say("p1", "Mara, and now?")
    rows = rows_of(tmp_path)
    assert not any(b"p987654" in row.body or b"zebra777" in row.body for row in rows)
    found = replay.replay(rows)
    assert found.inputs > 0
    assert (found.differs, found.gaps) == ((), 0)


async def test_old_stretches_go_with_the_log() -> None:
    async with tavern(record=True) as room:
        await chatter(room, 100)
        store = ChatStore(database_of(room))
        retention = Retention(store, LoopClock(), 20_000, 10_000, lambda _: True)

        def count() -> int:
            return int(database_of(room).read("SELECT count(*) FROM recorded")[0][0])

        before = count()
        await retention.trim()
        assert 0 < count() < before
        first = database_of(room).read("SELECT is_state FROM recorded ORDER BY n, is_state LIMIT 1")
        assert first == [(1,)], "what stays begins with a state"
        await asyncio.sleep(3600)
        await retention.trim()
        assert count() == 0
