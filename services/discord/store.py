"""Bindings, which message is which utterance, and deletions and edits that chat has yet to hear of."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from services.common.mirror import Layout
from services.common.store import Database
from services.discord.binding import Binding

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS binding (channel INTEGER PRIMARY KEY, guild INTEGER NOT NULL, tenant TEXT NOT NULL,"
    " world TEXT NOT NULL, npcs TEXT NOT NULL, mode TEXT NOT NULL, chance INTEGER NOT NULL, relay INTEGER NOT NULL,"
    " active INTEGER NOT NULL, cursor INTEGER NOT NULL, last_message INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS heard (message INTEGER PRIMARY KEY, channel INTEGER NOT NULL, tenant TEXT NOT NULL,"
    " world TEXT NOT NULL, utterance TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS heard_in ON heard (channel)",
    # What was said by a command: no message of the channel, so it is not missed there.
    "CREATE TABLE IF NOT EXISTS slashed (message INTEGER PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS sent (message INTEGER PRIMARY KEY, channel INTEGER NOT NULL, world TEXT NOT NULL,"
    " turn TEXT NOT NULL, npc TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS sent_in ON sent (channel, message)",
    "CREATE TABLE IF NOT EXISTS sending (channel INTEGER PRIMARY KEY, seq INTEGER NOT NULL, part INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS retraction (message INTEGER PRIMARY KEY, tenant TEXT NOT NULL, world TEXT NOT NULL,"
    " utterance TEXT NOT NULL, text TEXT NOT NULL)",
)
# One process holds the connection to Discord.
LAYOUT = Layout(single=True)
# Messages remembered per channel, so that a deletion finds its utterance; and as many sent ones, for `why`.
KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Retraction:
    """A message that was deleted (text "") or edited."""

    message: int
    tenant: str
    world: str
    utterance: str
    text: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of an NPC."""

    message: int
    world: str
    turn: str
    npc: str


