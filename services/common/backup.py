"""Backups of a data directory: SQLite's own online copy, an integrity check, then a rename; and the way back.

A backup is a folder with every store, the small files beside them, and manifest.json with a digest of each. It appears
under its name only when it is whole and checked. Taken while Earshot runs, each store is as of one moment; the rooms
bring themselves into step again when they start, as after a crash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.common.errors import BadInput, Unavailable
from services.common.store_file import claimed

MANIFEST = "manifest.json"
AGENTS = "agents.json"
PREFIX = "earshot-"
# Files beside the stores that are backed up; locks, logs and caches are not.
SMALL = (".json", ".key", ".pem")
SMALL_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """One that was taken. bytes: of all its files."""

    path: Path
    stores: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put in place. aside: where the files that were there went, None = there were none."""

    name: str
    stores: tuple[str, ...]
    agents: list[dict[str, Any]]
    aside: Path | None


def take(data: Path, folder: Path, now_ms: int, keep: int, agents: Sequence[dict[str, Any]] = ()) -> Backup:
    """Copy every store of `data` into a new backup below `folder`; of the older ones `keep` stay in all, 0 = every one.

    Raises BadInput NO_DATA, Unavailable BACKUP_CORRUPT (a store does not pass its check) or BACKUP_FAILED (disk).
    """
    stores = sorted(data.glob("*.db")) if data.is_dir() else []
    if not stores:
        raise BadInput(f"{data} holds no store", reason="NO_DATA")
    name = PREFIX + datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    unfinished = folder / f".{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        for store in stores:
            _copy(store, unfinished / store.name)
            check(unfinished / store.name)
        for small in data.iterdir():
            if small.is_file() and small.suffix in SMALL and small.stat().st_size <= SMALL_MAX:
                shutil.copy2(small, unfinished / small.name)
        (unfinished / AGENTS).write_text(json.dumps(list(agents), ensure_ascii=False), encoding="utf-8")
        digests = {file.name: _digest(file) for file in sorted(unfinished.iterdir())}
        (unfinished / MANIFEST).write_text(json.dumps({"at_ms": now_ms, "files": digests}, indent=1), encoding="utf-8")
        size = sum(file.stat().st_size for file in unfinished.iterdir())
        _settle(unfinished)
        os.rename(unfinished, folder / name)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise Unavailable(f"the backup failed: {type(error).__name__}", reason="BACKUP_FAILED") from error
    except Unavailable:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in _known(folder)[: -keep or None] if keep else ():
        shutil.rmtree(old)
    return Backup(folder / name, tuple(store.stem for store in stores), size)


def restore(source: Path, data: Path, now_ms: int, *, force: bool) -> Restored:
    """Put a backup (or the newest of a folder of them) in place of `data`, every file checked before any is moved.

    Raises BadInput NO_BACKUP, DATA_NOT_EMPTY (without force), StoreInUse, Unavailable BACKUP_CORRUPT.
    """
    backup = source if (source / MANIFEST).is_file() else next(iter(_known(source)[-1:]), None)
    if backup is None:
        raise BadInput(f"{source} is no backup and holds none", reason="NO_BACKUP")
    files = _verified(backup)
    if claimed(data):
        raise BadInput("Earshot runs on this data directory: stop it first", reason="DATA_IN_USE")
    present = [one for one in data.iterdir() if not one.name.endswith(".lock")] if data.is_dir() else []
    if present and not force:
        raise BadInput(f"{data} is not empty: --force puts what is there aside", reason="DATA_NOT_EMPTY")
    unfinished = data.with_name(f"{data.name}.restoring")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    for file in files:
        shutil.copy2(backup / file, unfinished / file)
    agents = json.loads((backup / AGENTS).read_text(encoding="utf-8")) if AGENTS in files else []
    (unfinished / AGENTS).unlink(missing_ok=True)
    aside = None
    if data.exists():
        aside = data.with_name(f"{data.name}.before-{now_ms}")
        os.rename(data, aside)
        if not present:
            shutil.rmtree(aside)
            aside = None
    os.rename(unfinished, data)
    return Restored(backup.name, tuple(Path(one).stem for one in files if one.endswith(".db")), agents, aside)


def check(path: Path) -> None:
    """Raise Unavailable BACKUP_CORRUPT unless SQLite finds the file whole."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            verdict = db.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        raise Unavailable(f"{path.name} cannot be read", reason="BACKUP_CORRUPT") from error
    if verdict != "ok":
        raise Unavailable(f"{path.name} is damaged", reason="BACKUP_CORRUPT")


def _copy(store: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True, timeout=30.0)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy, pages=4096, sleep=0.005)
        # A copy has no log beside it: one file is one store.
        copy.execute("PRAGMA journal_mode=DELETE").fetchall()
    target.chmod(0o600)


def _verified(backup: Path) -> list[str]:
    try:
        manifest = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): str(digest) for name, digest in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable("the backup's manifest cannot be read", reason="BACKUP_CORRUPT") from error
    for name, digest in files.items():
        path = backup / name
        if Path(name).name != name or not path.is_file() or _digest(path) != digest:
            raise Unavailable(f"{name} of the backup is not what was saved", reason="BACKUP_CORRUPT")
        if name.endswith(".db"):
            check(path)
    return list(files)


def _known(folder: Path) -> list[Path]:
    """Whole backups of a folder, oldest first."""
    return sorted(one.parent for one in folder.glob(f"{PREFIX}*/{MANIFEST}")) if folder.is_dir() else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(folder: Path) -> None:
    """On the disk before it has its name."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
