"""NPCs leave room where several players talk, whatever the gate says; who is addressed answers all the same."""

from __future__ import annotations

import asyncio

import pytest
from earshot.chat.v1 import chat_pb2

from tests.unit.chat.neighbours import NPCS, tavern

REPLIED = chat_pb2.SAY_OUTCOME_REPLIED


async def asked_of(players: list[str], bound: float) -> float:
    """Calls per line among eight eager NPCs."""
    async with tavern(tau=0.0, tau_silence=1.0, calls_per_message_mean=bound, npc_turns_hard=1) as room:
        room.state.move({"L1": [*NPCS, *players]})
        for number in range(40):
            await room.say(players[number % len(players)], f"Line {number}.", wait=3)
            await asyncio.sleep(3)
        return len(room.sync.requests) / 40


async def test_eager_npcs_are_held_to_a_share_of_the_lines() -> None:
    assert 0.2 < await asked_of(["p1", "p2"], 0.6) <= 0.6
    assert await asked_of(["p1", "p2"], 0.0) == 1.0, "no bound"


async def test_a_player_alone_with_npcs_is_always_answered() -> None:
    assert await asked_of(["p1"], 0.6) == pytest.approx(1.0)


async def test_an_address_is_answered_beyond_any_share() -> None:
    async with tavern(tau=0.0, calls_per_message_mean=0.1) as room:
        room.state.move({"L1": ["mara", "brom", "p1", "p2"]})
        for number in range(12):
            assert (await room.say(f"p{number % 2 + 1}", f"Mara, number {number}?")).outcome == REPLIED
            await asyncio.sleep(3)


SIX = ["p1", "p2", "p3", "p4", "p5", "p6"]


async def test_two_npcs_among_six_players_answer_whoever_names_them() -> None:
    async with tavern(calls_per_message_mean=0.1) as room:
        room.state.move({"L1": ["mara", "brom", *SIX]})
        for number in range(18):
            player, name = SIX[number % 6], ("Mara", "Brom")[number % 2]
            answer = await room.say(player, f"{name}, what of number {number}?")
            assert answer.outcome == REPLIED
            assert [reply.npc_id for reply in answer.replies] == [name.lower()]
            await asyncio.sleep(2)


async def test_a_player_may_ask_on_without_the_name_while_others_listen() -> None:
    async with tavern(tau=0.0, tau_silence=1.0, calls_per_message_mean=0.1, npc_turns_hard=1) as room:
        room.state.move({"L1": ["mara", *SIX]})
        assert (await room.say("p1", "Mara, what do you sell?")).outcome == REPLIED
        for question in ("How much is the ale?", "And what is in it?", "Is it any good?"):
            await asyncio.sleep(2)
            assert (await room.say("p1", question)).outcome == REPLIED
        await asyncio.sleep(2)
        # A remark, and another's question, are for whoever likes: NPCs have had their part of this talk.
        assert (await room.say("p1", "I had ale once.")).outcome == chat_pb2.SAY_OUTCOME_SILENT
        await asyncio.sleep(2)
        assert (await room.say("p2", "How much is the ale?")).outcome == chat_pb2.SAY_OUTCOME_SILENT
