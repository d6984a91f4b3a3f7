"""The room's durable memory: the input log, the event log, checkpoints, explanations, seen message ids, erasure jobs.

One world's append (inputs, events, what explains them) is one fenced transaction. Reads are small and indexed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import msgspec

from services.chat import erasing, events, explaining, inputs, recall_store, recording_store
from services.chat.effects import Explain
from services.common.errors import Conflict, NotOwner
from services.common.mirror import Layout
from services.common.ownership import Fence, partition_of
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

# Of an erasure: that of its least advanced part is its own.
STATES = ("failed", "pending", "purging", "done")

# Lines of recall that are rewritten in one commit.
ERASE_BATCH = 500

World = tuple[str, str]
T = TypeVar("T")

_HOLDS_PLAYERS = (
    ("worlds", "state"),
    ("inputs", "body"),
    ("events", "body"),
    ("explanations", "why"),
    ("recorded", "body"),
)


class Seen(msgspec.Struct, frozen=True):
    """The first one of a repeated message."""

    utterance_id: str
    conversation_id: str
    seq: int
    revision: int
    unheard: bool


class Receipt(msgspec.Struct, frozen=True):
    """What one store removed."""

    store: str
    removed: int
    not_erasable: str = ""


class Forgetting(msgspec.Struct, frozen=True):
    """A line that was taken back, as far as sync has to do with it. npcs: those that heard it; turns: what answered."""

    tenant: str
    world: str
    text: str
    speaker: str
    at_ms: int
    npcs: tuple[str, ...]
    turns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a turn came about, with its last event."""

    why: Explain
    event: events.Event


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure job. state: pending, purging (only the write-ahead log is left), done or failed.

    part: of a job that replicas share, the partition whose worlds this part is about; -1 = all.
    """

    tenant: str
    id: str
    player: str
    state: str
    receipts: tuple[Receipt, ...]
    part: int = -1


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
        ((end,),) = self._database.read("SELECT max(seq) FROM events WHERE tenant=? AND world=?", world)
        holes = self._database.read("SELECT low, high FROM holes WHERE tenant=? AND world=? ORDER BY low", world)
        return Bounds(oldest or 0, end or 0, tuple((low, high) for low, high in holes))

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

    # -- retention and erasure -----------------------------------------------------------------------------------------

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

    async def erase(self, world: World, player: str, names: Sequence[str]) -> int:
        """Remove a player from a world's log, explanations and seen ids. Answers how many rows changed."""
        return await self._database.write(
            lambda db: _erase(db, world, player, names), durable=True, fence=self.fence(world)
        )

    def utterance_of(self, world: World, message_id: str) -> str:
        """Utterance of a message as its sender calls it, "" = none is known."""
        low, high = f"m:{message_id}:", f"m:{message_id};"
        rows = self._database.read(
            "SELECT body FROM seen WHERE tenant=? AND world=? AND key>=? AND key<? LIMIT 1", (*world, low, high)
        )
        return msgspec.msgpack.decode(rows[0][0], type=Seen).utterance_id if rows else ""

    def said(self, world: World, utterance_id: str) -> events.Event | None:
        """The entry of an utterance; its number is the last part of its id."""
        number = utterance_id.rpartition("-")[2]
        if not number.isdigit():
            return None
        rows = self._database.read(
            "SELECT body FROM events WHERE tenant=? AND world=? AND seq=?", (*world, min(int(number), 1 << 62))
        )
        event = events.decode(rows[0][0]) if rows else None
        body = event.body if event is not None else None
        return event if isinstance(body, events.Said) and body.utterance_id == utterance_id else None

    def turns_of(self, world: World, utterance_id: str) -> list[str]:
        """Turns that this utterance caused."""
        rows = self._database.read(
            "SELECT x.turn FROM explanations x JOIN events e USING (tenant, world, seq)"
            " WHERE tenant=? AND world=? AND instr(e.body, ?)",
            (*world, utterance_id.encode()),
        )
        return [turn for (turn,) in rows]

    def lines_of(self, world: World, turns: Sequence[str]) -> list[int]:
        """Numbers of the sentences of these turns."""
        found = []
        for turn in turns:
            rows = self._database.read(
                "SELECT body FROM events WHERE tenant=? AND world=? AND instr(body, ?)", (*world, turn.encode())
            )
            said = [event for (body,) in rows if isinstance((event := events.decode(body)).body, events.Said)]
            found += [event.seq for event in said if isinstance(event.body, events.Said) and event.body.turn_id == turn]
        return found

    async def retract(self, world: World, event: events.Event, kept: events.Event | None, turns: Sequence[str]) -> int:
        """Replace or remove an entry, and what these turns said to it, in the log and in recall. Answers how many.

        What sync has to forget of it is taken on in the same commit.
        """
        answers = self.lines_of(world, turns)
        return await self._database.write(
            lambda db: _retract(db, world, event, kept, answers, turns), durable=True, fence=self.fence(world)
        )

    async def retract_recalled(self, world: World, utterance_id: str, instead: str) -> int:
        """The same for a line that only recall still knows."""
        return await self._database.write(lambda db: _retract_recalled(db, world, utterance_id, instead), durable=True)

    def forgettings(self, most: int) -> list[tuple[int, Forgetting]]:
        """What sync has yet to forget, oldest first, by number."""
        rows = self._database.read("SELECT n, body FROM forgetting WHERE body<>x'' ORDER BY n LIMIT ?", (most,))
        return [(n, msgspec.msgpack.decode(body, type=Forgetting)) for n, body in rows]

    def unpurged(self) -> list[int]:
        """Numbers of what sync has forgotten and the files may still hold."""
        return [n for (n,) in self._database.read("SELECT n FROM forgetting WHERE body=x''")]

    async def forgot(self, number: int) -> None:
        """Sync has forgotten it."""
        sql = "UPDATE forgetting SET speaker='', body=x'' WHERE n=?"
        await self._database.write(lambda db: db.execute(sql, (number,)))

    async def purged(self, numbers: Sequence[int]) -> None:
        """The files hold nothing of these any more."""
        rows = [(number,) for number in numbers]
        await self._database.write(lambda db: db.executemany("DELETE FROM forgetting WHERE n=?", rows))

    async def purge(self) -> None:
        """Let the index of recall forget what was taken out of it, then empty the write-ahead log."""
        more = await self._database.write(partial(recall_store.merge, first=True), durable=False)
        while more:
            more = await self._database.write(partial(recall_store.merge, first=False), durable=False)
        await self._database.purge()

    def mentions(self, world: World, player: str) -> bool:
        """Whether anything stored of a world holds the player's id."""
        mark = player.encode()
        for table, column in _HOLDS_PLAYERS:
            sql = f"SELECT 1 FROM {table} WHERE tenant=? AND world=? AND instr({column}, ?) LIMIT 1"
            if self._database.read(sql, (*world, mark)):
                return True
        return bool(
            self._database.read(
                "SELECT 1 FROM seen WHERE tenant=? AND world=? AND instr(key, ?) LIMIT 1", (*world, player)
            )
        )

    def hearers(self, world: World, player: str) -> set[str]:
        """NPCs that heard a player, as the log knows."""
        rows = self._database.read(
            "SELECT body FROM events WHERE tenant=? AND world=? AND instr(body, ?)", (*world, player.encode())
        )
        return {npc for (body,) in rows for npc in erasing.hearers(events.decode(body), player)}

    def names(self, world: World, player: str) -> set[str]:
        """Display names under which a player appears in a world's log."""
        rows = self._database.read(
            "SELECT body FROM events WHERE tenant=? AND world=? AND instr(body, ?)", (*world, player.encode())
        )
        return {name for (body,) in rows for name in erasing.names(events.decode(body), player)}

    async def erase_recall(self, tenant: str, player: str, names: Sequence[str]) -> int:
        """Remove a player from recall, in every world of a tenant. Answers how many rows."""
        removed = await self._database.write(lambda db: _erase_recall(db, tenant, player))
        naming = await self.look(lambda reader: reader.naming(tenant, names))
        for start in range(0, len(naming), ERASE_BATCH):
            some = naming[start : start + ERASE_BATCH]
            await self._database.write(partial(recall_store.rename, ids=some, names=names))
        return removed + len(naming)

    async def put_erasure(self, job: Erasure, now_ms: int) -> None:
        """Create or update a job, or a part of one. Raises NotOwner for a part that is no longer here."""
        receipts = msgspec.msgpack.encode(job.receipts)
        fence = None
        if job.part >= 0:
            fence = self._database.ownership.parts.get(job.part)
            if fence is None:
                raise NotOwner
        row = f"{job.id}.{job.part}" if job.part >= 0 else job.id
        await self._database.write(
            lambda db: db.execute(
                "INSERT INTO erasures VALUES (?,?,?,?,?,?) ON CONFLICT (tenant, id) DO UPDATE SET"
                " state=excluded.state, player=excluded.player, receipts=excluded.receipts",
                (job.tenant, row, job.player, job.state, now_ms, receipts),
            ),
            fence=fence,
        )

    def parts(self, tenant: str) -> list[int]:
        """Partitions of which something of the tenant is kept here, and the one that speaks for it; [-1] = all is one.

        Blocks: for a job that is begun.
        """
        here = self._database.ownership.parts
        if not here:
            return [-1]
        rows = self._database.read("SELECT DISTINCT world FROM utterances WHERE tenant=?", (tenant,))
        found = {partition_of(*world) for world in self.worlds(tenant)} | {partition_of(tenant, one) for (one,) in rows}
        return sorted((found | {partition_of(tenant, "")}) & here.keys())

    def erasures(self, state: str) -> list[Erasure]:
        """Jobs in a state, oldest first."""
        return [
            _erasure(row)
            for row in self._database.read(
                "SELECT tenant, id, player, state, receipts FROM erasures WHERE state=? ORDER BY at_ms, id", (state,)
            )
        ]

    def erasure(self, tenant: str, job_id: str) -> Erasure | None:
        """One job, or what its parts here add up to."""
        rows = self._database.read(
            "SELECT tenant, id, player, state, receipts FROM erasures WHERE tenant=? AND (id=? OR id BETWEEN ? AND ?)",
            (tenant, job_id, f"{job_id}.", f"{job_id}/"),
        )
        jobs = [_erasure(row) for row in rows]
        if not jobs:
            return None
        state = min((job.state for job in jobs), key=STATES.index)
        return replace(jobs[0], state=state, receipts=tuple(one for job in jobs for one in job.receipts))


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


