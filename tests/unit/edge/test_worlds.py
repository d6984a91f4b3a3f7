"""Worlds, context, conversations and explanations, as Scope reads them."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import Unavailable
from tests.unit.edge.fakes import World, world

BODY: dict[str, Any] = {
    "world": "w",
    "entities": [
        {"id": "pete", "kind": "npc", "name": "Pete", "position": [1, 2, 3], "health": 80, "max_health": 100,
         "action": "Idle", "location": "bar", "last_seen": 5.5, "state": {"mood": "calm"}},
        {"id": 5962483389, "kind": "player"},
    ],
    "events": [{"type": "trade", "actor": "pete", "data": {"gold": 3}, "at": 7}],
}  # fmt: skip


async def filled(edge: World) -> None:
    assert (await edge.client.post("/v1/snapshots", json=BODY)).status_code == 200


async def test_worlds_page_by_page() -> None:
    async with world() as edge:
        for number in range(5):
            await edge.client.post("/v1/snapshots", json={"world": f"w{number}"})
        seen, page = [], ""
        while True:
            answer = (await edge.client.get(f"/v1/worlds?page_size=2&page={page}")).json()
            seen += [one["id"] for one in answer["worlds"]]
            page = answer.get("next_page", "")
            if not page:
                break
        assert seen == [f"w{number}" for number in range(5)]
        assert answer["worlds"][0]["revision"] == 1


async def test_one_world_with_what_every_room_knows() -> None:
    async with world() as edge:
        await filled(edge)
        told = (await edge.client.get("/v1/worlds/w")).json()
        assert (told["id"], told["revision"], told["closed"]) == ("w", 1, False)
        assert told["entities"] == [
            {
                "id": "pete",
                "kind": "npc",
                "name": "Pete",
                "position": {"x": 1, "y": 2, "z": 3},
                "health": 80,
                "max_health": 100,
                "action": "Idle",
                "location": "bar",
                "last_seen": 5.5,
                "details": {"state": {"mood": "calm"}},
            },
            {"id": "5962483389", "kind": "player"},
        ]
        assert told["clusters"][0]["positions"] == [{"id": "pete", "x": 1, "y": 2, "z": 3}]
        assert told["recent_events"] == [{"type": "trade", "actor": "pete", "data": {"gold": 3}, "at": 7}]
        assert told["conversations"][0]["members"] == [{"id": "pete", "name": "Pete", "kind": "npc"}]
        assert told["sync"]["npcs"][0]["confirmed_revision"] == 4
        assert told["sync"]["npcs"][0]["agent_id"] == "agent-1"
        assert told["sync"]["runtimes"][0]["name"] == "offline"
        assert "missing" not in told


async def test_a_world_says_when_it_may_be_old() -> None:
    async with world() as edge:
        await filled(edge)
        assert "stale" not in (await edge.client.get("/v1/worlds/w")).json()
        edge.state.stale = True
        assert (await edge.client.get("/v1/worlds/w")).json()["stale"] is True


async def test_rooms_that_do_not_answer_are_named_and_the_rest_shown() -> None:
    async with world() as edge:
        await filled(edge)
        edge.chat.failure = edge.sync.failure = Unavailable("away")
        told = (await edge.client.get("/v1/worlds/w")).json()
        assert told["missing"] == ["chat", "sync"]
        assert len(told["entities"]) == 2


async def test_context_of_an_npc() -> None:
    async with world() as edge:
        told = (await edge.client.get("/v1/npcs/pete/context?world=w")).json()
        assert (told["world"], told["npc_id"], told["revision"], told["cluster"]) == ("w", "pete", 7, "c1")
        assert told["status"]["position"] == {"x": 1.5, "y": 0, "z": 0}
        assert told["members"] == [
            {
                "id": "962483389",
                "kind": "player",
                "position": {"x": 2.5, "y": 0, "z": 0},
                "distance": 4.25,
                "since": 1_700_000_000.0,
            }
        ]
        assert "location" not in told
        missing = await edge.client.get("/v1/npcs/nobody/context?world=w")
        assert (missing.status_code, missing.json()["error"]["reason"]) == (404, "UNKNOWN_NPC")


async def test_an_npc_in_several_worlds_needs_its_world_named() -> None:
    async with world() as edge:
        await filled(edge)
        assert (await edge.client.get("/v1/npcs/pete/context")).json()["world"] == "w"
        await edge.client.post("/v1/snapshots", json={**BODY, "world": "v"})
        answer = await edge.client.get("/v1/npcs/pete/context")
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "WORLD_REQUIRED")
        assert (await edge.client.get("/v1/npcs/ghost/context")).status_code == 404
        assert (await edge.client.get("/v1/npcs/pete/context", headers={"Roblox-Id": "5"})).json()["world"] == "place:5"


async def test_conversation_and_explanation() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "Hello.")
        told = (await edge.client.get("/v1/conversations/c1?world=w")).json()
        assert told["conversation"]["id"] == "c1"
        assert [event["text"] for event in told["events"]] == ["Hello."]
        why = (await edge.client.get("/v1/turns/t1/explanation?world=w")).json()
        assert (why["turn"]["phase"], why["obligation"], why["p_any_npc"]) == ("ended", "VOCATIVE", 0.9)
        assert why["candidates"][0]["features"] == [{"name": "vocative", "contribution": 2.5}]
        assert why["stages_ms"] == {"model": 420}


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/worlds/none", 404, "UNKNOWN_WORLD"),
        ("/v1/conversations/none?world=w", 404, "UNKNOWN_CONVERSATION"),
        ("/v1/turns/none/explanation?world=w", 404, "UNKNOWN_TURN"),
        ("/v1/turns/" + "t" * 129 + "/explanation", 400, "TOO_LONG"),
        ("/v1/worlds/" + "w" * 129, 400, "TOO_LONG"),
        ("/v1/worlds/%00", 400, "INVALID_ID"),
        ("/v1/worlds/%ff", 400, "NOT_UTF8"),
        ("/v1/worlds?page_size=x", 400, "INVALID_FIELD"),
        ("/v1/worlds?page_size=501", 400, "INVALID_FIELD"),
        ("/v1/worlds/w?min_revision=-3", 400, "INVALID_FIELD"),
        ("/v1/" + "x" * 3000, 400, "TOO_LONG"),
    ],
)
async def test_what_is_not_there_or_not_asked_well(path: str, status: int, reason: str) -> None:
    async with world() as edge:
        answer = await edge.client.get(path)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)
