"""POST /v1/snapshots: both shapes in, columns to state, the revision out; what cannot stand is named or refused."""

from __future__ import annotations

import array
import asyncio
import math
from typing import Any

import pytest
from earshot.type.v1 import type_pb2
from structlog.testing import capture_logs

from services.common.errors import Conflict, Overloaded, Unavailable
from services.edge.snapshots import nameless
from tests.unit.edge.fakes import World, world

NPC, PLAYER = type_pb2.ENTITY_KIND_NPC, type_pb2.ENTITY_KIND_PLAYER


def entity(identity: object, kind: str = "npc", **more: object) -> dict[str, object]:
    return {"id": identity, "kind": kind, "position": {"x": 1, "y": 2.5, "z": -3}, **more}


def floats(column: bytes) -> list[float]:
    return list(array.array("f", column))


async def post(edge: World, body: Any, path: str = "/v1/snapshots", **options: Any) -> Any:
    if isinstance(body, bytes | str):
        return await edge.client.post(path, content=body, **options)
    return await edge.client.post(path, json=body, **options)


async def test_a_snapshot_becomes_a_revision_with_positions_of_all_members() -> None:
    async with world() as edge:
        body = {
            "world": "w1",
            "entities": [
                entity("pete", name="Pete", health={"current": 80, "max": 100}, action="Idle", location="bar"),
                entity(962483389, "player", name="Ann", position=[4, 5, 6], health=50, max_health=60, last_seen=1.5),
            ],
            "events": [
                {"id": "e1", "type": "trade", "actor": "pete", "target": 962483389, "data": {"gold": 3}, "at": 2}
            ],
        }
        answer = await post(edge, body)
        assert answer.status_code == 200
        told = answer.json()
        assert told == {
            "world": "w1",
            "revision": 1,
            "outcome": "applied",
            "clusters": [
                {
                    "id": "c1",
                    "members": ["pete", "962483389"],
                    "npcs": 1,
                    "players": 1,
                    "positions": [
                        {"id": "pete", "x": 1, "y": 2.5, "z": -3},
                        {"id": "962483389", "x": 4, "y": 5, "z": 6},
                    ],
                }
            ],
            "transitions": [{"type": "formed", "cluster": "c1", "members": ["pete", "962483389"]}],
            "refused": [],
        }
        item = edge.state.items[0]
        assert (item.world.tenant, item.world.world) == ("local", "w1")
        assert 0 < item.budget_ms <= 1000
        rows = item.entities
        assert list(rows.ids) == ["pete", "962483389"]
        assert list(rows.names) == ["Pete", "Ann"]
        assert rows.kinds == bytes([NPC, PLAYER])
        assert floats(rows.health) == [80, 50]
        assert floats(rows.max_health) == [100, 60]
        assert list(rows.actions) == ["Idle", ""]
        assert list(rows.locations) == ["bar", ""]
        event = item.events[0]
        assert (event.id, event.type, event.actor_id, event.target_id) == ("e1", "trade", "pete", "962483389")
        assert (event.data, event.at_ms) == (b'{"gold":3}', 2000)


async def test_positions_are_left_out_when_not_wanted() -> None:
    async with world() as edge:
        answer = await post(edge, {"entities": [entity("a"), entity("b")], "positions": False})
        assert "positions" not in answer.json()["clusters"][0]


async def test_cold_fields_and_unknown_fields_become_details() -> None:
    async with world() as edge:
        one = entity("a", description="tall", state={"mood": "calm"}, mood_ring=[1, {"x": None}])
        await post(edge, {"entities": [one, entity("b")]})
        columns = edge.state.items[0].entities
        assert columns.looks == b'[{"description":"tall"},{}]'
        assert columns.details == b'[{"state":{"mood":"calm"},"mood_ring":[1,{"x":null}]},{}]'


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ('{"entities":{},"events":{},"groups":{},"left":{}}', []),
        ('{"entities":[],"events":[],"groups":[]}', []),
        ('{"entities":null,"events":null,"world":null,"seq":null,"positions":null}', []),
        ("{}", []),
        ('{"entities":[{"id":"a","kind":"npc","position":[],"health":[],"name":null,"state":[]}]}', ["a"]),
        ('{"entities":[{"id":"a","kind":"npc","health":{}}],"junk":{"deep":[[[[1]]]]}}', ["a"]),
        ('{"entities":[{"id":98765432109876,"kind":"player"},{"id":5.0,"kind":"npc"}]}', ["98765432109876", "5"]),
        ('\ufeff{"entities":[{"id":"a","kind":"npc"}]}', ["a"]),
        ('{"entities":[{"id":"a","kind":"NPC"}],"seq":3.0,"epoch":1.0}', ["a"]),
        ('{"humanContext":[],"clusters":[],"events":[],"timestamp":1737900000}', []),
    ],
)
async def test_empty_missing_and_null_are_nothing(body: str, ids: list[str]) -> None:
    async with world() as edge:
        answer = await post(edge, body)
        assert answer.status_code == 200, answer.text
        assert list(edge.state.items[0].entities.ids) == ids
        assert edge.state.items[0].entities.x == b""


