"""One place for errors, routes, encodings, tenants: every request gets one clear answer."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.common import errors
from services.common.errors import EarshotError
from services.common.settings import Settings
from services.edge.answer import STATUS_BY_CODE, STATUS_BY_REASON, accepts_gzip, error_answer, status_of
from services.edge.body import Body, Limits
from services.edge.keys import KeyFile, digest, is_loopback
from services.edge.routes import Route, Routes, target_of
from tests.unit.edge.fakes import keys, world

EXPECTED = {
    "BadInput": 400,
    "Unauthenticated": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "Conflict": 409,
    "TooLarge": 413,
    "Overloaded": 429,
    "Unavailable": 503,
    "NotOwner": 503,
    "DeadlineExceeded": 504,
    "Internal": 500,
}


def tree(kind: type[EarshotError]) -> Iterator[type[EarshotError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


@pytest.mark.parametrize("kind", sorted(tree(EarshotError), key=str))
def test_every_error_has_its_status(kind: Any) -> None:
    error = kind() if kind is errors.NotOwner else kind("what happened", retry_after_ms=1200)
    answer = error_answer(error)
    told = json.loads(answer.body)["error"]
    assert answer.status == EXPECTED[kind.__name__]
    assert told["code"] == error.code.name.lower()
    assert told["reason"] == error.reason
    assert told["retryable"] is error.retryable
    assert ("what happened" in told["message"]) is (kind not in (errors.Internal, errors.NotOwner))
    if kind is not errors.NotOwner:
        assert dict(answer.headers)[b"retry-after"] == b"2"


def test_the_table_covers_every_code_of_the_tree() -> None:
    assert {kind.code for kind in tree(EarshotError)} == set(STATUS_BY_CODE)
    assert status_of(errors.BadInput("x", reason="UNSUPPORTED_TYPE")) == STATUS_BY_REASON["UNSUPPORTED_TYPE"] == 415


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS])
def test_codes_that_earshot_does_not_use_are_generic(code: grpc.StatusCode) -> None:
    answer = error_answer(errors.from_code(code, "", "secret detail"))
    assert answer.status == 500
    assert b"secret" not in answer.body


async def test_a_defect_is_a_generic_500_and_the_next_request_works() -> None:
    async with world() as edge:
        edge.state.failure = RuntimeError("secret detail")  # type: ignore[assignment] # a defect of a room
        answer = await edge.client.get("/v1/npcs")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert "secret" not in answer.text
        edge.state.failure = None
        assert (await edge.client.get("/v1/npcs")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nope", 404, "UNKNOWN_PATH"),
        ("GET", "/v1", 404, "UNKNOWN_PATH"),
        ("GET", "/v1/npcs/a/b/c", 404, "UNKNOWN_PATH"),
        ("POST", "/letta/v1/agents", 404, "UNKNOWN_PATH"),
        ("GET", "/v1/snapshots", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/letta/v1/chat/v3", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/v1/npcs", 405, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", "/v1/snapshots", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/healthz", 405, "METHOD_NOT_ALLOWED"),
    ],
)
async def test_paths_and_methods_that_are_not_there(method: str, path: str, status: int, reason: str) -> None:
    async with world() as edge:
        answer = await edge.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)
        assert ("allow" in answer.headers) is (status == 405)


async def test_probes_contract_and_page_are_open() -> None:
    async with world() as edge:
        assert (await edge.client.get("/healthz")).json() == {"status": "ok"}
        assert (await edge.client.head("/healthz")).content == b""
        assert (await edge.client.get("/readyz")).json()["ready"] is True
        assert "earshot_http_seconds" in (await edge.client.get("/metrics")).text
        for path in ("/", "/docs"):
            page = await edge.client.get(path)
            policy = page.headers["content-security-policy"]
            assert page.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            # Its own script and style, by their place or by their hash, and nothing from elsewhere.
            assert policy.count("'sha256-") == (2 if path == "/docs" else 0)
            assert not re.search(r'(src|href)="(?!data:|scope/|docs|#)|\son\w+=|\sstyle=|innerHTML', page.text)
            for file in re.findall(r'(?:src|href)="(scope/[^"]+)"', page.text):
                part = await edge.client.get(f"/{file}")
                assert part.status_code == 200
                assert not re.search(
                    r"innerHTML|insertAdjacentHTML|outerHTML|document\.write|https?://(?!www.w3.org)", part.text
                )
        assert (await edge.client.get("/scope/page.py")).status_code == 404
        assert (await edge.client.get("/scope/..%2fpage.py")).status_code == 404


async def test_readiness_says_which_room_cannot_serve() -> None:
    async with world() as edge:

        async def broken() -> None:
            raise RuntimeError("no disk")

        edge.app.ready_check("state.store", broken)
        answer = await edge.client.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]) == (503, {"state.store": "RuntimeError"})


async def test_the_contract_names_every_route_and_resolves_every_reference() -> None:
    async with world() as edge:
        document = (await edge.client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        assert operations == {(route.method, route.template) for route in edge.edge.gateway._routes.all}
        text = json.dumps(document)
        names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
        assert names <= set(document["components"]["schemas"])
        for methods in document["paths"].values():
            for operation in methods.values():
                assert operation["summary"]


# -- encodings ---------------------------------------------------------------------------------------------------------

SNAPSHOT = json.dumps({"entities": [{"id": f"npc-number-{number}", "kind": "npc"} for number in range(60)]}).encode()


async def test_gzip_bodies_are_read_and_long_answers_compressed_when_accepted() -> None:
    async with world() as edge:
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        answer = await edge.client.post("/v1/snapshots", content=gzip.compress(SNAPSHOT), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == "gzip"
        assert len(answer.json()["clusters"][0]["members"]) == 60
        plain = await edge.client.post("/v1/snapshots", content=SNAPSHOT, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        short = await edge.client.get("/healthz")
        assert "content-encoding" not in short.headers


@pytest.mark.parametrize(
    ("headers", "body", "status", "reason"),
    [
        ({"content-encoding": "br"}, SNAPSHOT, 415, "UNSUPPORTED_ENCODING"),
        ({"content-encoding": "gzip, gzip"}, SNAPSHOT, 415, "UNSUPPORTED_ENCODING"),
        ({"content-encoding": "deflate"}, SNAPSHOT, 415, "UNSUPPORTED_ENCODING"),
        ({"content-type": "application/xml"}, SNAPSHOT, 415, "UNSUPPORTED_TYPE"),
        ({"content-type": "multipart/form-data; boundary=x"}, SNAPSHOT, 415, "UNSUPPORTED_TYPE"),
        ({"content-encoding": "gzip"}, SNAPSHOT, 400, "BAD_GZIP"),
        ({"content-encoding": "gzip"}, gzip.compress(SNAPSHOT)[:-9], 400, "BAD_GZIP"),
        ({"content-encoding": "gzip"}, gzip.compress(SNAPSHOT) + b"x", 400, "BAD_GZIP"),
        ({"content-encoding": "gzip"}, gzip.compress(b"[" * 400_000), 413, "GZIP_RATIO"),
        ({"content-encoding": "gzip"}, gzip.compress(b" " * 60_000_000), 413, "BODY_TOO_LARGE"),
        ({}, b" " * (512 * 1024 + 1), 413, "BODY_TOO_LARGE"),
        ({}, b"[" * 10_000_000, 413, "BODY_TOO_LARGE"),
    ],
)  # fmt: skip
async def test_bodies_that_are_not_taken(headers: dict[str, str], body: bytes, status: int, reason: str) -> None:
    async with world() as edge:
        answer = await edge.client.post("/v1/snapshots", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)
        assert edge.state.items == []


@pytest.mark.parametrize("kind", ["", "application/json", "application/json; charset=utf-8", "application/vnd.x+json",
                                  "text/plain", "application/x-www-form-urlencoded"])  # fmt: skip
async def test_content_types_that_clients_send(kind: str) -> None:
    async with world() as edge:
        headers = {"content-type": kind} if kind else {}
        assert (await edge.client.post("/v1/snapshots", content=b"{}", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (b"gzip, deflate", True),
        (b"GZIP;q=0.5", True),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000", False),
        (b"*", True),
        (b"*;q=0", False),
        (b"br, *;q=0.1", True),
        (b"identity", False),
        (b"", False),
    ],
)
def test_accept_encoding(value: bytes, accepted: bool) -> None:
    assert accepts_gzip(value) is accepted


async def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3)
        return {"type": "http.request", "body": b"x", "more_body": True}

    body = Body(receive, {b"content-length": b"100"}, Limits(1000, 100, 10))
    with pytest.raises(errors.DeadlineExceeded) as caught:
        await body.read()
    assert status_of(caught.value) == 408
    assert body.abandoned


async def test_a_refused_body_that_never_ends_is_bounded_in_time() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(1)
        return {"type": "http.request", "body": b"x" * 900, "more_body": True}

    body = Body(receive, {}, Limits(1000, 100, 10))
    with pytest.raises(errors.DeadlineExceeded):
        await body.read()


async def test_a_client_that_waits_to_be_told_is_refused_without_its_body() -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was asked for")

    body = Body(receive, {b"content-length": b"2000", b"expect": b"100-continue"}, Limits(1000, 100, 10))
    with pytest.raises(errors.TooLarge):
        await body.read()
    assert body.abandoned


# -- routes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "key", "job", "segments"),
    [
        (b"/v1/npcs", "", "", ("v1", "npcs")),
        (b"/k/ek_x/v1/npcs", "ek_x", "", ("v1", "npcs")),
        (b"/k/ek_x/w/job%201/letta/v1/chat/v3", "ek_x", "job 1", ("letta", "v1", "chat", "v3")),
        (b"/w/j/k/ek_x//letta/v1/chat/v3/", "ek_x", "j", ("letta", "v1", "chat", "v3")),
        (b"/k", "", "", ("k",)),
        (b"/", "", "", ()),
        (b"/v1/npcs/a%2Fb", "", "", ("v1", "npcs", "a/b")),
    ],
)
def test_base_paths(path: bytes, key: str, job: str, segments: tuple[str, ...]) -> None:
    target = target_of(path)
    assert (target.key, target.job, target.segments) == (key, job, segments)


def test_a_fixed_segment_goes_before_a_parameter() -> None:
    routes = Routes([Route("GET", "/a/{id}", "any"), Route("GET", "/a/b", "fixed"), Route("PUT", "/a/{id}/c", "deep")])
    assert routes.find("GET", ("a", "b"))[0].endpoint == "fixed"
    assert routes.find("GET", ("a", "x")) == (routes.all[0], ("x",))
    assert routes.find("HEAD", ("a", "x"))[0].endpoint == "any"
    assert routes.find("PUT", ("a", "x", "c"))[0].endpoint == "deep"


# -- tenants -----------------------------------------------------------------------------------------------------------


async def test_keys_decide_the_tenant_in_header_and_path(tmp_path: Path) -> None:
    one, two = keys(tmp_path, "red", "blue")
    async with world(data=str(tmp_path)) as edge:
        bearer = {"authorization": f"Bearer {one}"}
        assert (await edge.client.post("/v1/snapshots", json={}, headers=bearer)).status_code == 200
        assert (await edge.client.post(f"/k/{two}/letta/v1/snapshot/game", json={})).status_code == 200
        assert [item.world.tenant for item in edge.state.items] == ["red", "blue"]
        for headers in ({}, {"authorization": "Bearer ek_live_x_y"}, {"authorization": one}, {"Roblox-Id": "1"}):
            answer = await edge.client.post("/v1/snapshots", json={}, headers=headers)
            assert answer.status_code == 401
        assert (await edge.client.get("/healthz")).status_code == 200
        text = (await edge.client.get("/metrics", headers={"accept-encoding": "identity"})).text
        assert two not in text
        assert 'route="POST /letta/v1/snapshot/game"' in text


async def test_nothing_of_one_tenant_is_in_any_answer_to_another(tmp_path: Path) -> None:
    red, blue = keys(tmp_path, "red", "blue")
    async with world(data=str(tmp_path)) as edge:
        mine, theirs = ({"authorization": f"Bearer {key}"} for key in (red, blue))
        snapshot = {"world": "w", "entities": [{"id": "secretnpc", "kind": "npc"}]}
        await edge.client.post("/v1/snapshots", json=snapshot, headers=mine)
        roster = {"npcs": [{"id": "secretnpc"}], "locations": [{"slug": "secretplace", "coordinates": [1, 2, 3]}]}
        await edge.client.put("/v1/npcs", json=roster, headers=mine)
        edge.chat.utter("red", "w", "secretline")
        paths = ("/v1/worlds", "/v1/worlds/w", "/v1/npcs", "/v1/npcs/secretnpc", "/v1/locations",
                 "/v1/events?world=w&cursor=0", "/v1/conversations/c1?world=w")  # fmt: skip
        for path, headers in itertools.product(paths, (mine, theirs)):
            told = (await edge.client.get(path, headers=headers)).text
            if headers is theirs:
                assert "secret" not in told, path
        assert "secretplace" in (await edge.client.get("/v1/locations", headers=mine)).text


async def test_rotation_and_revocation_take_effect_in_a_running_edge(tmp_path: Path) -> None:
    file = KeyFile(Settings(data=str(tmp_path)))
    (old,) = keys(tmp_path, "red")
    async with world(data=str(tmp_path)) as edge:

        async def status(key: str) -> int:
            await asyncio.sleep(2)
            return (await edge.client.get("/v1/npcs", headers={"authorization": f"Bearer {key}"})).status_code

        new = file.create("red", 2)[0]
        assert [await status(old), await status(new)] == [200, 200]
        file.revoke(old.split("_")[2], 3)
        assert [await status(old), await status(new)] == [401, 200]
        # A file that vanishes must not open the door.
        (tmp_path / "keys.json").unlink()
        assert [await status("x"), await status(new)] == [401, 200]


def test_keys_rest_as_digests(tmp_path: Path) -> None:
    (key,) = keys(tmp_path, "red")
    stored = (tmp_path / "keys.json").read_text()
    assert key not in stored
    assert key.split("_")[3] not in stored
    assert digest(key) in stored
    with pytest.raises(errors.NotFound):
        KeyFile(Settings(data=str(tmp_path))).revoke("unknown", 1)
    with pytest.raises(errors.BadInput):
        keys(tmp_path, "no/slash")
    with pytest.raises(errors.Conflict):
        KeyFile(Settings(data=":memory:")).create("red", 1)
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(errors.Unavailable):
        KeyFile(Settings(data=str(tmp_path))).load()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8080"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:8080"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "localhost:8080", "origin": "http://localhost:8080"}, 200),
        ({"host": "localhost:8080", "origin": "https://evil.example"}, 403),
        ({"host": "localhost:8080", "origin": "null"}, 403),
    ],
)
async def test_without_keys_only_this_machine_s_own_names_and_pages(headers: dict[str, str], status: int) -> None:
    async with world() as edge:
        assert (await edge.client.get("/v1/worlds", headers=headers)).status_code == status


def test_loopback_names() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost", "a.localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.com", "127.0.0.1.example.com")))


async def test_clients_that_leave_are_not_waited_for() -> None:
    async with world() as edge:
        edge.chat.hang = True
        sent: list[dict[str, Any]] = []
        messages: Iterator[dict[str, Any]] = iter([
            {"type": "http.request", "body": b'{"player_id":1,"text":"hi"}', "more_body": False},
            {"type": "http.disconnect"},
        ])  # fmt: skip

        async def receive() -> Any:
            message = next(messages)
            if message["type"] == "http.disconnect":
                await asyncio.sleep(2)
            return message

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await edge.edge.gateway(scope("POST", "/v1/messages"), receive, send)
        assert sent == []
        assert edge.chat.cancelled == 1
        assert edge.edge.admission.in_flight == 0


async def test_a_stop_that_waits_no_longer_says_so() -> None:
    async with world() as edge:
        edge.chat.hang = True
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            if not asked:
                asked.append(True)
                return {"type": "http.request", "body": b'{"player_id":1,"text":"hi"}', "more_body": False}
            await asyncio.sleep(100)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asked: list[bool] = []
        serving = asyncio.create_task(edge.edge.gateway(scope("POST", "/v1/messages"), receive, send))
        await asyncio.sleep(1)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert sent[0]["status"] == 503
        assert json.loads(sent[1]["body"])["error"]["reason"] == "STOPPING"


def scope(method: str, path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
