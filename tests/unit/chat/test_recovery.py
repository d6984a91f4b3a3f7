"""Crashes, holes, retention, sessions and erasure: what lasts, and what must not."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from earshot.chat.v1 import chat_pb2

from services.chat import inputs, reducer
from services.chat.store import SEQ_SKIP, ChatStore
from services.chat.worker import Retention
from services.common.clock import LoopClock
from services.common.errors import Unavailable
from tests.unit.chat.neighbours import TENANT, WORLD, FakeState, Line, Tavern, ref, tavern

KEY = (TENANT, WORLD)


def database_of(room: Tavern) -> Any:
    """The room's store, to look into it as an operator would."""
    closers: list[tuple[str, Any]] = list(room.app._closers)
    return next(closer.__self__ for name, closer in closers if name == "chat.store")


async def list_events(room: Tavern, cursor: int) -> Any:
    return await room.chat.ListEvents(chat_pb2.ListEventsRequest(world=ref(), cursor=cursor, page_size=500), timeout=5)


async def test_a_killed_owner_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    state = FakeState()  # type: ignore[abstract]  # a fake of the part that chat calls
    copy = tmp_path / "after"
    slow = Line(("One.", "Two."), first_s=1.0, each_s=5.0)
    async with tavern(lambda _: slow, state=state, data=str(tmp_path)) as room:
        state.move({"L1": ["mara", "brom", "p1"]})
        done = await room.say("p1", "Brom, hello.")
        await room.say("p1", "Mara, tell me a tale.", wait=0)
        await asyncio.sleep(1.5)
        before = await room.events()
        # What a kill leaves: the files as they are now.
        copy.mkdir()
        with sqlite3.connect(tmp_path / "chat.db") as source, sqlite3.connect(copy / "chat.db") as target:
            source.backup(target)
    async with tavern(state=state, data=str(copy)) as room:
        again = await room.say("p1", "Brom, hello.", message_id="m1")
        assert (again.outcome, again.utterance_id) == (chat_pb2.SAY_OUTCOME_DUPLICATE, done.utterance_id)
        after = await room.events()
        assert [event.seq for event in after[: len(before)]] == [event.seq for event in before]
        assert [event.SerializeToString() for event in after[: len(before)]] == [e.SerializeToString() for e in before]
        (lost,) = after[len(before) :]
        assert (lost.turn.npc_id, lost.turn.reason, lost.turn.phase) == (
            "mara",
            "OWNER_LOST",
            chat_pb2.TURN_PHASE_CANCELLED,
        )
        assert lost.seq == before[-1].seq + SEQ_SKIP + 1
        # The floor is free again; numbers in the hole are nobody's.
        assert (await room.say("p1", "Mara, go on.", message_id="m9")).outcome == chat_pb2.SAY_OUTCOME_REPLIED
        assert not (await list_events(room, before[-1].seq)).resync
        for cursor in (before[-1].seq + 1, before[-1].seq + SEQ_SKIP):
            page = await list_events(room, cursor)
            assert (page.resync, list(page.events)) == (True, [])
            assert page.next_cursor == (await room.events())[-1].seq
        assert not (await list_events(room, before[-1].seq + SEQ_SKIP + 1)).resync


async def test_recovery_is_the_replay_of_the_stored_inputs(tmp_path: Path) -> None:
    async with tavern(data=str(tmp_path)) as room:
        room.state.move({"L1": ["mara", "brom", "p1", "p2"]})
        for number in range(60):
            speaker = "p1" if number % 2 else "p2"
            await room.say(speaker, f"Mara, number {number}?" if number % 3 else f"Well, {number}.", wait=0)
            await asyncio.sleep(1.2)
        stored = ChatStore(database_of(room)).load(KEY)
        assert stored.n > 0, "checkpoints replace old inputs"
        assert len(stored.inputs) < 250
        items = [inputs.decode(body) for body in stored.inputs]
        start = reducer.decode(stored.state)
        one, log_one, _ = reducer.replay(start, items)
        two, log_two, _ = reducer.replay(start, items)
        assert reducer.encode(one) == reducer.encode(two)
        written = {event.seq: event for event in ChatStore(database_of(room)).newest(KEY, 10_000)}
        assert log_one == log_two == [written[event.seq] for event in log_one]


