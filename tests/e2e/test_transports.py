"""One client through every way down: WebSocket, long poll, server-sent events, sync; it misses nothing.

A sentence is said while each transport is in use and its turn goes on over the switch; connections are dropped, not
closed; only the cursor is carried over.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from tests.e2e.conftest import ROSTER, Scene
from tests.e2e.stack import SPLIT, Stack

PLAYERS = tuple(f"p{number}" for number in range(1, 5))
WAIT_S = 30.0


class Client:
    """A game that remembers one number."""

    def __init__(self, url: str, world: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=WAIT_S, trust_env=False)
        self.world = world
        self.cursor = 0
        self.seen: list[dict[str, Any]] = []
        self._seq = 0
        self._token = ""

    def take(self, page: dict[str, Any]) -> int:
        """Show a page's events; how many they were."""
        assert not page.get("resync"), "the log still has everything"
        self.seen += page["events"]
        self.cursor = page["cursor"]
        return len(page["events"])

    async def poll(self) -> None:
        while True:
            answer = await self.http.get(
                "/v1/events", params={"world": self.world, "cursor": self.cursor, "hold": WAIT_S / 3}
            )
            assert answer.status_code in (200, 204), answer.text
            if answer.status_code == 200 and self.take(answer.json()):
                return

    async def stream(self) -> None:
        """Server-sent events, left in the middle."""
        asked: dict[str, str | int] = {"world": self.world, "cursor": self.cursor}
        async with self.http.stream("GET", "/v1/events", params=asked, headers={"accept": "text/event-stream"}) as told:
            assert told.headers["content-type"].startswith("text/event-stream")
            async for line in told.aiter_lines():
                if line.startswith("id: "):
                    self.cursor = int(line.removeprefix("id: "))
                elif line.startswith("data: "):
                    self.seen.append(json.loads(line.removeprefix("data: ")))
                    return

    async def json_socket(self) -> None:
        async with self.socket("earshot.json") as socket:
            self.take(json.loads(await socket.recv()))

    async def packed_socket(self) -> None:
        async with self.socket("earshot.msgpack") as socket:
            frame = await socket.recv()
            assert isinstance(frame, bytes)
            self.take(msgspec.msgpack.decode(frame))

    @asynccontextmanager
    async def socket(self, protocol: str) -> AsyncIterator[ClientConnection]:
        """A WebSocket that is torn off at its end: no close frame, as when a process dies."""
        url = str(self.http.base_url).replace("http", "ws", 1).rstrip("/")
        connection = await connect(
            f"{url}/v1/stream?world={self.world}&cursor={self.cursor}", subprotocols=[protocol], proxy=None  # type: ignore[list-item] # a plain str
        )  # fmt: skip
        try:
            assert connection.subprotocol == protocol
            yield connection
        finally:
            connection.transport.abort()
            await connection.wait_closed()

    async def sync(self) -> None:
        """The uplink's answer carries events that are ready."""
        if not self._token:
            opened = await self.http.post("/v1/sessions", json={"job": self.world})
            self._token = opened.json()["token"]
        while True:
            self._seq += 1
            answer = await self.http.post(
                "/v1/sync",
                json={"seq": self._seq, "cursor": self.cursor},
                headers={"authorization": f"Bearer {self._token}"},
            )
            assert answer.status_code == 200, answer.text
            if "cursor" in answer.json() and self.take({"events": [], **answer.json()}):
                return
            await asyncio.sleep(0.02)

    async def say(self, player: str, text: str) -> None:
        said = await self.http.post("/v1/messages", json={"world": self.world, "player_id": player, "text": text})
        assert said.status_code == 200, said.text


def gather_people(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), brom=(3, 0, 0), **{player: (1.0, 0, 1.0 + i) for i, player in enumerate(PLAYERS)})


async def test_a_client_that_changes_its_transport_misses_nothing(scene: Scene) -> None:
    gather_people(scene)
    client = Client(scene.stack.url, scene.world)
    json_socket, packed_socket, poll, stream, sync = (
        client.json_socket, client.packed_socket, client.poll, client.stream, client.sync,
    )  # fmt: skip
    steps = (
        json_socket, poll, packed_socket, stream, poll, stream, sync, json_socket, stream, packed_socket, sync, poll,
        json_socket, sync, stream, json_socket, packed_socket,
    )  # fmt: skip
    assert len({frozenset(pair) for pair in pairwise(steps)}) == 10, "each transport is left for each other one"
    async with client.http, asyncio.timeout(100):
        async with asyncio.TaskGroup() as talk:
            for number, step in enumerate(steps):
                talk.create_task(
                    client.say(PLAYERS[number % len(PLAYERS)], f"Mara, what about the roof, part {number}?")
                )
                before = len(client.seen)
                await step()
                assert len(client.seen) > before, step
        everything = scene.events()
        while len(client.seen) < len(everything):
            await client.poll()
    assert [one["seq"] for one in client.seen] == [one["seq"] for one in everything], "each once and in order"
    assert client.seen == everything, "the same words by every way"
    assert any(one["type"] == "utterance" for one in everything)


async def test_a_restart_of_the_edge_moves_a_socket_to_polling(tmp_path: Path) -> None:
    with Stack(tmp_path / "data", SPLIT) as stack:
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        scene = Scene(stack, "moved")
        gather_people(scene)
        client = Client(stack.url, scene.world)
        async with client.http, asyncio.timeout(100):
            async with client.socket("earshot.json") as socket:
                await client.say(PLAYERS[0], "Mara, good evening!")
                while not client.seen:
                    client.take(json.loads(await socket.recv()))
                status = await asyncio.to_thread(stack.stop, "edge")
                frames = await rest_of(socket)
            assert status == {"edge": 0}
            for frame in frames[:-1]:
                client.take(frame)
            assert frames[-1] == {"type": "reconnect", "cursor": client.cursor}
            await asyncio.to_thread(stack.start)
            await asyncio.to_thread(stack.settle, scene.world)
            gather_people(scene)
            await client.say(PLAYERS[1], "Brom, are you still there?")
            await client.poll()
            everything = scene.events()
            while len(client.seen) < len(everything):
                await client.poll()
        assert client.seen == everything


async def rest_of(socket: ClientConnection) -> list[dict[str, Any]]:
    """What the socket still says until the server closes it, which it does to restart."""
    frames: list[dict[str, Any]] = []

    async def read() -> None:
        while True:
            frames.append(json.loads(await socket.recv()))

    with pytest.raises(ConnectionClosed):
        await read()
    assert socket.close_code == CloseCode.SERVICE_RESTART
    return frames
