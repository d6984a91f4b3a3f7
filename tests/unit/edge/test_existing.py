"""The existing game's five paths, as its code sends and reads them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import Unavailable
from services.edge.contract.existing import ChatAction
from services.edge.game_action import game_actions
from services.edge.status_text import Status, read_status
from tests.unit.edge.fakes import World, world

NPC = "0f3c1f6e-6f0e-4c7e-9c57-0a64a41d2a11"
PLAYER = "5962483389"
USABLE = {"follow", "unfollow", "navigate", "emote", "patrol", "hunt", "stop_hunt"}


def spoken(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {
        "npc_id": NPC,
        "participant_id": PLAYER,
        "messages": [{"role": "user", "content": text, "name": "Ann"}],
        "context": {
            "participant_type": "Player",
            "participant_name": "Ann",
            "participant_id": PLAYER,
            "speaker_name": "Pete",
            "npc_location": "Unknown",
            "nearby_players": [],
            "nearby_npcs": ["Ann"],
        },
        **more,
    }


def arrival(text: str) -> dict[str, Any]:
    return {
        "npc_id": NPC,
        "participant_id": PLAYER,
        "messages": [{"role": "system", "content": text, "name": "SYSTEM"}],
        "context": {
            "participant_type": "system",
            "participant_name": "SYSTEM",
            "interaction_history": [],
            "is_new_conversation": True,
            "nearby_players": ["Ann", "Bo"],
        },
    }


def answering(edge: World, text: str, *actions: type_pb2.Action) -> None:
    def reply(request: chat_pb2.SayRequest) -> chat_pb2.SayResponse:
        return chat_pb2.SayResponse(
            outcome=chat_pb2.SAY_OUTCOME_REPLIED,
            conversation_id="c1",
            replies=[
                chat_pb2.Reply(npc_id="another", text="not for this call"),
                chat_pb2.Reply(npc_id=request.waiting_npc_id, text=text, actions=actions),
            ],
        )

    edge.chat.reply = reply


async def chat(edge: World, body: dict[str, Any], base: str = "", **headers: str) -> Any:
    answer = await edge.client.post(f"{base}/letta/v1/chat/v3", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_spoken_line_is_answered_with_this_npc_s_reply() -> None:
    async with world() as edge:
        answering(edge, "Hello, Ann.")
        told = await chat(edge, spoken(), **{"Roblox-Id": "99"})
        assert told == {
            "message": "Hello, Ann.",
            "conversation_id": "c1",
            "metadata": {"tool_calls": [], "reasoning": ""},
            "action": {"type": "none"},
        }
        said = edge.chat.said[0]
        assert (said.waiting_npc_id, said.speaker_id, said.speaker_name) == (NPC, PLAYER, "Ann")
        assert (said.text, said.system, said.wait_ms) == ("hello", False, 25_000)
        assert said.world.world == "place:99"


async def test_who_talks_is_linked_before_who_hears_is_asked() -> None:
    async with world() as edge:
        await chat(edge, spoken())
        (_, observation) = edge.state.observations[0]
        assert (observation.link.npc_id, observation.link.player_id) == (NPC, PLAYER)
        assert (observation.link.player_name, observation.link.ttl_ms) == ("Ann", 75_000)
        assert edge.chat.said[0].min_revision == 1


async def test_a_state_that_is_away_does_not_silence_the_chat() -> None:
    async with world() as edge:
        edge.state.failure = Unavailable("away")
        answering(edge, "Hello.")
        assert (await chat(edge, spoken()))["message"] == "Hello."


@pytest.mark.parametrize("outcome", [chat_pb2.SAY_OUTCOME_SILENT, chat_pb2.SAY_OUTCOME_FAILED])
async def test_silence_has_no_message(outcome: Any) -> None:
    async with world() as edge:
        edge.chat.reply = lambda _: chat_pb2.SayResponse(outcome=outcome, reason="GATE")
        told = await chat(edge, spoken())
        assert "message" not in told
        assert told["action"] == {"type": "none"}
        assert told["conversation_id"] is None


async def test_actions_without_words_have_no_message_either() -> None:
    async with world() as edge:
        answering(edge, "", type_pb2.Action(type="unfollow"))
        told = await chat(edge, spoken())
        assert "message" not in told
        assert told["action"]["actions"][0] == {"type": "unfollow", "data": {}, "message": "", "target": "Ann"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            "[SYSTEM] Ann Lee has entered your range. You are now in speaking range with A, B and C. Please greet.",
            "Ann Lee",
        ),
        ("[SYSTEM] Bo has clicked to interact with you. no other NPCsX, Y", "Bo"),
        ("[SYSTEM] Something else happened", ""),
    ],
)
async def test_system_lines_are_no_utterances(line: str, name: str) -> None:
    async with world() as edge:
        await chat(edge, arrival(line))
        said = edge.chat.said[0]
        assert (said.system, said.speaker_name, said.speaker_id, said.text) == (True, name, PLAYER, line)


async def test_a_long_system_line_is_no_error() -> None:
    async with world() as edge:
        await chat(edge, arrival("[SYSTEM] Ann has entered your range. " + "You are now with many. " * 100))
        assert len(edge.chat.said[0].text) == 800


async def test_a_system_line_without_a_player_links_nobody() -> None:
    async with world() as edge:
        await chat(edge, {**arrival("[SYSTEM] x"), "participant_id": "system"})
        assert edge.state.observations == []
        assert edge.chat.said[0].speaker_id == "system"


async def test_the_snapshot_era_s_shape() -> None:
    async with world() as edge:
        body = {
            "npc_id": NPC,
            "participant_id": PLAYER,
            "participant_type": "player",
            "message": "hello there",
            "interaction_history": [{"message": "old", "sender": "Ann", "timestamp": 1}],
            "context": {"participant_name": "Ann"},
        }
        await chat(edge, body)
        assert (edge.chat.said[0].text, edge.chat.said[0].speaker_name) == ("hello there", "Ann")


async def test_the_base_path_carries_the_server_and_the_place_comes_from_the_engine() -> None:
    async with world() as edge:
        await chat(edge, spoken(), "/w/server-7", **{"Roblox-Id": "99"})
        await chat(edge, spoken(), "/w/server-7/")
        assert [said.world.world for said in edge.chat.said] == ["place:99:server-7", "default:server-7"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"participant_id": PLAYER, "message": "x"}, "MISSING_ID"),
        ({"npc_id": NPC, "message": "x"}, "MISSING_ID"),
        ({"npc_id": NPC, "participant_id": PLAYER}, "EMPTY_TEXT"),
        ({"npc_id": NPC, "participant_id": PLAYER, "messages": {}}, "EMPTY_TEXT"),
        ({"npc_id": NPC, "participant_id": PLAYER, "messages": [{"content": 5}]}, "INVALID_FIELD"),
        ({"npc_id": NPC, "participant_id": PLAYER, "messages": [{"content": "x" * 201}]}, "TOO_LONG"),
    ],
)
async def test_bad_chats_are_clear_refusals(body: dict[str, Any], reason: str) -> None:
    async with world() as edge:
        answer = await edge.client.post("/letta/v1/chat/v3", json=body)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, reason)
        assert edge.chat.said == []


async def test_actions_reach_the_game_as_it_can_execute_them() -> None:
    async with world() as edge:
        roster = {"locations": [{"slug": "old_mill", "name": "The Old Mill", "coordinates": [10, 2, -4.5]}]}
        assert (await edge.client.put("/v1/npcs", json=roster)).status_code == 200
        answering(
            edge,
            "Come.",
            type_pb2.Action(type="follow", data=b'{"target":"Bo"}'),
            type_pb2.Action(type="navigate", data=b'{"location":"The Old Mill"}'),
            type_pb2.Action(type="navigate", data=b'{"location":"nowhere"}'),
            type_pb2.Action(type="run", data=b"{}"),
        )
        told = await chat(edge, spoken())
        assert told["action"] == {
            "actions": [
                {"type": "follow", "data": {"target": "Bo"}, "message": "", "target": "Bo"},
                {"type": "navigate", "data": {"coordinates": {"x": 10, "y": 2, "z": -4.5}}, "message": ""},
            ]
        }


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("follow", {}, ChatAction("follow", {"target": "Ann"}, "", "Ann")),
        ("follow", {"target": PLAYER}, ChatAction("follow", {"target": "Ann"}, "", "Ann")),
        ("navigate", {"coordinates": {"x": 1, "y": 2, "z": 3}},
         ChatAction("navigate", {"coordinates": {"x": 1.0, "y": 2.0, "z": 3.0}}, "")),
        ("navigate", {"destination_slug": "mill"},
         ChatAction("navigate", {"coordinates": {"x": 7.0, "y": 8.0, "z": 9.0}}, "")),
        ("navigate", {}, None),
        ("navigate", {"coordinates": {"x": "a", "y": 1, "z": 1}}, None),
        ("emote", {"type": "Wave", "target": "Ann"}, ChatAction("emote", {"type": "wave"}, "")),
        ("emote", {"type": "explode"}, None),
        ("patrol", {"area": "mill"}, ChatAction("patrol", {"area": "mill"}, "")),
        ("hunt", {"target": "Bo"}, ChatAction("hunt", {"target": "Bo"}, "", "Bo")),
        ("hunt", {}, None),
        ("stop_hunt", {}, ChatAction("stop_hunt", {}, "", "Ann")),
        ("jump", {"x": 1}, None),
        ("none", {}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_one_action(kind: str, data: dict[str, Any], expected: ChatAction | None) -> None:
    action = type_pb2.Action(type=kind, data=json.dumps(data).encode())
    made = game_actions([action], "Ann", {"mill": (7.0, 8.0, 9.0)}, {PLAYER: "Ann"})
    assert made == ([expected] if expected else [])
    assert all(one.type in USABLE and isinstance(one.data, dict) for one in made)


async def test_group_updates_are_links_and_idempotent() -> None:
    async with world() as edge:
        body = {"npc_id": NPC, "player_id": PLAYER, "player_name": "Ann", "is_joining": True}
        for _ in range(3):
            answer = await edge.client.post("/letta/v1/npc/group/update", json=body)
            assert answer.status_code == 200
            told = answer.json()
            assert (told["success"], told["agent_id"]) == (True, NPC)
        links = [observation.link for _, observation in edge.state.observations]
        assert [(one.npc_id, one.player_id, one.player_name, one.leaving) for one in links] == [
            (NPC, PLAYER, "Ann", False)
        ] * 3


async def test_an_unknown_npc_is_a_clear_404() -> None:
    async with world() as edge:
        edge.state.known_npcs = {"someone"}
        for path, more in (("group", {"player_id": PLAYER}), ("status", {"status_text": "health: 5"})):
            answer = await edge.client.post(f"/letta/v1/npc/{path}/update", json={"npc_id": NPC, **more})
            assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "UNKNOWN_NPC")


async def test_a_status_line_is_an_observation() -> None:
    async with world() as edge:
        line = "health: 65 | location: chipotle | current_action: Idle"
        answer = await edge.client.post("/letta/v1/npc/status/update", json={"npc_id": NPC, "status_text": line})
        assert answer.status_code == 200
        assert answer.json()["status"]["text"] == line
        seen = edge.state.observations[0][1].status
        assert (seen.npc_id, seen.health, seen.max_health, seen.location, seen.action) == (
            NPC,
            65,
            100,
            "chipotle",
            "Idle",
        )


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("health: 65 | location: chipotle | current_action: Idle", Status(65, "chipotle", "Idle")),
        ("location: the_bar | current_action: Walking: fast", Status(None, "the_bar", "Walking: fast")),
        ("health: 9223372036854775807 | location: Unknown", Status()),
        ("health: -2147483648", Status()),
        ("health: nan | junk | | : x", Status()),
        ("", Status()),
        ("no colon at all", Status()),
        ("HEALTH:100%|current_action:" + "x" * 300, Status(100, "", "x" * 64)),
    ],
)
def test_status_lines_are_read_as_far_as_they_can_be(line: str, status: Status) -> None:
    assert read_status(line) == status


async def test_a_description_is_always_json_with_a_description() -> None:
    async with world() as edge:
        players = {"players": [{"id": PLAYER, "name": "Ann", "description": "Wears green."}]}
        await edge.client.put("/v1/npcs", json=players)
        for user, expected in ((PLAYER, "Wears green."), (7, "A player with a blue hat.")):
            answer = await edge.client.post("/letta/v1/get_player_description", json={"user_id": user})
            assert answer.json() == {"description": expected}
        edge.state.failure = Unavailable("away")
        answer = await edge.client.post("/letta/v1/get_player_description", json={"user_id": PLAYER})
        assert answer.status_code == 200
        assert answer.json()["description"]


async def test_group_status_and_description_are_fast_while_chats_are_held() -> None:
    async with world() as edge:
        edge.chat.hang = True
        held = [asyncio.create_task(edge.client.post("/letta/v1/chat/v3", json=spoken())) for _ in range(20)]
        await asyncio.sleep(1)
        started = asyncio.get_running_loop().time()
        body = {"npc_id": NPC, "player_id": PLAYER, "player_name": "Ann", "is_joining": True}
        assert (await edge.client.post("/letta/v1/npc/group/update", json=body)).status_code == 200
        assert asyncio.get_running_loop().time() - started < 0.05
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)


@pytest.mark.parametrize("path", ["chat/v3", "npc/group/update", "npc/status/update", "get_player_description"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'{"npc_id":nan}', b"\xff", b'{"user_id":[]}', b"{}"])
async def test_bad_bodies_never_fail_the_server(path: str, body: bytes) -> None:
    async with world() as edge:
        answer = await edge.client.post(f"/letta/v1/{path}", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_argument"
