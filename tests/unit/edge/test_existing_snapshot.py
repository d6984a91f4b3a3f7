"""The existing game's snapshots: both historical shapes, display names for ids, entries that are never removed."""

from __future__ import annotations

import array
import json
import math
from typing import Any

import pytest
from earshot.type.v1 import type_pb2

from tests.unit.edge.fakes import world

NPC, PLAYER = type_pb2.ENTITY_KIND_NPC, type_pb2.ENTITY_KIND_PLAYER
PATHS = ("/v1/snapshots", "/letta/v1/snapshot/game")
NOW = 1_700_000_000

# The oldest shape: nothing of where people are, only who is with whom.
FIRST: dict[str, Any] = {
    "timestamp": NOW,
    "events": [],
    "clusters": [{"members": ["Ola", "Rune the Tall"], "npcs": 2, "players": 0}],
    "humanContext": {
        "Ola": {
            "relationships": [],
            "currentGroups": {"members": ["Ola", "Rune the Tall"], "npcs": 2, "players": 0, "formed": NOW},
            "recentInteractions": [],
            "lastSeen": NOW,
        },
        "Rune the Tall": [],
    },
}
# Then with positions and health; a Vector3 is written as null, an empty table as [].
SECOND: dict[str, Any] = {
    "timestamp": NOW,
    "events": [],
    "clusters": [{"members": ["Ola", "Visitor9", "Rune the Tall"], "npcs": 2, "players": 1, "center": None}],
    "humanContext": {
        "Ola": {
            "position": {"x": 8.5, "y": 18, "z": -16.25},
            "health": {"current": 65, "max": 100, "state": "Running", "isMoving": False, "velocity": 0},
            "currentGroups": {
                "members": ["Ola", "Visitor9"],
                "npcs": 1,
                "players": 1,
                "formed": NOW,
                "positions": {"Visitor9": {"x": 1, "y": 2, "z": 3}, "Rune the Tall": {"x": 4, "y": 5, "z": 6}},
            },
            "lastSeen": NOW,
            "location": "Unknown Area",
            "positionTimestamp": NOW - 5,
            "stateTimestamp": NOW - 5,
        },
        "Visitor9": {"health": [], "currentGroups": [], "lastSeen": NOW - 1000, "location": "market"},
        "Left Long Ago": {"position": {"x": 0, "y": 0, "z": 0}, "lastSeen": NOW - 61},
        "No Idea": {"position": {"x": 9, "y": 9, "z": 9}},
    },
}


def points(columns: type_pb2.EntityColumns) -> dict[str, tuple[float, ...]]:
    axes = [array.array("f", axis) for axis in (columns.x, columns.y, columns.z)]
    return {name: tuple(axis[row] for axis in axes) for row, name in enumerate(columns.ids)}


@pytest.mark.parametrize("path", PATHS)
async def test_the_oldest_shape(path: str) -> None:
    async with world() as edge:
        answer = await edge.client.post(path, json=FIRST)
        assert answer.status_code == 200, answer.text
        item = edge.state.items[0]
        assert item.ids_are_names
        assert list(item.entities.ids) == ["Ola", "Rune the Tall"]
        # No player in the cluster: both are NPCs, whatever the roster knows.
        assert item.entities.kinds == bytes([NPC, NPC])
        assert item.entities.x == b""
        assert [list(group.member_ids) for group in item.groups] == [["Ola", "Rune the Tall"]]
        assert not item.groups[0].positions.ids


