"""People on Discord whose channel is joined with a game: by default nothing of theirs enters it."""

from __future__ import annotations

import asyncio
import json

from earshot.chat.v1 import chat_pb2
from earshot.sync.v1 import sync_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.chat import outside
from services.edge.event import page
from tests.unit.chat.neighbours import NAMES, TENANT, Line, Tavern, ref, tavern

ADA = "discord:7"
TOGETHER = {"L1": ["mara", "p1", ADA]}
SECRET = "my grandmother lives in Upper Wibbleton"


def repeating(request: sync_pb2.ConverseRequest) -> Line:
    """An NPC that says what was said to it last, after a word of its own."""
    heard = [line.text for line in request.lines if not line.own and not line.notice]
    return Line(("I see.", f"{heard[-1].removeprefix('Mara, ')}!"))


async def game(room: Tavern) -> str:
    """All that the game server is told of the log."""
    events, _ = page(await room.events(), 0)
    return b"\n".join(bytes(one) for one in events).decode()


async def test_neither_a_line_from_discord_nor_its_answer_nor_a_name_enters_the_game() -> None:
    NAMES[ADA] = "Adalbert"
    async with tavern(repeating) as room:
        room.state.move({"L1": ["mara", "p1"]})
        room.state.move(TOGETHER)
        answer = await room.say(ADA, f"Mara, {SECRET}")
        assert answer.replies[0].text == f"I see. {SECRET}!", "who asked is answered"
        room.state.move({"L1": ["mara", "p1"]})
        await room.say("p1", "Mara, good evening to you")
        told = await game(room)
        for hidden in (SECRET, "Wibbleton", "Adalbert", ADA):
            assert hidden not in told, hidden
        assert "good evening to you!" in told, "the game goes on"
        line = next(one.utterance for one in await room.events() if one.utterance.text == f"{SECRET}!")
        assert (list(line.audience_ids), line.cause_user_id, line.ai) == ([ADA], ADA, True)


async def test_a_sentence_that_repeats_discord_word_for_word_is_not_told_in_the_game() -> None:
    def quoting(request: sync_pb2.ConverseRequest) -> Line:
        return Line(("It rains.", f"Somebody said that {SECRET}."))

    async with tavern(quoting) as room:
        room.state.move(TOGETHER)
        await room.say(ADA, f"Mara, {SECRET}")
        answer = await room.say("p1", "Mara, what did she say?")
        assert answer.replies[0].text == "It rains."
        assert SECRET not in await game(room)
        room.state.move({"L1": ["mara", "p1"]})
        answer = await room.say("p1", "Mara, and what else did she say?")
        assert answer.replies[0].text == "It rains."
        assert SECRET not in await game(room), "nor when nobody of Discord is left to read it"


async def test_who_speaks_at_once_with_somebody_on_discord_gets_an_answer_of_its_own() -> None:
    async with tavern(repeating) as room:
        room.state.move(TOGETHER)
        there, here = await asyncio.gather(
            room.say(ADA, f"Mara, {SECRET}", wait=10), room.say("p1", "Mara, good day to you", wait=10)
        )
        assert here.replies[0].text == "I see. good day to you!"
        assert there.replies[0].turn_id != here.replies[0].turn_id
        told = await game(room)
        assert "good day to you!" in told
        assert SECRET not in told


async def test_opened_by_its_operator_everything_is_shown_and_all_of_it_goes_with_who_caused_it() -> None:
    NAMES[ADA] = "Adalbert"
    async with tavern(repeating, discord_in_game=True) as room:
        room.state.move({"L1": ["mara", "p1"]})
        room.state.move(TOGETHER)
        await room.say(ADA, f"Mara, {SECRET}")
        told = await game(room)
        assert told.count(SECRET) == 2
        assert "Adalbert" in told
        line = next(one.utterance for one in await room.events() if one.utterance.text == f"{SECRET}!")
        assert line.cause_user_id == "p1", "the platform's filter knows nobody of Discord"
        room.state.move({"L1": ["mara", "p1"]})
        request = chat_pb2.ErasePlayerRequest(tenant=TENANT, player_id=ADA)
        job = await room.chat.ErasePlayer(request, timeout=5)
        for _ in range(50):
            state = await room.chat.GetErasure(
                chat_pb2.GetErasureRequest(tenant=TENANT, erasure_id=job.erasure_id), timeout=5
            )
            if state.state == "done":
                break
            await room.say("p1", "so it goes", wait=0.2)
        assert state.state == "done"
        assert SECRET not in str(await room.lines()), "the answer goes with who asked for it"


async def test_what_nobody_asked_for_is_due_to_somebody_in_the_game() -> None:
    async with tavern(lambda _: Line(("Welcome.",)), greetings=True) as room:
        room.state.move({"L1": ["mara", ADA]})
        room.state.move(TOGETHER)
        decided = await room.chat.Decide(
            chat_pb2.DecideRequest(
                world=ref(), npc_id="mara", reasons=["the bell rang"], speech=True, request_id="d1", wait_ms=5000
            ),
            timeout=10,
        )
        assert decided.reply.text == "Welcome."
        assert "Welcome." in await game(room)


def test_players_of_discord_are_told_apart() -> None:
    assert outside.somebody([ADA, "p1", "p2"]) == "p1"
    assert outside.somebody([ADA]) == ADA
    assert outside.somebody([]) == ""
    assert outside.cause(ADA, (ADA,)) == ADA
    assert outside.cause(ADA, (ADA, "p1")) == "p1"
    assert outside.cause("p2", ("p1",)) == "p1"
    assert outside.cause("p2", ()) == ""


@given(st.lists(st.sampled_from(["the", "old", "mill", "burnt", "down", "by", "night"]), max_size=12), st.data())
def test_a_quotation_is_four_words_in_a_row(words: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(words)))
    run = words[at : at + 4]
    text = "Well: " + " ".join(run).upper() + ", they say"
    assert not outside.quotes(text, [])
    if len(run) == 4:
        assert outside.quotes(text, ["nothing of it", " ".join(words)])
    assert not outside.quotes("wholly different things were said here", [" ".join(words)])


def test_what_the_game_is_told_stays_readable() -> None:
    event = chat_pb2.Event(seq=1, utterance=chat_pb2.UtteranceEvent(text="hello", speaker_id="mara", ai=True))
    (told,), _ = page([event], 1)
    assert json.loads(bytes(told))["text"] == "hello", "a line without readers is no secret"