@pytest.mark.parametrize("token", ["inf", "-inf", "nan", "-nan", "NaN", "Infinity", "-Infinity", "-nan(ind)"])
async def test_an_entity_with_a_coordinate_that_is_no_number_is_refused_alone(token: str) -> None:
    async with world() as edge:
        body = (
            '{"entities":[{"id":"a","kind":"npc","position":{"x":1,"y":' + token + ',"z":0}},'
            '{"id":"b","kind":"npc","name":"inf nan \\" NaN","position":[1,2,3]}]}'
        )
        answer = await post(edge, body)
        assert answer.status_code == 200
        assert answer.json()["refused"] == [{"path": "entities[0].position.y", "reason": "NOT_FINITE"}]
        assert list(edge.state.items[0].entities.ids) == ["b"]
        assert list(edge.state.items[0].entities.names) == ['inf nan " NaN']


async def test_a_health_that_is_no_number_is_unknown_and_named() -> None:
    async with world() as edge:
        body = '{"entities":[{"id":"a","kind":"npc","health":inf,"max_health":{"n":1}}]}'
        assert (await post(edge, body)).status_code == 400
        body = (
            '{"entities":[{"id":"a","kind":"npc","health":{"current":inf,"max":inf}},'
            '{"id":"b","kind":"npc","health":5}]}'
        )
        answer = await post(edge, body)
        assert [one["path"] for one in answer.json()["refused"]] == [
            "entities[0].health.current",
            "entities[0].health.max",
        ]
        health = floats(edge.state.items[0].entities.health)
        assert math.isnan(health[0])
        assert health[1] == 5


@pytest.mark.parametrize(
    ("row", "path", "reason"),
    [
        ({"kind": "npc"}, "entities[1].id", "MISSING_ID"),
        ({"id": "a", "kind": "npc"}, "entities[1].id", "DUPLICATE_ID"),
        ({"id": "b", "kind": "dragon"}, "entities[1].kind", "UNKNOWN_KIND"),
        ({"id": "b"}, "entities[1].kind", "UNKNOWN_KIND"),
        ({"id": "b", "kind": "npc", "position": {"x": 1}}, "entities[1].position", "INCOMPLETE_POSITION"),
        ({"id": "b", "kind": "npc", "position": [1, 2]}, "entities[1].position", "INCOMPLETE_POSITION"),
        ({"id": "b", "kind": "npc", "position": [1, 2, 1e39]}, "entities[1].position", "NOT_FINITE"),
    ],
)
async def test_a_row_that_cannot_stand_is_named_and_the_rest_applied(
    row: dict[str, object], path: str, reason: str
) -> None:
    async with world() as edge:
        answer = await post(edge, {"entities": [entity("a"), row, entity("c")]})
        assert answer.json()["refused"] == [{"path": path, "reason": reason}]
        assert list(edge.state.items[0].entities.ids) == ["a", "c"]


