"""What NPCs are reminded of: who witnessed it, while they may, and what fits; and that all of it can be forgotten."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from earshot.chat.v1 import chat_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.chat import recall, recall_store
from services.chat.recall import Cue, Memory
from services.chat.recall_store import RecallReader
from services.chat.store import SCHEMA
from services.chat.terms import words
from services.common.store import Database
from services.common.store_file import MEMORY
from tests.unit.chat.neighbours import TENANT, WORLD, Tavern, ref, tavern

CAST = {"L1": ["mara", "brom", "p1", "p2"]}


async def talk(room: Tavern, count: int, about: str = "weather") -> None:
    """Lines that leave nothing of what was before them in the latest ones."""
    for number in range(count):
        await room.say("p2", f"Mara, the {about} number{number} is fine today", wait=5)


async def recalled(room: Tavern, text: str, speaker: str = "p1") -> tuple[list[str], list[chat_pb2.Recalled]]:
    """Texts that the turn for this line was reminded of, and what its explanation says."""
    answer = await room.say(speaker, text, wait=5)
    told = [line.text for line in room.sync.requests[-1].recalled]
    why = await room.chat.ExplainTurn(
        chat_pb2.ExplainTurnRequest(world=ref(), turn_id=answer.replies[-1].turn_id), timeout=5
    )
    return told, list(why.recalled)


def loud(**settings: Any) -> Any:
    """A room in which everybody may say a lot."""
    return tavern(player_messages_per_10s=10_000, **settings)


async def test_a_turn_is_reminded_of_an_earlier_line_and_says_which() -> None:
    async with loud() as room:
        room.state.move(CAST)
        said = await room.say("p1", "Mara, I hid the ruby crown under the old mill.", wait=5)
        await talk(room, 12)
        told, why = await recalled(room, "Mara, where did I leave the crown?")
        assert "Mara, I hid the ruby crown under the old mill." in told
        assert why[0].utterance_id == said.utterance_id
        assert why[0].legs["words"] == 1
        assert (why[0].world, why[0].log_seq) == (WORLD, said.log_seq)
        notes = (await explained(room)).notes
        assert "no_embedder" in notes, "recall without meaning says so"


async def explained(room: Tavern) -> chat_pb2.ExplainTurnResponse:
    turn_id = room.sync.requests[-1].turn_id
    answer: chat_pb2.ExplainTurnResponse = await room.chat.ExplainTurn(
        chat_pb2.ExplainTurnRequest(world=ref(), turn_id=turn_id), timeout=5
    )
    return answer


async def test_an_npc_recalls_only_what_it_witnessed() -> None:
    async with loud() as room:
        room.state.move({"L1": ["mara", "p1"], "L2": ["brom", "p2"]})
        await room.say("p1", "Mara, the password is marmalade.", wait=5)
        await talk_to(room, "p1", "Mara", 12)
        room.state.move({"L1": ["mara"], "L2": ["brom", "p1", "p2"]})
        answer = await room.say("p1", "Brom, what was the password?", wait=5)
        assert answer.replies[-1].npc_id == "brom"
        assert [line.text for line in room.sync.requests[-1].recalled] == []


async def talk_to(room: Tavern, speaker: str, npc: str, count: int) -> None:
    for number in range(count):
        await room.say(speaker, f"{npc}, stone number{number} is grey", wait=5)


async def test_what_a_player_said_is_not_recalled_after_its_session() -> None:
    async with loud(session_absence_s=10) as room:
        room.state.move(CAST)
        await room.say("p1", "Mara, my sister's name is Philomena.", wait=5)
        await talk(room, 12)
        assert "Mara, my sister's name is Philomena." in (await recalled(room, "Mara, who is my sister?"))[0]
        room.state.place().present.discard("p1")
        room.state.move({"L1": ["mara", "brom", "p2"]})
        await asyncio.sleep(15)
        told, why = await recalled(room, "Mara, who is the sister Philomena?", "p2")
        assert (told, why) == ([], [])


async def test_an_npc_of_scope_cross_session_remembers_from_one_world_to_the_next() -> None:
    async with loud() as room:
        room.state.profiles["mara"].memory_scope = "cross_session"
        room.state.roster_version += 1
        room.state.move(CAST)
        await room.say("p1", "Mara, I am looking for the silver flute.", wait=5)
        room.state.move({"L9": ["mara", "brom", "p1"]}, world="w2")
        await room.say("p1", "Mara, do you remember the flute?", world="w2", wait=5)
        await room.say("p1", "Brom, do you remember the flute?", world="w2", wait=5)
        told = {"mara": "", "brom": ""}
        for request in room.sync.requests[1:]:
            told[request.npc.npc_id] += "".join(line.text for line in request.recalled)
        assert "Mara, I am looking for the silver flute." in told["mara"]
        assert told["brom"] == "", "brom's memory ends with sessions, and with worlds"


async def test_meaning_finds_what_words_do_not() -> None:
    def embed(text: str) -> list[float]:
        return [1.0, 0.0, 0.0, 0.0] if "horse" in text or "stallion" in text else [0.0, 1.0, 0.0, 0.0]

    async with loud(embedder=embed) as room:
        room.state.move(CAST)
        await room.say("p1", "Mara, my stallion Bucephalus threw a shoe.", wait=5)
        await talk(room, 12)
        await asyncio.sleep(5)
        told, why = await recalled(room, "Mara, how fares a horse?")
        assert "Mara, my stallion Bucephalus threw a shoe." in told
        assert why[0].legs["meaning"] == 1
        assert "no_embedder" not in (await explained(room)).notes


async def test_a_line_that_was_edited_while_it_was_embedded_gets_no_vector_of_what_it_said_before() -> None:
    database = store_of([a_line(1, "the red door"), a_line(2, "the blue door")])
    db, reader = database._writer, RecallReader(database._writer)
    recall_store.enqueue(db, [1, 2])
    said = dict(reader.waiting(9))
    recall_store.retract(db, (TENANT, WORLD), "u-x-1", "the green door")
    recall_store.embedded(db, "m", said, {1: b"old", 2: b"new"}, ())
    assert db.execute("SELECT id, vector FROM vectors").fetchall() == [(2, b"new")]
    assert reader.waiting(9) == [(1, "the green door")]
    recall_store.retract(db, (TENANT, WORLD), "u-x-1", "")
    recall_store.embedded(db, "m", {1: "the green door"}, {1: b"late"}, ())
    assert db.execute("SELECT id FROM vectors").fetchall() == [(2,)]
    assert reader.waiting(9) == [], "who is gone waits for nothing"
    await database.close()


async def test_an_erasure_is_not_done_while_a_reader_keeps_the_files_from_forgetting(tmp_path: Path) -> None:
    async with loud(data=str(tmp_path)) as room:
        room.state.move(CAST)
        await room.say("p1", "Mara, I am a xylophonist.", wait=5)
        room.state.move({"L1": ["mara", "brom", "p2"]})
        with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as reading:
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM utterances").fetchone()
            job = await room.chat.ErasePlayer(chat_pb2.ErasePlayerRequest(tenant=TENANT, player_id="p1"), timeout=5)
            wanted = chat_pb2.GetErasureRequest(tenant=TENANT, erasure_id=job.erasure_id)
            await asyncio.sleep(20)
            assert (await room.chat.GetErasure(wanted, timeout=5)).state != "done"
            reading.execute("COMMIT")
        await asyncio.sleep(20)
        assert (await room.chat.GetErasure(wanted, timeout=5)).state == "done"
        for path in tmp_path.iterdir():
            assert b"xyloph" not in path.read_bytes().lower(), path.name


async def test_lines_of_another_model_are_embedded_anew() -> None:
    async with loud(embedder=lambda _: [1.0, 0.0, 0.0, 0.0]) as room:
        room.state.move(CAST)
        await room.say("p1", "Mara, hello there.", wait=5)
        await asyncio.sleep(5)
        before = len(room.sync.embedded)
        room.sync.model = "other@4"
        await room.say("p1", "Mara, hello again.", wait=5)
        await asyncio.sleep(5)
        assert room.sync.embedded[before:].count("Mara, hello there.") == 1


async def test_a_deleted_message_is_gone_from_log_recall_and_prompts_and_nobody_answers_it() -> None:
    async with loud() as room:
        room.state.move(CAST)
        await room.say("p1", "Mara, the zanzibar parrot is mine.", wait=5, message_id="d1")
        generation = room.sync.requests[-1].history_generation
        request = chat_pb2.RetractRequest(world=ref(), message_id="d1")
        assert (await room.chat.Retract(request, timeout=5)).changed >= 2
        assert all("zanzibar" not in text for _, text in await room.lines())
        told, _ = await recalled(room, "Mara, whose is the zanzibar parrot?")
        assert told == []
        last = room.sync.requests[-1]
        assert last.history_generation > generation, "who heard it starts over"
        assert [line.text for line in last.lines if "mine" in line.text] == []
        assert (await room.chat.Retract(request, timeout=5)).changed == 0


async def test_what_sync_could_not_forget_is_told_again_after_a_restart_and_leaves_no_byte(tmp_path: Path) -> None:
    async with loud(data=str(tmp_path)) as room:
        room.state.move(CAST)
        room.sync.refusals = 1 << 30
        said = await room.say("p1", "Mara, the zanzibar parrot is mine.", wait=5, message_id="d1")
        request = chat_pb2.RetractRequest(world=ref(), message_id="d1")
        assert (await room.chat.Retract(request, timeout=5)).changed >= 2
        await asyncio.sleep(30)
        assert room.sync.erased == []
    async with loud(data=str(tmp_path)) as room:
        room.state.move(CAST)
        await asyncio.sleep(1)
        (told,) = room.sync.erased
        assert list(told.texts) == ["Mara, the zanzibar parrot is mine."]
        assert list(told.turn_ids) == [said.replies[0].turn_id]
        assert sorted(npc.npc_id for npc in told.npcs) == ["brom", "mara"]
        assert (told.speaker_id, told.player_id) == ("p1", "")
        await asyncio.sleep(30)
        assert len(room.sync.erased) == 1, "once it has, no more"
        for path in tmp_path.iterdir():
            assert b"zanzibar" not in path.read_bytes().lower(), path.name


async def test_a_line_that_only_recall_still_knows_is_taken_back_from_sync_too() -> None:
    async with loud(events_per_world=5, retention_h=1) as room:
        room.state.profiles["mara"].memory_scope = "cross_session"
        room.state.roster_version += 1
        room.state.move(CAST)
        await room.say("p1", "Mara, the zanzibar parrot is mine.", wait=5, message_id="d1")
        await talk(room, 8)
        await asyncio.sleep(120)
        assert all("zanzibar" not in text for _, text in await room.lines()), "the log has let go of it"
        assert (await room.chat.Retract(chat_pb2.RetractRequest(world=ref(), message_id="d1"), timeout=5)).changed == 1
        await asyncio.sleep(1)
        (told,) = room.sync.erased
        assert list(told.texts) == ["Mara, the zanzibar parrot is mine."]
        assert [npc.npc_id for npc in told.npcs] == ["brom", "mara"]


async def test_an_edited_message_says_the_new_text_everywhere() -> None:
    async with loud() as room:
        room.state.move(CAST)
        await room.say("p1", "Mara, meet me at the harbour.", wait=5, message_id="e1")
        edit = chat_pb2.RetractRequest(world=ref(), message_id="e1", text="Mara, meet me at the windmill.")
        assert (await room.chat.Retract(edit, timeout=5)).changed >= 2
        assert ("p1", "Mara, meet me at the windmill.") in await room.lines()
        await talk(room, 12)
        assert (await recalled(room, "Mara, who comes to the harbour?"))[0] == []
        assert "Mara, meet me at the windmill." in (await recalled(room, "Mara, what of the windmill?"))[0]


async def test_a_retraction_that_names_nothing_known_changes_nothing() -> None:
    async with loud() as room:
        room.state.move(CAST)
        await room.say("p1", "Mara, hello.", wait=5)
        for request in (
            chat_pb2.RetractRequest(world=ref(), message_id="nobody's"),
            chat_pb2.RetractRequest(world=ref(), utterance_id="u-abc-1"),
            chat_pb2.RetractRequest(world=ref(), utterance_id="u-abc-" + "9" * 40),
            chat_pb2.RetractRequest(world=ref("never seen"), message_id="x"),
        ):
            assert (await room.chat.Retract(request, timeout=5)).changed == 0
        assert len(await room.lines()) == 2


async def test_erasure_leaves_no_trace_in_any_file(tmp_path: Path) -> None:
    secret, name = "xylophonist", "Ada"
    async with loud(data=str(tmp_path), embedder=lambda _: [1.0, 0.0, 0.0, 0.0]) as room:
        room.state.profiles["mara"].memory_scope = "cross_session"
        room.state.roster_version += 1
        room.state.move(CAST)
        await room.say("p1", f"Mara, I am a {secret}.", wait=5)
        for number in range(30):
            await room.say("p1", f"Mara, my {secret} song number {number} is done.", wait=5)
        await room.say("p2", f"Mara, {name} is odd.", wait=5)
        await asyncio.sleep(5)
        room.state.move({"L1": ["mara", "brom", "p2"]})
        request = chat_pb2.ErasePlayerRequest(tenant=TENANT, player_id="p1")
        job = await room.chat.ErasePlayer(request, timeout=5)
        for _ in range(100):
            await asyncio.sleep(1)
            state = await room.chat.GetErasure(
                chat_pb2.GetErasureRequest(tenant=TENANT, erasure_id=job.erasure_id), timeout=5
            )
            if state.state == "done":
                break
        receipts = {one.store: one.removed for one in state.receipts}
        assert state.state == "done"
        assert receipts["chat.recall"] >= 32
        # Open as it is: what the files hold now is what a thief of the disk would get.
        for path in tmp_path.iterdir():
            held = path.read_bytes().lower()
            assert secret.encode() not in held, path.name
            assert secret[:6].encode() not in held, f"a stem in {path.name}"
            assert name.encode().lower() + b" is odd" not in held, path.name


def store_of(lines: list[recall_store.Line], tmp_path: Path | None = None) -> Database:
    database = Database(MEMORY if tmp_path is None else tmp_path / "chat.db", SCHEMA, inline=True)
    recall_store.put(database._writer, (TENANT, WORLD), lines, embed=False)
    return database


def a_line(seq: int, text: str, *, at_ms: int = 0, hearers: tuple[str, ...] = ("mara",), lasting: bool = False) -> Any:
    return recall_store.Line(
        seq,
        "L1",
        f"u-x-{seq}",
        "",
        "p1",
        "Ada",
        "player",
        "p1",
        at_ms or seq,
        text,
        hearers,
        hearers if lasting else (),
    )


async def test_pruning_goes_by_age_and_cap_and_spares_what_outlives_sessions() -> None:
    lines = [a_line(n, f"line {n}", at_ms=n * 1000, lasting=n % 2 == 0) for n in range(1, 21)]
    database = store_of(lines)
    db = database._writer
    assert recall_store.prune(db, 10_000, 5_000, 100, 500) == 7
    left = [seq for (seq,) in db.execute("SELECT seq FROM utterances ORDER BY seq")]
    assert left == [6, 8, *range(10, 21)]
    assert recall_store.prune(db, 0, 0, 10, 500) == 3
    left = [seq for (seq,) in db.execute("SELECT seq FROM utterances ORDER BY seq")]
    assert left == [6, 8, 10, 12, 14, 16, 17, 18, 19, 20], "lines of sessions make room first, oldest first"
    assert dict(db.execute("SELECT npc || '@' || world, lines FROM scopes")) == {f"mara@{WORLD}": 10, "mara@": 8}
    await database.close()


async def test_what_an_npc_answered_makes_room_last_of_a_surplus() -> None:
    lines = [a_line(n, f"line {n}") for n in range(1, 11)]
    # An NPC's line answers the player whose words caused it, not everybody who spoke before it.
    lines[2] = replace(lines[2], speaker_id="mara", kind="npc", turn_id="t1", owner="p1")
    lines[1] = replace(lines[1], speaker_id="p2", owner="p2")
    database = store_of(lines)
    db = database._writer
    assert recall_store.prune(db, 0, 0, 8, 500) == 2
    left = [seq for (seq,) in db.execute("SELECT seq FROM utterances ORDER BY seq")]
    assert left == [1, 4, 5, 6, 7, 8, 9, 10], "the oldest was answered and stays; who was not, and the answer, go"
    assert recall_store.prune(db, 0, 0, 2, 500) == 6
    assert [seq for (seq,) in db.execute("SELECT seq FROM utterances ORDER BY seq")] == [9, 10]
    await database.close()


async def test_a_world_that_ends_is_remembered_only_across_sessions() -> None:
    database = store_of([a_line(1, "the red door"), a_line(2, "the blue door", lasting=True)])
    db, reader = database._writer, RecallReader(database._writer)
    recall_store.end_world(db, (TENANT, WORLD))
    assert reader.scope(TENANT, WORLD, "mara") is None
    scope = reader.scope(TENANT, "", "mara")
    assert scope is not None
    assert [one.text for one in reader.memories(reader.with_word(scope[0], "door"))] == ["the blue door"]
    await database.close()


async def test_the_index_is_built_anew_when_its_words_change() -> None:
    database = store_of([a_line(1, "a marble statue")])
    db, reader = database._writer, RecallReader(database._writer)
    recall_store.prepare(db)
    db.execute("UPDATE recall_version SET version=0")
    recall_store.prepare(db)
    scope = reader.scope(TENANT, WORLD, "mara")
    assert scope is not None
    assert len(reader.with_word(scope[0], "statues")) == 1, "the same line once, by its stem"
    await database.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where is the RED dragon's cave?", ("red", "dragons", "cave")),
        ("I can't, it's Tuesday", ("cant", "tuesday")),
        ("", ()),
        ("!!! ???", ()),
        ("東京タワー", ("東京", "京タ", "タワ", "ワー")),
        ("NEAR(a b) OR x*", ("near", "b", "x")),
        ("quote \" and ' end", ("quote", "end")),
    ],
)
def test_words_of_a_line(text: str, expected: tuple[str, ...]) -> None:
    assert words(text) == expected


@given(st.text(max_size=200))
def test_any_text_can_be_put_and_found_and_taken_out(text: str) -> None:
    database = store_of([a_line(1, text), a_line(2, "other")])
    db, reader = database._writer, RecallReader(database._writer)
    scope = reader.scope(TENANT, WORLD, "mara")
    assert scope is not None
    found = words(text)
    assert all(1 in reader.with_word(scope[0], word) for word in found)
    recall_store.remove(db, "seq=?", (1,))
    assert all(1 not in reader.with_word(scope[0], word) for word in found)
    assert reader.newest(scope[0], 10) == [2]
    db.close()


def a_memory(number: int, *, speaker: str = "p1", at_ms: int = 0, text: str = "") -> Memory:
    text = text or f"text {number}"
    return Memory(number, WORLD, number, "L1", f"u{number}", "", speaker, speaker, "player", speaker, at_ms, 2, text)


def test_ranks_of_the_legs_are_merged() -> None:
    memories = [a_memory(n, speaker=f"s{n}") for n in range(1, 5)]
    found = recall.ranked(
        memories, {"words": [1, 2, 3], "meaning": [3, 1]}, Cue("", "x", 0), recall.Weights(meaning=1.0)
    )
    assert [one.memory.id for one in found][:2] == [1, 3]
    assert found[0].legs == {"words": 1, "meaning": 2}
    assert found[0].score == pytest.approx(1 / 61 + 1 / 62)


@given(st.integers(0, 5000))
def test_meaning_counts_the_less_the_fewer_lines_there_are(lines: int) -> None:
    weights = recall.of_scope(recall.Weights(meaning=0.5), lines)
    assert weights.meaning == pytest.approx(0.5 if lines >= recall.MANY else 0.5 * lines / recall.MANY)
    assert (weights.words, weights.recency) == (recall.Weights().words, recall.Weights().recency)


def test_age_halves_and_presence_lifts() -> None:
    weights = recall.Weights(half_life_ms=1000)
    old, new = a_memory(1, at_ms=0), a_memory(2, at_ms=1000)
    found = {one.memory.id: one.score for one in recall.ranked([old, new], {"words": [1]}, Cue("", "", 1000), weights)}
    assert found[1] == pytest.approx(0.5 / 61)
    cue = Cue("", "asker", 0, present=frozenset({"p1"}))
    here, gone = recall.ranked([a_memory(1), a_memory(2, speaker="p9")], {"words": [2, 1]}, cue, recall.Weights())
    assert (here.memory.id, here.legs["participant"], gone.memory.id) == (1, 1, 2)


def test_what_says_the_same_is_told_once() -> None:
    texts = ["the bridge fell down", "The bridge fell down!", "a bridge in the north fell"]
    found = [recall.Found(a_memory(n, text=text), 1.0, {"words": n}) for n, text in enumerate(texts, 1)]
    assert [one.memory.id for one in recall.distinct(found, 5)] == [1, 3]


def test_explanations_carry_no_text() -> None:
    assert not [field.name for field in chat_pb2.Recalled.DESCRIPTOR.fields if "text" in field.name]
