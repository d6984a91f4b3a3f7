"""A room's SQLite file: opened one way, locked by one process, its write-ahead log copied back beside the writer."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import IO

from services.common.errors import EarshotError, Unavailable

# WAL pages after which the checkpointer copies them back: away from the writer, whose p99 it would cost.
CHECKPOINT_PAGES = 1000
# A log of more pages is emptied while the writer waits: under writes without a pause no copying back ever sees its end,
# and it would grow for as long as they last.
LOG_PAGES = 2000
# For so long at most: who reads meanwhile (a backup) is not waited for.
EMPTYING_MS = 50
MEMORY = ":memory:"
# Bytes of a store that longer reads may map.
MAPPED = 1 << 31
# Working copies of one room in one data directory.
COPIES_MAX = 64


def embedded_ids(connection: sqlite3.Connection) -> None:
    """Where one process makes all ids SQLite numbers the rows."""
    connection.create_function("fresh_id", 0, lambda: None)
    connection.create_function("named_id", -1, lambda *_: None)


def truncate_log(connection: sqlite3.Connection) -> None:
    """Empty the write-ahead log. Raises Unavailable (STORE_BUSY) when a reader is in it."""
    row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if row is not None and row[0]:
        raise Unavailable("a reader keeps the store's log busy", reason="STORE_BUSY", retry_after_ms=100)


class Checkpointer:
    """Copies the WAL back on a thread and connection of its own, after every CHECKPOINT_PAGES commits or so."""

    def __init__(self, path: str) -> None:
        self._connection = connect(path)
        self._connection.execute(f"PRAGMA busy_timeout={EMPTYING_MS}")
        self._wake = threading.Event()
        self._commits = 0
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="store:checkpoint", daemon=True)
        self._thread.start()

    def committed(self) -> None:
        """A group was committed."""
        self._commits += 1
        if self._commits >= CHECKPOINT_PAGES // 4:
            self._commits = 0
            self._wake.set()

    def close(self) -> None:
        """Blocks until it has ended."""
        self._stop = True
        self._wake.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait()
            self._wake.clear()
            # A reader or the writer may hold a lock just now: the next wake tries again.
            with contextlib.suppress(sqlite3.Error):
                _, pages, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if pages > LOG_PAGES:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection with the store's pragmas; of no thread in particular."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    connection.execute("PRAGMA page_size=16384")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("PRAGMA secure_delete=ON")
    if read_only:
        connection.execute("PRAGMA query_only=ON")
    return connection


def hold(path: str) -> IO[str] | None:
    """Hold the file's lock: two processes on one data directory would each think they own it."""
    if path == MEMORY:
        return None
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle = Path(path + ".lock").open("w")  # noqa: SIM115 - held for the life of the store
    except OSError as error:
        why = f"the data directory {Path(path).parent} cannot be written: {error.strerror}"
        raise Unavailable(why, reason="DATA_NOT_WRITABLE") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise StoreInUse(path) from error
    return handle


def working_copy(data: str, room: str) -> tuple[str, IO[str] | None]:
    """An empty file for a replica's copy of shared rows, and the lock that makes it nobody else's.

    Copies that nobody uses any more are used again. Raises StoreInUse when there are COPIES_MAX.
    """
    folder = Path(tempfile.gettempdir()) / "earshot" if data == MEMORY else Path(data)
    folder = folder / "copies"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(COPIES_MAX):
        path = folder / f"{room}.{number}.db"
        try:
            lock = hold(str(path))
        except StoreInUse:
            continue
        for left in folder.glob(f"{path.name}*"):
            if not left.name.endswith(".lock"):
                left.unlink()
        return str(path), lock
    raise StoreInUse(str(folder))


def claimed(data: Path) -> bool:
    """Whether a process has a store of this data directory open."""
    for lock in data.glob("*.lock"):
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
    return False


class StoreInUse(EarshotError):
    """Another process has the data directory open."""

    default_reason = "DATA_IN_USE"

    def __init__(self, path: str) -> None:
        name = Path(path).name
        super().__init__(
            f"another Earshot process uses {name} in this data directory: stop it, or choose another with --data"
        )
