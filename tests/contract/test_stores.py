"""One suite for every room's store, over memory, SQLite and a real Redis server: what is acknowledged is found again,
numbers grow from life to life, an owner that was replaced writes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.chat import inputs, recall_store
from services.chat.erasure_store import Erasure, ErasureStore, Receipt
from services.chat.store import LAYOUT as CHAT_LAYOUT
from services.chat.store import SCHEMA as CHAT
from services.chat.store import Append, ChatStore, Seen
from services.common.errors import Conflict
from services.common.mirror import Layout
from services.common.store import Database
from services.discord.binding import Binding
from services.discord.store import LAYOUT as DISCORD_LAYOUT
from services.discord.store import SCHEMA as DISCORD
from services.discord.store import DiscordStore, Sent
from services.state.document import blank
from services.state.roster import Import, Profile, Roster
from services.state.store import LAYOUT as STATE_LAYOUT
from services.state.store import SCHEMA as STATE
from services.state.store import SKIP, Session, StateStore
from services.sync.agents.record import AgentRecord, Held
from services.sync.blocks.notes import Note
from services.sync.context import Key
from services.sync.degraded.markov_store import Learnt, MarkovStore
from services.sync.runtimes.local import LocalAgent
from services.sync.server import LAYOUT as SYNC_LAYOUT
from services.sync.server import TABLES as SYNC
from services.sync.store import Intent, SyncStore
from tests.contract.stores import Engine, Files, Memory, Redis
from tests.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.real_time
WORLD = ("t", "w")
KEY = Key("t", "w", "mara")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["memory", "sqlite", "redis"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param == "memory":
        return Memory()
    if request.param == "sqlite":
        return Files(tmp_path)
    running: RedisServer = request.getfixturevalue("server")
    _empty(running)
    return Redis(running.url, tmp_path)


def _empty(server: RedisServer) -> None:
    import redis

    with redis.Redis.from_url(server.url) as store:
        store.flushdb()


async def again(engine: Engine, database: Database, room: str, schema: Any, layout: Layout) -> Database:
    """The store as the next process finds it; the same one where nothing survives."""
    if not engine.survives:
        return database
    await database.close()
    return await engine.open(room, schema, layout)


# -- the port itself ---------------------------------------------------------------------------------------------------

ITEMS = (
    "CREATE TABLE IF NOT EXISTS item (tenant TEXT, world TEXT, n INTEGER, body TEXT, PRIMARY KEY (tenant, world, n))",
)


def put(n: int, body: str, world: str = "w") -> Callable[[sqlite3.Connection], int]:
    def work(db: sqlite3.Connection) -> int:
        db.execute("INSERT OR REPLACE INTO item VALUES ('t', ?, ?, ?)", (world, n, body))
        return n

    return work


async def test_writes_commit_in_order_and_a_failing_one_leaves_its_neighbours(engine: Engine) -> None:
    database = await engine.open("item", ITEMS, Layout())

    def broken(db: sqlite3.Connection) -> None:
        db.execute("INSERT OR REPLACE INTO item VALUES ('t', 'w', 1, 'half')")
        raise ValueError("no")

    futures = [database.submit(put(n % 7, f"{n}")) for n in range(100)]
    bad = database.submit(broken)
    last = database.submit(lambda db: db.execute("DELETE FROM item WHERE n = 3").rowcount)
    assert [await future for future in futures] == [n % 7 for n in range(100)]
    with pytest.raises(ValueError, match="no"):
        await bad
    assert await last == 1
    database = await again(engine, database, "item", ITEMS, Layout())
    assert database.read("SELECT n, body FROM item ORDER BY n") == [
        (0, "98"), (1, "99"), (2, "93"), (4, "95"), (5, "96"), (6, "97")
    ]  # fmt: skip
    await database.close()


async def test_a_stale_fence_is_refused(engine: Engine) -> None:
    database = await engine.open("item", ITEMS, Layout())
    fence = database.ownership.fence("t", "w")
    await database.write(put(1, "kept"), fence=fence)
    stale = type(fence)(fence.partition, fence.token - 1)
    with pytest.raises(Conflict) as refused:
        await database.write(put(1, "late"), fence=stale)
    assert refused.value.reason == "FENCED"
    assert database.read("SELECT body FROM item") == [("kept",)]
    await database.close()


# -- state -------------------------------------------------------------------------------------------------------------


async def test_state_keeps_the_newest_document_and_numbers_skip_with_each_life(engine: Engine) -> None:
    database = await engine.open("state", STATE, STATE_LAYOUT)
    store = StateStore(database)
    await store.save(WORLD, blank(6))
    await store.save(WORLD, blank(5))
    await store.save_together([(("t", "a"), blank(3)), (("t", "b"), blank(4))])
    database = await again(engine, database, "state", STATE, STATE_LAYOUT)
    skip = SKIP if engine.survives else 0
    assert {world.ref[1]: world.revision for world in StateStore(database).worlds()} == {
        "w": 6 + skip, "a": 3 + skip, "b": 4 + skip
    }  # fmt: skip
    await database.close()


async def test_state_keeps_sessions_rosters_and_retired_numbers(engine: Engine) -> None:
    database = await engine.open("state", STATE, STATE_LAYOUT)
    store = StateStore(database)
    await store.open_session(WORLD, Session(3, "job", "boot"))
    await store.save(("t", "gone"), blank(70_000))
    await store.retire(("t", "gone"), 70_000, 9)
    profile = Profile("mara", "Mara")
    change = Import(Roster(2, npcs={"mara": profile}), (profile,), (), (), ())
    await store.import_roster("t", change, replace_locations=False)
    database = await again(engine, database, "state", STATE, STATE_LAYOUT)
    store = StateStore(database)
    assert list(store.sessions()) == [(WORLD, Session(3, "job", "boot"))]
    assert store.rosters()["t"].npcs["mara"].display_name == "Mara"
    assert store.retired() == (70_000, 9)
    assert [world.ref for world in store.worlds()] == []
    await store.delete_entry("t", "npc", "mara", 3)
    database = await again(engine, database, "state", STATE, STATE_LAYOUT)
    roster = StateStore(database).rosters()["t"]
    assert (roster.version, roster.npcs) == (3, {})
    await database.close()


# -- sync --------------------------------------------------------------------------------------------------------------


async def test_sync_keeps_agents_turns_notes_and_deletions(engine: Engine) -> None:
    database = await engine.open("sync", SYNC, SYNC_LAYOUT)
    store = SyncStore(database)
    record = AgentRecord(KEY, "offline", "a1", blocks={"situation": Held("d1", 4, 4, False)})
    await store.save_agent(record)
    await store.begin_write(record, "situation")
    await store.keep_notes(KEY, [Note("p1", "Ada", "likes ale", False, 1, 5)])
    intent = Intent(KEY, "turn-1", "offline", "a1", 3, 10_000)
    await store.open_turn(intent, first=True)
    with pytest.raises(Conflict, match="executed before"):
        await store.open_turn(intent, first=True)
    store.save_local("offline", "a1", LocalAgent(record.tag, {"notes": "x"}, "Mara"))
    store.save_block("a1", record.tag, "notes", "y")
    database = await again(engine, database, "sync", SYNC, SYNC_LAYOUT)
    store = SyncStore(database)
    (found,) = store.load_agents()
    assert (found.agent_id, found.blocks["situation"].digest) == ("a1", "d1")
    assert [one.turn_id for one in store.load_open_turns()] == ["turn-1"]
    assert [note.fact for _, note in store.load_notes()] == ["likes ale"]
    assert [(name, agent.blocks) for name, agent in store.load("offline")] == [("a1", {"notes": "y"})]
    deletions = await store.release([found])
    assert len(deletions) == 1
    database = await again(engine, database, "sync", SYNC, SYNC_LAYOUT)
    store = SyncStore(database)
    assert store.load_agents() == []
    assert [one.agent_id for one in store.load_deletions()] == ["a1"]
    await store.deleted(store.load_deletions()[0])
    assert store.load_deletions() == []
    await database.close()


async def test_sync_keeps_what_an_npc_said_and_its_counts(engine: Engine) -> None:
    database = await engine.open("sync", SYNC, SYNC_LAYOUT)
    await MarkovStore(database).learn(KEY, [Learnt(1, "t1", "the ale is good"), Learnt(2, "t2", "the ale is gone")])
    before = sorted(database.read("SELECT * FROM markov")), sorted(database.read("SELECT * FROM markov_word"))
    database = await again(engine, database, "sync", SYNC, SYNC_LAYOUT)
    after = sorted(database.read("SELECT * FROM markov")), sorted(database.read("SELECT * FROM markov_word"))
    assert before == after
    assert before[0]
    await MarkovStore(database).forget_npcs([KEY])
    assert database.read("SELECT * FROM markov") == []
    await database.close()


# -- chat --------------------------------------------------------------------------------------------------------------


def said(seq: int, text: str) -> recall_store.Line:
    return recall_store.Line(seq, "L1", f"u-{seq}", "", "p1", "Ada", "player", "p1", seq, text, ("mara",), ("mara",))


async def test_chat_keeps_inputs_checkpoints_and_seen_ids(engine: Engine) -> None:
    database = await engine.open("chat", CHAT, CHAT_LAYOUT)
    store = ChatStore(database)
    one = inputs.PlayerLocated(5, "p1", True)
    seen = Seen("u-1", "L1", 1, 7, False)
    await store.append(WORLD, Append(1, inputs=[one], seen=[("m:1:0", 5, seen)], checkpoint=(0, b"state")))
    await store.append(WORLD, Append(2, inputs=[one]))
    erasures = ErasureStore(store, database)
    for part in erasures.parts("t"):
        await erasures.put(Erasure("t", "e1", "p1", "pending", (Receipt("chat", 2),), part=part), 1)
    database = await again(engine, database, "chat", CHAT, CHAT_LAYOUT)
    store = ChatStore(database)
    found = store.load(WORLD)
    assert (found.state, found.n, len(found.inputs)) == (b"state", 0, 2)
    assert found.skip == (65_536 if engine.survives else 0)
    assert store.seen(WORLD, "m:1:0") == seen
    assert {job.id for job in ErasureStore(store, database).jobs("pending")} == {"e1"}
    await store.drop(WORLD)
    database = await again(engine, database, "chat", CHAT, CHAT_LAYOUT)
    assert ChatStore(database).worlds() == []
    await database.close()


async def test_chat_recalls_after_a_restart_and_forgets_for_good(engine: Engine) -> None:
    database = await engine.open("chat", CHAT, CHAT_LAYOUT)
    fence = database.ownership.fence(*WORLD)
    lines = [said(1, "the miller hides gold"), said(2, "the ale is good")]
    await database.write(lambda db: recall_store.put(db, WORLD, lines, embed=False), fence=fence)
    for _ in range(2):
        database = await again(engine, database, "chat", CHAT, CHAT_LAYOUT)
        found = await database.look(_recalled)
        assert found == {"w": ["the miller hides gold"], "": ["the miller hides gold"], "lines": [2, 2]}
    await ErasureStore(ChatStore(database), database).erase_recall("t", "p1", ["Ada"])
    assert await database.look(_recalled) == {}
    database = await again(engine, database, "chat", CHAT, CHAT_LAYOUT)
    assert await database.look(_recalled) == {}
    await database.close()


def _recalled(db: sqlite3.Connection) -> dict[str, Any]:
    """What Mara knows of gold, as a witness of the world and across worlds."""
    reader, found, counts = recall_store.RecallReader(db), {}, []
    for world in ("w", ""):
        scope = reader.scope("t", world, "mara")
        if scope is not None:
            counts.append(scope[1])
            found[world] = [memory.text for memory in reader.memories(reader.with_word(scope[0], "gold"))]
    return {**found, "lines": counts} if found else {}


# -- Discord -----------------------------------------------------------------------------------------------------------


async def test_discord_keeps_bindings_and_who_said_what(engine: Engine) -> None:
    database = await engine.open("discord", DISCORD, DISCORD_LAYOUT)
    store = DiscordStore(database)
    binding = Binding(1, 2, "t", "w", ("mara",), "all", 5, True, True, 0, 0)
    await store.bind(binding)
    await store.heard(1, 77, "t", "w", "u-1")
    await store.begin(1, 9, 1)
    await store.sent(1, Sent(80, "w", "turn-1", "mara"), 9, 1)
    await store.retract([77])
    database = await again(engine, database, "discord", DISCORD, DISCORD_LAYOUT)
    store = DiscordStore(database)
    assert [one.last_message for one in store.bindings()] == [77]
    assert store.sending(1) == (9, 2), "the first piece stands there"
    assert store.sent_as(1, 80) == Sent(80, "w", "turn-1", "mara")
    assert [one.utterance for one in store.retractions(5)] == ["u-1"]
    await database.close()
