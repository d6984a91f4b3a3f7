"""Recall's SQL: every utterance, its index of words by who witnessed it, vectors, and what waits for one.

Tables of the chat store, so that a line and its memory commit together. The index (FTS5, contentless, a row a line) has
`scope` as an indexed column and each word of `terms` behind the scope's number: a look-up touches the lines of one
witness only, however many others are there. What goes into it is a function of the line (terms.py), so that it can be
taken out again. A scope is a witness: (tenant, world, npc), and (tenant, "", npc) for who remembers across sessions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.chat import erasing
from services.chat.events import Event, Said
from services.chat.recall import Memory
from services.chat.terms import INDEX_VERSION, words
from services.common.mirror import Found

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS utterances (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, world TEXT NOT NULL,"
    " seq INTEGER NOT NULL, conversation TEXT NOT NULL, utterance TEXT NOT NULL, turn TEXT NOT NULL,"
    " speaker TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, owner TEXT NOT NULL, at_ms INTEGER NOT NULL,"
    " words INTEGER NOT NULL, lasting INTEGER NOT NULL, scopes TEXT NOT NULL, body TEXT NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS utterances_id ON utterances (tenant, world, utterance)",
    "CREATE INDEX IF NOT EXISTS utterances_at ON utterances (tenant, world, seq)",
    # Once there was one by speaker: players own what they say, so that it held nothing that the next does not.
    "DROP INDEX IF EXISTS utterances_of",
    "CREATE INDEX IF NOT EXISTS utterances_owned ON utterances (tenant, owner)",
    "CREATE INDEX IF NOT EXISTS utterances_age ON utterances (lasting, at_ms)",
    "CREATE TABLE IF NOT EXISTS scopes (id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL,"
    " world TEXT NOT NULL, npc TEXT NOT NULL, lines INTEGER NOT NULL, UNIQUE (tenant, world, npc))",
    "CREATE VIRTUAL TABLE IF NOT EXISTS recall USING fts5(scope, terms, content='', detail=none, columnsize=0,"
    " tokenize='porter unicode61')",
    "CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, model TEXT NOT NULL, vector BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS unembedded (id INTEGER PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS recall_version (version INTEGER NOT NULL)",
)

World = tuple[str, str]
Rows = list[tuple[object, ...]]

_COLUMNS = "id, world, seq, conversation, utterance, turn, speaker, name, kind, owner, at_ms, words, body"
# An NPC's line this soon after one of a player, and caused by it, answers it.
ANSWERED_IN = 8
# So many times the surplus are considered when lines make room.
CONSIDERED = 4
# Pages merged at a time while the index forgets: other writes go between two steps.
MERGE_PAGES = 400


@dataclass(frozen=True, slots=True)
class Line:
    """A line to remember. hearers: NPCs that witnessed it; lasting: those of them that remember across sessions."""

    seq: int
    conversation_id: str
    utterance_id: str
    turn_id: str
    speaker_id: str
    speaker_name: str
    kind: str
    owner: str
    at_ms: int
    text: str
    hearers: tuple[str, ...]
    lasting: tuple[str, ...] = ()


def line_of(event: Event, lasting: Collection[str]) -> Line | None:
    """The line of an entry that an NPC witnessed; None for every other."""
    said = event.body
    if not isinstance(said, Said) or not said.hearers:
        return None
    return Line(
        seq=event.seq,
        conversation_id=event.conversation_id,
        utterance_id=said.utterance_id,
        turn_id=said.turn_id,
        speaker_id=said.speaker_id,
        speaker_name=said.speaker_name,
        kind=said.speaker_kind,
        owner=said.owner,
        at_ms=event.at_ms,
        text=said.text,
        hearers=said.hearers,
        lasting=tuple(npc for npc in said.hearers if npc in lasting),
    )


# -- writing, inside the caller's transaction --------------------------------------------------------------------------


def put(db: sqlite3.Connection, world: World, lines: Iterable[Line], *, embed: bool) -> int:
    """Remember lines that are not yet; embed: they wait for a vector. Answers how many were new."""
    new = 0
    for line in lines:
        scopes = [scope(db, world[0], world[1], npc) for npc in line.hearers]
        scopes += [scope(db, world[0], "", npc) for npc in line.lasting]
        text, found = " ".join(map(str, scopes)), words(line.text)
        cursor = db.execute(
            "INSERT OR IGNORE INTO utterances (id, tenant, world, seq, conversation, utterance, turn, speaker, name,"
            " kind, owner, at_ms, words, lasting, scopes, body) VALUES (fresh_id(),?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (*world, line.seq, line.conversation_id, line.utterance_id, line.turn_id, line.speaker_id,
             line.speaker_name, line.kind, line.owner, line.at_ms, len(found), bool(line.lasting), text, line.text),
        )  # fmt: skip
        if not cursor.rowcount:
            continue
        new += 1
        db.execute("INSERT INTO recall (rowid, scope, terms) VALUES (?,?,?)", (cursor.lastrowid, *indexed(text, found)))
        db.executemany("UPDATE scopes SET lines=lines+1 WHERE id=?", [(scope,) for scope in scopes])
        if embed:
            db.execute("INSERT INTO unembedded VALUES (?)", (cursor.lastrowid,))
    return new


def indexed(scopes: str, found: Sequence[str]) -> tuple[str, str]:
    """The columns of the index for a line: its scopes, and each word behind each scope."""
    marks = [f"{name}h" for name in scopes.split()]
    return " ".join(marks), " ".join(mark + f" {mark}".join(found) for mark in marks) if found else ""


def scope(db: sqlite3.Connection, tenant: str, world: str, npc: str) -> int:
    row = db.execute("SELECT id FROM scopes WHERE tenant=? AND world=? AND npc=?", (tenant, world, npc)).fetchone()
    if row is None:
        names = (tenant, world, npc)
        db.execute(
            "INSERT INTO scopes (id, tenant, world, npc, lines) VALUES (named_id(?,?,?),?,?,?,0)", (*names, *names)
        )
        row = db.execute("SELECT last_insert_rowid()").fetchone()
    return int(row[0])


def remove(db: sqlite3.Connection, where: str, parameters: Sequence[object]) -> int:
    """Forget lines: themselves, their words, their vectors. Answers how many."""
    rows = db.execute(f"SELECT id, scopes, body FROM utterances WHERE {where}", parameters).fetchall()
    for one, scopes, body in rows:
        _unindex(db, one, scopes, body)
        db.executemany("UPDATE scopes SET lines=lines-1 WHERE id=?", [(int(scope),) for scope in scopes.split()])
        db.execute("DELETE FROM vectors WHERE id=?", (one,))
        db.execute("DELETE FROM unembedded WHERE id=?", (one,))
        db.execute("DELETE FROM utterances WHERE id=?", (one,))
    if rows:
        db.execute("DELETE FROM scopes WHERE lines<=0")
    return len(rows)


def rewrite(db: sqlite3.Connection, one: int, text: str) -> None:
    """A line says something else from now on."""
    row = db.execute("SELECT scopes, body FROM utterances WHERE id=?", (one,)).fetchone()
    if row is None or row[1] == text:
        return
    scopes, body = row
    _unindex(db, one, scopes, body)
    found = words(text)
    db.execute("UPDATE utterances SET body=?, words=? WHERE id=?", (text, len(found), one))
    db.execute("INSERT INTO recall (rowid, scope, terms) VALUES (?,?,?)", (one, *indexed(scopes, found)))
    if db.execute("DELETE FROM vectors WHERE id=?", (one,)).rowcount:
        db.execute("INSERT OR IGNORE INTO unembedded VALUES (?)", (one,))


def _unindex(db: sqlite3.Connection, one: int, scopes: str, body: str) -> None:
    columns = indexed(scopes, words(body))
    db.execute("INSERT INTO recall (recall, rowid, scope, terms) VALUES ('delete',?,?,?)", (one, *columns))


def rescope(db: sqlite3.Connection, one: int, scopes: str, body: str, kept: str) -> None:
    """A line is remembered by fewer witnesses from now on."""
    _unindex(db, one, scopes, body)
    gone = set(scopes.split()) - set(kept.split())
    db.executemany("UPDATE scopes SET lines=lines-1 WHERE id=?", [(int(scope),) for scope in gone])
    db.execute("UPDATE utterances SET scopes=? WHERE id=?", (kept, one))
    db.execute("INSERT INTO recall (rowid, scope, terms) VALUES (?,?,?)", (one, *indexed(kept, words(body))))


def end_world(db: sqlite3.Connection, world: World) -> int:
    """A world's log is gone: what it was remembered by goes too, but for those that remember across sessions."""
    removed = remove(db, "tenant=? AND world=? AND lasting=0", world)
    lasting = {
        str(one) for (one,) in db.execute("SELECT id FROM scopes WHERE tenant=? AND world=''", (world[0],)).fetchall()
    }
    rows = db.execute("SELECT id, scopes, body FROM utterances WHERE tenant=? AND world=?", world).fetchall()
    for one, scopes, body in rows:
        kept = " ".join(scope for scope in scopes.split() if scope in lasting)
        if kept != scopes:
            rescope(db, one, scopes, body, kept)
    db.execute("DELETE FROM scopes WHERE lines<=0")
    return removed


