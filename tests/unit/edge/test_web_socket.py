"""The WebSocket: events pushed in both encodings, frames of clients bounded, and no event lost between transports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from earshot.chat.v1 import chat_pb2

from services.common.errors import Unavailable
from services.common.settings import Settings
from services.edge.keys import KeyFile
from services.edge.web_socket import BURST, FRAME_BYTES, JSON, MSGPACK, POLICY, RESTART, SERVER_ERROR, STRIKES, TOO_BIG
from tests.unit.edge.fakes import World, world


class Socket:
    """A client's side of one connection."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing.put_nowait({"type": "websocket.connect"})
        self.packed = False

    async def next(self) -> Any:
        """The next message of the server: a frame's value, or a raw message for anything else."""
        async with asyncio.timeout(60):
            message = await self.incoming.get()
        if message["type"] != "websocket.send":
            return message
        return msgspec.msgpack.decode(message["bytes"]) if self.packed else json.loads(message["text"])

    def say(self, value: Any) -> None:
        if self.packed:
            self.outgoing.put_nowait({"type": "websocket.receive", "bytes": msgspec.msgpack.encode(value)})
        else:
            self.raw(json.dumps(value))

    def raw(self, text: str) -> None:
        self.outgoing.put_nowait({"type": "websocket.receive", "text": text})


@asynccontextmanager
async def connected(
    edge: World,
    query: str = "world=w&cursor=0",
    path: str = "/v1/stream",
    *,
    protocols: tuple[str, ...] = (),
    **more: str,
) -> AsyncIterator[Socket]:
    socket = Socket()
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "localhost", **more}.items()],
        "subprotocols": list(protocols),
        "extensions": {"websocket.http.response": {}},
    }
    serving = asyncio.create_task(edge.edge.gateway(scope, socket.outgoing.get, socket.incoming.put))
    try:
        yield socket
    finally:
        socket.outgoing.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(serving, 5)


@pytest.mark.parametrize(
    ("protocols", "chosen"),
    [((), None), ((JSON,), JSON), ((MSGPACK, JSON), MSGPACK), (("other", JSON), JSON), (("other",), None)],
)
async def test_events_are_pushed_in_the_encoding_that_was_asked_for(
    protocols: tuple[str, ...], chosen: str | None
) -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "One.")
        async with connected(edge, protocols=protocols) as socket:
            assert await socket.next() == {"type": "websocket.accept", "subprotocol": chosen}
            socket.packed = chosen == MSGPACK
            first = await socket.next()
            assert (first["type"], first["cursor"], first["events"][0]["text"]) == ("events", 1, "One.")
            await asyncio.sleep(1)
            said = asyncio.get_running_loop().time()
            edge.chat.utter("local", "w", "Two.")
            second = await socket.next()
            assert second["events"][0]["type"] == "utterance"
            assert second["cursor"] == 2
            assert asyncio.get_running_loop().time() - said < 0.05


async def test_without_a_cursor_only_what_comes() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "before")
        async with connected(edge, "world=w") as socket:
            await socket.next()
            await asyncio.sleep(1)
            edge.chat.utter("local", "w", "after")
            assert [event["text"] for event in (await socket.next())["events"]] == ["after"]


@pytest.mark.parametrize("protocol", [JSON, MSGPACK])
async def test_clients_speak_and_ping(protocol: str) -> None:
    async with world() as edge, connected(edge, protocols=(protocol,)) as socket:
        await socket.next()
        socket.packed = protocol == MSGPACK
        socket.say({"type": "ping", "ref": 5})
        assert await socket.next() == {"type": "pong", "ref": "5"}
        socket.say({"type": "message", "ref": "m", "player_id": 77, "text": "Hello"})
        told = await socket.next()
        assert (told["type"], told["ref"], told["answer"]["outcome"]) == ("said", "m", "accepted")
        said = edge.chat.said[0]
        assert (said.world.world, said.speaker_id, said.wait_ms) == ("w", "77", 0)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("", "EMPTY_BODY"),
        ("{", "INVALID_JSON"),
        ("[]", "INVALID_FIELD"),
        ('{"type":"dance"}', "UNKNOWN_FRAME"),
        ("{}", "UNKNOWN_FRAME"),
        ('{"type":"message","text":"x"}', "MISSING_SPEAKER"),
        ('{"type":"message","player_id":1,"text":"' + "x" * 201 + '"}', "TOO_LONG"),
        ("[" * 50, "TOO_DEEP"),
    ],
)
async def test_bad_frames_are_refused_and_the_next_one_works(frame: str, reason: str) -> None:
    async with world() as edge, connected(edge) as socket:
        await socket.next()
        socket.raw(frame)
        assert (await socket.next())["error"]["reason"] == reason
        socket.say({"type": "ping"})
        assert (await socket.next())["type"] == "pong"


async def test_bad_messagepack_is_refused() -> None:
    async with world() as edge, connected(edge, protocols=(MSGPACK,)) as socket:
        await socket.next()
        socket.packed = True
        for data in (b"\xc1", b"\x81", b"\x93" * 5000, msgspec.msgpack.encode({"type": 5})):
            socket.outgoing.put_nowait({"type": "websocket.receive", "bytes": data})
            assert (await socket.next())["error"]["reason"] in ("INVALID_MSGPACK", "INVALID_FIELD")


async def test_a_flood_is_refused_then_closed() -> None:
    async with world() as edge, connected(edge) as socket:
        await socket.next()
        for _ in range(int(BURST) + STRIKES):
            socket.say({"type": "ping"})
        answers = [await socket.next() for _ in range(int(BURST) + STRIKES)]
        assert [one["type"] for one in answers] == ["pong"] * int(BURST) + ["error"] * STRIKES
        assert answers[-1]["error"]["reason"] == "RATE_LIMITED"
        assert await socket.next() == {"type": "websocket.close", "code": POLICY}


