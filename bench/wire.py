"""HTTP/1.1 in as few steps as Python allows: a model that streams one answer, and a client that keeps connections.

An HTTP library and a scripted model cost more for a line than the server that is measured; on the same cores they would
be what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

_NUMBER = re.compile(rb"#(\d+)")
_STREAM = re.compile(rb'"stream": *true')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
# Less than a server keeps a connection on which nothing is asked.
IDLE_S = 30.0
SAID = "I have heard of it. Ask me again tomorrow."


def _chunk(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "model": "bench", **fields}).encode() + b"\n\n"


def _choice(finish: str | None, **delta: str) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "finish_reason": finish}]


def _answer(kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


_WORDS = re.findall(r"\S+\s*", SAID)
COMPLETION = _answer(
    "text/event-stream",
    b"".join(_chunk(choices=_choice(None, content=word)) for word in _WORDS)
    + _chunk(choices=_choice("stop"))
    + _chunk(choices=[], usage={"prompt_tokens": 500, "completion_tokens": len(_WORDS)})
    + b"data: [DONE]\n\n",
)
SUMMARY = _answer(
    "application/json",
    json.dumps(
        {
            "object": "chat.completion",
            "model": "bench",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 300, "completion_tokens": len(_WORDS)},
        }
    ).encode(),
)
MODELS = _answer("application/json", b'{"object": "list", "data": [{"id": "bench", "object": "model"}]}')


class Model:
    """An OpenAI-compatible endpoint that takes `delay_ms` and says SAID, streamed or whole as it is asked; a context.

    asked: loop time at which each number (`#12` in the newest line) was first asked about; calls: turns at all;
    summaries: what was asked whole.
    """

    def __init__(self, delay_ms: float) -> None:
        self.delay_s = delay_ms / 1000
        self.asked: dict[int, float] = {}
        self.calls = 0
        self.summaries = 0
        self._server: asyncio.Server | None = None
        self.base_url = ""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Line(self), "127.0.0.1", 0, backlog=512)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None, "entered"
        self._server.close()

    def take(self, body: bytes) -> bytes:
        """Note one question; the answer to it."""
        if not _STREAM.search(body):
            self.summaries += 1
            return SUMMARY
        self.calls += 1
        numbers = _NUMBER.findall(body)
        if numbers:
            self.asked.setdefault(int(numbers[-1]), asyncio.get_running_loop().time())
        return COMPLETION


class _Line(asyncio.Protocol):
    """One connection: one request at a time, as the client of a runtime sends them."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._held = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._held[:end])
        length = _LENGTH.search(head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._held) < whole:
            return
        body = bytes(self._held[end + 4 : whole])
        del self._held[:whole]
        assert self._transport is not None, "connected"
        if head.startswith(b"POST"):
            answer = self._model.take(body)
            asyncio.get_running_loop().call_later(self._model.delay_s, self._write, answer)
        else:
            self._write(MODELS)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


@dataclass(slots=True)
class Client:
    """Requests to one port on connections that stay open, as many as are needed at once."""

    port: int
    # Each with the loop time since which it is idle.
    _idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = field(default_factory=deque)

    async def post(self, path: str, body: Any, most_s: float, token: str = "") -> tuple[int, Any]:
        """Status and decoded answer, within `most_s`. Raises OSError (TimeoutError too), IncompleteReadError."""
        return await self._request("POST", path, json.dumps(body).encode(), most_s, token)

    async def get(self, path: str, most_s: float, token: str = "") -> tuple[int, Any]:
        """The same without a body. An answer without one is None."""
        return await self._request("GET", path, b"", most_s, token)

    async def _request(self, method: str, path: str, sent: bytes, most_s: float, token: str) -> tuple[int, Any]:
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {token}\r\n" if token else ""
        head += f"content-length: {len(sent)}\r\n\r\n"
        async with asyncio.timeout(most_s):
            reader, writer = self._free() or await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(head.encode() + sent)
                answered = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(answered)
                told = await reader.readexactly(int(length[1]) if length else 0)
            except BaseException:
                writer.close()
                raise
        self._idle.append((reader, writer, asyncio.get_running_loop().time()))
        return int(answered[9:12]), json.loads(told) if told else None

    def _free(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """An idle connection that the server is not about to close: that it closes them is no failure."""
        now = asyncio.get_running_loop().time()
        while self._idle and now - self._idle[0][2] > IDLE_S:
            self._idle.popleft()[1].close()
        return self._idle.pop()[:2] if self._idle else None

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop()[1].close()