def _erase(db: sqlite3.Connection, world: World, player: str, names: Sequence[str]) -> int:
    removed = 0
    for seq, body in db.execute("SELECT seq, body FROM events WHERE tenant=? AND world=?", world).fetchall():
        event = events.decode(body)
        kept = erasing.without(event, player, names)
        if kept is event:
            continue
        removed += 1
        key = (*world, seq)
        if kept is None:
            db.execute("DELETE FROM events WHERE tenant=? AND world=? AND seq=?", key)
        else:
            db.execute("UPDATE events SET body=? WHERE tenant=? AND world=? AND seq=?", (events.encode(kept), *key))
    marks = [player.encode(), *(name.encode() for name in names)]
    for turn, why in db.execute("SELECT turn, why FROM explanations WHERE tenant=? AND world=?", world).fetchall():
        if any(mark in why for mark in marks):
            removed += 1
            db.execute("DELETE FROM explanations WHERE tenant=? AND world=? AND turn=?", (*world, turn))
    removed += db.execute("DELETE FROM seen WHERE tenant=? AND world=? AND instr(key, ?)", (*world, player)).rowcount
    return removed


def _owe(db: sqlite3.Connection, owed: Forgetting) -> None:
    row = (owed.tenant, owed.world, owed.speaker, msgspec.msgpack.encode(owed))
    db.execute("INSERT INTO forgetting (n, tenant, world, speaker, body) VALUES (fresh_id(),?,?,?,?)", row)


