"""What the store knows of erasures: the jobs with their receipts, and a player taken out of the log and recall."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from services.chat import erasing, events, recall_store
from services.chat.store import ChatStore, World
from services.common.errors import NotOwner
from services.common.ownership import partition_of
from services.common.store import Database

# The state of an erasure is that of its least advanced part.
STATES = ("failed", "pending", "purging", "done")

# Lines of recall that are rewritten in one commit.
ERASE_BATCH = 500

# Columns whose content names players.
_HOLDS_PLAYERS = (
    ("worlds", "state"),
    ("inputs", "body"),
    ("events", "body"),
    ("explanations", "why"),
    ("recorded", "body"),
)


class Receipt(msgspec.Struct, frozen=True):
    """What one store removed."""

    store: str
    removed: int
    not_erasable: str = ""


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


@dataclass(frozen=True, slots=True)
class ErasureStore:
    """The SQL of erasures, beside the room's other store of the same database. Writes raise as those do."""

    store: ChatStore
    database: Database

    async def erase(self, world: World, player: str, names: Sequence[str]) -> int:
        """Remove a player from a world's log, explanations and seen ids. Answers how many rows changed."""
        return await self.database.write(
            lambda db: _erase(db, world, player, names), durable=True, fence=self.store.fence(world)
        )

    def mentions(self, world: World, player: str) -> bool:
        """Whether anything stored of a world holds the player's id."""
        mark = player.encode()
        for table, column in _HOLDS_PLAYERS:
            sql = f"SELECT 1 FROM {table} WHERE tenant=? AND world=? AND instr({column}, ?) LIMIT 1"
            if self.database.read(sql, (*world, mark)):
                return True
        return bool(
            self.database.read(
                "SELECT 1 FROM seen WHERE tenant=? AND world=? AND instr(key, ?) LIMIT 1", (*world, player)
            )
        )

    def hearers(self, world: World, player: str) -> set[str]:
        """NPCs that heard a player, as the log knows."""
        rows = self.database.read(
            "SELECT body FROM events WHERE tenant=? AND world=? AND instr(body, ?)", (*world, player.encode())
        )
        return {npc for (body,) in rows for npc in erasing.hearers(events.decode(body), player)}

    def names(self, world: World, player: str) -> set[str]:
        """Display names under which a player appears in a world's log."""
        rows = self.database.read(
            "SELECT body FROM events WHERE tenant=? AND world=? AND instr(body, ?)", (*world, player.encode())
        )
        return {name for (body,) in rows for name in erasing.names(events.decode(body), player)}

    async def erase_recall(self, tenant: str, player: str, names: Sequence[str]) -> int:
        """Remove a player from recall, in every world of a tenant. Answers how many rows."""
        removed = await self.database.write(lambda db: _erase_recall(db, tenant, player))
        naming = await self.store.look(lambda reader: reader.naming(tenant, names))
        for start in range(0, len(naming), ERASE_BATCH):
            some = naming[start : start + ERASE_BATCH]
            await self.database.write(partial(recall_store.rename, ids=some, names=names))
        return removed + len(naming)

    async def put(self, job: Erasure, now_ms: int) -> None:
        """Create or update a job, or a part of one. Raises NotOwner for a part that is no longer here."""
        receipts = msgspec.msgpack.encode(job.receipts)
        fence = None
        if job.part >= 0:
            fence = (self.database.ownership.parts or {}).get(job.part)
            if fence is None:
                raise NotOwner
        row = f"{job.id}.{job.part}" if job.part >= 0 else job.id
        await self.database.write(
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
        here = self.database.ownership.parts
        if here is None:
            return [-1]
        rows = self.database.read("SELECT DISTINCT world FROM utterances WHERE tenant=?", (tenant,))
        found = {partition_of(*world) for world in self.store.worlds(tenant)}
        found |= {partition_of(tenant, one) for (one,) in rows}
        return sorted((found | {partition_of(tenant, "")}) & here.keys())

    def jobs(self, state: str) -> list[Erasure]:
        """Jobs in a state, oldest first."""
        return [
            _erasure(row)
            for row in self.database.read(
                "SELECT tenant, id, player, state, receipts FROM erasures WHERE state=? ORDER BY at_ms, id", (state,)
            )
        ]

    def job(self, tenant: str, job_id: str) -> Erasure | None:
        """One job, or what its parts here add up to."""
        rows = self.database.read(
            "SELECT tenant, id, player, state, receipts FROM erasures WHERE tenant=? AND (id=? OR id BETWEEN ? AND ?)",
            (tenant, job_id, f"{job_id}.", f"{job_id}/"),
        )
        jobs = [_erasure(row) for row in rows]
        if not jobs:
            return None
        state = min((job.state for job in jobs), key=STATES.index)
        return replace(jobs[0], state=state, receipts=tuple(one for job in jobs for one in job.receipts))


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


def _erase_recall(db: sqlite3.Connection, tenant: str, player: str) -> int:
    # Sync forgets the player as a whole: single lines need not be told to it any more.
    db.execute("DELETE FROM forgetting WHERE tenant=? AND speaker=?", (tenant, player))
    return recall_store.erase(db, tenant, player)


def _erasure(row: tuple[str, str, str, str, bytes]) -> Erasure:
    tenant, row_id, player, state, receipts = row
    job_id, _, part = row_id.partition(".")
    kept = msgspec.msgpack.decode(receipts, type=tuple[Receipt, ...])
    return Erasure(tenant, job_id, player, state, kept, int(part) if part else -1)
