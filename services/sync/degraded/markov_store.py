"""Counts of an NPC's own lines in sync's store: added a line at a time, and taken back exactly."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.common.mirror import Found
from services.common.store import Database
from services.sync.context import Key
from services.sync.degraded.markov import START, Trigram, norm, trigrams

SCHEMA = (
    # id: number of the line in its world's log; author's lines have world "" and count from 1.
    """CREATE TABLE IF NOT EXISTS markov_line (tenant TEXT, npc TEXT, world TEXT, id INTEGER, turn_id TEXT NOT NULL,
       text TEXT NOT NULL, norm TEXT NOT NULL, PRIMARY KEY (tenant, npc, world, id)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS markov (tenant TEXT, npc TEXT, w1 TEXT, w2 TEXT, w3 TEXT, n INTEGER NOT NULL,
       PRIMARY KEY (tenant, npc, w1, w2, w3)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS markov_back ON markov (tenant, npc, w2, w3)",
    """CREATE TABLE IF NOT EXISTS markov_word (tenant TEXT, npc TEXT, norm TEXT, word TEXT, n INTEGER NOT NULL,
       PRIMARY KEY (tenant, npc, norm, word)) WITHOUT ROWID""",
)
# Lines of one NPC; the oldest of a world make room.
LINES_MAX = 2000
AUTHOR = ""


@dataclass(frozen=True, slots=True)
class Learnt:
    """One line of the log. id: its number."""

    id: int
    turn: str
    text: str


class NpcCounts:
    """Implements `markov.Counts` for one NPC of a tenant."""

    def __init__(self, database: Database, tenant: str, npc: str) -> None:
        self._database = database
        self._npc = (tenant, npc)

    def known(self, norms: Sequence[str]) -> list[tuple[str, int]]:
        if not norms:
            return []
        marks = ", ".join("?" * min(len(norms), 200))
        rows = self._database.read(
            f"SELECT word, n FROM markov_word WHERE tenant = ? AND npc = ? AND norm IN ({marks}) ORDER BY n, word",
            (*self._npc, *norms[:200]),
        )
        return [(row[0], row[1]) for row in rows]

    def around(self, word: str) -> list[tuple[Trigram, int]]:
        rows = self._database.read(
            "SELECT w1, w2, w3, n FROM markov WHERE tenant = ? AND npc = ? AND w2 = ?", (*self._npc, word)
        )
        return [((row[0], row[1], row[2]), row[3]) for row in rows]

    def after(self, first: str, second: str) -> list[tuple[str, int]]:
        rows = self._database.read(
            "SELECT w3, n FROM markov WHERE tenant = ? AND npc = ? AND w1 = ? AND w2 = ?", (*self._npc, first, second)
        )
        return [(row[0], row[1]) for row in rows]

    def before(self, second: str, third: str) -> list[tuple[str, int]]:
        rows = self._database.read(
            "SELECT w1, n FROM markov WHERE tenant = ? AND npc = ? AND w2 = ? AND w3 = ?", (*self._npc, second, third)
        )
        return [(row[0], row[1]) for row in rows]

    def norms(self) -> list[str]:
        rows = self._database.read("SELECT norm FROM markov_line WHERE tenant = ? AND npc = ?", self._npc)
        return [row[0] for row in rows]


class MarkovStore:
    """Every NPC's counts. Writes are soft and carry the fence of the world that they come from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, tenant: str, npc: str) -> NpcCounts:
        return NpcCounts(self._database, tenant, npc)

    def lines(self, tenant: str, npc: str) -> int:
        """How many lines are learnt."""
        rows = self._database.read("SELECT count(*) FROM markov_line WHERE tenant = ? AND npc = ?", (tenant, npc))
        return int(rows[0][0])

    def upto(self, key: Key) -> int:
        """Number of the newest line that was learnt in this world."""
        rows = self._database.read(
            "SELECT max(id) FROM markov_line WHERE tenant = ? AND npc = ? AND world = ?",
            (key.tenant, key.npc, key.world),
        )
        return int(rows[0][0] or 0)

    def learn(self, key: Key, lines: Sequence[Learnt]) -> asyncio.Future[None]:
        """Add lines; one that is there already counts once."""

        def work(connection: sqlite3.Connection) -> None:
            for line in lines:
                _add(connection, key.tenant, key.npc, key.world, line)
            _trim(connection, key)

        return self._submit(key, work)

    def author(self, key: Key, texts: Sequence[str]) -> asyncio.Future[None]:
        """The author's lines of this NPC are exactly these."""

        def work(connection: sqlite3.Connection) -> None:
            where = "tenant = ? AND npc = ? AND world = ''"
            rows = connection.execute(f"SELECT text FROM markov_line WHERE {where} ORDER BY id", (key.tenant, key.npc))
            if [row[0] for row in rows] == list(texts):
                return
            _remove(connection, where, (key.tenant, key.npc))
            for number, text in enumerate(texts, start=1):
                _add(connection, key.tenant, key.npc, AUTHOR, Learnt(number, "", text))

        return self._submit(key, work)

    async def forget_npcs(self, keys: Iterable[Key]) -> int:
        """Everything that these NPCs said in these worlds; how many lines."""
        removed = 0
        for key in keys:
            removed += await self._remove(key, "tenant = ? AND npc = ? AND world = ?", (key.tenant, key.npc, key.world))
        return removed

    async def forget_lines(self, tenant: str, texts: Sequence[str], turns: Sequence[str]) -> int:
        """Lines of these turns, and those that say the same as one of these texts, of every NPC of the tenant."""
        wanted = [
            *(("norm = ?", norm(text)) for text in texts if norm(text)),
            *(("turn_id = ?", t) for t in turns if t),
        ]
        removed = 0
        for condition, value in wanted:
            rows = self._database.read(
                f"SELECT DISTINCT npc, world FROM markov_line WHERE tenant = ? AND world != '' AND {condition}",
                (tenant, value),
            )
            for npc, world in rows:
                removed += await self._remove(
                    Key(tenant, world, npc),
                    f"tenant = ? AND npc = ? AND world = ? AND {condition}",
                    (tenant, npc, world, value),
                )
        return removed

    async def _remove(self, key: Key, where: str, values: Sequence[str]) -> int:
        fence = self._database.ownership.fence(key.tenant, key.world)
        return await self._database.write(lambda c: _remove(c, where, values), fence=fence)

    def _submit(self, key: Key, work: object) -> asyncio.Future[None]:
        fence = self._database.ownership.fence(key.tenant, key.world)
        return self._database.submit(work, durable=False, fence=fence)  # type: ignore[arg-type]  # a work of None


def _add(connection: sqlite3.Connection, tenant: str, npc: str, world: str, line: Learnt) -> None:
    plain = norm(line.text)
    # The same words twice teach nothing, and would make a repeated answer ever more likely.
    if connection.execute(
        "SELECT 1 FROM markov_line WHERE tenant = ? AND npc = ? AND norm = ?", (tenant, npc, plain)
    ).fetchone():
        return
    added = connection.execute(
        "INSERT OR IGNORE INTO markov_line VALUES (?, ?, ?, ?, ?, ?, ?)",
        (tenant, npc, world, line.id, line.turn, line.text, plain),
    )
    if added.rowcount > 0:
        _count(connection, tenant, npc, line.text, 1)


def _count(connection: sqlite3.Connection, tenant: str, npc: str, text: str, by: int) -> None:
    found = trigrams(text)
    connection.executemany(
        "INSERT INTO markov VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (tenant, npc, w1, w2, w3) DO UPDATE SET n = n + excluded.n",
        [(tenant, npc, *one, by) for one in found],
    )
    connection.executemany(
        "INSERT INTO markov_word VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (tenant, npc, norm, word) DO UPDATE SET n = n + excluded.n",
        [(tenant, npc, norm(word), word, by) for _, word, _ in found if word != START and norm(word)],
    )
    if by < 0:
        connection.executemany(
            "DELETE FROM markov WHERE tenant = ? AND npc = ? AND w1 = ? AND w2 = ? AND w3 = ? AND n <= 0",
            [(tenant, npc, *one) for one in found],
        )
        connection.executemany(
            "DELETE FROM markov_word WHERE tenant = ? AND npc = ? AND norm = ? AND word = ? AND n <= 0",
            [(tenant, npc, norm(word), word) for _, word, _ in found],
        )


def count_lines(connection: sqlite3.Connection, found: Found, *, by: int) -> None:
    """Lines came (1) or go (-1) with the partition of their world."""
    for tenant, npc, world, _, _, text, _ in found.get("markov_line", ()):
        if world != AUTHOR:
            _count(connection, tenant, npc, text, by)


def _remove(connection: sqlite3.Connection, where: str, values: Sequence[str]) -> int:
    rows = connection.execute(f"SELECT tenant, npc, text FROM markov_line WHERE {where}", values).fetchall()
    connection.execute(f"DELETE FROM markov_line WHERE {where}", values)
    for tenant, npc, text in rows:
        _count(connection, tenant, npc, text, -1)
    return len(rows)


def _trim(connection: sqlite3.Connection, key: Key) -> None:
    """The oldest lines make room, those of other worlds first."""
    npc = (key.tenant, key.npc)
    where = "tenant = ? AND npc = ?"
    total = connection.execute(f"SELECT count(*) FROM markov_line WHERE {where}", npc).fetchone()[0]
    if total <= LINES_MAX:
        return
    rows = connection.execute(
        f"SELECT world, id FROM markov_line WHERE {where} AND world != '' ORDER BY world = ?, id LIMIT ?",
        (*npc, key.world, total - LINES_MAX),
    ).fetchall()
    for world, number in rows:
        _remove(connection, f"{where} AND world = ? AND id = ?", (*npc, world, number))