class DiscordStore:
    """All SQL of the room."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def bindings(self, *, active: bool = True) -> list[Binding]:
        """Bindings; active=False: also those that ended, whose messages may still be deleted."""
        rows = self._database.read("SELECT * FROM binding WHERE active=1 OR ?", (not active,))
        return [
            Binding(r[0], r[1], r[2], r[3], tuple(json.loads(r[4])), r[5], r[6], bool(r[7]), bool(r[8]), r[9], r[10])
            for r in rows
        ]

    async def bind(self, one: Binding) -> None:
        """Create or replace a binding."""
        row = (
            one.channel, one.guild, one.tenant, one.world, json.dumps(one.npcs), one.mode, one.chance, one.relay,
            one.active, one.cursor, one.last_message,
        )  # fmt: skip
        await self._database.write(
            lambda db: db.execute("INSERT OR REPLACE INTO binding VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
        )

    def last_message(self, channel: int) -> int:
        """The newest message of a channel that is behind us, 0 = none."""
        rows = self._database.read("SELECT last_message FROM binding WHERE channel=?", (channel,))
        return int(rows[0][0]) if rows else 0

    async def moved(self, channel: int, cursor: int) -> None:
        """The world's log up to here is behind us: what was being sent is sent."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE binding SET cursor=? WHERE channel=?", (cursor, channel))
            db.execute("DELETE FROM sending WHERE channel=?", (channel,))

        await self._database.write(work)

    async def heard(
        self, channel: int, message: int, tenant: str, world: str, utterance: str, *, slash: bool = False
    ) -> None:
        """A message became an utterance. slash: it was said by a command and stands in no channel."""

        def work(db: sqlite3.Connection) -> None:
            run = db.execute
            run("INSERT OR REPLACE INTO heard VALUES (?,?,?,?,?)", (message, channel, tenant, world, utterance))
            if slash:
                run("INSERT OR IGNORE INTO slashed VALUES (?)", (message,))
                return
            run("UPDATE binding SET last_message=max(last_message,?) WHERE channel=?", (message, channel))
            run(
                "DELETE FROM heard WHERE channel=? AND message<="
                "(SELECT message FROM heard WHERE channel=? ORDER BY message DESC LIMIT 1 OFFSET ?)",
                (channel, channel, KEPT),
            )

        await self._database.write(work)

    def standing(self, channel: int, oldest: int) -> set[int]:
        """Messages of a channel from `oldest` on that were heard, and should still stand there."""
        rows = self._database.read(
            "SELECT message FROM heard WHERE channel=? AND message>=? AND message NOT IN (SELECT message FROM slashed)",
            (channel, oldest),
        )
        return {message for (message,) in rows}

    async def passed(self, channel: int, message: int) -> None:
        """A message that reaches nobody is behind us too."""
        await self._database.write(
            lambda db: db.execute(
                "UPDATE binding SET last_message=max(last_message,?) WHERE channel=?", (message, channel)
            ),
            durable=False,
        )

    async def begin(self, channel: int, seq: int, part: int) -> None:
        """This piece of a line goes out now: durable before it does."""
        await self._database.write(
            lambda db: db.execute("INSERT OR REPLACE INTO sending VALUES (?,?,?)", (channel, seq, part))
        )

    def sending(self, channel: int) -> tuple[int, int]:
        """(log number, piece) that was going out when we ended; (0, 0) = none."""
        rows = self._database.read("SELECT seq, part FROM sending WHERE channel=?", (channel,))
        return (rows[0][0], rows[0][1]) if rows else (0, 0)

    async def sent(self, channel: int, one: Sent, seq: int, part: int) -> None:
        """A message of an NPC stands in the channel: this piece of a line is not to be sent any more."""

        def work(db: sqlite3.Connection) -> None:
            run = db.execute
            run("INSERT OR REPLACE INTO sending VALUES (?,?,?)", (channel, seq, part + 1))
            run("INSERT OR REPLACE INTO sent VALUES (?,?,?,?,?)", (one.message, channel, one.world, one.turn, one.npc))
            run(
                "DELETE FROM sent WHERE channel=? AND message<="
                "(SELECT message FROM sent WHERE channel=? ORDER BY message DESC LIMIT 1 OFFSET ?)",
                (channel, channel, KEPT),
            )

        await self._database.write(work, durable=False)

    def sent_as(self, channel: int, message: int = 0) -> Sent | None:
        """A message of an NPC; 0 = the last one of the channel."""
        where, parameters = ("message=? AND channel=?", (message, channel)) if message else ("channel=?", (channel,))
        rows = self._database.read(
            f"SELECT message, world, turn, npc FROM sent WHERE {where} ORDER BY message DESC LIMIT 1", parameters
        )
        return Sent(*rows[0]) if rows else None

    async def retract(self, messages: list[int], text: str = "") -> int:
        """Take on that these messages were deleted, or say `text` now. Answers how many were utterances."""

        def work(db: sqlite3.Connection) -> int:
            run = db.execute
            count = 0
            for message in messages:
                count += run(
                    "INSERT OR REPLACE INTO retraction SELECT message, tenant, world, utterance, ? FROM heard"
                    " WHERE message=?",
                    (text, message),
                ).rowcount
                if not text:
                    run("DELETE FROM heard WHERE message=?", (message,))
                    run("DELETE FROM slashed WHERE message=?", (message,))
            return count

        return await self._database.write(work)

    async def retract_channel(self, channel: int) -> int:
        """The channel is gone: so is all that was said in it."""
        rows = self._database.read("SELECT message FROM heard WHERE channel=?", (channel,))
        return await self.retract([message for (message,) in rows])

    def retractions(self, most: int) -> list[Retraction]:
        """What chat has yet to hear of."""
        rows = self._database.read("SELECT * FROM retraction ORDER BY message LIMIT ?", (most,))
        return [Retraction(*row) for row in rows]

    async def retracted(self, one: Retraction) -> None:
        """Chat knows; unless it changed again meanwhile."""
        await self._database.write(
            lambda db: db.execute("DELETE FROM retraction WHERE message=? AND text=?", (one.message, one.text))
        )
