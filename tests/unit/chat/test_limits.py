"""How long a player may talk to NPCs, and settings of places."""

from __future__ import annotations

import asyncio

import pytest
from earshot.chat.v1 import chat_pb2
from pydantic import ValidationError

from services.chat import rules
from services.common.settings import Settings
from tests.unit.chat.neighbours import tavern

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
        asyncio.get_running_loop().advance(DAY_S)  # type: ignore[attr-defined]  # virtual time
        await asyncio.sleep(1)
        assert (await room.say("p1", "Mara, a new day?")).outcome == REPLIED


async def test_long_pauses_do_not_count_as_talking() -> None:
    async with tavern(player_minutes_per_day=5) as room:
        room.state.move({"L1": ["mara", "p1"]})
        for number in range(5):
            assert (await room.say("p1", f"Mara, number {number}?")).outcome == REPLIED
            await asyncio.sleep(1200)


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


def test_limits_of_pairs_and_greetings_are_settings() -> None:
    laws = rules.from_settings(Settings(_env_file=None, pair_turns=1, pair_window_s=5, cooldown_greeting_s=9))
    assert (laws.pair_turns, laws.pair_window_ms, laws.cooldown_greeting_ms) == (1, 5_000, 9_000)
