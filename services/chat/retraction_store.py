"""What the store knows of lines that were taken back: where they and their answers stand, what sync has to forget."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from services.chat import events, recall_store
from services.chat.store import ChatStore, Seen, World
from services.common.store import Database


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
class RetractionStore:
    """The SQL of retractions, beside the room's other store of the same database. Writes raise as those do."""

    store: ChatStore
    database: Database

    def utterance_of(self, world: World, message_id: str) -> str:
        """Utterance of a message as its sender calls it, "" = none is known."""
        low, high = f"m:{message_id}:", f"m:{message_id};"
        rows = self.database.read(
            "SELECT body FROM seen WHERE tenant=? AND world=? AND key>=? AND key<? LIMIT 1", (*world, low, high)
        )
        return msgspec.msgpack.decode(rows[0][0], type=Seen).utterance_id if rows else ""

    def said(self, world: World, utterance_id: str) -> events.Event | None:
        """The entry of an utterance; its number is the last part of its id."""
        number = utterance_id.rpartition("-")[2]
        if not number.isdigit():
            return None
        rows = self.database.read(
            "SELECT body FROM events WHERE tenant=? AND world=? AND seq=?", (*world, min(int(number), 1 << 62))
        )
        event = events.decode(rows[0][0]) if rows else None
        body = event.body if event is not None else None
        return event if isinstance(body, events.Said) and body.utterance_id == utterance_id else None

    def turns_of(self, world: World, utterance_id: str) -> list[str]:
        """Turns that this utterance caused."""
        rows = self.database.read(
            "SELECT x.turn FROM explanations x JOIN events e USING (tenant, world, seq)"
            " WHERE tenant=? AND world=? AND instr(e.body, ?)",
            (*world, utterance_id.encode()),
        )
        return [turn for (turn,) in rows]

    def lines_of(self, world: World, turns: Sequence[str]) -> list[int]:
        """Numbers of the sentences of these turns."""
        found = []
        for turn in turns:
            rows = self.database.read(
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
        return await self.database.write(
            lambda db: _retract(db, world, event, kept, answers, turns), durable=True, fence=self.store.fence(world)
        )

    async def retract_recalled(self, world: World, utterance_id: str, instead: str) -> int:
        """The same for a line that only recall still knows."""
        return await self.database.write(lambda db: _retract_recalled(db, world, utterance_id, instead), durable=True)

    def forgettings(self, most: int) -> list[tuple[int, Forgetting]]:
        """What sync has yet to forget, oldest first, by number."""
        rows = self.database.read("SELECT n, body FROM forgetting WHERE body<>x'' ORDER BY n LIMIT ?", (most,))
        return [(n, msgspec.msgpack.decode(body, type=Forgetting)) for n, body in rows]

    def unpurged(self) -> list[int]:
        """Numbers of what sync has forgotten and the files may still hold."""
        return [n for (n,) in self.database.read("SELECT n FROM forgetting WHERE body=x''")]

    async def forgot(self, number: int) -> None:
        """Sync has forgotten it."""
        sql = "UPDATE forgetting SET speaker='', body=x'' WHERE n=?"
        await self.database.write(lambda db: db.execute(sql, (number,)))

    async def purged(self, numbers: Sequence[int]) -> None:
        """The files hold nothing of these any more."""
        rows = [(number,) for number in numbers]
        await self.database.write(lambda db: db.executemany("DELETE FROM forgetting WHERE n=?", rows))


def _owe(db: sqlite3.Connection, owed: Forgetting) -> None:
    row = (owed.tenant, owed.world, owed.speaker, msgspec.msgpack.encode(owed))
    db.execute("INSERT INTO forgetting (n, tenant, world, speaker, body) VALUES (fresh_id(),?,?,?,?)", row)


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
