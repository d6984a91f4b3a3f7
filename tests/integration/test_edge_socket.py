"""A real WebSocket on the edge's listener: its pings are measured."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from websockets.asyncio.client import connect

from services.common.settings import Settings
from services.edge.listener import listener

pytestmark = pytest.mark.real_time


async def accept(scope: Any, receive: Any, send: Any) -> None:
    """Keep a socket until the client leaves."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def test_the_round_trip_of_a_ping_is_told() -> None:
    measured: asyncio.Queue[float] = asyncio.Queue()
    server = listener(accept, lambda _: True, Settings(), 1.0, measured.put_nowait)
    server.config.ws_ping_interval = 0.01
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        serving = asyncio.create_task(server.serve([listening]))
        try:
            async with asyncio.timeout(20), connect(f"ws://127.0.0.1:{listening.getsockname()[1]}/", proxy=None):
                first, second = await measured.get(), await measured.get()
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 20)
    assert min(first, second) >= 0
    assert max(first, second) < 20
