"""The edge on a real socket: what clients do to a connection, and that the next request always works."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from earshot.chat.v1 import chat_pb2_grpc
from earshot.state.v1 import state_pb2_grpc

from services.common.app import App
from services.common.errors import EarshotError
from services.common.settings import Settings
from services.edge.keys import KeyFile
from services.edge.listener import HEADER_BYTES, bound_socket
from services.edge.server import address_of, bind
from tests.unit.edge.fakes import FakeChat, FakeState


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Served:
    """A running edge and raw connections to it."""

    def __init__(self, app: App, port: int, state: FakeState, chat: FakeChat) -> None:
        self.app, self.port, self.state, self.chat = app, port, state, chat
        self.url = f"http://127.0.0.1:{port}"
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that ends with the edge's, whatever the test makes of it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    async def ok(self) -> bool:
        """Whether a plain request works now."""
        async with httpx.AsyncClient(base_url=self.url, timeout=5) as client:
            return (await client.post("/v1/snapshots", json={})).status_code == 200


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Served]:
    port = free_port()
    settings: dict[str, Any] = {
        "data": ":memory:",
        "listen": f"127.0.0.1:{port}",
        "shutdown_s": 2.0,
        "body_timeout_s": 0.5,
        "header_timeout_s": 0.5,
        # The machine may be busy: what is refused then is for other tests.
        "lag_max_s": 5.0,
        **options,
    }
    app = App(Settings(**settings), ("edge", "state", "sync", "chat"))
    state, chat = FakeState(), FakeChat()
    app.add(state_pb2_grpc.add_StateServiceServicer_to_server, state, "earshot.state.v1.StateService")
    app.add(chat_pb2_grpc.add_ChatServiceServicer_to_server, chat, "earshot.chat.v1.ChatService")
    await bind(app)
    async with app:
        with contextlib.closing(Served(app, port, state, chat)) as edge:
            yield edge


def request(body: bytes, path: str = "/v1/snapshots", *headers: str, length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", *headers]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not come")


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(status.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served() as edge:
        reader, writer = await edge.connect()
        bodies = [json.dumps({"world": f"w{number}"}).encode() for number in range(5)]
        writer.write(b"".join(map(request, bodies)))
        worlds = [json.loads((await answer(reader))[2])["world"] for _ in bodies]
        assert worlds == [f"w{number}" for number in range(5)]
        writer.close()


async def test_a_connection_serves_on_after_every_refusal() -> None:
    async with served() as edge:
        reader, writer = await edge.connect()
        for body, headers, status in (
            (b"{", (), 400),
            (b"\xff\xfe", (), 400),
            (b"[" * 200_000, (), 400),
            (b" " * 600_000, (), 413),
            (b"x" * 100, ("content-encoding: gzip",), 400),
            (b"x" * 100, ("content-encoding: br",), 415),
        ):
            writer.write(request(body, "/v1/snapshots", *headers))
            assert (await answer(reader))[0] == status
            writer.write(request(b"{}"))
            assert (await answer(reader))[0] == 200
        writer.close()
        assert len(edge.state.items) == 6


async def test_ten_megabytes_of_brackets_are_read_away_not_parsed() -> None:
    async with served(body_timeout_s=5.0) as edge:
        reader, writer = await edge.connect()
        writer.write(request(b"[" * 10_000_000))
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["error"]["reason"]) == (413, "BODY_TOO_LARGE")
        writer.write(request(b"{}"))
        assert (await answer(reader))[0] == 200
        writer.close()


async def test_a_huge_body_is_refused_at_its_headers_and_the_connection_closed() -> None:
    async with served() as edge:
        reader, writer = await edge.connect()
        writer.write(request(b"x", length=10**12))
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (413, "close")
        assert await reader.read() == b""
        writer.close()
        assert await edge.ok()


async def test_a_chunked_body_without_end_is_bounded() -> None:
    async with served() as edge:
        reader, writer = await edge.connect()
        writer.write(b"POST /v1/snapshots HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"

        async def flood() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(chunk)
                    await writer.drain()

        flooding = asyncio.create_task(flood())
        status, headers, _ = await answer(reader)
        assert status in (408, 413)
        assert headers["connection"] == "close"
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        writer.close()
        assert await edge.ok()


async def test_clients_that_close_in_the_middle_of_a_body() -> None:
    async with served() as edge:
        for _ in range(20):
            _, writer = await edge.connect()
            writer.write(request(b'{"world":', length=500))
            await writer.drain()
            writer.transport.abort()
        assert await edge.ok()
        assert [item.world.world for item in edge.state.items] == ["default"]


async def test_a_slow_body_gets_an_answer_and_others_are_not_held_up() -> None:
    async with served() as edge:
        reader, writer = await edge.connect()
        writer.write(request(b'{"world":', length=500))
        assert await edge.ok()
        status, headers, body = await answer(reader)
        assert (status, json.loads(body)["error"]["reason"]) == (408, "BODY_TIMEOUT")
        assert headers["connection"] == "close"
        writer.close()
        assert await edge.ok()


async def test_half_open_connections_and_slow_headers_are_closed() -> None:
    async with served() as edge:
        silent = [await edge.connect() for _ in range(500)]
        dripping, writer = await edge.connect()
        writer.write(b"POST /v1/snapshots HTTP/1.1\r\nhost: 127")
        assert await edge.ok()
        async with asyncio.timeout(30):
            for reader, _ in [*silent, (dripping, writer)]:
                assert await reader.read() == b""
        for _, one in [*silent, (dripping, writer)]:
            one.close()
        assert await edge.ok()


@asynccontextmanager
async def full(edge: Served) -> AsyncIterator[None]:
    """While as many requests as the edge takes wait for state."""
    edge.state.gate = asyncio.Event()
    connections = [await edge.connect() for _ in range(edge.app.settings.in_flight_max)]
    for _, writer in connections:
        writer.write(request(b"{}"))
    in_flight = "earshot_requests_in_flight"
    await until(lambda: edge.app.metrics.registry.get_sample_value(in_flight) == len(connections))
    yield
    edge.state.gate.set()
    for reader, writer in connections:
        assert (await answer(reader))[0] == 200
        writer.close()


async def test_what_does_not_fit_is_refused_before_anything_is_done_and_its_connection_serves_on() -> None:
    async with served(in_flight_max=2, snapshot_deadline_s=60.0) as edge:
        reader, writer = await edge.connect()
        async with full(edge):
            writer.write(request(b" " * 200_000) + request(b"{"))
            for _ in range(2):
                status, headers, body = await answer(reader)
                assert (status, headers["retry-after"], json.loads(body)["error"]["reason"]) == (429, "1", "OVERLOADED")
            async with httpx.AsyncClient(base_url=edge.url) as client:
                for path in ("/healthz", "/readyz?verbose=1", "/metrics", "/docs"):
                    assert (await client.get(path)).status_code == 200
                assert (await client.head("/v1/npcs")).status_code == 429
                close = await client.post("/v1/snapshots", json={}, headers={"connection": "close"})
                assert (close.status_code, close.headers["connection"]) == (429, "close")
        writer.write(request(b"{}"))
        assert (await answer(reader))[0] == 200
        writer.close()
        assert len(edge.state.items) == 3


async def test_who_waits_for_a_body_takes_nobodys_place() -> None:
    async with served(in_flight_max=1, body_timeout_s=30.0) as edge:
        slow = []
        for _ in range(5):
            slow.append(await edge.connect())
            slow[-1][1].write(request(b"{", length=2))
            assert await edge.ok()
        for reader, writer in slow:
            writer.write(b"}")
            assert (await answer(reader))[0] == 200
            writer.close()


async def test_a_body_that_comes_when_others_took_its_place_is_refused() -> None:
    async with served(in_flight_max=1, body_timeout_s=30.0, snapshot_deadline_s=60.0) as edge:
        reader, writer = await edge.connect()
        writer.write(request(b"{", length=2))
        assert await edge.ok()
        async with full(edge):
            writer.write(b"}")
            assert (await answer(reader))[0] == 429
        writer.write(request(b"{}"))
        assert (await answer(reader))[0] == 200
        writer.close()


async def test_a_refused_body_that_does_not_come_closes_its_connection() -> None:
    async with served(in_flight_max=1, snapshot_deadline_s=60.0) as edge, full(edge):
        reader, writer = await edge.connect()
        writer.write(request(b"{", length=500))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_headers_are_bounded() -> None:
    async with served() as edge:
        reader, writer = await edge.connect()
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        for _ in range(HEADER_BYTES // 1000 + 2):
            writer.write(b"x-filler: " + b"y" * 1000 + b"\r\n")
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["error"]["reason"]) == (400, "HEADERS_TOO_LARGE")
        writer.close()
        assert await edge.ok()


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_not_http_gets_a_clear_refusal(junk: bytes) -> None:
    async with served() as edge:
        reader, writer = await edge.connect()
        writer.write(junk)
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["error"]["reason"]) == (400, "INVALID_HTTP")
        writer.close()
        assert await edge.ok()


async def test_a_held_poll_ends_when_its_client_goes() -> None:
    async with served() as edge:
        _, writer = await edge.connect()
        writer.write(b"GET /v1/events?cursor=0&hold=20 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        gauge = edge.app.metrics.connections.labels("poll")
        await until(lambda: gauge._value.get() == 1)
        writer.transport.abort()
        await until(lambda: gauge._value.get() == 0)


async def test_stopping_answers_held_polls_and_refuses_new_connections() -> None:
    async with served() as edge:
        async with httpx.AsyncClient(base_url=edge.url, timeout=10) as client:
            poll = asyncio.create_task(client.get("/v1/events?cursor=0&hold=20"))
            await until(lambda: edge.app.metrics.connections.labels("poll")._value.get() == 1)
            started = asyncio.get_running_loop().time()
            await edge.app.stop()
            assert (await poll).json() == {"events": [], "cursor": 0, "reconnect": True}
            assert asyncio.get_running_loop().time() - started < 2
        with pytest.raises(OSError, match="Connect call failed"):
            await edge.connect()


async def test_http_1_0_and_head_and_options() -> None:
    async with served() as edge:
        async with httpx.AsyncClient(base_url=edge.url) as client:
            assert (await client.head("/readyz")).status_code == 200
            assert (await client.options("/v1/npcs")).status_code == 405
        reader, writer = await edge.connect()
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await answer(reader))[0] == 200
        assert await reader.read() == b""
        writer.close()


async def test_a_busy_port_and_a_public_address_without_keys_are_clear_failures(tmp_path: Path) -> None:
    async with served() as edge:
        taken = App(Settings(data=":memory:", listen=f"127.0.0.1:{edge.port}"), ("edge",))
        with pytest.raises(EarshotError) as caught:
            await bind(taken)
        assert caught.value.reason == "LISTEN_FAILED"
        assert str(edge.port) in caught.value.message
    for listen in ("0.0.0.0:0", "[::]:0", ":0"):
        with pytest.raises(EarshotError) as caught:
            await bind(App(Settings(data=str(tmp_path), listen=listen), ("edge",)))
        assert caught.value.reason == "LISTEN_NEEDS_KEYS"
    KeyFile(Settings(data=str(tmp_path))).create("red", 1)
    public = App(Settings(data=str(tmp_path), listen=f"0.0.0.0:{free_port()}"), ("edge",))
    await bind(public)
    await public.stop()
    with pytest.raises(EarshotError):
        address_of("nonsense")


async def test_the_key_in_the_path_works_and_is_nowhere_to_be_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = KeyFile(Settings(data=str(tmp_path))).create("red", 1)
    async with served(data=str(tmp_path)) as edge, httpx.AsyncClient(base_url=edge.url) as client:
        told = await client.post(f"/k/{key}/letta/v1/snapshot/game", json={"humanContext": []})
        assert told.json()["status"] == "success"
        assert (await client.post(f"/k/{key}x/letta/v1/snapshot/game", json={})).status_code == 401
        edge.state.failure = EarshotError("defect")
        assert (await client.get(f"/k/{key}/v1/npcs")).status_code == 500
        metrics = (await client.get("/metrics")).text
    assert edge.state.items[0].world.tenant == "red"
    seen = capsys.readouterr()
    assert "request_failed" in seen.out + seen.err
    assert key not in seen.out + seen.err + metrics


async def test_answers_are_not_held_back_for_the_clients_acknowledgement() -> None:
    """asyncio turns Nagle's algorithm off only for sockets that say that they are TCP: without, 40 ms an answer."""
    with contextlib.closing(bound_socket("127.0.0.1", 0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(look, sock=listening) as server:
            _, writer = await asyncio.open_connection(*listening.getsockname())
            with contextlib.closing(writer):
                assert await accepted
            server.close()
