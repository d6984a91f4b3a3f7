"""Every room in one process over in-process stubs, without a socket: what tests of whole flows drive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from services.cli.process import ORDER
from services.common.app import App
from services.common.settings import Settings
from services.edge import server as edge_server

ROSTER = {
    "npcs": [
        {"id": "mara", "display_name": "Mara", "persona": "You keep the tavern.", "lines": ["Sit, the soup is hot."]},
        {"id": "brom", "display_name": "Brom", "persona": "You are a smith.", "lines": ["Iron does not lie."]},
    ]
}


@dataclass
class Whole:
    """A running Earshot and a client of its HTTP contract."""

    app: App
    http: httpx.AsyncClient

    async def snapshot(self, world: str = "tavern", /, **positions: tuple[float, float, float]) -> httpx.Response:
        """Put entities somewhere; ids that start with p are players."""
        entities = [
            {"id": one, "kind": "player" if one.startswith("p") else "npc", "name": one.capitalize(),
             "position": {"x": x, "y": y, "z": z}}
            for one, (x, y, z) in positions.items()
        ]  # fmt: skip
        return await self.http.post("/v1/snapshots", json={"world": world, "entities": entities})

    async def say(self, text: str, player: str = "p1", world: str = "tavern", **more: Any) -> httpx.Response:
        return await self.http.post("/v1/messages", json={"world": world, "player_id": player, "text": text, **more})


@asynccontextmanager
async def whole(**settings: Any) -> AsyncIterator[Whole]:
    """Start all rooms; the edge is called as ASGI."""
    import importlib

    app = App(Settings(**{"data": ":memory:", "listen": "127.0.0.1:0", "shutdown_s": 1.0, **settings}), ORDER)
    for room in ORDER[:-1]:
        await importlib.import_module(f"services.{room}.server").bind(app)
    edge = edge_server.build(app)
    async with app, edge.running():
        transport = httpx.ASGITransport(app=edge.gateway)  # type: ignore[arg-type] # ASGI types its messages otherwise
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as http:
            answer = await http.put("/v1/npcs", json=ROSTER)
            assert answer.status_code == 200, answer.text
            yield Whole(app, http)