def _erase_recall(db: sqlite3.Connection, tenant: str, player: str) -> int:
    # Sync forgets the player as a whole: single lines need not be told to it any more.
    db.execute("DELETE FROM forgetting WHERE tenant=? AND speaker=?", (tenant, player))
    return recall_store.erase(db, tenant, player)


def _retract_recalled(db: sqlite3.Connection, world: World, utterance_id: str, instead: str) -> int:
    found = recall_store.heard(db, world, utterance_id)
    if found is None or found.text == instead:
        return 0
    _owe(db, Forgetting(*world, found.text, found.speaker_id, found.at_ms, found.hearers))
    return recall_store.retract(db, world, utterance_id, instead)


def _retract(
    db: sqlite3.Connection,
    world: World,
    event: events.Event,
    kept: events.Event | None,
    answers: Sequence[int],
    turns: Sequence[str],
) -> int:
    said = event.body
    assert isinstance(said, events.Said), "only what was said is taken back"
    key = (*world, event.seq)
    if kept is None:
        db.execute("DELETE FROM events WHERE tenant=? AND world=? AND seq=?", key)
    else:
        db.execute("UPDATE events SET body=? WHERE tenant=? AND world=? AND seq=?", (events.encode(kept), *key))
    text = kept.body.text if kept is not None and isinstance(kept.body, events.Said) else ""
    _owe(db, Forgetting(*world, said.text, said.speaker_id, event.at_ms, said.hearers, tuple(turns)))
    for seq in answers:
        db.execute("DELETE FROM events WHERE tenant=? AND world=? AND seq=?", (*world, seq))
        recall_store.remove(db, "tenant=? AND world=? AND seq=?", (*world, seq))
    return 1 + len(answers) + recall_store.retract(db, world, said.utterance_id, text)


def _erasure(row: tuple[str, str, str, str, bytes]) -> Erasure:
    tenant, row_id, player, state, receipts = row
    job_id, _, part = row_id.partition(".")
    kept = msgspec.msgpack.decode(receipts, type=tuple[Receipt, ...])
    return Erasure(tenant, job_id, player, state, kept, int(part) if part else -1)