LONG = "x" * 65


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "EMPTY_BODY"),
        (b"  \n", 400, "EMPTY_BODY"),
        (b"{", 400, "INVALID_JSON"),
        (b"nan", 400, "INVALID_FIELD"),
        (b"[]", 400, "INVALID_FIELD"),
        (b"null", 400, "INVALID_FIELD"),
        (b'{"entities":[{"id":"\xff"}]}', 400, "NOT_UTF8"),
        (b'{"junk":"\xff"}', 400, "NOT_UTF8"),
        (b'{"entities":[{"id":"\\ud800"}]}', 400, "INVALID_JSON"),
        (b"[" * 17 + b"]" * 17, 400, "TOO_DEEP"),
        (b'{"junk":' + b"[" * 16 + b"]" * 16 + b"}", 400, "TOO_DEEP"),
        (b"[" * 100_000, 400, "TOO_DEEP"),
        (b'{"a":' * 100_000, 400, "TOO_DEEP"),
        (b'{"entities":{"a":1}}', 400, "INVALID_FIELD"),
        (b'{"entities":[{"id":true,"kind":"npc"}]}', 400, "INVALID_FIELD"),
        (b'{"entities":[{"id":1.5,"kind":"npc"}]}', 400, "INVALID_ID"),
        (b'{"entities":[{"id":"","kind":"npc"}]}', 400, "INVALID_ID"),
        (b'{"entities":[{"id":"a\\u0000b","kind":"npc"}]}', 400, "INVALID_ID"),
        (b'{"entities":[{"id":"%s","kind":"npc"}]}' % LONG.encode(), 400, "TOO_LONG"),
        (b'{"entities":[{"id":%s,"kind":"npc"}]}' % (b"9" * 4000), 400, "TOO_LONG"),
        (b'{"entities":[{"id":1e999,"kind":"npc"}]}', 400, "INVALID_FIELD"),
        (b'{"entities":[{"id":"a","kind":"npc","name":"%s"}]}' % LONG.encode(), 400, "TOO_LONG"),
        (b'{"entities":[{"id":"a","kind":"npc","action":"%s"}]}' % LONG.encode(), 400, "TOO_LONG"),
        (b'{"entities":[{"id":"a","kind":"npc","description":"%s"}]}' % (b"x" * 4100), 400, "TOO_LONG"),
        (b'{"entities":[{"id":"a","kind":"npc","position":"here"}]}', 400, "INVALID_FIELD"),
        (b'{"entities":[{"id":"a","kind":"npc","position":[1,2,3,4]}]}', 400, "INVALID_FIELD"),
        (b'{"seq":-1}', 400, "INVALID_FIELD"),
        (b'{"seq":1.5}', 400, "INVALID_FIELD"),
        (b'{"epoch":18446744073709551616}', 400, "INVALID_FIELD"),
        (b'{"delta":true,"entities":[]}', 400, "INVALID_FIELD"),
        (b'{"world":""}', 400, "INVALID_ID"),
        (b'{"world":"%s"}' % (b"w" * 129), 400, "TOO_LONG"),
        (b'{"events":[{"type":"t","text":"%s"}]}' % (b"x" * 201), 400, "TOO_LONG"),
        (b'{"events":[{"type":"t","data":{"a":"%s"}}]}' % (b"x" * 4100), 400, "TOO_LONG"),
        (b'{"entities":[%s]}' % b",".join(b'{"id":"n%d","kind":"npc"}' % n for n in range(501)), 413, "TOO_MANY"),
        (b'{"events":[%s]}' % b",".join([b"{}"] * 257), 413, "TOO_MANY"),
        (b'{"left":[%s]}' % b",".join([b'"a"'] * 501), 413, "TOO_MANY"),
        (b'{"groups":[%s]}' % b",".join([b'{"members":["a","b"]}'] * 257), 413, "TOO_MANY"),
        (b'{"a":[%s]}' % b",".join([b"nan"] * 2001), 400, "NOT_FINITE"),
    ],
)
async def test_a_broken_bound_applies_nothing_and_the_next_request_works(body: bytes, status: int, reason: str) -> None:
    async with world() as edge:
        answer = await post(edge, body)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason), answer.text
        assert answer.json()["error"]["retryable"] is False
        assert edge.state.items == []
        assert (await post(edge, {"entities": [entity("a")]})).status_code == 200


async def test_refusals_never_carry_values() -> None:
    async with world() as edge:
        for body in (
            b'{"entities":[{"id":"a","kind":"npc","delta":0,"max_health":"secretvalue"}]}',
            b'{"seq":"secretvalue"}',
        ):
            answer = await post(edge, body)
            assert answer.status_code == 400
            assert "secretvalue" not in answer.text
            assert "expected" in answer.json()["error"]["message"].lower()


