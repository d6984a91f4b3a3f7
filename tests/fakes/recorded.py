"""An HTTP server on loopback that answers what was written down: status, headers and body, one after the other."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Written:
    """One answer. body: text as it goes over the wire, or chunks of a completion, written as server-sent events."""

    body: str | list[Any] = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def wire(self) -> bytes:
        text = self.body
        kind = "application/json"
        if isinstance(text, list):
            kind = "text/event-stream"
            text = "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in text)
        rows = {"content-type": kind, "content-length": str(len(text.encode())), "connection": "close"} | self.headers
        head = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
        return f"HTTP/1.1 {self.status} X\r\n{head}\r\n{text}".encode()


class Recorded:
    """Answers in order, the last one again and again; `requests` are (path, JSON body) as they came."""

    def __init__(self, *answers: Written) -> None:
        self._answers = deque(answers)
        self.requests: list[tuple[str, Any]] = []
        self.url = ""

    def answer(self, *answers: Written) -> None:
        """Other answers from now on."""
        self._answers = deque(answers)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        lengths = [row.split(":")[1] for row in head if row.lower().startswith("content-length:")]
        raw = await reader.readexactly(int(lengths[0])) if lengths else b""
        self.requests.append((head[0].split(" ")[1], json.loads(raw) if raw else None))
        answer = self._answers.popleft() if len(self._answers) > 1 else self._answers[0]
        writer.write(answer.wire())
        await writer.drain()
        writer.close()
