"""The room's durable memory: the input log, the event log, checkpoints, explanations, seen message ids.

One world's append (inputs, events, what explains them) is one fenced transaction. Reads are small and indexed. Of the
same tables erasure_store.py takes players out, retraction_store.py single lines.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec

from services.chat import events, explaining, inputs, recall_store, recording_store
from services.chat.effects import Explain
from services.common.errors import Conflict
from services.common.mirror import Layout
from services.common.ownership import Fence
from services.common.store import Database

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS inputs (tenant TEXT, world TEXT, n INTEGER, body BLOB NOT NULL,"
    " PRIMARY KEY (tenant, world, n)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS events (tenant TEXT, world TEXT, seq INTEGER, conversation TEXT NOT NULL,"
    " at_ms INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (tenant, world, seq)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS events_of ON events (tenant, world, conversation, seq)",
    "CREATE TABLE IF NOT EXISTS worlds (tenant TEXT, world TEXT, n INTEGER NOT NULL, state BLOB NOT NULL,"
    " life INTEGER NOT NULL, PRIMARY KEY (tenant, world)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS holes (tenant TEXT, world TEXT, low INTEGER, high INTEGER NOT NULL,"
    " PRIMARY KEY (tenant, world, low)) WITHOUT ROWID",
    # seq: the turn's last entry in the log. A turn is explained as long as that entry is kept.
    "CREATE TABLE IF NOT EXISTS explanations (tenant TEXT, world TEXT, turn TEXT, at_ms INTEGER NOT NULL,"
    " why BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (tenant, world, turn)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS seen (tenant TEXT, world TEXT, key TEXT, at_ms INTEGER NOT NULL, body BLOB NOT NULL,"
    " PRIMARY KEY (tenant, world, key)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS erasures (tenant TEXT, id TEXT, player TEXT NOT NULL, state TEXT NOT NULL,"
    " at_ms INTEGER NOT NULL, receipts BLOB NOT NULL, PRIMARY KEY (tenant, id)) WITHOUT ROWID",
    # What sync has yet to forget of lines that were taken back; an empty body: only the files have.
    "CREATE TABLE IF NOT EXISTS forgetting (n INTEGER PRIMARY KEY, tenant TEXT NOT NULL, world TEXT NOT NULL,"
    " speaker TEXT NOT NULL, body BLOB NOT NULL)",
    *recording_store.SCHEMA,
    *recall_store.SCHEMA,
)

LAYOUT = Layout(
    # Vectors are made anew from the lines.
    derived=frozenset({"recall", "recall_version", "vectors", "unembedded"}),
    told=frozenset({"utterances", "scopes"}),
    by_writer=frozenset({"scopes", "erasures"}),
    entered=recall_store.entered,
    leaving=recall_store.leaving,
)

# Log numbers that a life of the store (one fencing token) may have shown without leaving a trace: no life reuses them.
SEQ_SKIP = 65_536

World = tuple[str, str]
T = TypeVar("T")


class Seen(msgspec.Struct, frozen=True):
    """The first one of a repeated message."""

    utterance_id: str
    conversation_id: str
    seq: int
    revision: int
    unheard: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a turn came about, with its last event."""

    why: Explain
    event: events.Event


@dataclass(slots=True)
class Append:
    """What one transaction of a world holds."""

    first_input: int
    inputs: list[inputs.Input] = field(default_factory=list)
    events: list[events.Event] = field(default_factory=list)
    turns: dict[str, Explained] = field(default_factory=dict)
    seen: list[tuple[str, int, Seen]] = field(default_factory=list)
    hole: tuple[int, int] | None = None
    # (number of the last input in it, state)
    checkpoint: tuple[int, bytes] | None = None
    # Where recording is on: fingerprints of the inputs, the time, and the state before the first input after a load.
    record: bool = False
    at_ms: int = 0
    fingerprints: list[bytes] = field(default_factory=list)
    before: bytes = b""
    # NPCs that remember across sessions.
    lasting: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Stored:
    """A world as found: its checkpoint (b"" = none), the inputs after it as stored, the highest log number.

    skip: how far above that the log goes on, by the lives of the store since the world was last loaded.
    """

    state: bytes
    n: int
    inputs: tuple[bytes, ...]
    last_seq: int
    skip: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """oldest and end: numbers of the first and last kept entry, 0 = none; holes: (last before, last within)."""

    oldest: int
    end: int
    holes: tuple[tuple[int, int], ...]

    def lost(self, cursor: int) -> bool:
        """Whether a reader at this cursor may have missed entries: trimmed, in a hole, or past the end."""
        if cursor > self.end or 0 < cursor < self.oldest - 1:
            return True
        return any(low < cursor <= high for low, high in self.holes)


