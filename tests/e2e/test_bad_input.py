"""Whatever a game sends: a clear answer, never 5xx, and the next request works."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import Scene

ENTITY: dict[str, Any] = {"id": "mara", "kind": "npc", "name": "Mara", "position": {"x": 0, "y": 0, "z": 0}}

# A body as the existing game sends it: display names for ids, [] for empty maps, a null centre, a stale entry.
OLD_GAME: dict[str, Any] = {
    "timestamp": 1737900000,
    "events": [],
    "clusters": [{"members": ["Mara", "Some Player"], "npcs": 1, "players": 1, "center": None}],
    "humanContext": {
        "Mara": {
            "relationships": [],
            "currentGroups": {"members": ["Mara", "Some Player"], "npcs": 1, "players": 1, "formed": 1737900000},
            "recentInteractions": [{"timestamp": 1737900000, "narrative": "Standing | With Some Player"}],
            "lastSeen": 1737899999,
            "position": {"x": 8.201302528381348, "y": 18, "z": -16.25},
            "location": "Unknown Area",
            "health": {"state": "Running", "current": 100, "max": 100, "velocity": 0, "isMoving": False},
        },
        "Some Player": {"position": {"x": 10, "y": 18, "z": -16}, "lastSeen": 1737900000, "currentGroups": []},
    },
}


def raw(scene: Scene, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    response = scene.stack.http.post(path, content=body, headers={"content-type": "application/json", **headers})
    return response.status_code, response.json()


@pytest.mark.parametrize("path", ["/v1/snapshots", "/letta/v1/snapshot/game"])
def test_the_existing_games_snapshot(scene: Scene, path: str) -> None:
    status, answer = raw(scene, path, json.dumps({**OLD_GAME, "world": scene.world}).encode())
    assert status == 200, answer
    if path == "/v1/snapshots":
        (cluster,) = answer["clusters"]
        assert "mara" in cluster["members"]
        assert len(cluster["positions"]) == 2
    else:
        assert answer["status"] == "success"


@pytest.mark.parametrize(
    ("name", "body", "statuses"),
    [
        ("empty tables", b'{"world":"%b","entities":[],"events":[],"groups":[],"left":[]}', {200}),
        ("maps for lists", b'{"world":"%b","entities":{},"events":{}}', {200}),
        ("nulls", b'{"world":"%b","entities":[{"id":"mara","kind":"npc","position":null,"health":null}]}', {200}),
        ("bare inf", b'{"world":"%b","entities":[{"id":"mara","kind":"npc","health":inf,"position":[0,0,0]}]}', {200}),
        ("bare nan", b'{"world":"%b","entities":[{"id":"mara","kind":"npc","position":{"x":nan,"y":0,"z":-inf}}]}',
         {200}),
        ("a user id above 2^32", b'{"world":"%b","entities":[{"id":7962483389,"kind":"player","position":[1,2,3]}]}',
         {200}),
        ("empty map as list", b'{"world":"%b","entities":[{"id":"mara","kind":"npc","position":[],"data":[]}]}', {200}),
        ("unknown fields", b'{"world":"%b","entities":[],"surprise":{"deep":[1,2,{"x":null}]}}', {200}),
        ("first snapshot of a server", b'{"world":"%b","humanContext":[],"clusters":[],"events":[],"timestamp":1}',
         {200}),
        ("not json", b"hello", {400}),
        ("cut off", b'{"world":"%b","entities":[', {400}),
        ("a list", b"[1,2,3]", {400}),
        ("null", b"null", {400}),
        ("empty", b"", {400}),
        ("not utf-8", b'{"world":"\xff\xfe","entities":[]}', {400}),
        ("kind of another kind", b'{"world":"%b","entities":[{"id":"mara","kind":"dragon"}]}', {200, 400}),
        ("deep", b'{"world":"%b","x":' + b"[" * 2000 + b"]" * 2000 + b"}", {400, 413}),
        ("too many", b'{"world":"%b","entities":[' + b",".join(b'{"id":"n%d","kind":"npc"}' % n for n in range(600))
         + b"]}", {400, 413, 429}),
    ],
)  # fmt: skip
def test_json_of_every_kind(scene: Scene, name: str, body: bytes, statuses: set[int]) -> None:
    status, answer = raw(scene, "/v1/snapshots", body.replace(b"%b", scene.world.encode()))
    assert status in statuses, (name, answer)
    if status >= 400:
        error = answer["error"]
        assert error["reason"].isupper()
        assert error["message"]
        assert isinstance(error["retryable"], bool)
    # The next request works.
    assert scene.place(mara=(0, 0, 0))["outcome"] == "applied"


def test_one_bad_entity_fails_alone_and_is_named(scene: Scene) -> None:
    body = b'{"world":"%b","entities":[{"id":"mara","kind":"npc","position":[0,0,0]},' \
        b'{"id":"brom","kind":"npc","position":{"x":inf,"y":0,"z":0}},' \
        b'{"id":"p1","kind":"player","position":[1,0,0]}]}'  # fmt: skip
    status, answer = raw(scene, "/v1/snapshots", body.replace(b"%b", scene.world.encode()))
    assert status == 200
    assert [sorted(cluster["members"]) for cluster in answer["clusters"]] == [["mara", "p1"]]
    (refused,) = answer["refused"]
    assert refused["path"].startswith("entities[1]")
    assert refused["reason"].isupper()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("DELETE", "/v1/snapshots", None, 405),
        ("GET", "/v1/npcs/nobody", None, 404),
        ("GET", "/v1/worlds/never-seen", None, 404),
        ("GET", "/v1/events?cursor=banana", None, 400),
        ("GET", "/v1/events?cursor=-5", None, 400),
        ("POST", "/v1/messages", {"player_id": "p1"}, 400),
        ("POST", "/v1/messages", {"player_id": "p1", "text": ""}, 400),
        ("POST", "/v1/messages", {"player_id": "p1", "text": "x" * 5000}, 400),
        ("POST", "/v1/messages", {"player_id": {"a": 1}, "text": "hi"}, 400),
        ("PUT", "/v1/npcs/broken", {"persona": 7}, 400),
    ],
)
def test_clear_refusals(scene: Scene, method: str, path: str, body: Any, status: int) -> None:
    response = scene.stack.http.request(method, path, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["reason"].isupper()


def test_wrong_content_encoding_and_size(scene: Scene) -> None:
    status, answer = raw(scene, "/v1/snapshots", b"{}", **{"content-encoding": "br"})
    assert (status, answer["error"]["reason"].isupper()) == (415, True)
    status, answer = raw(scene, "/v1/snapshots", b'{"world":"w","x":"' + b"a" * 700_000 + b'"}')
    assert (status, answer["error"]["reason"].isupper()) == (413, True)
    assert scene.place(mara=(0, 0, 0))["outcome"] == "applied"


def test_without_a_session_a_delta_has_no_base(scene: Scene) -> None:
    """Order needs an epoch: without one full snapshots apply as they arrive, and a delta is refused, not guessed at."""
    player = {"id": "p1", "kind": "player", "name": "P1", "position": [3, 0, 0]}
    first = scene.stack.snapshot(scene.world, [ENTITY, player], seq=5)
    again = scene.stack.snapshot(scene.world, [ENTITY, player], seq=5)
    assert [first["outcome"], again["outcome"]] == ["applied", "applied"]
    assert again["transitions"] == []
    body = {"world": scene.world, "entities": [player], "seq": 6, "delta": True, "base_seq": 5}
    response = scene.stack.post("/v1/snapshots", body)
    assert response.status_code == 400
    assert response.json()["error"]["reason"] == "DELTA_WITHOUT_BASE"
