"""`earshot import`: a message file into recall. Resumable, idempotent by message id; the store must not be in use."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.chat import archive_store
from services.chat.archive import Archive, Message
from services.chat.store import SCHEMA
from services.common.errors import BadInput
from services.common.store import Database

BATCH = 5_000
# What of a file tells it from another one.
HEAD = 1 << 16

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """entries: of the file, those before this run too; new: remembered by this run; skipped: nobody said them."""

    entries: int
    new: int
    skipped: int
    world: str


async def import_file(
    path: Path, database: Path | str, tenant: str, npcs: Sequence[str], now_ms: int, progress: Progress, world: str = ""
) -> Imported:
    """Import a file into the chat store. progress gets (entries, new, share of the file) now and then.

    Raises BadInput (NO_FILE, ARCHIVE_UNREADABLE with everything before it imported), StoreInUse.
    """
    if not path.is_file():  # noqa: ASYNC240 - the command has this loop to itself
        raise BadInput(f"no file {path}", reason="NO_FILE")
    store = Database(database, (*SCHEMA, *archive_store.SCHEMA))
    try:
        return await _import(path, store, tenant, npcs, now_ms, progress, world)
    finally:
        await store.close()


async def _import(
    path: Path, store: Database, tenant: str, npcs: Sequence[str], now_ms: int, progress: Progress, world: str
) -> Imported:
    source, size = _identity(path)
    behind = await store.write(lambda db: archive_store.entries(db, tenant, source))
    new = skipped = count = 0
    before: asyncio.Future[int] | None = None
    with open(path, encoding="utf-8") as handle:  # noqa: ASYNC230 - the command has this loop to itself
        archive = Archive(handle)
        for batch in _batches(archive.messages()):
            count += len(batch)
            if count <= behind:
                continue
            world = world or f"import:{archive.channel or source[:12]}"
            fresh = [(number, message) for number, message in batch if number > behind]
            wanted = [(number, message) for number, message in fresh if message is not None]
            skipped += len(fresh) - len(wanted)
            # The store's thread writes this batch while the next one is read.
            writing = store.submit(partial(_put, tenant, world, npcs, wanted, now_ms, source, count), durable=False)
            new += await before if before is not None else 0
            before = writing
            progress(count, new, min(archive.read / size, 1.0))
        world = world or f"import:{archive.channel or source[:12]}"
        new += await before if before is not None else 0
    await store.flush()
    return Imported(count, new, skipped, world)


def _identity(path: Path) -> tuple[str, int]:
    """What tells the file from another one, and its size."""
    size = path.stat().st_size
    with path.open("rb") as raw:
        return f"{hashlib.blake2b(raw.read(HEAD), digest_size=12).hexdigest()}-{size}", max(size, 1)


def _put(
    tenant: str, world: str, npcs: Sequence[str], wanted: Sequence[tuple[int, Message]], now_ms: int, source: str,
    count: int, db: sqlite3.Connection,
) -> int:  # fmt: skip
    new = archive_store.put(db, tenant, world, npcs, wanted, now_ms)
    archive_store.reached(db, tenant, source, count)
    return new


def _batches(messages: Iterator[Message | None]) -> Iterator[list[tuple[int, Message | None]]]:
    """Numbered from 1. A file that is broken further on gives what comes before."""
    numbered = enumerate(messages, 1)
    while True:
        batch: list[tuple[int, Message | None]] = []
        try:
            for one in itertools.islice(numbered, BATCH):
                batch.append(one)
        except BadInput:
            if batch:
                yield batch
            raise
        if not batch:
            return
        yield batch
