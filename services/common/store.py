"""SQLite for what must outlive the process: one writer thread, group commit, fenced writes.

With a mirror the file is a replica's working copy of what Redis keeps (mirror.py); for a room it is the same port.

Acknowledgement levels (docs/architecture.md): `durable=False` is soft (WAL NORMAL: survives kill -9, may lose the last
second on power loss); `durable=True` is fsynced before the future resolves. Memory is authoritative; reads happen at
load and for history, on a connection of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from services.common import tracing
from services.common.errors import Conflict, EarshotError, NotOwner, Overloaded, Unavailable
from services.common.mirror import Mirror
from services.common.ownership import PARTITIONS, EmbeddedOwnership, Fence, LeasedOwnership, Ownership
from services.common.store_file import MAPPED, MEMORY, Checkpointer, connect, embedded_ids, hold, truncate_log

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

MAX_PENDING = 20_000
MAX_BATCH = 64
# After this long without the shared store callers are told; it is tried again until its answer is known.
PATIENCE_S = 0.8
AGAIN_S = 0.1

_FENCE_SCHEMA = "CREATE TABLE IF NOT EXISTS fence (partition INTEGER PRIMARY KEY, token INTEGER NOT NULL) WITHOUT ROWID"


@dataclass(slots=True)
class _Item:
    work: Work[Any]
    durable: bool
    fence: Fence | None
    future: asyncio.Future[Any]
    # Runs after the group's commit, outside of any transaction.
    outside: bool = False
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A group commit that ended: how many writes, how long it took, whether it was kept."""

    writes: int
    seconds: float
    kept: bool


