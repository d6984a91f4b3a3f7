"""Imports of message files into recall: in large commits, each with how far it has come, so that one may be cut off."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from services.chat.archive import Message
from services.chat.policy import PLAYER
from services.chat.recall_store import indexed, scope
from services.chat.terms import words

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS imports (tenant TEXT, source TEXT, entries INTEGER NOT NULL,"
    " PRIMARY KEY (tenant, source)) WITHOUT ROWID",
)


def entries(db: sqlite3.Connection, tenant: str, source: str) -> int:
    """Entries of a file that are behind us."""
    row = db.execute("SELECT entries FROM imports WHERE tenant=? AND source=?", (tenant, source)).fetchone()
    return int(row[0]) if row else 0


def put(
    db: sqlite3.Connection,
    tenant: str,
    world: str,
    npcs: Sequence[str],
    messages: Sequence[tuple[int, Message]],
    now_ms: int,
) -> int:
    """Remember (number in its file, message) as what these NPCs witnessed. Answers how many were new."""
    known = _known(db, tenant, world, [f"i:{message.id}" for _, message in messages])
    scopes = " ".join(str(scope(db, tenant, "", npc)) for npc in npcs)
    (last,) = db.execute("SELECT max(id) FROM utterances").fetchone()
    rows, index = [], []
    number = int(last or 0)
    for at, message in messages:
        name = f"i:{message.id}"
        if name in known:
            continue
        known.add(name)
        number += 1
        found = words(message.text)
        rows.append(
            (number, tenant, world, at, world, name, "", message.author_id, message.author, PLAYER, message.author_id,
             message.at_ms or now_ms, len(found), 1, scopes, message.text)
        )  # fmt: skip
        index.append((number, *indexed(scopes, found)))
    db.executemany("INSERT INTO utterances VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", rows)
    db.executemany("INSERT INTO recall (rowid, scope, terms) VALUES (?,?,?)", index)
    db.executemany("UPDATE scopes SET lines=lines+? WHERE id=?", [(len(rows), int(one)) for one in scopes.split()])
    return len(rows)


def reached(db: sqlite3.Connection, tenant: str, source: str, count: int) -> None:
    """So many entries of a file are in; commits with them."""
    db.execute("INSERT OR REPLACE INTO imports VALUES (?,?,?)", (tenant, source, count))


def _known(db: sqlite3.Connection, tenant: str, world: str, names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(names), 500):
        some = names[start : start + 500]
        marks = ",".join("?" * len(some))
        sql = f"SELECT utterance FROM utterances WHERE tenant=? AND world=? AND utterance IN ({marks})"
        found.update(name for (name,) in db.execute(sql, (tenant, world, *some)))
    return found
