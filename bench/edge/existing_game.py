"""The existing game blocks its own loop on group and status updates: they must be fast whatever Letta does."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import target
from bench.catalogue import progress
from bench.figures import percentile
from bench.result import Result
from bench.target import Target, TargetFailed

CALLS = 400
# Chats that wait for the model meanwhile.
CHATS = 4
GOAL_MS = 50.0
NPCS = [{"id": f"npc-{number}", "display_name": f"Npc {number}"} for number in range(20)]


@contextmanager
def hung() -> Iterator[str]:
    """The URL of a Letta that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        taken: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    taken.append(listening.accept()[0])
            except OSError:
                pass  # the end

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for one in taken:
                one.close()


@contextmanager
def absent() -> Iterator[str]:
    """The URL of a Letta that refuses connections."""
    (port,) = target.free_ports(1)
    yield f"http://127.0.0.1:{port}"


def run(folder: Path, seconds: float | None) -> list[Result]:
    """Results; starts its own servers. Raises TargetFailed."""
    found = []
    for name, letta in (("hangs", hung), ("refuses", absent)):
        with letta() as url:
            settings = {"EARSHOT_LETTA_BASE_URL": url, "EARSHOT_RUNTIMES": "letta,offline"}
            one = target.earshot(f"existing game, Letta {name}", folder, "all", environment=settings)
            try:
                one.start(folder)
                found += _measured(one, name)
            finally:
                one.stop()
    return found


def _measured(one: Target, name: str) -> list[Result]:
    game = Game(one)
    if game.post("/v1/npcs", {"npcs": NPCS}, "PUT")[0] != 200:
        raise TargetFailed("the roster was not taken")
    chats = [threading.Thread(target=_chat, args=(one, number), daemon=True) for number in range(CHATS)]
    for chat in chats:
        chat.start()
    found = []
    for path, body in (("npc/group/update", _group), ("npc/status/update", _status)):
        latencies = []
        for number in range(CALLS):
            began = time.perf_counter()
            status, answer = game.post(f"/letta/v1/{path}", body(number))
            latencies.append((time.perf_counter() - began) * 1000)
            if status != 200:
                raise TargetFailed(f"{path} answered {status}: {answer[:300]!r}")
        p95 = percentile(sorted(latencies), 0.95)
        progress(f"edge: Letta {name}: {path} p50 {percentile(sorted(latencies), 0.5):.1f} ms, p95 {p95:.1f} ms")
        found.append(Result(f"{path} p95 while Letta {name}", p95, "ms", GOAL_MS, "less"))
    return found


class Game:
    """The game's own loop: one call after the other."""

    def __init__(self, one: Target) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=60)

    def post(self, path: str, body: Any, method: str = "POST") -> tuple[int, bytes]:
        self._connection.request(method, path, json.dumps(body), {"roblox-id": "4711"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def _chat(one: Target, number: int) -> None:
    """A sentence to an NPC, held open until the turn is over, if it ever is."""
    line = {"role": "user", "content": f"Hello {number}", "name": "Ada"}
    body = {"npc_id": NPCS[number]["id"], "participant_id": f"50{number}", "messages": [line]}
    with contextlib.suppress(OSError, http.client.HTTPException):  # the server was stopped
        Game(one).post("/letta/v1/chat/v3", body)


def _group(number: int) -> dict[str, Any]:
    npc = NPCS[number % len(NPCS)]["id"]
    return {"npc_id": npc, "player_id": f"50{number % 8}", "player_name": f"Player {number % 8}", "is_joining": True}


def _status(number: int) -> dict[str, Any]:
    npc = NPCS[number % len(NPCS)]["id"]
    return {"npc_id": npc, "status_text": f"health: {100 - number % 90} | location: inn | current_action: Patrolling"}