def prune(db: sqlite3.Connection, before_ms: int, lasting_before_ms: int, keep: int, most: int) -> int:
    """Forget at most `most` lines past their age (lasting ones have their own) or beyond the newest `keep` of a tenant.

    Of the oldest lines of a surplus those go last that a lasting witness remembers, or that an NPC answered.
    """
    ids = db.execute(
        "SELECT id FROM utterances WHERE (lasting=0 AND at_ms<?) OR (lasting=1 AND at_ms<?) ORDER BY id LIMIT ?",
        (before_ms, lasting_before_ms, most),
    ).fetchall()
    for tenant, count in db.execute(
        "SELECT tenant, count(*) FROM utterances GROUP BY tenant HAVING count(*)>?", (keep,)
    ):
        surplus = min(count - keep, most - len(ids))
        ids += db.execute(
            "SELECT id FROM (SELECT id, lasting, EXISTS (SELECT 1 FROM utterances n WHERE n.tenant=u.tenant AND"
            " n.world=u.world AND n.seq>u.seq AND n.seq<=u.seq+? AND n.turn!='' AND n.owner=u.speaker) AS answered"
            " FROM utterances u WHERE tenant=? ORDER BY id LIMIT ?) ORDER BY lasting, answered, id LIMIT ?",
            (ANSWERED_IN, tenant, CONSIDERED * max(surplus, 0), max(surplus, 0)),
        ).fetchall()
    return sum(remove(db, "id=?", one) for one in dict.fromkeys(ids))