@pytest.mark.parametrize("path", PATHS)
async def test_positions_health_and_who_has_left(path: str) -> None:
    async with world() as edge:
        assert (await edge.client.post(path, json=SECOND)).status_code == 200
        rows = edge.state.items[0].entities
        # Stale, but in a cluster of now: here. Stale and in none: gone. Never seen: kept.
        assert list(rows.ids) == ["Ola", "Visitor9", "No Idea"]
        # The counts of a mixed cluster give no kind away: the roster decides.
        assert rows.kinds == bytes(3)
        where = points(rows)
        assert where["Ola"] == (8.5, 18, -16.25)
        # An entry without a position takes the one that its group tells.
        assert where["Visitor9"] == (1, 2, 3)
        health = array.array("f", rows.health)
        assert health[0] == 65
        assert math.isnan(health[1])
        assert list(rows.locations) == ["", "market", ""]
        assert json.loads(rows.details)[0] == {"state": "Running", "is_moving": False, "velocity": 0}
        group = edge.state.items[0].groups[0]
        # A member without an entry of its own: its position travels with the group (A5).
        assert points(group.positions) == {"Rune the Tall": (4, 5, 6)}


async def test_the_old_path_answers_as_the_old_server_did() -> None:
    async with world() as edge:
        answer = await edge.client.post(PATHS[1], json=SECOND, headers={"Roblox-Id": "42"})
        assert answer.json() == {"status": "success", "revision": 1, "outcome": "applied"}
        assert edge.state.items[0].world.world == "place:42"
        assert not edge.state.items[0].want_positions


async def test_the_first_snapshot_of_a_server_is_all_empty_tables() -> None:
    async with world() as edge:
        body = {"humanContext": [], "clusters": [], "events": [], "timestamp": NOW}
        assert (await edge.client.post(PATHS[1], json=body)).json()["status"] == "success"


async def test_groups_of_entries_stand_in_for_clusters() -> None:
    async with world() as edge:
        body = {"timestamp": NOW, "humanContext": FIRST["humanContext"]}
        await edge.client.post(PATHS[0], json=body)
        assert [list(group.member_ids) for group in edge.state.items[0].groups] == [["Ola", "Rune the Tall"]]


async def test_an_infinite_coordinate_refuses_the_entry_and_infinite_health_does_not() -> None:
    async with world() as edge:
        body = (
            '{"timestamp":1700000000,"humanContext":{'
            '"A":{"position":{"x":inf,"y":0,"z":0}},'
            '"B":{"position":{"x":1,"y":0,"z":0},"health":{"current":inf,"max":inf}}}}'
        )
        answer = await edge.client.post(PATHS[0], content=body)
        assert {one["path"] for one in answer.json()["refused"]} == {
            "humanContext.A.position.x",
            "humanContext.B.health.current",
            "humanContext.B.health.max",
        }
        assert list(edge.state.items[0].entities.ids) == ["B"]
        # The next snapshot works.
        assert (await edge.client.post(PATHS[0], json=FIRST)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"humanContext": {"A": {"position": 5}}},
        {"humanContext": {"A": {"health": {"current": "full"}}}},
        {"clusters": [{"members": [{}]}]},
        {"humanContext": [1]},
        {"clusters": {"a": 1}},
    ],
)
async def test_shape_errors_are_a_clear_refusal(body: dict[str, Any]) -> None:
    async with world() as edge:
        for path in PATHS:
            answer = await edge.client.post(path, json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["reason"] in ("INVALID_FIELD", "INVALID_ID")
        assert edge.state.items == []


async def test_a_server_that_ran_for_days_is_not_refused_for_its_old_entries() -> None:
    async with world() as edge:
        gone = {f"Visitor{number}": {"lastSeen": NOW - 100} for number in range(900)}
        body = {"timestamp": NOW, "humanContext": {**gone, "Ola": {"lastSeen": NOW}}}
        assert (await edge.client.post(PATHS[1], json=body)).status_code == 200
        assert list(edge.state.items[0].entities.ids) == ["Ola"]


async def test_odd_names_are_named_and_left_out() -> None:
    async with world() as edge:
        body: dict[str, Any] = {"humanContext": {"": {}, "x" * 65: {}, "a\tb": {}, "Ola": {}}}
        answer = await edge.client.post(PATHS[0], json=body)
        assert [one["reason"] for one in answer.json()["refused"]] == ["INVALID_ID"] * 3
        assert list(edge.state.items[0].entities.ids) == ["Ola"]
