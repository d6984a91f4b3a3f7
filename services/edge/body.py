"""Reading a request's body within its bounds: size, time, encoding, and the gzip ratio while inflating.

Nothing is parsed here. What is refused after its headers is still read to its end (bounded), so that the client gets
the answer instead of a reset and the next request on the connection works.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from services.common import tracing
from services.common.errors import BadInput, DeadlineExceeded, TooLarge

T = TypeVar("T")
Receive = Callable[[], Awaitable[dict[str, Any]]]
# Around the time in which a body arrives.
Waiting = Callable[[], AbstractContextManager[None]]

RATIO = 20
# The ratio is judged once this much came out: a few repeated rows compress well and are no bomb.
RATIO_FROM = 16 * 1024
# A refused body is read and thrown away up to here; a longer one closes the connection.
DRAIN_MAX = 16 * 1024 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_TYPES = (b"application/json", b"text/json", b"text/plain", b"application/x-www-form-urlencoded")


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes after and before inflating, and seconds for the whole body."""

    size: int
    compressed: int
    timeout_s: float


class Body:
    """One request's body."""

    def __init__(
        self, receive: Receive, headers: dict[bytes, bytes], limits: Limits, waiting: Waiting = contextlib.nullcontext
    ) -> None:
        self._receive = receive
        self._waiting = waiting
        self._headers = headers
        self._limits = limits
        self._ended = False
        self._drained = 0
        # What was refused before it was read to its end: the connection cannot be used again.
        self.abandoned = False

    async def read(self) -> bytes:
        """All of it, inflated. Raises TooLarge, BadInput, DeadlineExceeded (BODY_TIMEOUT), Overloaded, ClientGone."""
        with self._waiting():
            return await self._timely()

    async def _timely(self) -> bytes:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                try:
                    with tracing.span("receive", stage="receive"):
                        return await self._read()
                except (TooLarge, BadInput):
                    await self._drain()
                    raise
        except TimeoutError:
            self.abandoned = True
            raise DeadlineExceeded("the body did not arrive in time", reason="BODY_TIMEOUT") from None

    async def _read(self) -> bytes:
        coding = self._coding()
        limit = self._limits.compressed if coding else self._limits.size
        if self._declared() > limit:
            raise _too_large(limit)
        if not coding:
            return await self._plain(limit)
        return await self._inflated(limit)

    def _coding(self) -> bool:
        """True for gzip, False for identity."""
        kind = self._headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        # Form types are what curl and urllib say of any body; a browser page elsewhere is refused by its Origin.
        if kind and kind not in _TYPES and not kind.endswith(b"+json"):
            raise BadInput("send JSON as application/json", reason="UNSUPPORTED_TYPE")
        coding = self._headers.get(b"content-encoding", b"").strip().lower()
        if coding not in (b"", b"identity", b"gzip", b"x-gzip"):
            raise BadInput("bodies may be encoded as gzip or not at all", reason="UNSUPPORTED_ENCODING")
        return coding.endswith(b"gzip")

    def _declared(self) -> int:
        declared = self._headers.get(b"content-length", b"0")
        return int(declared) if declared.isdigit() and len(declared) < 20 else 0

    async def _plain(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while (chunk := await self._chunk()) is not None:
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _inflated(self, limit: int) -> bytes:
        inflater = zlib.decompressobj(_GZIP)
        parts: list[bytes] = []
        read = size = 0
        while (chunk := await self._chunk()) is not None:
            read += len(chunk)
            if read > limit:
                raise _too_large(limit)
            if inflater.eof and chunk:
                raise _bad_gzip()
            try:
                part = inflater.decompress(chunk, self._limits.size + 1 - size)
            except zlib.error:
                raise _bad_gzip() from None
            size += len(part)
            if size > self._limits.size:
                raise _too_large(self._limits.size)
            if size > RATIO_FROM and size > RATIO * read:
                raise TooLarge(f"the body inflates to more than {RATIO} times its size", reason="GZIP_RATIO")
            parts.append(part)
        if not inflater.eof or inflater.unused_data:
            raise _bad_gzip()
        return b"".join(parts)

    async def _chunk(self) -> bytes | None:
        if self._ended:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._ended = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def attended(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`, as long as the client waits for it: else it is cancelled and ClientGone raised."""
        if not self._ended:
            await self._timely()
        doing = asyncio.create_task(work())
        leaving = asyncio.create_task(self._disconnect())
        try:
            await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise ClientGone
        finally:
            doing.cancel()
            leaving.cancel()
            await asyncio.gather(doing, leaving, return_exceptions=True)

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _drain(self) -> None:
        """Read the rest of a refused body, unless the client waits to be told to send it or it is huge."""
        if b"expect" in self._headers or self._declared() > DRAIN_MAX:
            self.abandoned = not self._ended
            return
        while (chunk := await self._chunk()) is not None:
            self._drained += len(chunk)
            if self._drained > DRAIN_MAX:
                self.abandoned = True
                return


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes", reason="BODY_TOO_LARGE")


def _bad_gzip() -> BadInput:
    return BadInput("the body is not one whole gzip stream", reason="BAD_GZIP")
