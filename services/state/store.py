"""What the state room remembers on disk: one blob per world, sessions, rosters.

Memory is authoritative. World documents are written behind, the newest only, acknowledged at the soft
level; sessions and rosters are durable before they are answered. Every write carries its fence.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import msgspec

from services.common.mirror import Layout
from services.common.ownership import Fence, partition_of
from services.common.replicas import EVERYTHING
from services.common.store import Database, check_fences
from services.state.blob import encode
from services.state.document import Document
from services.state.feed import Ref
from services.state.roster import Import, Location, Player, Profile, Roster

SCHEMA = (
    # `life` is the fencing token of the owner that wrote the row: it tells how many lives of the room ago
    # that was.
    "CREATE TABLE IF NOT EXISTS world (tenant TEXT NOT NULL, world TEXT NOT NULL, revision INTEGER NOT NULL, "
    "life INTEGER NOT NULL, document BLOB NOT NULL, PRIMARY KEY (tenant, world))",
    "CREATE TABLE IF NOT EXISTS session (tenant TEXT NOT NULL, world TEXT NOT NULL, epoch INTEGER NOT NULL, "
    "job TEXT NOT NULL, boot TEXT NOT NULL, PRIMARY KEY (tenant, world, epoch)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS roster (tenant TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS entry (tenant TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, "
    "data BLOB NOT NULL, PRIMARY KEY (tenant, kind, id)) WITHOUT ROWID",
    # The highest numbers of worlds that were deleted: a world of the same name starts above them.
    "CREATE TABLE IF NOT EXISTS retired (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL, "
    "epoch INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS retired_in (partition INTEGER PRIMARY KEY, revision INTEGER NOT NULL, "
    "epoch INTEGER NOT NULL)",
)
# `retired` is of earlier versions, which kept one number for all.
LAYOUT = Layout(derived=frozenset({"retired"}), by_writer=frozenset({"retired_in"}))
# No revision is ever used twice: each life skips more than the one before can have shown without storing it.
SKIP = 65_536
PAGE = 256
# Boots remembered per world, so that a repeated OpenSession finds its epoch.
SESSIONS_KEPT = 16

_ROW = "(?, ?, ?, ?, ?)"
_PUT = (
    f"INSERT INTO world (tenant, world, revision, life, document) VALUES {_ROW} "
    "ON CONFLICT (tenant, world) DO UPDATE SET revision = excluded.revision, life = excluded.life, "
    "document = excluded.document WHERE excluded.revision > world.revision"
)
Kind = TypeVar("Kind", Profile, Location, Player)
_KINDS: dict[str, Any] = {"npc": Profile, "location": Location, "player": Player}


@dataclass(frozen=True, slots=True)
class StoredWorld:
    """A world as it was when the last process ended; its revision already skips ahead."""

    ref: Ref
    revision: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Session:
    """One boot of a game server."""

    epoch: int
    job: str
    boot: str


@dataclass(slots=True)
class _Behind:
    """A world's write that waits for the writer's thread, which takes the newest document when it gets
    there.
    """

    latest: Document
    taken: bool
    done: asyncio.Future[None]


class StateStore:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._behind: dict[Ref, _Behind] = {}

    # -- worlds
    # ----------------------------------------------------------------------------------------------------

    def owns(self, ref: Ref) -> None:
        """Raises NotOwner unless the world is served here, Unavailable while that is not known."""
        self._database.ownership.fence(*ref)

    @property
    def sure(self) -> bool:
        """Whether the worlds that are served here are known to be served nowhere else."""
        return self._database.ownership.sure

    def worlds(self, within: Collection[int] = EVERYTHING) -> Iterator[StoredWorld]:
        """The stored worlds of these partitions, a page at a time. Blocks: for when they come."""
        last = ("", "")
        while rows := self._database.read(
            "SELECT tenant, world, revision, life, document FROM world WHERE (tenant, world) > (?, ?) "
            "ORDER BY tenant, world LIMIT ?",
            (*last, PAGE),
        ):
            for tenant, world, revision, life, data in rows:
                last = (tenant, world)
                if partition_of(tenant, world) not in within:
                    continue
                lives = self._database.ownership.fence(tenant, world).token - life
                yield StoredWorld(last, revision + SKIP * lives, data)

    def save(self, ref: Ref, document: Document) -> asyncio.Future[None]:
        """Write a world soon, soft; done when this document or a newer one is committed.

        Raises as Database.submit.
        """
        behind = self._behind.get(ref)
        if behind is not None and not behind.taken:
            behind.latest = document
            # The writer may have taken the older one between the check and here: then it did not see this
            # one.
            if not behind.taken:
                return behind.done
        behind = _Behind(document, False, None)  # type: ignore[arg-type]  # filled below: the work needs the box
        fence = self._database.ownership.fence(*ref)
        behind.done = self._database.submit(
            lambda connection: _put(connection, ref, fence.token, behind), durable=False, fence=fence
        )
        self._behind[ref] = behind
        behind.done.add_done_callback(lambda _: self._forget(ref, behind))
        return behind.done

    def save_together(self, worlds: Sequence[tuple[Ref, Document]]) -> asyncio.Future[None]:
        """Write several worlds soon, soft, in one statement; done when these documents or newer ones are committed.

        Raises as Database.submit. A world whose fence is lost fails them all (Conflict FENCED): each is tried again
        by itself then.
        """
        fences = {self._database.ownership.fence(*ref) for ref, _ in worlds}
        rows = [
            (*ref, document.revision, self._database.ownership.fence(*ref).token, encode(document))
            for ref, document in worlds
        ]
        return self._database.submit(lambda connection: _put_together(connection, rows, fences), durable=False)

    def _forget(self, ref: Ref, behind: _Behind) -> None:
        if self._behind.get(ref) is behind:
            del self._behind[ref]

    async def retire(self, ref: Ref, revision: int, epoch: int) -> None:
        """Delete a world and its sessions; its numbers stay taken."""

        fence = self._database.ownership.fence(*ref)

        def work(connection: sqlite3.Connection) -> None:
            where = "WHERE tenant = ? AND world = ?"
            connection.execute(
                "INSERT INTO retired_in VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
                "revision = max(revision, excluded.revision), epoch = max(epoch, excluded.epoch)",
                (fence.partition, revision, epoch),
            )
            connection.execute(f"DELETE FROM world {where}", ref)
            connection.execute(f"DELETE FROM session {where}", ref)

        await self._database.write(work, fence=fence)

    def retired(self) -> tuple[int, int]:
        """(revision, epoch) that no new world may reach down to."""
        ((revision, epoch),) = self._database.read(
            "SELECT coalesce(max(revision), 0), coalesce(max(epoch), 0) FROM "
            "(SELECT revision, epoch FROM retired UNION ALL SELECT revision, epoch FROM retired_in)"
        )
        # A world that was shown in an earlier life but never stored left no row: the life's number stands
        # for it.
        return max(revision, SKIP * (self._database.ownership.life - 1)), epoch

    # -- sessions
    # --------------------------------------------------------------------------------------------------

    def sessions(self, within: Collection[int] = EVERYTHING) -> Iterator[tuple[Ref, Session]]:
        """The sessions of these partitions, oldest first within a world. Blocks: for when they come."""
        for tenant, world, epoch, job, boot in self._database.read(
            "SELECT tenant, world, epoch, job, boot FROM session ORDER BY tenant, world, epoch"
        ):
            if partition_of(tenant, world) in within:
                yield (tenant, world), Session(epoch, job, boot)

    async def open_session(self, ref: Ref, session: Session) -> None:
        """Remember a session, durably, and forget the oldest ones of the world."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO session (tenant, world, epoch, job, boot) VALUES (?, ?, ?, ?, ?)",
                (*ref, session.epoch, session.job, session.boot),
            )
            connection.execute(
                "DELETE FROM session WHERE tenant = ? AND world = ? AND epoch <= ?",
                (*ref, session.epoch - SESSIONS_KEPT),
            )

        await self._database.write(work, fence=self._database.ownership.fence(*ref))

    # -- rosters
    # ---------------------------------------------------------------------------------------------------

    def rosters(self, within: Collection[int] = EVERYTHING) -> dict[str, Roster]:
        """The rosters of these partitions by tenant. Blocks: for when they come."""
        return _rosters(
            [row for row in self._database.read("SELECT tenant, version FROM roster") if _of(row[0]) in within],
            [row for row in self._database.read("SELECT tenant, kind, id, data FROM entry") if _of(row[0]) in within],
        )

    def keeps_roster(self, tenant: str) -> bool:
        """Whether the tenant's roster is changed here; other replicas have copies of it."""
        return self._database.ownership.owns(tenant, "")

    async def roster_version(self, tenant: str) -> int:
        """The version of a roster that another replica keeps, as stored. Raises Unavailable."""
        rows = await self._database.peek(_of(tenant), "roster", (tenant,))
        return int(rows[0][1]) if rows else 0

    async def roster_elsewhere(self, tenant: str) -> Roster:
        """A roster that another replica keeps, as stored. Raises Unavailable."""
        rows = await self._database.peek(_of(tenant), "roster", (tenant,))
        entries = [row for row in await self._database.peek(_of(tenant), "entry") if row[0] == tenant]
        return _rosters(rows, entries).get(tenant, Roster())

    async def import_roster(self, tenant: str, change: Import, *, replace_locations: bool) -> None:
        """Store what an import changed, durably."""

        def work(connection: sqlite3.Connection) -> None:
            _set_version(connection, tenant, change.roster.version)
            if replace_locations:
                connection.execute("DELETE FROM entry WHERE tenant = ? AND kind = 'location'", (tenant,))
            connection.executemany(
                "INSERT INTO entry VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET data = excluded.data",
                _entries(tenant, change),
            )

        await self._database.write(work, fence=self._database.ownership.fence(tenant, ""))

    async def delete_entry(self, tenant: str, kind: str, name: str, version: int) -> None:
        """Remove an NPC profile or a player, durably."""

        def work(connection: sqlite3.Connection) -> None:
            _set_version(connection, tenant, version)
            connection.execute("DELETE FROM entry WHERE tenant = ? AND kind = ? AND id = ?", (tenant, kind, name))

        await self._database.write(work, fence=self._database.ownership.fence(tenant, ""))

    async def purge(self) -> None:
        """Leave nothing of what was deleted in the file or its log. Raises Unavailable (STORE_BUSY)."""
        await self._database.purge()


