"""The roster: what stands is taken over, what does not is named, tenants and ids keep to themselves."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import Unavailable
from tests.unit.edge.fakes import world

PETE: dict[str, Any] = {
    "id": "pete",
    "display_name": "Pete",
    "aliases": ["Old Pete"],
    "persona": "A cook.",
    "talkativeness": 0.3,
    "actions": ["follow"],
    "lines": ["Hungry?"],
    "runtimes": ["offline"],
    "agent_id": "a-1",
    "decide_on": ["combat"],
    "memory_scope": "session",
    "blocks": {"recipes": "soup"},
    "appearance": "Round.",
    "model_settings": {"temperature": 0.2},
    "unknown": {"ignored": True},
}


async def test_import_then_read_back() -> None:
    async with world() as edge:
        roster = {
            "npcs": [PETE, {"id": 7, "system_prompt": "A guard.", "aliases": {}, "blocks": [], "lines": None}],
            "locations": [
                {"slug": "bar", "name": "The Bar", "coordinates": [1, 2, 3]},
                {"slug": "mill", "coordinates": {"x": 4, "y": 5, "z": 6}, "description": "Old."},
            ],
            "players": [{"id": 5962483389, "name": "Ann", "description": "Green."}],
            "whatever": 1,
        }
        answer = await edge.client.put("/v1/npcs", json=roster)
        assert answer.json() == {"roster_version": 1, "npcs": 2, "locations": 2, "players": 1, "refused": []}
        listed = (await edge.client.get("/v1/npcs")).json()
        assert listed["roster_version"] == 1
        pete, guard = listed["npcs"]
        assert pete == {key: value for key, value in PETE.items() if key != "unknown"} | {"version": 0}
        assert (guard["id"], guard["display_name"], guard["persona"]) == ("7", "7", "A guard.")
        assert (await edge.client.get("/v1/npcs/pete")).json() == pete
        places = (await edge.client.get("/v1/locations")).json()["locations"]
        assert places == [
            {"slug": "bar", "name": "The Bar", "coordinates": {"x": 1, "y": 2, "z": 3}},
            {"slug": "mill", "name": "mill", "coordinates": {"x": 4, "y": 5, "z": 6}, "description": "Old."},
        ]
        assert edge.state.players["local", "5962483389"].description == "Green."


@pytest.mark.parametrize("body", ["{}", '{"npcs":{},"locations":{},"players":{}}', '{"npcs":null}'])
async def test_nothing_is_nothing(body: str) -> None:
    async with world() as edge:
        assert (await edge.client.put("/v1/npcs", content=body)).json()["npcs"] == 0


@pytest.mark.parametrize(
    ("npc", "path", "reason"),
    [
        ({}, "npcs[1].id", "MISSING_ID"),
        ({"id": "pete"}, "npcs[1].id", "DUPLICATE_ID"),
        ({"id": "x" * 65}, "npcs[1].id", "TOO_LONG"),
        ({"id": "b", "talkativeness": 1.5}, "npcs[1].talkativeness", "OUT_OF_RANGE"),
        ({"id": "b", "persona": "x" * 9000}, "npcs[1].persona", "TOO_LONG"),
        ({"id": "b", "memory_scope": "forever"}, "npcs[1].memory_scope", "INVALID_FIELD"),
        ({"id": "b", "aliases": ["x" * 65]}, "npcs[1].aliases", "TOO_LONG"),
        ({"id": "b", "model_settings": {"x": "y" * 5000}}, "npcs[1].model_settings", "TOO_LONG"),
    ],
)
async def test_one_bad_profile_does_not_stop_the_others(npc: dict[str, Any], path: str, reason: str) -> None:
    async with world() as edge:
        answer = await edge.client.put("/v1/npcs", json={"npcs": [PETE, npc, {"id": "c"}]})
        assert answer.json()["refused"] == [{"path": path, "reason": reason}]
        assert {name for _, name in edge.state.npcs} == {"pete", "c"}


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ({"coordinates": [1, 2, 3]}, "MISSING_ID"),
        ({"slug": "a"}, "INCOMPLETE_POSITION"),
        ({"slug": "a", "coordinates": [1, 2]}, "INCOMPLETE_POSITION"),
        ({"slug": "a", "coordinates": [1, 2, 1e300]}, "NOT_FINITE"),
    ],
)
async def test_locations_stand_or_fall_together_when_they_replace_all(place: dict[str, Any], reason: str) -> None:
    async with world() as edge:
        good = {"slug": "bar", "coordinates": [1, 2, 3]}
        assert (await edge.client.put("/v1/locations", json={"locations": [good]})).status_code == 200
        answer = await edge.client.put(
            "/v1/locations", json={"locations": [{"slug": "new", "coordinates": [0, 0, 0]}, place]}
        )
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, reason)
        assert [name for _, name in edge.state.locations] == ["bar"]
        # In a roster the others are taken over.
        told = (await edge.client.put("/v1/npcs", json={"locations": [place, good]})).json()
        assert [one["reason"] for one in told["refused"]] == [reason]


async def test_replacing_locations_forgets_the_old_ones() -> None:
    async with world() as edge:
        for slug in ("one", "two"):
            await edge.client.put("/v1/locations", json={"locations": [{"slug": slug, "coordinates": [1, 2, 3]}]})
        assert [one["slug"] for one in (await edge.client.get("/v1/locations")).json()["locations"]] == ["two"]
        assert (await edge.client.put("/v1/locations", json={"locations": []})).status_code == 200
        assert (await edge.client.get("/v1/locations")).json() == {"locations": []}
        assert (await edge.client.put("/v1/locations", json={})).status_code == 400


async def test_one_profile_by_its_path() -> None:
    async with world() as edge:
        assert (await edge.client.get("/v1/npcs/pete")).status_code == 404
        body = {**PETE, "id": None}
        assert (await edge.client.put("/v1/npcs/pete", json=body)).status_code == 200
        assert (await edge.client.get("/v1/npcs/pete")).json()["persona"] == "A cook."
        mismatch = await edge.client.put("/v1/npcs/pete", json={**PETE, "id": "other"})
        assert (mismatch.status_code, mismatch.json()["error"]["reason"]) == (400, "ID_MISMATCH")
        bad = await edge.client.put("/v1/npcs/pete", json={"talkativeness": -1})
        assert (bad.status_code, bad.json()["error"]["reason"]) == (400, "OUT_OF_RANGE")
        assert (await edge.client.delete("/v1/npcs/pete")).json() == {"deleted": True, "roster_version": 1}
        gone = await edge.client.delete("/v1/npcs/pete")
        assert (gone.status_code, gone.json()["error"]["reason"]) == (404, "UNKNOWN_NPC")


async def test_ids_may_hold_slashes_and_spaces() -> None:
    async with world() as edge:
        assert (await edge.client.put("/v1/npcs/old%20pete%2Fcook", json={})).status_code == 200
        assert (await edge.client.get("/v1/npcs/old%20pete%2Fcook")).json()["id"] == "old pete/cook"


async def test_too_many_are_refused_whole() -> None:
    async with world() as edge:
        answer = await edge.client.put("/v1/npcs", json={"npcs": [{"id": n} for n in range(1001)]})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "TOO_MANY")
        assert edge.state.npcs == {}


async def test_an_unreachable_state_is_retryable() -> None:
    async with world() as edge:
        edge.state.failure = Unavailable("disk full", reason="STORE_UNAVAILABLE", retry_after_ms=1000)
        for call in (
            edge.client.get("/v1/npcs"),
            edge.client.put("/v1/npcs", json={}),
            edge.client.get("/v1/locations"),
        ):
            answer = await call
            assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "STORE_UNAVAILABLE")