def erase(db: sqlite3.Connection, tenant: str, player: str) -> int:
    """Forget what a player said and caused, in every world of a tenant: it owns both."""
    return remove(db, "tenant=? AND owner=?", (tenant, player))


def rename(db: sqlite3.Connection, ids: Iterable[int], names: Sequence[str]) -> None:
    """Take a player's names out of what others said."""
    for one in ids:
        row = db.execute("SELECT body FROM utterances WHERE id=?", (one,)).fetchone()
        if row is not None:
            rewrite(db, one, erasing.unnamed(row[0], names))


def retract(db: sqlite3.Connection, world: World, utterance: str, instead: str) -> int:
    """Forget one line, or let it say something else. Answers how many changed."""
    if not instead:
        return remove(db, "tenant=? AND world=? AND utterance=?", (*world, utterance))
    row = db.execute(
        "SELECT id FROM utterances WHERE tenant=? AND world=? AND utterance=?", (*world, utterance)
    ).fetchone()
    if row is None:
        return 0
    rewrite(db, row[0], instead)
    return 1


def heard(db: sqlite3.Connection, world: World, utterance: str) -> Line | None:
    """A line as it was put, as far as its witnesses are still known."""
    row = db.execute(
        "SELECT seq, conversation, utterance, turn, speaker, name, kind, owner, at_ms, body, scopes FROM utterances"
        " WHERE tenant=? AND world=? AND utterance=?",
        (*world, utterance),
    ).fetchone()
    if row is None:
        return None
    *said, scopes = row
    numbers = scopes.split()
    marks = ",".join("?" * len(numbers))
    npcs = db.execute(f"SELECT DISTINCT npc FROM scopes WHERE id IN ({marks}) ORDER BY npc", numbers).fetchall()
    said.append(tuple(npc for (npc,) in npcs))
    return Line(*said)


def merge(db: sqlite3.Connection, *, first: bool) -> bool:
    """One step of rewriting the index without what was taken out of it. False once nothing is left to do.

    A deleted word stays in older segments until they are merged: an erasure merges them all (FTS5, 'merge').
    """
    before = db.total_changes
    db.execute("INSERT INTO recall (recall, rank) VALUES ('merge', ?)", (-MERGE_PAGES if first else MERGE_PAGES,))
    return db.total_changes - before >= 2


