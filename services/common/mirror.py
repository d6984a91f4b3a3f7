"""A replica's working copy: the rows of the partitions that it owns, in SQLite, as Redis keeps them.

Rooms read and write SQL as ever. Triggers note which rows a group commit changed; Redis has them before the commit is
made here and its callers are answered. So nothing is read here that is not kept there, and the copy can be thrown away
at any time: it is made anew from Redis when a partition is taken.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.common.ownership import Fence, partition_of
from services.common.redis_rows import SLOT_BITS, Batch, RedisRows

# Ids that no two replicas ever make: milliseconds, then a replica's slot, then a count.
COUNT_BITS = 11
# The partition of a room that has one owner of everything.
ROWS_IN = 0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode

Found = Mapping[str, Sequence[Sequence[Any]]]
"""Rows by table."""


def _nothing(_: sqlite3.Connection, __: Found) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Layout:
    """How a room's tables are shared. A row with tenant and world lives in the partition of its world, a row with a
    tenant alone in that of (tenant, "").

    derived: tables that are not shared; `entered` and `leaving` keep them in step with the rows of the tables `told`
    that come and go with a partition. by_writer: tables whose rows, as far as they name no world, live where the world
    that wrote them does. single: the room has one owner, of everything.
    """

    derived: frozenset[str] = frozenset()
    told: frozenset[str] = frozenset()
    by_writer: frozenset[str] = frozenset()
    single: bool = False
    entered: Callable[[sqlite3.Connection, Found], None] = _nothing
    leaving: Callable[[sqlite3.Connection, Found], None] = _nothing


# Of a store that is never shared.
PRIVATE = Layout()


@dataclass(frozen=True, slots=True)
class Table:
    """A shared table. tenant, world: positions of these columns, -1 = it has none."""

    name: str
    columns: tuple[str, ...]
    key: tuple[int, ...]
    tenant: int
    world: int
    by_writer: bool

    @property
    def where(self) -> str:
        return " AND ".join(f"{self.columns[place]} = ?" for place in self.key)

    def key_of(self, row: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(row[place] for place in self.key)

    def within(self, partitions: Collection[int]) -> str:
        """SQL: the row's world lives in one of these. "" = rows of this table name none."""
        if self.tenant < 0 or (self.world < 0 and self.by_writer):
            return ""
        place = f"place(tenant, {'world' if self.world >= 0 else repr('')})"
        named = " AND world != ''" if self.world >= 0 else ""
        return f"{place} IN ({', '.join(map(str, partitions))}){named}"


@dataclass(slots=True)
class _Note:
    table: int
    partition: int
    key: tuple[Any, ...]


