"""A real WebSocket on the edge's listener: its pings are measured."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any

import pytest
from websockets.asyncio.client import connect

from services.common.loop import PROMPT
from services.common.settings import Settings
from services.edge.listener import listener

pytestmark = pytest.mark.real_time


async def accept(scope: Any, receive: Any, send: Any) -> None:
    """Keep a socket until the client leaves."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


@asynccontextmanager
async def served(application: Any, round_trip: Callable[[float], None]) -> AsyncIterator[int]:
    """The port of a listener whose steps are PROMPT, as the edge's are; /healthz is open."""
    server = listener(
        application, lambda url: url == b"/metrics", lambda: True, Settings(), 1.0, round_trip
    )  # fmt: skip
    server.config.ws_ping_interval = 0.01
    prompt = copy_context()
    prompt.run(PROMPT.set, True)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        serving = asyncio.create_task(server.serve([listening]), context=prompt)
        try:
            async with asyncio.timeout(20):
                yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 20)


async def test_the_round_trip_of_a_ping_is_told() -> None:
    measured: asyncio.Queue[float] = asyncio.Queue()
    async with served(accept, measured.put_nowait) as port, connect(f"ws://127.0.0.1:{port}/", proxy=None):
        first, second = await measured.get(), await measured.get()
    assert min(first, second) >= 0
    assert max(first, second) < 20


async def test_probes_are_prompt_and_what_else_is_asked_on_their_connections_is_not() -> None:
    seen: list[tuple[str, bool]] = []

    async def note(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], PROMPT.get()))
        if scope["type"] == "websocket":
            await accept(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    paths = ("/healthz", "/v1/worlds", "/healthz", "/v1/npcs", "/metrics")
    async with served(note, lambda _: None) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            # All at once: each but the first begins when the one before is answered.
            writer.write(b"".join(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for path in paths))
            for _ in paths:
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            writer.write(b"GET /v1/worlds HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        async with connect(f"ws://127.0.0.1:{port}/v1/stream", proxy=None):
            pass
    assert [path for path, _ in seen] == [*paths, "/v1/worlds", "/v1/stream"]
    assert seen[0] == ("/healthz", True)
    assert not any(prompt for path, prompt in seen if path != "/healthz")
