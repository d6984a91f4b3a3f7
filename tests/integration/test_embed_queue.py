"""The queue of lines that wait for a vector, killed with -9 in the middle of batches."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np

from services.chat import meaning

ROOT = Path(__file__).parents[2]
LINES = 400


async def start(data: Path, delay_s: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.embed_room", str(data), str(LINES), str(delay_s),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def told(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()


async def test_killed_in_the_middle_nothing_waits_for_ever_and_nothing_is_embedded_wrongly(tmp_path: Path) -> None:
    left = LINES
    for _ in range(3):
        process = await start(tmp_path, 0.05)
        stop = max(left - 64, 1)
        while (line := await told(process)).startswith("waiting") and int(line.split()[1]) > stop:
            pass
        process.send_signal(signal.SIGKILL)
        await process.wait()
        with closing(sqlite3.connect(tmp_path / "chat.db")) as db:
            (left,) = db.execute("SELECT count(*) FROM unembedded").fetchone()
            (made,) = db.execute("SELECT count(*) FROM vectors").fetchone()
        assert left + made == LINES, "a line leaves the queue with its vector, or not at all"
    assert 0 < left < LINES
    process = await start(tmp_path, 0)
    while await told(process) != "done":
        pass
    assert await process.wait() == 0
    with closing(sqlite3.connect(tmp_path / "chat.db")) as db:
        rows = db.execute("SELECT u.body, v.vector FROM utterances u JOIN vectors v ON v.id=u.id").fetchall()
    assert len(rows) == LINES
    for body, vector in rows:
        (wanted,) = meaning.packed(np.array([float(body.split()[1]), 1], "<f2").tobytes(), 2)
        assert vector == wanted, "each line has its own vector"