def _of(tenant: str) -> int:
    return partition_of(tenant, "")


def _rosters(versions: Sequence[Sequence[Any]], entries: Sequence[Sequence[Any]]) -> dict[str, Roster]:
    """Rosters by tenant of rows of `roster` and `entry`."""
    found: dict[str, dict[str, dict[str, Any]]] = {tenant: {kind: {} for kind in _KINDS} for tenant, _ in versions}
    for tenant, kind, name, data in entries:
        found[tenant][kind][name] = msgspec.msgpack.decode(data, type=_KINDS[kind])
    return {
        tenant: replace(
            Roster(version),
            npcs=found[tenant]["npc"],
            locations=found[tenant]["location"],
            players=found[tenant]["player"],
        )
        for tenant, version in versions
    }


def _put(connection: sqlite3.Connection, ref: Ref, life: int, behind: _Behind) -> None:
    behind.taken = True
    document = behind.latest
    connection.execute(_PUT, (*ref, document.revision, life, encode(document)))


def _put_together(
    connection: sqlite3.Connection, rows: Sequence[tuple[str, str, int, int, bytes]], fences: Collection[Fence]
) -> None:
    """One statement for all: every one of them gives up the interpreter's lock and waits to get it back."""
    check_fences(connection, fences)
    put = _PUT.replace(_ROW, ", ".join([_ROW] * len(rows)))
    connection.execute(put, [value for row in rows for value in row])


def _set_version(connection: sqlite3.Connection, tenant: str, version: int) -> None:
    connection.execute(
        "INSERT INTO roster VALUES (?, ?) ON CONFLICT DO UPDATE SET version = excluded.version", (tenant, version)
    )


def _entries(tenant: str, change: Import) -> Iterable[tuple[str, str, str, bytes]]:
    for profile in change.npcs:
        yield tenant, "npc", profile.id, msgspec.msgpack.encode(asdict(profile))
    for location in change.locations:
        yield tenant, "location", location.slug, msgspec.msgpack.encode(asdict(location))
    for player in change.players:
        yield tenant, "player", player.id, msgspec.msgpack.encode(asdict(player))