async def test_sequence_outcomes() -> None:
    async with world() as edge:
        first = {"world": "w", "epoch": 1, "seq": 1, "entities": [entity("a")]}
        assert (await post(edge, first)).json()["outcome"] == "applied"
        assert (await post(edge, first)).json()["outcome"] == "duplicate"
        delta = {
            "world": "w",
            "epoch": 1,
            "seq": 2,
            "delta": True,
            "base_seq": 9,
            "entities": [{"id": "a"}],
            "left": ["b"],
        }
        assert (await post(edge, delta)).json()["outcome"] == "resync"
        item = edge.state.items[-1]
        assert (item.delta, item.base_seq, list(item.left_ids)) == (True, 9, ["b"])
        assert item.entities.kinds == bytes([0])


@pytest.mark.parametrize(
    ("query", "headers", "body", "name"),
    [
        ("", {}, {}, "default"),
        ("", {"Roblox-Id": "123"}, {}, "place:123"),
        ("", {"Roblox-Id": "nonsense"}, {}, "default"),
        ("?world=q", {"Roblox-Id": "123"}, {}, "q"),
        ("?world=q", {}, {"world": "b"}, "b"),
        ("", {}, {"world": 77}, "77"),
    ],
)
async def test_which_world_is_meant(query: str, headers: dict[str, str], body: dict[str, object], name: str) -> None:
    async with world() as edge:
        answer = await post(edge, body, f"/v1/snapshots{query}", headers=headers)
        assert answer.json()["world"] == name
        assert edge.state.items[0].world.world == name


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Conflict("gone", reason="STALE_EPOCH"), 409, None),
        (Overloaded("later", retry_after_ms=1500), 429, "2"),
        (Unavailable("cluster is away"), 503, None),
    ],
)
async def test_what_state_refuses_is_answered_as_such(error: Any, status: int, retry_after: str | None) -> None:
    async with world() as edge:
        edge.state.failure = error
        answer = await post(edge, {"entities": [entity("a")]})
        assert answer.status_code == status
        assert answer.json()["error"]["reason"] == error.reason
        assert answer.headers.get("retry-after") == retry_after


async def test_a_silent_state_is_a_timeout_not_a_hang() -> None:
    async with world() as edge:
        edge.state.gate = asyncio.Event()
        started = asyncio.get_running_loop().time()
        answer = await post(edge, {"entities": [entity("a")]})
        assert answer.status_code == 504
        assert asyncio.get_running_loop().time() - started <= 1.2
        edge.state.gate.set()
        assert (await post(edge, {"entities": [entity("a")]})).status_code == 200


async def test_metrics_count_by_template_and_outcome() -> None:
    async with world() as edge:
        await post(edge, {"entities": [entity("a")]})
        await post(edge, b"{")
        await edge.client.get("/v1/worlds/secret-world-name")
        text = (await edge.client.get("/metrics")).text
        assert 'earshot_http_requests_total{route="POST /v1/snapshots",status="200"} 1.0' in text
        assert 'earshot_snapshots_total{outcome="refused"} 1.0' in text
        assert 'route="GET /v1/worlds/{id}"' in text
        assert "secret-world-name" not in text


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("humanContext[Pete].position", "humanContext[*].position"),
        ("humanContext[P]e.te].position", "humanContext[*].position"),
        ("humanContext.Pete.position.x", "humanContext[*].position.x"),
        ("humanContext[A.position].health", "humanContext[*].health"),
        ("humanContext[Bob]", "humanContext[*]"),
        ("humanContext", "humanContext"),
        ("groups[0].positions.962483389.x", "groups[0].positions[*]"),
        ("clusters[2].positions.Pete.x", "clusters[2].positions[*]"),
        ("clusters[2].members[1]", "clusters[2].members[1]"),
        ("entities[3].position.x", "entities[3].position.x"),
    ],
)
def test_what_is_refused_is_logged_without_names(path: str, logged: str) -> None:
    assert nameless(path) == logged


async def test_each_refusal_is_logged_by_path_and_reason() -> None:
    with capture_logs() as logs:
        async with world() as edge:
            await post(edge, {"entities": [entity("a"), {"id": "b", "kind": "ghost", "position": [1, 2, 3]}]})
    assert [(one["path"], one["reason"]) for one in logs if one["event"] == "field_refused"] == [
        ("entities[1].kind", "UNKNOWN_KIND")
    ]