class Database:
    """One room's SQLite file.

    `inline=True` runs every write at once on the caller's thread: for virtual time and `:memory:`.
    Errors: Overloaded (STORE_QUEUE_FULL) when MAX_PENDING writes wait, Unavailable (STORE_UNAVAILABLE) when SQLite
    fails (disk full, read-only), Conflict (FENCED) when the fence's token is no longer current.
    """

    def __init__(
        self,
        path: Path | str,
        schema: Sequence[str],
        *,
        inline: bool = False,
        committed: Callable[[Group], None] | None = None,
        mirror: Mirror | None = None,
        lost: Callable[[set[int]], None] | None = None,
        lock: IO[str] | None = None,
    ) -> None:
        self._path = str(path)
        # Of a replica: this file is its working copy. lost: told, on the writer's thread, of partitions taken from it.
        self._mirror = mirror
        self._lost = lost
        self._away = False
        # Told of every group commit, on the writer's thread.
        self._committed = committed
        self._inline = inline or self._path == MEMORY
        self._lock_file = lock or hold(self._path)
        self._writer = connect(self._path)
        for statement in (_FENCE_SCHEMA, *schema):
            self._writer.execute(statement)
        self.ownership: Ownership
        if mirror is None:
            embedded_ids(self._writer)
            self.ownership = EmbeddedOwnership(self._claim())
        else:
            mirror.attach(self._writer)
            self.ownership = LeasedOwnership()
        self._reader = self._writer if self._inline else connect(self._path, read_only=True)
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._pending = 0
        self._level = ""  # of PRAGMA synchronous
        self._closed = False
        self._thread: threading.Thread | None = None
        self._checkpointer: Checkpointer | None = None
        self._looker: tuple[ThreadPoolExecutor, sqlite3.Connection] | None = None
        if not self._inline:
            self._checkpointer = Checkpointer(self._path)
            self._thread = threading.Thread(target=self._run, name=f"store:{Path(self._path).stem}", daemon=True)
            self._thread.start()

    def _claim(self) -> int:
        """Take the next token of every partition: whoever held the file before is fenced off."""
        row = self._writer.execute("SELECT max(token) FROM fence").fetchone()
        token = int(row[0] or 0) + 1
        self._writer.execute("BEGIN IMMEDIATE")
        self._writer.executemany(
            "INSERT INTO fence VALUES (?, ?) ON CONFLICT (partition) DO UPDATE SET token = excluded.token",
            [(partition, token) for partition in range(PARTITIONS)],
        )
        self._writer.execute("COMMIT")
        # Numbers of revisions and logs derive from the token: it must outlive the loss of the write-ahead log.
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return token

    async def write(self, work: Work[T], *, durable: bool = True, fence: Fence | None = None) -> T:
        """Run `work` in the next group commit and answer its result once committed.

        `work` gets the writer's connection inside a transaction and must not commit. An exception in it rolls back
        only its own changes. Cancelling the wait does not undo the write.
        """
        with tracing.span("store", stage="store"):
            future = self.submit(work, durable=durable, fence=fence)
            return await asyncio.shield(future)

    def submit(self, work: Work[T], *, durable: bool = True, fence: Fence | None = None) -> asyncio.Future[T]:
        """Like write, without waiting: writes commit in the order of submission."""
        if self._closed:
            raise Unavailable("the store is closed", reason="STORE_UNAVAILABLE")
        if self._away:
            raise Unavailable("the shared store cannot be reached", reason="STORE_UNAVAILABLE", retry_after_ms=1000)
        if self._pending >= MAX_PENDING:
            raise Overloaded("too many writes wait for the disk", reason="STORE_QUEUE_FULL", retry_after_ms=1000)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(_Item(work, durable, fence, future))
        return future

    def _put(self, item: _Item) -> None:
        if self._inline:
            self._commit([item])
            _resolve([item])
        else:
            self._pending += 1
            self._queue.put(item)

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query, on the reader's connection. Blocks: for start-up and small indexed look-ups."""
        try:
            return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise Unavailable("the store cannot be read", reason="STORE_UNAVAILABLE") from error

    async def look(self, work: Work[T]) -> T:
        """Run a longer read on a thread and connection of its own. Raises Unavailable STORE_UNAVAILABLE."""
        try:
            if self._inline:
                return work(self._writer)
            pool, looker = self._looking()
            return await asyncio.get_running_loop().run_in_executor(pool, work, looker)
        except sqlite3.Error as error:
            raise Unavailable("the store cannot be read", reason="STORE_UNAVAILABLE") from error

    def _looking(self) -> tuple[ThreadPoolExecutor, sqlite3.Connection]:
        if self._closed:
            raise Unavailable("the store is closed", reason="STORE_UNAVAILABLE")
        if self._looker is None:
            pool = ThreadPoolExecutor(1, thread_name_prefix=f"store:{Path(self._path).stem}:look")
            looker = connect(self._path, read_only=True)
            # Looks touch many rows that lie far apart: mapped, their pages are not copied one by one.
            looker.execute(f"PRAGMA mmap_size={MAPPED}")
            looker.execute("PRAGMA cache_size=-32768")
            self._looker = pool, looker
        return self._looker

    async def flush(self) -> None:
        """Wait until everything submitted so far is committed."""
        await self.write(lambda _: None, durable=True)

    async def purge(self) -> None:
        """Leave nothing of deleted rows in the file or its write-ahead log: what erasure ends with.

        Raises Unavailable (STORE_BUSY) when a reader kept the log busy; try again later.
        """
        await self._outside(truncate_log)
        if self._mirror is not None:
            await asyncio.to_thread(self._mirror.rows.compact)

    async def enter(self, tokens: Mapping[int, int]) -> None:
        """Take over partitions of the shared store, with these tokens. Raises Unavailable."""
        mirror = self._shared
        await self._outside(lambda db: _alone(db, lambda: mirror.enter(db, tokens)))

    async def leave(self, partitions: Collection[int]) -> None:
        """Let go of partitions of the shared store, once everything submitted so far is kept there."""
        mirror = self._shared
        await self._outside(lambda db: _alone(db, lambda: mirror.leave(db, partitions)))

    async def peek(self, partition: int, table: str, key: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a partition that another replica owns, as Redis keeps them: one by its key, or a table's."""
        return await asyncio.to_thread(self._shared.peek, partition, table, key)

    @property
    def _shared(self) -> Mirror:
        assert self._mirror is not None, "only a replica's store has partitions that come and go"
        return self._mirror

    async def _outside(self, work: Work[None]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Item(work, True, None, future, outside=True))
        await asyncio.shield(future)

    async def close(self) -> None:
        """Commit what waits, then close. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            if self._checkpointer is not None:
                await asyncio.to_thread(self._checkpointer.close)
            self._reader.close()
        if self._mirror is not None:
            self._mirror.rows.close()
        if self._looker is not None:
            pool, looker = self._looker
            await asyncio.to_thread(pool.shutdown)
            looker.close()
        self._writer.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            first = self._queue.get()
            batch = [] if first is None else [first]
            stopping = first is None
            while not stopping and len(batch) < MAX_BATCH:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    stopping = True
                else:
                    batch.append(item)
            if batch:
                self._commit(batch)
                # A loop that is closed has nobody left who waits for these.
                with contextlib.suppress(RuntimeError):
                    batch[0].future.get_loop().call_soon_threadsafe(self._done, batch)
                if self._checkpointer is not None:
                    self._checkpointer.committed()

    def _done(self, batch: list[_Item]) -> None:
        self._pending -= len(batch)
        _resolve(batch)

    def _commit(self, batch: list[_Item]) -> None:
        connection = self._writer
        inside = [item for item in batch if not item.outside]
        if inside:
            self._commit_group(connection, inside)
        for item in batch:
            if item.outside:
                _attempt_outside(connection, item)

    def _commit_group(self, connection: sqlite3.Connection, batch: list[_Item]) -> None:
        began = time.perf_counter()
        kept = True
        try:
            self._synchronize(self._level_of(batch))
            connection.execute("BEGIN IMMEDIATE")
            if self._mirror is not None:
                self._attempt_shared(connection, self._mirror, batch)
                connection.execute("COMMIT")
            elif len(batch) == 1:
                self._attempt_alone(connection, batch[0])
            else:
                for item in batch:
                    _attempt(connection, item)
                    connection.execute("RELEASE item")
                connection.execute("COMMIT")
        except (sqlite3.Error, Unavailable):
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            failure = Unavailable("the store cannot be written", reason="STORE_UNAVAILABLE", retry_after_ms=1000)
            kept = False
            for item in batch:
                item.error = item.error or failure
        if self._committed is not None:
            self._committed(Group(len(batch), time.perf_counter() - began, kept))

    def _level_of(self, batch: list[_Item]) -> str:
        """PRAGMA synchronous of a group. A working copy need not survive: what it holds is kept elsewhere."""
        if self._mirror is not None:
            return "OFF"
        return "FULL" if any(item.durable for item in batch) else "NORMAL"

    def _attempt_shared(self, connection: sqlite3.Connection, mirror: Mirror, batch: list[_Item]) -> None:
        """Carry out a group and have the shared store keep it; only then is it committed here."""
        touched: list[tuple[_Item, set[int]]] = []
        for item in batch:
            mark = mirror.begin(item.fence)
            _attempt(connection, item)
            partitions = mirror.partitions(mark)
            if item.error is None and not partitions <= mirror.held.keys():
                item.error = NotOwner()
                connection.execute("ROLLBACK TO item")
            if item.error is not None:
                mirror.undo(mark)
            connection.execute("RELEASE item")
            touched.append((item, partitions))
        fenced = self._share(mirror, connection, batch)
        if fenced:
            for item, partitions in touched:
                if partitions & fenced or (item.fence is not None and item.fence.partition in fenced):
                    item.error = Conflict("another owner took this world", reason="FENCED")
            if self._lost is not None:
                self._lost(fenced)

    def _share(self, mirror: Mirror, connection: sqlite3.Connection, batch: list[_Item]) -> set[int]:
        """Blocks until the shared store's answer is known, so that memory and store cannot part.

        Callers are told after PATIENCE_S. Raises Unavailable only when the store is closed meanwhile.
        """
        batches = mirror.take(connection)
        began = time.monotonic()
        while batches:
            try:
                fenced = mirror.rows.write(batches)
            except Unavailable as error:
                if self._closed:
                    raise
                if not self._away and time.monotonic() - began > PATIENCE_S:
                    self._away = True
                    self._tell(batch, error)
                time.sleep(AGAIN_S)
            else:
                self._away = False
                return fenced
        return set()

    def _tell(self, batch: list[_Item], error: Unavailable) -> None:
        """Let the callers go; what they asked for may still be kept, as after any lost answer."""

        def tell() -> None:
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(error)
                    item.future.exception()

        with contextlib.suppress(RuntimeError):
            batch[0].future.get_loop().call_soon_threadsafe(tell)

    def _synchronize(self, level: str) -> None:
        """Whether commits are flushed. Said only when it changes: each statement waits for the interpreter's lock."""
        if level != self._level:
            self._writer.execute(f"PRAGMA synchronous={level}")
            self._level = level

    def _attempt_alone(self, connection: sqlite3.Connection, item: _Item) -> None:
        """A group of one needs no savepoint."""
        try:
            if item.fence is not None:
                check_fences(connection, (item.fence,))
            item.result = item.work(connection)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - as in _attempt
            item.error = error
            connection.execute("ROLLBACK")
        else:
            connection.execute("COMMIT")


def _attempt(connection: sqlite3.Connection, item: _Item) -> None:
    """Leaves the savepoint `item` behind."""
    connection.execute("SAVEPOINT item")
    try:
        if item.fence is not None:
            check_fences(connection, (item.fence,))
        item.result = item.work(connection)
    except sqlite3.OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the work raised belongs to its caller, not to this thread
        item.error = error
        connection.execute("ROLLBACK TO item")


def _attempt_outside(connection: sqlite3.Connection, item: _Item) -> None:
    try:
        item.result = item.work(connection)
    except EarshotError as error:
        item.error = error
    except sqlite3.Error:
        item.error = Unavailable("the store cannot be written", reason="STORE_UNAVAILABLE", retry_after_ms=1000)


def _alone(connection: sqlite3.Connection, work: Callable[[], None]) -> None:
    """A transaction of its own."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        work()
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def check_fences(connection: sqlite3.Connection, fences: Collection[Fence]) -> None:
    """Raises Conflict (FENCED) unless every fence is the current one of its partition."""
    marks = ", ".join("?" * len(fences))
    found = connection.execute(
        f"SELECT partition, token FROM fence WHERE partition IN ({marks})", [fence.partition for fence in fences]
    ).fetchall()
    if set(found) != {(fence.partition, fence.token) for fence in fences}:
        raise Conflict("another owner took this world", reason="FENCED")


def _resolve(batch: list[_Item]) -> None:
    for item in batch:
        if item.future.done():
            continue
        if item.error is not None:
            item.future.set_exception(item.error)
            # A submitter that does not wait has its own way to notice; do not report it as never retrieved.
            item.future.exception()
        else:
            item.future.set_result(item.result)
