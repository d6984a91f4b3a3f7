"""What must outlive the process: agent mapping, confirmed digests, turns sent, deletion jobs, notes, local agents.

Durable (fsynced) is what a kill must not lose: the mapping, turns before they are sent, jobs. A write's beginning is
soft: a killed process leaves it behind, and then the block is read back. Every write carries its world's fence.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from services.common.errors import Conflict
from services.common.ownership import Fence
from services.common.store import Database
from services.sync.agents import copies
from services.sync.agents.record import AgentRecord, Held, key_of
from services.sync.blocks.notes import Note
from services.sync.context import Key
from services.sync.runtimes.local import LocalAgent

SCHEMA = (
    copies.SEEDS,
    """CREATE TABLE IF NOT EXISTS agent (tenant TEXT, world TEXT, npc TEXT, runtime TEXT, agent_id TEXT NOT NULL,
       adopted INTEGER NOT NULL, upto INTEGER NOT NULL, generation INTEGER NOT NULL, asked INTEGER NOT NULL,
       cut INTEGER NOT NULL,
       PRIMARY KEY (tenant, world, npc, runtime)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS block (tenant TEXT, world TEXT, npc TEXT, runtime TEXT, label TEXT,
       digest TEXT NOT NULL, revision INTEGER NOT NULL, sent INTEGER NOT NULL, writing INTEGER NOT NULL,
       PRIMARY KEY (tenant, world, npc, runtime, label)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS intent (tenant TEXT, turn_id TEXT, runtime TEXT, world TEXT NOT NULL,
       npc TEXT NOT NULL, agent_id TEXT NOT NULL, upto INTEGER NOT NULL, deadline_ms INTEGER NOT NULL,
       open INTEGER NOT NULL, PRIMARY KEY (tenant, turn_id, runtime)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS intent_age ON intent (open, deadline_ms)",
    """CREATE TABLE IF NOT EXISTS deletion (id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL,
       world TEXT NOT NULL, npc TEXT NOT NULL, runtime TEXT NOT NULL, agent_id TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS note (tenant TEXT, world TEXT, npc TEXT, subject_id TEXT, subject TEXT, fact TEXT,
       tainted INTEGER NOT NULL, generation INTEGER NOT NULL, at_ms INTEGER NOT NULL,
       PRIMARY KEY (tenant, world, npc, subject_id, subject, fact)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS note_subject ON note (tenant, subject_id)",
    """CREATE TABLE IF NOT EXISTS local_agent (agent_id TEXT PRIMARY KEY, runtime TEXT NOT NULL, tag TEXT NOT NULL,
       name TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS local_block (agent_id TEXT, label TEXT, text TEXT NOT NULL,
       PRIMARY KEY (agent_id, label)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS summary (tenant TEXT, world TEXT, npc TEXT, generation INTEGER NOT NULL,
       upto INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (tenant, world, npc)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS usage (tenant TEXT, day INTEGER, tokens INTEGER NOT NULL, usd REAL NOT NULL,
       PRIMARY KEY (tenant, day)) WITHOUT ROWID""",
    # The last turn that the agent answered and somebody heard.
    """CREATE TABLE IF NOT EXISTS spoke (tenant TEXT, world TEXT, npc TEXT, runtime TEXT, turn_id TEXT NOT NULL,
       PRIMARY KEY (tenant, world, npc, runtime)) WITHOUT ROWID""",
)
# Ended turns are remembered this long, so that a repeated id is refused.
TURNS_KEPT_MS = 24 * 3600 * 1000
# Days of usage that are kept.
USAGE_DAYS = 40


@dataclass(frozen=True, slots=True)
class Intent:
    """A turn that is about to be sent to an agent: written before, settled after. deadline_ms: unix milliseconds."""

    key: Key
    turn_id: str
    runtime: str
    agent_id: str
    upto: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """An agent to be deleted; agent_id "" = whatever carries the key's tag."""

    id: int
    key: Key
    runtime: str
    agent_id: str


class SyncStore:
    """Maps records to rows; implements `runtimes.local.Shelf`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.life = 0

    def _fence(self, key: Key) -> Fence:
        return self._database.ownership.fence(key.tenant, key.world)

    def owns(self, key: Key) -> bool:
        """Whether the NPC's agents are kept here."""
        return self._database.ownership.owns(key.tenant, key.world)

    @property
    def here(self) -> frozenset[int] | None:
        """Partitions whose agents are kept here, None = all there are."""
        parts = self._database.ownership.parts
        return None if parts is None else frozenset(parts)

    def came(self) -> None:
        """Rows came with a partition: what was read of local agents may be old."""
        self.life += 1

    async def _durable(self, key: Key, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._database.write(work, fence=self._fence(key))

    @property
    def database(self) -> Database:
        """What other tables of this room are kept in too."""
        return self._database

    async def purge(self) -> None:
        """Leave nothing of what was deleted in the file or its log. Raises Unavailable STORE_BUSY: try again."""
        await self._database.purge()

    # -- agents ----------------------------------------------------------------------------------------------------

    def load_agents(self) -> list[AgentRecord]:
        """Every agent with its blocks."""
        blocks: dict[tuple[Key, str], dict[str, Held]] = {}
        for row in self._database.read("SELECT * FROM block"):
            blocks.setdefault((Key(*row[:3]), row[3]), {})[row[4]] = Held(row[5], row[6], row[7], bool(row[8]))
        spoke = {(Key(*row[:3]), row[3]): str(row[4]) for row in self._database.read("SELECT * FROM spoke")}
        return [
            AgentRecord(Key(*row[:3]), row[3], row[4], bool(row[5]), row[6], row[7], bool(row[8]), bool(row[9]),
                        spoke.get((Key(*row[:3]), row[3]), ""), blocks.get((Key(*row[:3]), row[3]), {}))
            for row in self._database.read("SELECT * FROM agent")
        ]  # fmt: skip

    async def save_agent(self, record: AgentRecord) -> None:
        """The mapping and the blocks that came with it: durable before it answers."""

        def work(connection: sqlite3.Connection) -> None:
            _put_agent(connection, record)
            _put_blocks(connection, record, record.blocks)

        await self._durable(record.key, work)

    async def begin_write(self, record: AgentRecord, label: str) -> None:
        """Soft: a write of the block goes out now."""
        await self._database.write(
            lambda c: _put_blocks(c, record, [label]), durable=False, fence=self._fence(record.key)
        )

    def confirm(self, record: AgentRecord, labels: Iterable[str]) -> asyncio.Future[None]:
        """What the agent now holds; committed in order, nobody waits: until then the block would only be read back."""
        kept = list(labels)
        return self._database.submit(lambda c: _put_blocks(c, record, kept), fence=self._fence(record.key))

    async def release(self, records: Sequence[AgentRecord]) -> list[Deletion]:
        """Forget the mappings and, in the same commit, take on the deletion of their agents.

        All records are of one world. Adopted agents belong to somebody else and are only let go.
        """
        if not records:
            return []
        return list(await self._durable(records[0].key, lambda c: [d for r in records for d in _release(c, r)]))

    def load_deletions(self) -> list[Deletion]:
        rows = self._database.read("SELECT id, tenant, world, npc, runtime, agent_id FROM deletion ORDER BY id")
        return [Deletion(row[0], Key(*row[1:4]), row[4], row[5]) for row in rows]

    async def deleted(self, deletion: Deletion) -> None:
        await self._durable(deletion.key, lambda c: c.execute("DELETE FROM deletion WHERE id = ?", (deletion.id,)))

    def seed(self, key: Key) -> dict[str, str]:
        """Texts by label that a restored backup keeps for this NPC's next agent."""
        rows = self._database.read("SELECT blocks FROM seed WHERE tenant = ? AND world = ? AND npc = ?", key)
        return dict(json.loads(rows[0][0])) if rows else {}

    async def drop_seed(self, key: Key) -> None:
        """An agent has been made of it."""
        await self._durable(
            key, lambda c: c.execute("DELETE FROM seed WHERE tenant = ? AND world = ? AND npc = ?", key)
        )

    # -- turns -----------------------------------------------------------------------------------------------------

    async def open_turn(self, intent: Intent, *, first: bool, ended: bool = False, durable: bool = True) -> None:
        """Kept before the turn is sent. Raises Conflict TURN_EXECUTED when `first` and the id was ever used.

        durable: fsynced first; needed only where an agent that keeps its messages would have to be looked up. A kill
        loses neither. ended: nobody is asked.
        """
        key = intent.key

        def work(connection: sqlite3.Connection) -> None:
            if (
                first
                and connection.execute(
                    "SELECT 1 FROM intent WHERE tenant = ? AND turn_id = ?", (key.tenant, intent.turn_id)
                ).fetchone()
            ):
                raise Conflict("this turn was executed before", reason="TURN_EXECUTED")
            connection.execute(
                "INSERT OR REPLACE INTO intent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key.tenant, intent.turn_id, intent.runtime, key.world, key.npc, intent.agent_id, intent.upto,
                 intent.deadline_ms, not ended),
            )  # fmt: skip

        await self._database.write(work, durable=durable and not ended, fence=self._fence(key))

    def close_turn(self, intent: Intent, record: AgentRecord, *, durable: bool = True) -> asyncio.Future[None]:
        """The outcome is known: the intent is closed, and the record says what the agent has heard."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE intent SET open = 0 WHERE tenant = ? AND turn_id = ? AND runtime = ?",
                (intent.key.tenant, intent.turn_id, intent.runtime),
            )
            connection.execute(
                "UPDATE agent SET upto = ?, generation = ?, asked = ?, cut = ? "
                "WHERE tenant = ? AND world = ? AND npc = ? AND runtime = ?",
                (record.upto, record.generation, record.asked, record.cut, *record.key, record.runtime),
            )
            connection.execute(
                "INSERT OR REPLACE INTO spoke VALUES (?, ?, ?, ?, ?)", (*record.key, record.runtime, record.turn)
            )

        return self._database.submit(work, durable=durable, fence=self._fence(intent.key))

    def load_open_turns(self) -> list[Intent]:
        rows = self._database.read(
            "SELECT tenant, world, npc, turn_id, runtime, agent_id, upto, deadline_ms FROM intent WHERE open = 1"
        )
        return [Intent(Key(*row[:3]), *row[3:]) for row in rows]

    async def prune(self, now_ms: int) -> None:
        """Drop ended turns that are old enough."""
        await self._database.write(
            lambda c: c.execute("DELETE FROM intent WHERE open = 0 AND deadline_ms < ?", (now_ms - TURNS_KEPT_MS,)),
            durable=False,
        )

    # -- notes -----------------------------------------------------------------------------------------------------

    def load_notes(self) -> list[tuple[Key, Note]]:
        rows = self._database.read(
            "SELECT tenant, world, npc, subject_id, subject, fact, tainted, generation, at_ms FROM note"
        )
        return [(Key(*r[:3]), Note(r[3], r[4], r[5], bool(r[6]), r[7], r[8])) for r in rows]

    async def keep_notes(self, key: Key, notes: Sequence[Note]) -> None:
        """Exactly these notes stay."""
        rows = [(*key, n.subject_id, n.subject, n.fact, n.tainted, n.generation, n.at_ms) for n in notes]

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM note WHERE tenant = ? AND world = ? AND npc = ?", key)
            connection.executemany("INSERT INTO note VALUES (?,?,?,?,?,?,?,?,?)", rows)

        await self._durable(key, work)

    # -- summaries and usage ---------------------------------------------------------------------------------------

    def load_summaries(self) -> list[tuple[Key, int, int, str]]:
        """(NPC, generation, number of the last line in it, text)."""
        rows = self._database.read("SELECT tenant, world, npc, generation, upto, text FROM summary")
        return [(Key(*row[:3]), row[3], row[4], row[5]) for row in rows]

    async def keep_summary(self, key: Key, generation: int, upto: int, text: str) -> None:
        await self._database.write(
            lambda c: c.execute(
                "INSERT OR REPLACE INTO summary VALUES (?, ?, ?, ?, ?, ?)", (*key, generation, upto, text)
            ),
            durable=False,
            fence=self._fence(key),
        )

    async def drop_summary(self, key: Key) -> None:
        await self._durable(
            key, lambda c: c.execute("DELETE FROM summary WHERE tenant = ? AND world = ? AND npc = ?", key)
        )

    def load_usage(self, day: int) -> list[tuple[str, int, int, float]]:
        """(tenant, day, tokens, dollars) of that day."""
        rows = self._database.read("SELECT tenant, day, tokens, usd FROM usage WHERE day = ?", (day,))
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    def keep_usage(self, tenant: str, day: int, tokens: int, usd: float) -> None:
        """Soft: memory counts, this is for after a restart. Days before are dropped."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?)", (tenant, day, tokens, usd))
            connection.execute("DELETE FROM usage WHERE day < ?", (day - USAGE_DAYS,))

        self._database.submit(work, durable=False)

    # -- local agents (Shelf) --------------------------------------------------------------------------------------

    def load(self, runtime: str) -> list[tuple[str, LocalAgent]]:
        agents = {
            row[0]: LocalAgent(row[1], {}, row[2])
            for row in self._database.read("SELECT agent_id, tag, name FROM local_agent WHERE runtime = ?", (runtime,))
        }
        for agent_id, label, text in self._database.read("SELECT agent_id, label, text FROM local_block"):
            if agent_id in agents:
                agents[agent_id].blocks[label] = text
        return list(agents.items())

    def save_local(self, runtime: str, agent_id: str, agent: LocalAgent) -> None:
        blocks = [(agent_id, label, text) for label, text in agent.blocks.items()]

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO local_agent VALUES (?, ?, ?, ?)", (agent_id, runtime, agent.tag, agent.name)
            )
            connection.execute("DELETE FROM local_block WHERE agent_id = ?", (agent_id,))
            connection.executemany("INSERT INTO local_block VALUES (?, ?, ?)", blocks)

        self._database.submit(work, fence=self._fence(key_of(agent.tag)))

    def save_block(self, agent_id: str, tag: str, label: str, text: str) -> None:
        self._database.submit(
            lambda c: c.execute("INSERT OR REPLACE INTO local_block VALUES (?, ?, ?)", (agent_id, label, text)),
            durable=False,
            fence=self._fence(key_of(tag)),
        )

    def drop_agent(self, agent_id: str, tag: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM local_agent WHERE agent_id = ?", (agent_id,))
            connection.execute("DELETE FROM local_block WHERE agent_id = ?", (agent_id,))

        self._database.submit(work, fence=self._fence(key_of(tag)))


def _put_agent(connection: sqlite3.Connection, record: AgentRecord) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO agent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *record.key,
            record.runtime,
            record.agent_id,
            record.adopted,
            record.upto,
            record.generation,
            record.asked,
            record.cut,
        ),
    )


def _put_blocks(connection: sqlite3.Connection, record: AgentRecord, labels: Iterable[str]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (*record.key, record.runtime, label, held.digest, held.revision, held.sent, held.writing)
            for label in labels
            if (held := record.blocks.get(label)) is not None
        ],
    )


def _release(connection: sqlite3.Connection, record: AgentRecord) -> list[Deletion]:
    where = "WHERE tenant = ? AND world = ? AND npc = ? AND runtime = ?"
    key = (*record.key, record.runtime)
    connection.execute(f"DELETE FROM agent {where}", key)
    connection.execute(f"DELETE FROM block {where}", key)
    connection.execute(f"DELETE FROM spoke {where}", key)
    connection.execute(f"UPDATE intent SET open = 0 {where}", key)
    connection.execute("DELETE FROM seed WHERE tenant = ? AND world = ? AND npc = ?", record.key)
    if record.adopted:
        return []
    cursor = connection.execute(
        "INSERT INTO deletion (id, tenant, world, npc, runtime, agent_id) VALUES (fresh_id(), ?, ?, ?, ?, ?)",
        (*key, record.agent_id),
    )
    return [Deletion(int(cursor.lastrowid or 0), record.key, record.runtime, record.agent_id)]