async def test_a_state_of_another_version_is_begun_anew_and_the_log_stays(tmp_path: Path) -> None:
    state = FakeState()  # type: ignore[abstract]  # a fake of the part that chat calls
    async with tavern(state=state, data=str(tmp_path)) as room:
        state.move({"L1": ["mara", "p1"]})
        await room.say("p1", "Mara, hello.")
        before = await room.events()
    with sqlite3.connect(tmp_path / "chat.db") as db:
        db.execute("UPDATE worlds SET state = x'c1c1c1'")
    async with tavern(state=state, data=str(tmp_path)) as room:
        room.spoken = 10
        assert (await room.say("p1", "Mara, again.")).outcome == chat_pb2.SAY_OUTCOME_REPLIED
        after = await room.events()
        assert after[: len(before)] == before
        assert [event.seq for event in after] == sorted({event.seq for event in after})


async def test_a_store_that_fails_refuses_callers_and_keeps_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tavern(lambda _: Line(("One.", "Two."), first_s=1.0, each_s=1.0)) as room:
        room.state.move({"L1": ["mara", "p1"]})
        telling = asyncio.create_task(room.say("p1", "Mara, hello."))
        await asyncio.sleep(0.5)
        real = ChatStore.append

        async def broken(*_: Any) -> None:
            raise Unavailable("disk full", reason="STORE_UNAVAILABLE")

        monkeypatch.setattr(ChatStore, "append", broken)
        with pytest.raises(Exception, match="disk full"):
            await room.say("p1", "Are you there?")
        await asyncio.sleep(3)
        assert [text for speaker, text in await room.lines() if speaker == "mara"] == []
        monkeypatch.setattr(ChatStore, "append", real)
        answer = await telling
        assert answer.replies[0].text == "One. Two."


async def test_old_entries_go_and_a_reader_behind_them_starts_anew() -> None:
    async with tavern(events_per_world=6) as room:
        room.state.move({"L1": ["mara", "p1"]})
        for number in range(5):
            await room.say("p1", f"Mara, {number}?")
            await asyncio.sleep(2)
        everything = await room.events()
        store = ChatStore(database_of(room))
        removed = await Retention(store, LoopClock(), 3_600_000, 6, lambda _: True).trim()
        assert removed == len(everything) - 6
        assert (await list_events(room, 3)).resync
        kept = await list_events(room, 0)
        assert [event.seq for event in kept.events] == [event.seq for event in everything[-6:]]
        assert not (await list_events(room, everything[-7].seq)).resync
        await asyncio.sleep(7200)
        await Retention(store, LoopClock(), 3_600_000, 6, lambda _: True).trim()
        assert [event.seq for event in (await list_events(room, 0)).events] == [everything[-1].seq]
        await Retention(store, LoopClock(), 3_600_000, 6, lambda _: False).trim()
        assert (store.worlds(), store.known(KEY)) == ([], False)
        assert (await list_events(room, everything[-1].seq)).resync


async def test_what_was_said_in_an_ended_session_leaves_every_prompt() -> None:
    async with tavern(session_absence_s=60.0) as room:
        room.state.move({"L1": ["mara", "p1", "p2"]})
        await room.say("p1", "Mara, my secret is the blue key.")
        await room.say("p2", "Mara, good evening.")
        assert any("blue key" in line.text for line in room.sync.requests[-1].lines)
        generation = room.sync.requests[-1].history_generation
        room.state.move({"L1": ["mara", "p2"]})
        await asyncio.sleep(100)
        # Out of earshot, but still in the world: the session goes on.
        await room.say("p2", "Mara, still here?")
        assert any("blue key" in line.text for line in room.sync.requests[-1].lines)
        room.state.place().present.discard("p1")
        await asyncio.sleep(100)
        await room.say("p2", "Mara, and now?")
        assert not any("blue key" in line.text for line in room.sync.requests[-1].lines)
        assert not any("Ada" in line.text for line in room.sync.requests[-1].lines)
        assert any("good evening" in line.text for line in room.sync.requests[-1].lines)
        assert room.sync.requests[-1].history_generation > generation
        room.state.move({"L1": ["mara", "p2", "p1"]})
        await room.say("p1", "Mara, do you know me?")
        assert not any("blue key" in line.text for line in room.sync.requests[-1].lines)


