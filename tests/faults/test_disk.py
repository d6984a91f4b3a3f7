"""A disk that is full, or read-only: writes are refused with a reason and counted, no file breaks, it heals (R12)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.e2e.stack import Stack
from tests.faults.bed import ROOMY, cast, judge
from tests.faults.game import Troupe
from tests.faults.network import unavailable

why_not = unavailable()
pytestmark = pytest.mark.skipif(bool(why_not), reason=why_not)
SIZE_MB = 24
WRITERS = 4
LOAD = 12
WAIT_S = 120.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """(how this process reaches a small disk of its own, what runs a program that finds it at tmp_path / "disk").

    It lives in the mount namespace of a process that ends with its pipe: no mount can be left behind.
    """
    place = tmp_path / "disk"
    place.mkdir()
    script = f"mount -t tmpfs -o size={SIZE_MB}m disk {place} && echo && exec cat"
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        yield Path(f"/proc/{holder.pid}/root{place}"), ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--")
        holder.stdin.close()


def fill(disk: Path) -> Path:
    """Write until nothing fits any more."""
    filler = disk / "filler"
    file = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while True:
                    os.write(file, bytes(size))
    finally:
        os.close(file)
    return filler


def failed_writes(stack: Stack) -> float:
    lines = stack.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if "store_writes_total" in line and '"failed"' in line)


def test_a_full_disk_refuses_counts_and_heals(tmp_path: Path, disk: tuple[Path, tuple[str, ...]]) -> None:
    reached, within = disk
    with Stack(tmp_path / "disk" / "data", environment=ROOMY, within=within) as stack:
        stack.log = tmp_path / "log"
        cast(stack)
        with Troupe([stack.url], WRITERS, pace_s=0.1) as troupe:
            assert troupe.wait_for(LOAD) >= LOAD
            assert failed_writes(stack) == 0
            filler = fill(reached)
            until = time.monotonic() + WAIT_S
            refused = stack.post("/v1/snapshots", {"world": "full", "entities": []})
            while refused.status_code == 200 and time.monotonic() < until:  # the log's own pages may still have room
                refused = stack.post("/v1/snapshots", {"world": "full", "entities": []})
            told = refused.json()["error"]
            assert (refused.status_code, told["reason"], told["retryable"]) == (503, "STORE_UNAVAILABLE", True)
            assert refused.headers["retry-after"]
            assert failed_writes(stack) > 0
            assert stack.http.get("/healthz").status_code == 200
            seen = stack.http.get("/v1/worlds/world-0")  # what needs no disk goes on
            assert seen.status_code == 200, seen.text
            filler.unlink()
            assert troupe.wait_for(LOAD, WAIT_S) >= LOAD, "it did not heal"
        assert judge(troupe, stack.http) == []
        stack.kill()
        for store in (reached / "data").glob("*.db"):
            with closing(sqlite3.connect(store)) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stack.start()
        assert judge(troupe, stack.http) == []


def test_a_read_only_disk_is_said_at_start(tmp_path: Path, disk: tuple[Path, tuple[str, ...]]) -> None:
    reached, within = disk
    (reached / "data").mkdir()
    subprocess.run([*within, "mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True, timeout=10)
    stack = Stack(tmp_path / "disk" / "data", environment=ROOMY, within=within)
    stack.log = tmp_path / "log"
    with pytest.raises(AssertionError, match="ended at start"):
        stack.start()
    assert "Traceback" not in stack.output()
    assert f"the data directory {tmp_path / 'disk' / 'data'} cannot be written: Read-only file system" in stack.output()
