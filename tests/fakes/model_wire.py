"""The fake model's HTTP/1.1 connections: requests in, answers out, at any pace or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

MAX_BODY: Final = 32 * 2**20  # bytes
PIECE: Final = 64 * 1024  # bytes; longer frames wait for the client to read them


class BadRequest(Exception):
    """The request cannot be served; `status` and the text go back as an OpenAI error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


class Reader(asyncio.StreamReader):
    """A stream reader that can be asked to wait for the client's end without taking bytes."""

    def __init__(self) -> None:
        super().__init__(limit=2**16)
        self.ended = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.ended.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.ended.set()


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    keep_alive: bool


class Exchange:
    """One request and its answer on a kept-alive connection."""

    def __init__(self, reader: Reader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def receive(self) -> Request:
        """Read one request. Raises BadRequest, or IncompleteReadError when the client is done."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise BadRequest(431, "headers too large") from error
        first, *rows = head.decode("latin-1").split("\r\n")
        parts = first.split(" ")
        if len(parts) != 3:
            raise BadRequest(400, "malformed request line")
        headers = {k.strip().lower(): v.strip() for k, _, v in (row.partition(":") for row in rows if row)}
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdecimal():
            raise BadRequest(411, "a Content-Length is needed")
        if int(length) > MAX_BODY:
            raise BadRequest(413, "body too large")
        raw = await self._reader.readexactly(int(length))
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            raise BadRequest(400, "the body is not JSON") from error
        url = urlsplit(parts[1])
        keep_alive = headers.get("connection", "").lower() != "close"
        return Request(parts[0], url.path, parse_qs(url.query), body, keep_alive)

    def head(self, status: int, kind: str, length: int | None = None, retry_after: str | None = None) -> bytes:
        """The head of an answer; without a length the body is chunked."""
        rows = [f"HTTP/1.1 {status} {'OK' if status < 300 else 'Fake'}", f"content-type: {kind}"]
        rows.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
        if retry_after is not None:
            rows.append(f"retry-after: {retry_after}")
        return "\r\n".join([*rows, "", ""]).encode()

    async def send(self, status: int, raw: bytes, retry_after: str | None = None) -> None:
        self._writer.write(self.head(status, "application/json", len(raw), retry_after) + raw)
        await self._writer.drain()

    async def send_json(self, value: Any) -> None:
        await self.send(200, json.dumps(value).encode())

    async def send_error(self, status: int, text: str, retry_after: str | None = None) -> None:
        error = {"message": text, "type": "fake_error", "param": None, "code": str(status)}
        await self.send(status, json.dumps({"error": error}).encode(), retry_after)

    async def send_frames(self, head: bytes, frames: Sequence[bytes], pause_ms: float, slow: bool) -> None:
        """Write the frames as HTTP chunks; `slow` pauses before each, also within a single frame."""
        if slow and len(frames) == 1:
            size = max(1, len(frames[0]) // 8)
            frames = [frames[0][at : at + size] for at in range(0, len(frames[0]), size)]
        self._writer.write(head)
        for number, frame in enumerate(frames):
            if slow or (pause_ms and number):
                await self.pause(pause_ms)
            self._writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            if pause_ms or len(frame) >= PIECE:
                await self._writer.drain()
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def send_half(self, head: bytes, frames: Sequence[bytes]) -> None:
        """Send the first half of an answer, then reset the connection."""
        half = b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)
        self._writer.write(head + half[: len(half) // 2])
        await self._writer.drain()
        self.reset()

    def reset(self) -> None:
        """Close with RST, dropping what the peer has not read."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def pause(self, milliseconds: float) -> None:
        """Wait; raises ClientGone as soon as the client closes."""
        if milliseconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reader.ended.wait(), milliseconds / 1000)
            raise ClientGone

    async def hang(self) -> None:
        """Wait until the client gives up."""
        await self._reader.ended.wait()
        raise ClientGone