def prepare(db: sqlite3.Connection) -> None:
    """Build the index anew where another version of the words made it."""
    row = db.execute("SELECT version FROM recall_version").fetchone()
    if row is not None and row[0] == INDEX_VERSION:
        return
    db.execute("DELETE FROM recall_version")
    db.execute("INSERT INTO recall_version VALUES (?)", (INDEX_VERSION,))
    if row is None:
        return
    db.execute("INSERT INTO recall (recall) VALUES ('delete-all')")
    for one, scopes, body in db.execute("SELECT id, scopes, body FROM utterances").fetchall():
        db.execute("INSERT INTO recall (rowid, scope, terms) VALUES (?,?,?)", (one, *indexed(scopes, words(body))))


# -- lines that come and go with the partition of their world ----------------------------------------------------------

_SCOPES, _BODY = 14, 15


def entered(db: sqlite3.Connection, found: Found) -> None:
    """Index lines that came."""
    for row in found.get("utterances", ()):
        marks = indexed(row[_SCOPES], words(row[_BODY]))
        db.execute("INSERT INTO recall (rowid, scope, terms) VALUES (?,?,?)", (row[0], *marks))
    _recount(db, found)


def leaving(db: sqlite3.Connection, found: Found) -> None:
    """Take lines that go out of the index."""
    for row in found.get("utterances", ()):
        _unindex(db, row[0], row[_SCOPES], row[_BODY])
        db.execute("DELETE FROM vectors WHERE id=?", row[:1])
        db.execute("DELETE FROM unembedded WHERE id=?", row[:1])
    _recount(db, found)


def _recount(db: sqlite3.Connection, found: Found) -> None:
    touched = {int(scope) for row in found.get("utterances", ()) for scope in row[_SCOPES].split()}
    touched |= {row[0] for row in found.get("scopes", ())}
    for scope in touched:
        (lines,) = db.execute("SELECT count(*) FROM recall WHERE recall MATCH ?", (f'"{scope}h"',)).fetchone()
        db.execute("UPDATE scopes SET lines=? WHERE id=?", (lines, scope))
    db.execute("DELETE FROM scopes WHERE lines<=0")


# -- vectors and their queue -------------------------------------------------------------------------------------------


def embedded(
    db: sqlite3.Connection, model: str, said: Mapping[int, str], vectors: Mapping[int, bytes], given_up: Collection[int]
) -> None:
    """Keep vectors and take their lines, and those that have none to come, off the queue. said: what was embedded."""
    # A line may have gone, or come to say something else, while its vector was made: then it waits on.
    # One that has none to come gets an empty one: it is not asked for again until the model changes.
    kept = [(one, model, vector, one, said[one]) for one, vector in {**vectors, **dict.fromkeys(given_up, b"")}.items()]
    db.executemany(
        "INSERT OR REPLACE INTO vectors SELECT ?,?,? WHERE EXISTS (SELECT 1 FROM utterances WHERE id=? AND body=?)",
        kept,
    )
    db.executemany(
        "DELETE FROM unembedded WHERE id=? AND NOT EXISTS (SELECT 1 FROM utterances WHERE id=? AND body<>?)",
        [(one, one, said[one]) for one in (*vectors, *given_up)],
    )