@dataclass(slots=True)
class Mirror:
    """Belongs to the writer's thread, but for `held`, which others may look at."""

    layout: Layout
    rows: RedisRows
    slot: int
    now_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)
    # Token by partition.
    held: dict[int, int] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    _numbers: dict[int, int] = field(default_factory=dict)
    # Where rows that name no world live: partitions by table and key.
    _homes: dict[tuple[str, tuple[Any, ...]], set[int]] = field(default_factory=dict)
    _notes: list[_Note] = field(default_factory=list)
    _writer: int = -1
    _quiet: bool = False
    _last_ms: int = 0
    _count: int = 0

    # -- noting what changes -------------------------------------------------------------------------------------------

    def attach(self, connection: sqlite3.Connection) -> None:
        """Watch every table that is shared."""
        self.tables = list(_tables(connection, self.layout))
        connection.create_function("mirror_note", -1, self._note)
        connection.create_function("fresh_id", 0, self._fresh)
        connection.create_function("named_id", -1, named)
        connection.create_function("place", 2, partition_of, deterministic=True)
        for number, table in enumerate(self.tables):
            for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
                tenant = f"{row}.{table.columns[table.tenant]}" if table.tenant >= 0 else "NULL"
                world = f"{row}.{table.columns[table.world]}" if table.world >= 0 else "''"
                key = ", ".join(f"{row}.{table.columns[place]}" for place in table.key)
                connection.execute(
                    f"CREATE TEMP TRIGGER mirror_{table.name}_{event} AFTER {event} ON main.{table.name} "
                    f"BEGIN SELECT mirror_note({number}, {tenant}, {world}, {key}); END"
                )

    def _note(self, number: int, tenant: str | None, world: str, *key: Any) -> None:
        if not self._quiet:
            places = self._places(self.tables[number], tenant, world, key)
            self._notes += [_Note(number, place, key) for place in places]

    def _places(self, table: Table, tenant: str | None, world: str, key: tuple[Any, ...]) -> Collection[int]:
        """The partitions that keep a row: none = it is not shared, several = they share it."""
        if self.layout.single:
            return (ROWS_IN,)
        if tenant is not None and (world or (table.world < 0 and not table.by_writer)):
            return (partition_of(tenant, world),)
        if not table.by_writer:
            return ()
        homes = self._homes.setdefault((table.name, key), set())
        if self._writer >= 0:
            homes.add(self._writer)
        return homes

    def begin(self, fence: Fence | None) -> int:
        """A write begins; answers what `partitions` and `undo` need."""
        self._writer = fence.partition if fence is not None else -1
        return len(self._notes)

    def partitions(self, mark: int) -> set[int]:
        """The partitions that were changed since."""
        return {note.partition for note in self._notes[mark:]}

    def undo(self, mark: int) -> None:
        """What was written since was rolled back."""
        del self._notes[mark:]

    def take(self, connection: sqlite3.Connection) -> list[Batch]:
        """What changed since the last call, as the rows are now."""
        batches: dict[int, Batch] = {}
        for note in self._notes:
            table = self.tables[note.table]
            batch = batches.get(note.partition)
            if batch is None:
                number = self._numbers[note.partition] = self._numbers.get(note.partition, 0) + 1
                batch = batches[note.partition] = Batch(note.partition, self.held[note.partition], number)
            rows = batch.tables.setdefault(table.name, {})
            name = _encode(note.key)
            if name not in rows:
                row = connection.execute(f"SELECT * FROM {table.name} WHERE {table.where}", note.key).fetchone()
                rows[name] = _encode(row) if row is not None else None
        self._notes.clear()
        return list(batches.values())

    # -- partitions ----------------------------------------------------------------------------------------------------

    def enter(self, connection: sqlite3.Connection, tokens: Mapping[int, int]) -> None:
        """Hold partitions from now on: their rows come from Redis. Raises Unavailable; then nothing is held."""
        self._quiet = True
        try:
            known = {table.name: table for table in self.tables}
            found: dict[str, list[Sequence[Any]]] = {}
            for partition, names in self.rows.filled(sorted(tokens), list(known)).items():
                for name, page in self.rows.read(partition, names):
                    rows = [tuple(_decode(row)) for row in page]
                    self._came(connection, known[name], partition, rows)
                    if name in self.layout.told:
                        found.setdefault(name, []).extend(rows)
            self.layout.entered(connection, found)
            connection.executemany("INSERT OR REPLACE INTO fence VALUES (?, ?)", list(tokens.items()))
        finally:
            self._quiet = False
        for partition, token in tokens.items():
            self.held[partition], self._numbers[partition] = token, 0

    def _came(
        self, connection: sqlite3.Connection, table: Table, partition: int, rows: Sequence[Sequence[Any]]
    ) -> None:
        # Rows of another version may have fewer columns, or more.
        columns = table.columns[: min(len(row) for row in rows)]
        how = "IGNORE" if table.by_writer else "REPLACE"
        connection.executemany(
            f"INSERT OR {how} INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            [row[: len(columns)] for row in rows],
        )
        if table.by_writer:
            for row in rows:
                self._homes.setdefault((table.name, table.key_of(row)), set()).add(partition)
        if len(table.key) == 1 and table.columns[table.key[0]] == "id" and not table.by_writer:
            # Ids made from now on are higher than those that came, whatever the clocks of their makers said.
            highest = max(int(row[table.key[0]]) for row in rows)
            self._last_ms = max(self._last_ms, (highest >> SLOT_BITS + COUNT_BITS) + 1)

    def leave(self, connection: sqlite3.Connection, partitions: Collection[int]) -> None:
        """Hold partitions no more: their rows leave the copy, not Redis."""
        self._quiet = True
        try:
            found: dict[str, Sequence[Sequence[Any]]] = {}
            for table in self.tables:
                within = table.within(partitions)
                if table.name in self.layout.told and within:
                    found[table.name] = connection.execute(f"SELECT * FROM {table.name} WHERE {within}").fetchall()
            self.layout.leaving(connection, found)
            for table in self.tables:
                within = table.within(partitions)
                if self.layout.single:
                    connection.execute(f"DELETE FROM {table.name}")
                elif within:
                    connection.execute(f"DELETE FROM {table.name} WHERE {within}")
                if table.by_writer:
                    self._homeless(connection, table, set(partitions))
            marks = ", ".join(map(str, partitions))
            connection.execute(f"DELETE FROM fence WHERE partition IN ({marks})")
        finally:
            self._quiet = False
        for partition in partitions:
            self.held.pop(partition, None)

    def _homeless(self, connection: sqlite3.Connection, table: Table, gone: set[int]) -> None:
        """Rows of a table that live in none of the partitions that are left."""
        for (name, key), homes in list(self._homes.items()):
            if name == table.name and homes & gone:
                homes -= gone
                if not homes:
                    del self._homes[name, key]
                    connection.execute(f"DELETE FROM {name} WHERE {table.where}", key)

    def peek(self, partition: int, table: str, key: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows as Redis keeps them, whoever owns them. May be called on any thread."""
        if key:
            row = self.rows.get(partition, table, _encode(tuple(key)))
            return [tuple(_decode(row))] if row is not None else []
        return [tuple(_decode(row)) for _, page in self.rows.read(partition, [table]) for row in page]

    # -- ids -----------------------------------------------------------------------------------------------------------

    def _fresh(self) -> int:
        now = max(self.now_ms(), self._last_ms)
        self._count = 0 if now > self._last_ms else self._count + 1
        if self._count >= 1 << COUNT_BITS:
            now, self._count = now + 1, 0
        self._last_ms = now
        return (now << SLOT_BITS | self.slot) << COUNT_BITS | self._count


def named(*parts: str) -> int:
    """The id of what these words name, the same on every replica: 62 bits."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big") >> 2


def _tables(connection: sqlite3.Connection, layout: Layout) -> Iterable[Table]:
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name != 'fence' "
        "AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    # Virtual tables are made of tables of their own.
    indexes = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL%'").fetchall()
    ]
    for (name,) in names:
        if name in layout.derived or any(name.startswith(f"{index}_") for index in indexes):
            continue
        info = connection.execute(f"PRAGMA table_info({name})").fetchall()
        columns = tuple(row[1] for row in info)
        key = tuple(row[0] for row in sorted((row for row in info if row[5]), key=lambda row: int(row[5])))
        yield Table(
            name,
            columns,
            key,
            columns.index("tenant") if "tenant" in columns else -1,
            columns.index("world") if "world" in columns else -1,
            name in layout.by_writer,
        )