async def test_a_frame_that_is_too_big_closes() -> None:
    async with world() as edge, connected(edge) as socket:
        await socket.next()
        socket.raw(" " * (FRAME_BYTES + 1))
        assert await socket.next() == {"type": "websocket.close", "code": TOO_BIG}


async def test_a_drain_says_where_to_go_on() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "x")
        async with connected(edge) as socket:
            await socket.next()
            await socket.next()
            await asyncio.sleep(1)
            edge.edge.drain()
            assert await socket.next() == {"type": "reconnect", "cursor": 1}
            assert await socket.next() == {"type": "websocket.close", "code": RESTART}


async def test_a_chat_that_goes_away_ends_the_stream_with_a_reason() -> None:
    async with world() as edge, connected(edge) as socket:
        await socket.next()
        await asyncio.sleep(1)
        edge.chat.failure = Unavailable("away")
        edge.chat.utter("local", "w", "x")
        assert (await socket.next())["error"]["retryable"] is True
        assert await socket.next() == {"type": "websocket.close", "code": SERVER_ERROR}


async def test_a_hole_is_told() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "x")
        async with connected(edge, "world=w&cursor=900") as socket:
            await socket.next()
            assert await socket.next() == {"type": "events", "events": [], "cursor": 1, "resync": True}


@pytest.mark.parametrize(
    ("query", "path", "status"),
    [
        ("cursor=x", "/v1/stream", 400),
        ("world=" + "w" * 129, "/v1/stream", 400),
        ("", "/v1/events", 404),
        ("", "/k/ek_made_up_key/v1/stream", 200),
    ],
)
async def test_handshakes_that_are_refused(query: str, path: str, status: int) -> None:
    async with world() as edge, connected(edge, query, path) as socket:
        first = await socket.next()
        if status == 200:
            assert first["type"] == "websocket.accept"
        else:
            assert (first["type"], first["status"]) == ("websocket.http.response.start", status)
            assert json.loads((await socket.next())["body"])["error"]["reason"]


async def test_keys_decide_the_tenant_here_too(tmp_path: Path) -> None:
    key, _ = KeyFile(Settings(data=str(tmp_path))).create("red", 1)
    async with world(data=str(tmp_path)) as edge:
        edge.chat.utter("red", "w", "x")
        async with connected(edge) as socket:
            assert (await socket.next())["status"] == 401
        async with connected(edge, path=f"/k/{key}/v1/stream") as socket:
            await socket.next()
            assert len((await socket.next())["events"]) == 1
        async with connected(edge, authorization=f"Bearer {key}") as socket:
            assert (await socket.next())["type"] == "websocket.accept"
        async with connected(edge, authorization=f"Bearer {key}", origin="https://evil.example") as socket:
            assert (await socket.next())["status"] == 403


async def test_a_plain_request_is_told_to_upgrade() -> None:
    async with world() as edge:
        answer = await edge.client.get("/v1/stream")
        assert (answer.status_code, answer.json()["error"]["reason"]) == (426, "UPGRADE_REQUIRED")


async def test_nothing_is_lost_between_socket_and_poll() -> None:
    async with world() as edge:
        seen: list[int] = []
        cursor = 0
        for number in range(4):
            edge.chat.utter("local", "w", f"{number}")
            async with connected(edge, f"world=w&cursor={cursor}") as socket:
                await socket.next()
                frame = await socket.next()
                seen += [event["seq"] for event in frame["events"]]
                cursor = frame["cursor"]
            edge.chat.utter("local", "w", f"{number} between")
            page = (await edge.client.get(f"/v1/events?world=w&cursor={cursor}&hold=1")).json()
            seen += [event["seq"] for event in page["events"]]
            cursor = page["cursor"]
        assert seen == list(range(1, 9))


async def test_a_refused_message_keeps_the_socket() -> None:
    async with world() as edge, connected(edge) as socket:
        await socket.next()

        def failing(_: chat_pb2.SayRequest) -> chat_pb2.SayResponse:
            raise Unavailable("away")

        edge.chat.reply = failing
        socket.say({"type": "message", "player_id": 1, "text": "Hi", "ref": "a"})
        told = await socket.next()
        assert (told["type"], told["ref"], told["error"]["reason"]) == ("error", "a", "UNAVAILABLE")
        socket.say({"type": "ping"})
        assert (await socket.next())["type"] == "pong"


async def test_handshakes_count_against_the_tenant(tmp_path: Path) -> None:
    key, _ = KeyFile(Settings(data=str(tmp_path))).create("red", 1)
    async with world(data=str(tmp_path), tenant_burst=1.0, tenant_requests_per_s=0.001) as edge:
        async with connected(edge, path=f"/k/{key}/v1/stream") as socket:
            assert (await socket.next())["type"] == "websocket.accept"
        async with connected(edge, path=f"/k/{key}/v1/stream") as socket:
            assert (await socket.next())["status"] == 429


async def test_handshakes_pass_the_gates_of_every_request() -> None:
    async with world(held_max=1) as edge:
        async with connected(edge) as first:
            await first.next()
            async with connected(edge) as second:
                assert (await second.next())["status"] == 503
            first.say({"type": "ping"})
            assert (await first.next())["type"] == "pong"
        edge.edge.admission.enter(edge.app.settings.in_flight_max)
        async with connected(edge) as busy:
            assert (await busy.next())["status"] == 429
        edge.edge.admission.enter(-edge.app.settings.in_flight_max)
        async with connected(edge) as again:
            assert (await again.next())["type"] == "websocket.accept"
        assert edge.edge.admission.in_flight == 0