def enqueue(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Put lines on the queue."""
    db.executemany("INSERT OR IGNORE INTO unembedded VALUES (?)", [(one,) for one in ids])


# -- reading -----------------------------------------------------------------------------------------------------------


class RecallReader:
    """Reads on a connection that belongs to one thread at a time."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def scope(self, tenant: str, world: str, npc: str) -> tuple[int, int] | None:
        """Number and lines of a witness' scope; None when it has witnessed nothing."""
        row = self._db.execute(
            "SELECT id, lines FROM scopes WHERE tenant=? AND world=? AND npc=?", (tenant, world, npc)
        ).fetchone()
        return (int(row[0]), int(row[1])) if row else None

    def floor(self, world: World, seq: int) -> int:
        """The lowest id of the world's lines from a number of its log on."""
        row = self._db.execute(
            "SELECT id FROM utterances WHERE tenant=? AND world=? AND seq>=? ORDER BY seq LIMIT 1", (*world, seq)
        ).fetchone()
        return int(row[0]) if row else 1 << 62

    def at(self, world: World, numbers: Collection[int]) -> set[int]:
        """Ids of the world's lines of these numbers of its log."""
        rows = [
            self._db.execute("SELECT id FROM utterances WHERE tenant=? AND world=? AND seq=?", (*world, seq)).fetchone()
            for seq in numbers
        ]
        return {int(row[0]) for row in rows if row is not None}

    def with_word(self, scope: int, word: str, low: int = 0, most: int = 1 << 30) -> list[int]:
        """Ids of the scope's lines that hold a word, newest first; at most so many."""
        rows = self._db.execute(
            "SELECT rowid FROM recall WHERE recall MATCH ? AND rowid>=? ORDER BY rowid DESC LIMIT ?",
            (f'"{scope}h{word}"', low, most),
        ).fetchall()
        return [one for (one,) in rows]

    def newest(self, scope: int, most: int, low: int = 0, high: int = 1 << 62) -> list[int]:
        """Ids of the scope's lines from low to high, newest first."""
        rows = self._db.execute(
            "SELECT rowid FROM recall WHERE recall MATCH ? AND rowid BETWEEN ? AND ? ORDER BY rowid DESC LIMIT ?",
            (f'"{scope}h"', low, high, most),
        )
        return [one for (one,) in rows]

    def memories(self, ids: Sequence[int]) -> list[Memory]:
        """Lines by id; those that are gone are left out."""
        return [Memory(*row) for row in self._in(f"SELECT {_COLUMNS} FROM utterances WHERE id IN", ids)]  # type: ignore[arg-type]  # the columns' order

    def names(self, tenant: str, player: str) -> set[str]:
        """Names under which a player spoke in any world of a tenant."""
        rows = self._db.execute(
            "SELECT DISTINCT name FROM utterances WHERE tenant=? AND owner=? AND speaker=?", (tenant, player, player)
        )
        return {name for (name,) in rows}

    def naming(self, tenant: str, names: Sequence[str]) -> list[int]:
        """Ids of lines that hold one of the names as a whole word."""
        if not names:
            return []
        rows = self._db.execute("SELECT id, body FROM utterances WHERE tenant=?", (tenant,))
        return [one for one, body in rows if erasing.unnamed(body, names) != body]

    def beside(self, tenant: str, memory: Memory) -> list[tuple[Memory, set[int]]]:
        """The lines before and after one in its world, with the scopes of each."""
        found = []
        for comparison, order in (("<", "DESC"), (">", "ASC")):
            row = self._db.execute(
                f"SELECT {_COLUMNS}, scopes FROM utterances WHERE tenant=? AND world=? AND seq{comparison}?"
                f" ORDER BY seq {order} LIMIT 1",
                (tenant, memory.world, memory.seq),
            ).fetchone()
            if row is not None:
                found.append((Memory(*row[:-1]), {int(scope) for scope in row[-1].split()}))
        return found

    def vectors(self, scope: int, model: str, most: int, low: int = 0) -> list[tuple[int, bytes]]:
        """(id, vector) of the scope's newest lines from `low` on, of those that have one of this model."""
        return self._db.execute(
            "SELECT v.id, v.vector FROM recall r CROSS JOIN vectors v ON v.id=r.rowid"
            " WHERE r.recall MATCH ? AND r.rowid>=? AND v.model=? ORDER BY r.rowid DESC LIMIT ?",
            (f'"{scope}h"', low, model, most),
        ).fetchall()

    def waiting(self, most: int) -> list[tuple[int, str]]:
        """(id, text) of the newest lines that wait for a vector: what is recalled soon comes first."""
        return self._db.execute(
            "SELECT q.id, u.body FROM unembedded q JOIN utterances u ON u.id=q.id ORDER BY q.id DESC LIMIT ?", (most,)
        ).fetchall()

    def without_vector(self, model: str, below: int, most: int) -> list[int]:
        """Ids of lines that have no vector of this model, newest first, below an id."""
        rows = self._db.execute(
            "SELECT u.id FROM utterances u LEFT JOIN vectors v ON v.id=u.id WHERE u.id<? AND v.model IS NOT ?"
            " ORDER BY u.id DESC LIMIT ?",
            (below, model, most),
        )
        return [one for (one,) in rows]

    def waiting_count(self) -> int:
        """How many wait for a vector."""
        return int(self._db.execute("SELECT count(*) FROM unembedded").fetchone()[0])

    def _in(self, sql: str, ids: Sequence[int]) -> Rows:
        rows: Rows = []
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            rows += self._db.execute(f"{sql} ({','.join('?' * len(some))})", some).fetchall()
        return rows
