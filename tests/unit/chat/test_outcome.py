"""Who waits for what comes of a line is woken; what is kept for nobody in particular is small."""

from __future__ import annotations

import asyncio

from services.chat.conversation import Reply
from services.chat.effects import Settled
from services.chat.outcome import Outcomes


def reply(npc: str) -> Reply:
    return Reply("turn-1", npc, npc.title(), "Aye.", (), 1)


async def test_everybody_who_waits_is_woken_and_nothing_is_kept_for_waiting() -> None:
    outcomes = Outcomes()
    outcome = outcomes.get("u1")
    async with asyncio.TaskGroup() as group:
        brom = group.create_task(outcome.wait("brom", 60))
        mara = group.create_task(outcome.wait("mara", 60))
        end = [group.create_task(outcome.wait("", 60)) for _ in range(2)]
        await asyncio.sleep(1)
        outcomes.replied("u1", reply("mara"))
        await asyncio.sleep(1)
        assert mara.done()
        assert not brom.done()
        assert not any(task.done() for task in end)
        outcomes.replied("u1", reply("brom"))
        await asyncio.sleep(1)
        assert brom.done()
        outcomes.settled(Settled("u1", "replied", False, "turn-1", (reply("mara"), reply("brom"))))
        await asyncio.sleep(1)
        assert all(task.done() for task in end)
    assert outcome.changed is None
    assert [one.npc_id for one in outcome.replies] == ["mara", "brom"]
    await outcome.wait("", 60)  # at once


async def test_who_waits_in_vain_stops_in_time() -> None:
    began = asyncio.get_running_loop().time()
    outcome = Outcomes().get("u1")
    await outcome.wait("mara", 5)
    assert asyncio.get_running_loop().time() - began == 5
