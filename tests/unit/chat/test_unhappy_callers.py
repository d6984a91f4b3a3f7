"""Callers that leave, stores that refuse and defects of ours: nobody else pays, and the floor is free again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from earshot.chat.v1 import chat_pb2

from services.chat import history
from services.chat.actor import IDLE_CLOSED_S
from services.chat.store import ChatStore
from services.common.errors import Unavailable
from tests.unit.chat.neighbours import TENANT, Line, ref, tavern


async def test_who_repeats_a_message_is_not_cancelled_with_the_first_caller() -> None:
    async with tavern() as room:
        room.state.move({"L1": ["mara", "p1"]})
        # The first waits for a revision that is not there yet, and leaves.
        first = asyncio.create_task(room.say("p1", "Mara, hello.", message_id="m", min_revision=9))
        await asyncio.sleep(0.2)
        again = asyncio.create_task(room.say("p1", "Mara, hello.", message_id="m"))
        third = asyncio.create_task(room.say("p1", "Mara, hello.", message_id="m"))
        await asyncio.sleep(0.2)
        first.cancel()
        answers = await asyncio.gather(again, third)
        assert {answer.utterance_id for answer in answers} == {answers[0].utterance_id}
        assert [answer.outcome for answer in answers].count(chat_pb2.SAY_OUTCOME_REPLIED) >= 1
        assert [text for speaker, text in await room.lines() if speaker == "p1"] == ["Mara, hello."]


async def test_a_defect_while_an_npc_is_asked_fails_the_turn_and_frees_the_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with tavern(lambda _: Line(("Well met.",))) as room:
        room.state.move({"L1": ["mara", "p1"]})
        real = history.witnessed

        def broken(*_: Any) -> None:
            raise LookupError("a defect")

        monkeypatch.setattr(history, "witnessed", broken)
        answer = await room.say("p1", "Mara, hello.")
        assert (answer.outcome, answer.reason) == (chat_pb2.SAY_OUTCOME_FAILED, "INTERNAL")
        monkeypatch.setattr(history, "witnessed", real)
        answer = await room.say("p1", "Mara, are you there?")
        assert answer.replies[0].text == "Well met."


async def test_a_decision_that_could_not_be_logged_can_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tavern(lambda _: Line(outcome="ACTED", actions=("wave",))) as room:
        room.state.move({"L1": ["mara", "p1"]})
        await room.say("p1", "So quiet here.", wait=0)
        await asyncio.sleep(30)
        request = chat_pb2.DecideRequest(world=ref(), npc_id="mara", reasons=["bored"], request_id="r", wait_ms=5000)
        real = ChatStore.append

        async def broken(*_: Any) -> None:
            raise Unavailable("disk full", reason="STORE_UNAVAILABLE")

        monkeypatch.setattr(ChatStore, "append", broken)
        with pytest.raises(Exception, match="disk full"):
            await room.chat.Decide(request, timeout=10)
        monkeypatch.setattr(ChatStore, "append", real)
        assert (await room.chat.Decide(request, timeout=10)).outcome == "decided"


async def test_a_closed_world_is_put_away_soon() -> None:
    async with tavern() as room:
        room.state.move({"L1": ["mara", "p1"]})
        await room.say("p1", "Mara, hello.")
        await asyncio.sleep(60)
        assert _loaded() == 1, "a world that is only quiet stays"
        room.state.place().closed = True
        room.state.move({})
        await asyncio.sleep(2 * IDLE_CLOSED_S)
        assert _loaded() == 0
        assert await room.events(), "its log is read all the same"


async def test_an_erasure_that_a_runtime_holds_up_still_reaches_every_agent_that_heard() -> None:
    async with tavern() as room:
        room.state.move({"L1": ["mara", "brom", "p1", "p2"]})
        await room.say("p1", "Mara, I am zebra777.")
        room.sync.refusals = 30
        begun = await room.chat.ErasePlayer(chat_pb2.ErasePlayerRequest(tenant=TENANT, player_id="p1"), timeout=5)
        await asyncio.sleep(1)
        await room.say("p2", "Brom, what was that?")
        told = [line.text for line in room.sync.requests[-1].lines]
        assert not any("zebra777" in text for text in told), "out of every prompt at once"
        receipt = chat_pb2.GetErasureRequest(tenant=TENANT, erasure_id=begun.erasure_id)
        assert (await room.chat.GetErasure(receipt, timeout=5)).state == "pending"
        await asyncio.sleep(200)
        assert (await room.chat.GetErasure(receipt, timeout=5)).state == "done"
        assert [key.npc_id for key in room.sync.erased[0].npcs] == ["brom", "mara"]
        assert not any("zebra777" in text for _, text in await room.lines())


async def test_an_erasure_leaves_nobody_else_waiting() -> None:
    async with tavern(lambda _: Line(("One.",), first_s=2.0)) as room:
        room.state.move({"L1": ["mara", "p1"], "L2": ["brom", "p2"]})
        await room.say("p2", "So quiet here.", wait=0)
        waiting = asyncio.create_task(room.say("p1", "Mara, hello."))
        await asyncio.sleep(0.5)
        await room.chat.ErasePlayer(chat_pb2.ErasePlayerRequest(tenant=TENANT, player_id="p2"), timeout=5)
        began = asyncio.get_running_loop().time()
        assert (await waiting).outcome == chat_pb2.SAY_OUTCOME_REPLIED
        assert asyncio.get_running_loop().time() - began < 3


def _loaded() -> int:
    return sum(task.get_name() == "chat.world" for task in asyncio.all_tasks())
