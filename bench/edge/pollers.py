"""A thousand game servers that hold a long poll each: one process, plain sockets, no work but reading.

`python -m bench.edge.pollers PORT SERVERS HOLD_S`, run as a child: opens sessions, puts an NPC and a player into each
world, then polls for ever. On each line of stdin it answers with one line of JSON: what it has seen since the last.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

# Sessions are opened by so many at once: this is not what is measured.
AT_ONCE = 4
RETRY_S = 1.0
LOOK_S = 0.02


def world_of(number: int) -> str:
    return f"poll-{number:05d}"


@dataclass(slots=True)
class Seen:
    """Since the last look: milliseconds from an event's time to its arrival, and answers by status.

    late: milliseconds by which this process itself woke too late from short sleeps: what the machine adds to all.
    """

    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)

    def told(self) -> str:
        """As JSON, and forgotten."""
        text = json.dumps({"latencies": self.latencies, "statuses": self.statuses, "late": self.late})
        for one in (self.latencies, self.statuses, self.late):
            one.clear()
        return text

    async def watch(self) -> None:
        """For ever."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(LOOK_S)
            self.late.append((time.perf_counter() - began - LOOK_S) * 1000)


class GameServer:
    """One session and its poll, on one connection that stays open."""

    def __init__(self, port: int, number: int, seen: Seen) -> None:
        self._port = port
        self._world = world_of(number)
        self._seen = seen
        self._token = ""
        self._cursor = 0

    async def open(self) -> None:
        """A session with Mara and one player in it."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        told = await self._ask("POST", "/v1/sessions", {"job": self._world})
        self._token, self._cursor = told["token"], told["cursor"]
        entities = [
            {"id": "mara", "kind": "npc", "name": "Mara", "position": [0, 0, 0]},
            {"id": f"77{self._world[5:]}", "kind": "player", "name": "Ada", "position": [2, 0, 1]},
        ]
        await self._ask("POST", "/v1/sync", {"seq": 1, "entities": entities})

    async def poll(self, hold_s: float) -> None:
        """For ever."""
        while True:
            told = await self._ask("GET", f"/v1/events?cursor={self._cursor}&hold={hold_s:g}", None)
            arrived = time.time()
            for event in told.get("events", ()):
                self._seen.latencies.append((arrived - event["at"]) * 1000)
            self._cursor = told.get("cursor", self._cursor)

    async def _ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """The answer's JSON; asks again after a refusal."""
        text = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(text)}\r\n"
        if self._token:
            head += f"authorization: Bearer {self._token}\r\n"
        while True:
            self._writer.write(head.encode() + b"\r\n" + text)
            status, answer = await self._answer()
            self._seen.statuses[status] = self._seen.statuses.get(status, 0) + 1
            if status in (200, 204):
                return dict(json.loads(answer)) if answer else {}
            await asyncio.sleep(RETRY_S)

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"content-length: ")
        length = int(rest.partition(b"\r\n")[0]) if rest else 0
        return int(head[9:12]), await self._reader.readexactly(length)


async def run(port: int, servers: int, hold_s: float) -> None:
    seen = Seen()
    games = [GameServer(port, number, seen) for number in range(servers)]
    turns = asyncio.Semaphore(AT_ONCE)

    async def open_in_turn(game: GameServer) -> None:
        async with turns:
            await game.open()

    await asyncio.gather(*(open_in_turn(game) for game in games))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with asyncio.TaskGroup() as polls:
        tasks: list[asyncio.Task[None]] = []
        while line := await lines.readline():
            if line.strip() == b"poll" and not tasks:
                tasks = [polls.create_task(work) for work in (seen.watch(), *(game.poll(hold_s) for game in games))]
            print(seen.told(), flush=True)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
