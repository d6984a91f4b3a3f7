"""Bounds what an HTTP client of httpx reads of one answer: a server that never stops must not fill the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from services.sync.runtimes.port import Garbled

# Bytes of one answer, a whole stream included; more is a broken server.
ANSWER_BYTES_MAX = 4 * 2**20


class Bounded(httpx.AsyncByteStream):
    """A body; reading more than it may have raises Garbled."""

    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._body:
            size += len(piece)
            if size > ANSWER_BYTES_MAX:
                raise Garbled("the answer is too large")
            yield piece

    async def aclose(self) -> None:
        await self._body.aclose()


async def bound(response: httpx.Response) -> None:
    """A response hook of httpx.AsyncClient."""
    if isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = Bounded(response.stream)
