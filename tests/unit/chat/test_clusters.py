"""Conversations that merge, split and empty in the middle of a turn, and NPCs among themselves."""

from __future__ import annotations

import asyncio
from typing import Any

from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from tests.unit.chat.neighbours import Line, Tavern, tavern

TALE = tuple(f"Part {number}." for number in range(6))


def slow(_: Any) -> Line:
    return Line(TALE, first_s=1.0, each_s=1.0)


async def sentences(room: Tavern, npc: str) -> list[Any]:
    return [e for e in await room.events() if e.utterance.speaker_id == npc]


async def test_a_merge_with_two_turns_speaking_leaves_one() -> None:
    async with tavern(slow) as room:
        room.state.move({"L1": ["mara", "p1"], "L2": ["brom", "p2"]})
        first = asyncio.create_task(room.say("p1", "Mara, a tale!"))
        second = asyncio.create_task(room.say("p2", "Brom, a tale!"))
        await asyncio.sleep(2.5)
        room.state.move({"L1": ["mara", "p1", "brom", "p2"]}, [("merged", "L1", ["brom", "p2"], "L2")])
        answers = await asyncio.gather(first, second)
        assert [sentence.utterance.text for sentence in await sentences(room, "mara")] == list(TALE)
        assert [sentence.utterance.text for sentence in await sentences(room, "brom")] == list(TALE[:2])
        assert ("brom", "cancelled", "MERGED") in await room.phases()
        last = (await sentences(room, "mara"))[-1].utterance
        assert sorted(last.audience_ids) == ["p1", "p2"]
        assert [answer.outcome for answer in answers] == [chat_pb2.SAY_OUTCOME_REPLIED] * 2


async def test_a_turn_that_nobody_else_holds_moves_into_the_merged_conversation() -> None:
    async with tavern(slow) as room:
        room.state.move({"L1": ["mara", "p1"], "L2": ["brom", "p2"]})
        telling = asyncio.create_task(room.say("p2", "Brom, a tale!"))
        await asyncio.sleep(2.5)
        room.state.move({"L1": ["mara", "p1", "brom", "p2"]}, [("merged", "L1", ["brom", "p2"], "L2")])
        await telling
        assert [(s.conversation_id, s.utterance.text) for s in await sentences(room, "brom")] == [
            ("L2", "Part 0."),
            ("L2", "Part 1."),
            *(("L1", part) for part in TALE[2:]),
        ]


async def test_a_merge_before_the_first_word_keeps_the_obligation() -> None:
    async with tavern(lambda _: Line(first_s=2.0)) as room:
        room.state.move({"L1": ["mara", "p1"], "L2": ["brom", "p2"]})
        calls = asyncio.gather(room.say("p1", "Mara, hello!"), room.say("p2", "Brom, hello!"))
        await asyncio.sleep(1)
        room.state.move({"L1": ["mara", "p1", "brom", "p2"]}, [("merged", "L1", ["brom", "p2"], "L2")])
        await calls
        ended = [phase for phase in await room.phases() if phase[1] == "ended"]
        assert ended == [("mara", "ended", "VOCATIVE"), ("brom", "ended", "VOCATIVE")]


async def test_on_a_split_the_turn_follows_its_speaker() -> None:
    async with tavern(slow) as room:
        room.state.move({"L1": ["mara", "brom", "p1", "p2"]})
        telling = asyncio.create_task(room.say("p1", "Mara, a tale!"))
        await asyncio.sleep(2.5)
        room.state.move({"L1": ["brom", "p2"], "L7": ["mara", "p1"]}, [("split", "L7", ["mara", "p1"], "L1")])
        # The old conversation's floor is free at once.
        other = await room.say("p2", "Brom, and you?", wait=3)
        assert other.conversation_id == "L1"
        await telling
        told = await sentences(room, "mara")
        assert [one.utterance.text for one in told] == list(TALE)
        assert [one.conversation_id for one in told] == ["L1"] * 2 + ["L7"] * 4
        assert list(told[-1].utterance.audience_ids) == ["p1"]


async def test_who_leaves_stops_hearing_and_an_npc_alone_stops_speaking() -> None:
    async with tavern(slow) as room:
        room.state.move({"L1": ["mara", "p1", "p2"]})
        telling = asyncio.create_task(room.say("p1", "Mara, a tale!"))
        await asyncio.sleep(1.5)
        room.state.move({"L1": ["mara", "p2"]})
        await asyncio.sleep(1)
        room.state.move({})
        answer = await telling
        told = [one.utterance for one in await sentences(room, "mara")]
        assert [sorted(one.audience_ids) for one in told] == [["p1", "p2"], ["p2"]]
        # The line is due to a player who can still be asked: the text filter needs one who is there.
        assert [one.cause_user_id for one in told] == ["p1", "p2"]
        assert ("mara", "cancelled", "LEFT") in await room.phases()
        assert answer.replies[0].text == "Part 0. Part 1."


