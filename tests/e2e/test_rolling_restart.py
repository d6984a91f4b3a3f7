"""Two edges behind the shipped nginx are restarted one after the other while games play: no game notices."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import ROSTER
from tests.e2e.stack import SPLIT, Stack
from tests.integration.test_edge_http import free_port
from tests.integration.test_nginx import NAME, certificate, configured, pytestmark, running

__all__ = ["certificate", "pytestmark"]

GAMES = 6
# What Retry-After asks for.
RETRY_S = 1.0
ENTITIES = [
    {"id": "mara", "kind": "npc", "name": "Mara", "position": [0, 0, 0]},
    {"id": "5001", "kind": "player", "name": "Ada", "position": [2, 0, 1]},
]


@dataclass
class Game:
    """A game server as the SDK runs it: one sync and one poll in flight, each request tried twice at most."""

    number: int
    http: httpx.AsyncClient
    key: str
    token: str = ""
    cursor: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)
    said: int = 0
    retried: int = 0
    failed: list[str] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def world(self) -> str:
        return f"rolling-{self.number}"

    def expect(self) -> asyncio.Event:
        """Set when events come from now on."""
        self.heard = asyncio.Event()
        return self.heard

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token or self.key}"}

    async def ask(self, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response | None:
        """The answer of the first or the second try."""
        told = "nothing"
        for attempt in range(2):
            with contextlib.suppress(httpx.TransportError):
                answer = await send()
                if answer.status_code in (200, 204):
                    return answer
                told = f"{answer.status_code} {answer.text}"
            if not attempt:
                self.retried += 1
                await asyncio.sleep(RETRY_S)
        self.failed.append(told)
        return None

    async def open(self) -> None:
        answer = await self.http.post("/v1/sessions", json={"job": self.world}, headers=self.headers)
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["token"]

    async def play(self, stop: asyncio.Event) -> None:
        """Syncs with a sentence in every fourth; the same one again when it failed."""
        seq = 0
        while not stop.is_set():
            seq += 1
            body: dict[str, Any] = {"seq": seq, "entities": ENTITIES}
            if seq % 4 == 0:
                body["utterances"] = [{"player_id": "5001", "player_name": "Ada", "text": f"Mara, line {seq}?"}]
            answer = await self.ask(lambda body=body: self.http.post("/v1/sync", json=body, headers=self.headers))  # type: ignore[misc] # bound now
            if answer is not None and "utterances" in body:
                (said,) = answer.json()["utterances"]
                self.said += said["outcome"] in ("accepted", "duplicate")
            await asyncio.sleep(0.25)

    async def listen(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.poll(5.0)

    async def poll(self, hold: float) -> int:
        query = {"cursor": self.cursor, "hold": hold}
        answer = await self.ask(lambda: self.http.get("/v1/events", params=query, headers=self.headers))
        if answer is None or answer.status_code == 204:
            return 0
        page = answer.json()
        assert not page.get("resync")
        self.seen += page["events"]
        self.cursor = page["cursor"]
        if page["events"]:
            self.heard.set()
        return len(page["events"])


async def test_edges_restart_one_after_the_other_and_no_game_notices(tmp_path: Path, certificate: Path) -> None:
    behind = {"EARSHOT_TRUSTED_PROXIES": "127.0.0.1"}
    with Stack(tmp_path / "data", SPLIT, behind) as first:
        key = first.create_key("red")
        first.http.put("/v1/npcs", json=ROSTER, headers={"authorization": f"Bearer {key}"}).raise_for_status()
        with first.beside() as second:
            port = free_port()
            command = configured(
                [int(one.url.rpartition(":")[2]) for one in (first, second)], port, certificate, tmp_path
            )
            async with running(command, port), client(port, certificate) as http:
                games = [Game(number, http, key) for number in range(GAMES)]
                await played(games, [first, second])
                for game in games:
                    while await game.poll(0):
                        pass
        for game in games:
            everything = log(first, game)
            assert game.failed == []
            assert game.seen == everything, "each once and in order"
            lines = [one for one in everything if one["type"] == "utterance" and not one["ai"]]
            assert len(lines) == game.said > 0


def client(port: int, certificate: Path) -> httpx.AsyncClient:
    """By nginx's name and certificate, wherever it listens."""
    context = ssl.create_default_context(cafile=str(certificate / "fullchain.pem"))
    transport = httpx.AsyncHTTPTransport(verify=context)

    class Here(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            request.extensions["sni_hostname"] = NAME
            return await transport.handle_async_request(request)

        async def aclose(self) -> None:
            await transport.aclose()

    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", headers={"host": NAME}, transport=Here(), timeout=30)


async def played(games: list[Game], edges: list[Stack]) -> None:
    """Let the games play while each edge restarts."""
    stop = asyncio.Event()
    for game in games:
        await game.open()
    async with asyncio.TaskGroup() as playing:
        for game in games:
            playing.create_task(game.play(stop))
            playing.create_task(game.listen(stop))
        for edge in edges:
            heard = [game.expect() for game in games]
            assert await asyncio.to_thread(edge.stop, "edge") == {"edge": 0}
            await asyncio.to_thread(edge.start)
            async with asyncio.timeout(60):
                for event in heard:
                    await event.wait()
        stop.set()


def log(stack: Stack, game: Game) -> list[dict[str, Any]]:
    """The world's whole log, from an edge itself."""
    found: list[dict[str, Any]] = []
    cursor = 0
    while True:
        page = stack.http.get(
            "/v1/events",
            params={"world": game.world, "cursor": cursor},
            headers={"authorization": f"Bearer {game.key}"},
        ).json()
        if not page["events"]:
            return found
        found += page["events"]
        cursor = page["cursor"]
