"""What NPCs may cost: turns and minutes of a player, tokens of a tenant; and settings of places."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from earshot.chat.v1 import chat_pb2
from pydantic import ValidationError

from services.common.settings import Settings
from tests.unit.chat.neighbours import Line, ref, tavern

REPLIED, SILENT = chat_pb2.SAY_OUTCOME_REPLIED, chat_pb2.SAY_OUTCOME_SILENT
DAY_S = 86_400


async def test_a_player_talks_so_many_minutes_a_day_and_no_more() -> None:
    async with tavern(player_minutes_per_day=2) as room:
        room.state.move({"L1": ["mara", "p1", "p2"]})
        answers = []
        for number in range(6):
            answers.append(await room.say("p1", f"Mara, number {number}?"))
            await asyncio.sleep(30)
        assert [answer.outcome for answer in answers] == [REPLIED] * 4 + [SILENT] * 2
        assert answers[-1].reason == "TIME_CAP"
        assert (await room.say("p2", "Mara, and me?")).outcome == REPLIED, "the cap is each player's own"
        await asyncio.sleep(DAY_S)
        assert (await room.say("p1", "Mara, a new day?")).outcome == REPLIED


async def test_long_pauses_do_not_count_as_talking() -> None:
    async with tavern(player_minutes_per_day=5) as room:
        room.state.move({"L1": ["mara", "p1"]})
        for number in range(5):
            assert (await room.say("p1", f"Mara, number {number}?")).outcome == REPLIED
            await asyncio.sleep(1200)


async def test_a_tenant_s_tokens_of_a_day_end_every_turn_everywhere(tmp_path: Path) -> None:
    script = lambda _: Line(tokens=40)  # noqa: E731 - one line
    async with tavern(script, data=str(tmp_path), tenant_tokens_per_day=100) as room:
        for world in ("w1", "w2"):
            room.state.move({"L1": ["mara", "p1"]}, world=world)
        assert (await room.say("p1", "Mara, one?")).outcome == REPLIED
        assert (await room.say("p1", "Mara, two?", world="w2")).outcome == REPLIED
        assert (await room.say("p1", "Mara, three?")).outcome == REPLIED
        await asyncio.sleep(5)
        for world in ("w1", "w2"):
            answer = await room.say("p1", "Mara, four?", world=world)
            assert (answer.outcome, answer.reason) == (SILENT, "TENANT_BUDGET")
        assert len(room.sync.requests) == 3
    async with tavern(script, data=str(tmp_path), tenant_tokens_per_day=100) as room:
        room.state.move({"L1": ["mara", "p1"]}, world="w3")
        answer = await room.say("p1", "Mara, again?", world="w3")
        assert answer.reason == "TENANT_BUDGET", "a restart does not open the purse"
        decided = await room.chat.Decide(
            chat_pb2.DecideRequest(world=ref("w3"), npc_id="mara", wait_ms=2000), timeout=5
        )
        assert (decided.outcome, decided.reason) == ("failed", "TENANT_BUDGET")
        await asyncio.sleep(DAY_S)
        room.state.move({"L1": ["mara", "p1"]}, world="w3")
        assert (await room.say("p1", "Mara, a new day?", world="w3")).outcome == REPLIED


async def test_places_have_settings_of_their_own() -> None:
    async with tavern(greetings=True, places={"chapel": {"greetings": False, "tau": 1.0}}) as room:
        room.state.place().locations.update({"L1": "chapel", "L2": "tavern"})
        room.state.move({"L1": ["mara", "p1"], "L2": ["brom", "p2"]})
        await asyncio.sleep(5)
        assert [request.npc.npc_id for request in room.sync.requests] == ["brom"], "nobody is greeted in the chapel"
        assert (await room.say("p1", "What a day.")).outcome == SILENT
        assert (await room.say("p1", "Mara, hello?")).outcome == REPLIED, "an address is an address everywhere"
        assert (await room.say("p2", "What a day.")).outcome == REPLIED
        # Settings belong to the place, not to the conversation: it walked out.
        room.state.place().locations["L1"] = "tavern"
        room.state.move({"L1": ["mara", "p1"], "L2": ["brom", "p2"]})
        assert (await room.say("p1", "And what a night.")).outcome == REPLIED


def test_settings_of_places_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_PLACES", '{"tavern": {"tau": 0.35, "npc_to_npc": true}}')
    assert Settings(_env_file=None).places["tavern"].tau == 0.35
    monkeypatch.setenv("EARSHOT_PLACES", '{"tavern": {"tow": 0.35}}')
    with pytest.raises(ValidationError):
        Settings(_env_file=None)