async def test_a_closed_world_ends_its_conversations() -> None:
    async with tavern(lambda _: Line(first_s=5.0)) as room:
        room.state.move({"L1": ["mara", "p1"]})
        waiting = asyncio.create_task(room.say("p1", "Mara, hello."))
        await asyncio.sleep(1)
        room.state.place().closed = True
        room.state.doorbell()
        answer = await waiting
        assert (answer.outcome, answer.reason) == (chat_pb2.SAY_OUTCOME_FAILED, "LEFT")
        listed = await room.chat.ListConversations(chat_pb2.ListConversationsRequest(world=ref()), timeout=5)
        assert list(listed.conversations) == []


async def test_a_joiner_is_told_the_gist() -> None:
    async with tavern() as room:
        room.state.move({"L1": ["mara", "p1"], "L2": ["brom", "p2"]})
        await room.say("p1", "Mara, the mine has flooded.")
        room.state.move({"L1": ["mara", "p1", "brom"]})
        await room.say("p1", "Brom, what do you say?")
        lines = room.sync.requests[-1].lines
        assert lines[0].notice
        assert lines[0].text.startswith("[SYSTEM] Before you came: Ada: Mara, the mine has flooded.")
        assert not any(line.text == "Mara, the mine has flooded." for line in lines)


@pytest.mark.parametrize("restart", [False, True])
async def test_erasing_a_player_leaves_no_trace_in_the_store(tmp_path: Path, restart: bool) -> None:
    state = FakeState()  # type: ignore[abstract]  # a fake of the part that chat calls
    state.move({"L1": ["mara", "brom", "p1", "p987654"]})
    async with tavern(state=state, data=str(tmp_path)) as room:
        await room.say("p987654", "Mara, I am zebra777.", message_id="p987654-1")
        await room.say("p1", "p987654, hello you.")
        await room.say("p1", "Brom, what of p987654?")
        state.move({"L1": ["mara", "brom", "p1"]})
        await asyncio.sleep(1)
        begun = await room.chat.ErasePlayer(chat_pb2.ErasePlayerRequest(tenant=TENANT, player_id="p987654"), timeout=5)
        if not restart:
            receipt = await settled(room, begun.erasure_id)
            assert {one.store for one in receipt.receipts} == {"chat", "chat.recall", "state", "sync"}
            assert state.erased == ["p987654"]
            assert [key.npc_id for key in room.sync.erased[0].npcs] == ["brom", "mara"]
            assert room.sync.requests
            await room.say("p1", "Mara, who was that?")
            assert not any("zebra777" in line.text for line in room.sync.requests[-1].lines)
    if restart:
        async with tavern(state=state, data=str(tmp_path)) as room:
            await settled(room, begun.erasure_id)
    for file in tmp_path.iterdir():
        data = file.read_bytes()
        assert b"p987654" not in data, file.name
        assert b"zebra777" not in data, file.name


async def settled(room: Tavern, erasure_id: str) -> Any:
    for _ in range(100):
        receipt = await room.chat.GetErasure(
            chat_pb2.GetErasureRequest(tenant=TENANT, erasure_id=erasure_id), timeout=5
        )
        if receipt.state != "pending":
            assert receipt.state == "done"
            return receipt
        await asyncio.sleep(0.1)
    raise AssertionError("the erasure did not end")