async def test_npcs_do_not_talk_where_no_player_is() -> None:
    async with tavern(slow, tau=0.0) as room:
        room.state.move({"L1": ["mara", "brom", "p1"]})
        telling = asyncio.create_task(room.say("p1", "Mara, a tale!"))
        await asyncio.sleep(1.5)
        room.state.move({"L1": ["mara", "brom"]})
        await telling
        await asyncio.sleep(60)
        assert ("mara", "cancelled", "NOBODY_LISTENS") in await room.phases()
        assert len(room.sync.requests) == 1


async def test_npcs_may_talk_among_themselves_when_allowed_and_come_to_an_end() -> None:
    def script(request: Any) -> Line:
        return Line(("Brom, well?",) if request.npc.npc_id == "mara" else ("Mara, well?",), first_s=0.1)

    async with tavern(script, tau=0.0, npc_to_npc=True) as room:
        room.state.move({"L1": ["mara", "brom", "p1"]})
        talking = asyncio.create_task(room.say("p1", "Mara, ask Brom."))
        await asyncio.sleep(0.05)
        room.state.move({"L1": ["mara", "brom"]})
        await talking
        await asyncio.sleep(600)
        assert 1 <= len(room.sync.requests) <= 3


async def test_a_line_that_the_game_gives_an_npc_is_a_turn_of_the_chain() -> None:
    async with tavern(tau=0.0) as room:
        room.state.move({"L1": ["mara", "brom", "p1"]})
        for number in range(6):
            await room.say("mara", f"Scripted {number}.", speaker_kind=type_pb2.ENTITY_KIND_NPC)
        assert len(room.sync.requests) <= 3
        scripted = [e.utterance for e in await room.events() if e.utterance.text.startswith("Scripted")]
        assert {(one.speaker_kind, one.cause_user_id) for one in scripted} == {(type_pb2.ENTITY_KIND_NPC, "p1")}


async def test_a_returned_goodbye_closes_the_pair() -> None:
    def script(request: Any) -> Line:
        return Line(("Goodbye then!",), first_s=0.1)

    async with tavern(script, tau=0.0, npc_turns_hard=50, npc_turns_soft=50, npc_to_npc=True) as room:
        room.state.move({"L1": ["mara", "brom", "p1"]})
        talking = asyncio.create_task(room.say("p1", "Mara, we are off."))
        await asyncio.sleep(0.05)
        room.state.move({"L1": ["mara", "brom"]})
        await talking
        await asyncio.sleep(300)
        spoken = [speaker for speaker, _ in await room.lines() if speaker != "p1"]
        # One goodbye, returned once; then neither begins again.
        assert len(spoken) <= 4
        assert room.sync.open == 0


async def test_an_npc_that_still_owes_an_answer_does_not_give_it_behind_the_askers_back() -> None:
    async with tavern(lambda _: Line(("Hm.", "Well."), first_s=1.0, each_s=1.0)) as room:
        room.state.move({"L1": ["mara", "brom", "p1", "p2"]})
        asking = asyncio.create_task(room.say("p1", "Mara, Brom, what do you say?"))
        await asyncio.sleep(1.2)
        room.state.move({"L1": ["mara", "brom", "p2"], "L2": ["wyn", "p1"]})
        answer = await asking
        assert [reply.npc_id for reply in answer.replies] == ["mara"]
        assert ("brom", "failed", "LEFT") in await room.phases()
        assert [request.npc.npc_id for request in room.sync.requests] == ["mara"]
        # Who comes back and asks again is answered.
        room.state.move({"L1": ["mara", "brom", "p1", "p2"]})
        assert [reply.npc_id for reply in (await room.say("p1", "Brom, so?")).replies] == ["brom"]


async def test_of_two_undecided_lines_that_meet_the_one_that_yields_is_told_why() -> None:
    async with tavern(lambda _: Line(TALE, first_s=1.0, each_s=1.0), tau=1.0) as room:
        room.state.move({"L1": ["mara", "p1", "p3"], "L2": ["brom", "p2", "p4"]})
        tales = [room.say("p1", "Mara, a tale!", wait=0), room.say("p2", "Brom, a tale!", wait=0)]
        await asyncio.gather(*tales)
        await asyncio.sleep(1.5)
        remarks = [asyncio.create_task(room.say(who, "What a day.")) for who in ("p3", "p4")]
        await asyncio.sleep(0.1)
        room.state.move(
            {"L1": ["mara", "p1", "p3", "brom", "p2", "p4"]}, [("merged", "L1", ["brom", "p2", "p4"], "L2")]
        )
        answers = await asyncio.gather(*remarks)
        assert [(answer.outcome, answer.reason) for answer in answers] == [
            (chat_pb2.SAY_OUTCOME_SILENT, "SUPERSEDED"),
            (chat_pb2.SAY_OUTCOME_SILENT, "GATE"),
        ]
