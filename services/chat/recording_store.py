"""A world's inputs kept for `earshot replay`, each with a fingerprint of what it led to; only where recording is on.

Rows are ordered by number: a state row begins (or checks) the state after input n, an input row is input n. A new state
row is kept at every checkpoint, so that old rows go in whole stretches. Written in the transaction of the input itself:
a kill leaves no input without its fingerprint. An erasure replaces everything by the state after it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.chat import events, inputs
from services.chat.reducer import Step
from services.common.errors import BadInput

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS recorded (tenant TEXT, world TEXT, n INTEGER, is_state INTEGER, at_ms INTEGER NOT NULL,"
    " body BLOB NOT NULL, fingerprint BLOB NOT NULL, PRIMARY KEY (tenant, world, n, is_state)) WITHOUT ROWID",
)

World = tuple[str, str]

_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded input, or a state (then `body` is the state and the fingerprint is empty)."""

    n: int
    is_state: bool
    body: bytes
    fingerprint: bytes


def fingerprint(step: Step) -> bytes:
    """Sixteen bytes that differ when any event, effect or explanation of an input differs in any byte."""
    digest = hashlib.blake2b(digest_size=16)
    for event in step.events:
        digest.update(events.encode(event))
    for effect in step.effects:
        digest.update(type(effect).__name__.encode())
        digest.update(_encoder.encode(effect))
    return digest.digest()


def put_inputs(
    db: sqlite3.Connection, world: World, first: int, items: Sequence[inputs.Input], fingerprints: Sequence[bytes]
) -> None:
    """Keep inputs with their fingerprints."""
    db.executemany(
        "INSERT OR REPLACE INTO recorded VALUES (?,?,?,0,?,?,?)",
        [
            (*world, first + i, item.at_ms, inputs.encode(item), mark)
            for i, (item, mark) in enumerate(zip(items, fingerprints, strict=True))
        ],
    )


def put_state(db: sqlite3.Connection, world: World, n: int, at_ms: int, state: bytes) -> None:
    """Keep the state after input n: a replay can begin here."""
    db.execute("INSERT OR REPLACE INTO recorded VALUES (?,?,?,1,?,?,x'')", (*world, n, at_ms, state))


def forget(db: sqlite3.Connection, world: World) -> None:
    """Drop everything recorded of a world."""
    db.execute("DELETE FROM recorded WHERE tenant=? AND world=?", world)


def trim(db: sqlite3.Connection, world: World, before_ms: int) -> None:
    """Drop whole stretches that ended before a time; what stays begins with a state."""
    (last,) = db.execute("SELECT max(at_ms) FROM recorded WHERE tenant=? AND world=? AND is_state=0", world).fetchone()
    if last is None or last < before_ms:
        forget(db, world)
        return
    (start,) = db.execute(
        "SELECT max(n) FROM recorded WHERE tenant=? AND world=? AND is_state=1 AND n <"
        " (SELECT min(n) FROM recorded WHERE tenant=? AND world=? AND is_state=0 AND at_ms>=?)",
        (*world, *world, before_ms),
    ).fetchone()
    if start is not None:
        db.execute(
            "DELETE FROM recorded WHERE tenant=? AND world=? AND (n<? OR (n=? AND is_state=0))", (*world, start, start)
        )


def read(path: Path, tenant: str | None = None, world: str | None = None) -> Iterator[tuple[World, list[Row]]]:
    """Recorded worlds of a chat store, whether or not a process uses it. Raises BadInput for any other file."""
    if not path.is_file():
        raise BadInput(f"no file {path}", reason="NO_RECORDING")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        known = connection.execute("SELECT DISTINCT tenant, world FROM recorded ORDER BY tenant, world").fetchall()
        for key in known:
            if tenant not in (None, key[0]) or world not in (None, key[1]):
                continue
            # Input n leads to the state after n: the input comes first.
            rows = connection.execute(
                "SELECT n, is_state, body, fingerprint FROM recorded WHERE tenant=? AND world=? ORDER BY n, is_state",
                key,
            )
            yield key, [Row(n, bool(is_state), body, mark) for n, is_state, body, mark in rows]
    except sqlite3.Error as error:
        raise BadInput(f"{path} is not a chat store with recordings", reason="NO_RECORDING") from error
    finally:
        connection.close()