class ChatStore:
    """All SQL of the room. Writes raise Conflict FENCED, Unavailable or Overloaded as the Database says."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Whether lines wait for a vector: set by who embeds, once it can.
        self.embeds = False

    def fence(self, world: World) -> Fence:
        """The right to write for a world. Raises NotOwner."""
        return self._database.ownership.fence(*world)

    def owns(self, world: World) -> bool:
        """Whether the world's log is kept here."""
        return self._database.ownership.owns(*world)

    @property
    def here(self) -> frozenset[int] | None:
        """Partitions whose logs are kept here, None = all there are."""
        parts = self._database.ownership.parts
        return None if parts is None else frozenset(parts)

    async def append(self, world: World, append: Append) -> None:
        """Durably append inputs with the events they led to, in one transaction."""
        fence, embeds = self.fence(world), self.embeds
        try:
            await self._database.write(
                lambda db: _append(db, world, append, fence.token, embeds), durable=True, fence=fence
            )
        except sqlite3.IntegrityError:
            # An append that was given up has landed after all: what is stored is ahead of memory, which is read anew.
            raise Conflict("the world's log went on without this", reason="LANDED") from None

    def keep(self, world: World, append: Append) -> None:
        """Submit an append without waiting: for the last checkpoint when a world is put away."""
        fence = self.fence(world)
        self._database.submit(lambda db: _append(db, world, append, fence.token, False), durable=False, fence=fence)

    async def look(self, work: Callable[[recall_store.RecallReader], T]) -> T:
        """Run a look into recall on the reading thread."""
        return await self._database.look(lambda db: work(recall_store.RecallReader(db)))

    async def change(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run a change of recall that no one world owns."""
        return await self._database.write(work, durable=durable)

    def load(self, world: World) -> Stored:
        """A world's checkpoint and inputs."""
        rows = self._database.read("SELECT n, state, life FROM worlds WHERE tenant=? AND world=?", world)
        # A world that left no row may have been shown in every life before this one.
        n, state, life = rows[0] if rows else (0, b"", 1)
        later = self._database.read(
            "SELECT body FROM inputs WHERE tenant=? AND world=? AND n>? ORDER BY n", (*world, n)
        )
        skip = SEQ_SKIP * (self.fence(world).token - life)
        return Stored(state, n, tuple(body for (body,) in later), self.bounds(world).end, skip)

    def bounds(self, world: World) -> Bounds:
        """What of a world's log is kept."""
        # Each alone is one step into the index; asked together they are a walk through the whole log.
        ((oldest,),) = self._database.read("SELECT min(seq) FROM events WHERE tenant=? AND world=?", world)
        end = self.end(world)
        holes = self._database.read("SELECT low, high FROM holes WHERE tenant=? AND world=? ORDER BY low", world)
        return Bounds(oldest or 0, end, tuple((low, high) for low, high in holes))

    def end(self, world: World) -> int:
        """Number of the last entry that is kept of a world's log, 0 = none."""
        ((end,),) = self._database.read("SELECT max(seq) FROM events WHERE tenant=? AND world=?", world)
        return end or 0

    def after(self, world: World, cursor: int, limit: int) -> list[events.Event]:
        """Entries after a cursor, in order."""
        rows = self._database.read(
            "SELECT body FROM events WHERE tenant=? AND world=? AND seq>? ORDER BY seq LIMIT ?", (*world, cursor, limit)
        )
        return [events.decode(body) for (body,) in rows]

    def newest(self, world: World, limit: int, conversation: str | None = None) -> list[events.Event]:
        """The last entries of a world or of one conversation, oldest first."""
        where = "" if conversation is None else " AND conversation=?"
        parameters = (*world, *(() if conversation is None else (conversation,)), limit)
        rows = self._database.read(
            f"SELECT body FROM events WHERE tenant=? AND world=?{where} ORDER BY seq DESC LIMIT ?", parameters
        )
        return [events.decode(body) for (body,) in reversed(rows)]

    def known(self, world: World) -> bool:
        """Whether anything of the world is stored."""
        return bool(self._database.read("SELECT 1 FROM worlds WHERE tenant=? AND world=?", world))

    def explained(self, world: World, turn_id: str) -> Explained | None:
        """Why a turn came about."""
        rows = self._database.read(
            "SELECT x.why, e.body FROM explanations x JOIN events e USING (tenant, world, seq)"
            " WHERE x.tenant=? AND x.world=? AND x.turn=?",
            (*world, turn_id),
        )
        if not rows:
            return None
        why, event = rows[0]
        return Explained(explaining.unpack(why), events.decode(event))

    def seen(self, world: World, key: str) -> Seen | None:
        """The first message of that key."""
        rows = self._database.read("SELECT body FROM seen WHERE tenant=? AND world=? AND key=?", (*world, key))
        return msgspec.msgpack.decode(rows[0][0], type=Seen) if rows else None

    # -- retention -----------------------------------------------------------------------------------------------------

    def worlds(self, tenant: str | None = None) -> list[World]:
        """Every world of which anything is stored (each has a checkpoint from the moment it is first loaded)."""
        if tenant is None:
            return list(self._database.read("SELECT tenant, world FROM worlds"))
        return list(self._database.read("SELECT tenant, world FROM worlds WHERE tenant=?", (tenant,)))

    async def trim(self, world: World, before_ms: int, keep: int) -> int:
        """Drop entries older than a time or beyond the newest `keep`; the newest always stays. Answers how many."""
        return await self._database.write(
            lambda db: _trim(db, world, before_ms, keep), durable=False, fence=self.fence(world)
        )

    async def drop(self, world: World) -> None:
        """Forget a world of which nothing is within its retention. Its log begins anew if it ever comes back."""
        await self._database.write(lambda db: _drop(db, world), durable=False, fence=self.fence(world))

    async def purge(self) -> None:
        """Let the index of recall forget what was taken out of it, then empty the write-ahead log."""
        more = await self._database.write(partial(recall_store.merge, first=True), durable=False)
        while more:
            more = await self._database.write(partial(recall_store.merge, first=False), durable=False)
        await self._database.purge()


def _append(db: sqlite3.Connection, world: World, append: Append, life: int, embeds: bool) -> None:
    db.executemany(
        "INSERT INTO inputs VALUES (?,?,?,?)",
        [(*world, append.first_input + i, inputs.encode(item)) for i, item in enumerate(append.inputs)],
    )
    _record(db, world, append)
    db.executemany(
        "INSERT INTO events VALUES (?,?,?,?,?,?)",
        [(*world, event.seq, event.conversation_id, event.at_ms, events.encode(event)) for event in append.events],
    )
    lines = [line for event in append.events if (line := recall_store.line_of(event, append.lasting)) is not None]
    recall_store.put(db, world, lines, embed=embeds)
    db.executemany(
        "INSERT OR REPLACE INTO explanations VALUES (?,?,?,?,?,?)",
        [
            (*world, turn_id, turn.event.at_ms, explaining.pack(turn.why), turn.event.seq)
            for turn_id, turn in append.turns.items()
        ],
    )
    db.executemany(
        "INSERT OR IGNORE INTO seen VALUES (?,?,?,?,?)",
        [(*world, key, at_ms, msgspec.msgpack.encode(seen)) for key, at_ms, seen in append.seen],
    )
    if append.hole is not None:
        db.execute("INSERT OR REPLACE INTO holes VALUES (?,?,?,?)", (*world, *append.hole))
    if append.checkpoint is not None:
        db.execute("INSERT OR REPLACE INTO worlds VALUES (?,?,?,?,?)", (*world, *append.checkpoint, life))
        db.execute("DELETE FROM inputs WHERE tenant=? AND world=? AND n<=?", (*world, append.checkpoint[0]))


def _record(db: sqlite3.Connection, world: World, append: Append) -> None:
    erased = any(isinstance(item, inputs.PlayerErased | inputs.Retracted) for item in append.inputs)
    if erased:
        recording_store.forget(db, world)
    if not append.record:
        return
    if append.before:
        recording_store.put_state(db, world, append.first_input - 1, append.at_ms, append.before)
    if not erased:
        recording_store.put_inputs(db, world, append.first_input, append.inputs, append.fingerprints)
    if append.checkpoint is not None:
        recording_store.put_state(db, world, append.checkpoint[0], append.at_ms, append.checkpoint[1])


def _trim(db: sqlite3.Connection, world: World, before_ms: int, keep: int) -> int:
    recording_store.trim(db, world, before_ms)
    (end,) = db.execute("SELECT max(seq) FROM events WHERE tenant=? AND world=?", world).fetchone()
    if end is None:
        return 0
    row = db.execute(
        "SELECT seq FROM events WHERE tenant=? AND world=? ORDER BY seq DESC LIMIT 1 OFFSET ?", (*world, keep - 1)
    ).fetchone()
    floor = row[0] if row else 0
    removed = db.execute(
        "DELETE FROM events WHERE tenant=? AND world=? AND seq<? AND (seq<? OR at_ms<?)",
        (*world, end, floor, before_ms),
    ).rowcount
    for table in ("explanations", "seen"):
        db.execute(f"DELETE FROM {table} WHERE tenant=? AND world=? AND at_ms<?", (*world, before_ms))
    (oldest,) = db.execute("SELECT min(seq) FROM events WHERE tenant=? AND world=?", world).fetchone()
    db.execute("DELETE FROM holes WHERE tenant=? AND world=? AND high<?", (*world, oldest))
    return int(removed)


def _drop(db: sqlite3.Connection, world: World) -> None:
    for table in ("inputs", "events", "worlds", "holes", "explanations", "seen", "recorded"):
        db.execute(f"DELETE FROM {table} WHERE tenant=? AND world=?", world)
    recall_store.end_world(db, world)
