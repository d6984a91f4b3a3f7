"""Server-sent events on GET /v1/events (`Accept: text/event-stream`): the same log for clients that can keep a stream.

Same cursors as the long poll, so that a client which loses one goes on with the other and misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from earshot.type.v1 import type_pb2

from services.common.errors import BadInput, EarshotError
from services.edge.answer import Answer, fault
from services.edge.contract.event import EventsAnswer
from services.edge.contract.frame import EventsFrame
from services.edge.doorbell import Doorbell
from services.edge.event import encode, public_event
from services.edge.events import Events
from services.edge.gateway import Flow
from services.edge.request import Request
from services.edge.routes import Route

KIND = b"text/event-stream; charset=utf-8"
# A comment when nothing happens, so that proxies keep the stream and dead ones are noticed.
PING_S = 15.0
RETRY = b"retry: 1000\n\n"


class EventStream:
    """GET /v1/events: a stream for who asks for one, else the long poll."""

    def __init__(self, events: Events, doorbell: Doorbell) -> None:
        self._events = events
        self._doorbell = doorbell

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/stream", self.socket, gives=EventsFrame, query=("world", "cursor")),
            Route("GET", "/v1/events", self.get, gives=EventsAnswer, query=("world", "cursor", "hold", "session")),
        ]

    async def socket(self, request: Request) -> Answer:
        """A WebSocket (subprotocols earshot.json and earshot.msgpack); a plain request is told so."""
        raise BadInput("connect here with a WebSocket, or poll /v1/events", reason="UPGRADE_REQUIRED")

    async def get(self, request: Request) -> Answer | Flow:
        """200 with events and the next cursor, 204 when the hold ended without any; or server-sent events.

        Without a cursor: from now on.
        """
        if b"text/event-stream" not in request.headers.get(b"accept", b""):
            return await self._events.get(request)
        cursor = _resumed(request.headers)
        if cursor is None and "cursor" in request.query:
            cursor = request.whole("cursor", 0, 2**63 - 1)
        return await self._flow(request.world(), cursor)

    async def _flow(self, world: type_pb2.WorldRef, cursor: int | None) -> Flow:
        """A stream from the cursor on, or from now. Raises what reading the log raises."""
        # The first reading decides the status; what fails later ends the stream with an event.
        start = cursor if cursor is not None else (await self._events.read(world, -1)).next_cursor
        return Flow(KIND, self._chunks(world, start))

    async def _chunks(self, world: type_pb2.WorldRef, cursor: int) -> AsyncIterator[bytes]:
        with (
            self._events.connected("sse", world),
            self._events.polls.held(world.tenant, "") as held,
            self._doorbell.listening(world, held),
        ):
            waited, held.cursor = False, cursor
            yield RETRY
            while not self._events.polls.draining:
                held.wake.clear()
                try:
                    response = await self._events.read(world, cursor)
                except EarshotError as error:
                    yield b"event: error\ndata: " + encode({"error": fault(error)}) + b"\n\n"
                    return
                if response.resync:
                    yield b"event: resync\ndata: " + encode({"cursor": response.next_cursor}) + b"\n\n"
                for event in response.events:
                    public = public_event(event)
                    if public is not None:
                        yield b"id: %d\ndata: %s\n\n" % (event.seq, encode(public))
                cursor = held.cursor = response.next_cursor or cursor
                if waited:
                    self._events.told(response, "sse")
                waited = False
                if response.events:
                    continue  # perhaps there is another page
                try:
                    async with asyncio.timeout(PING_S):
                        await held.wake.wait()
                    waited = True
                except TimeoutError:
                    yield b": ping\n\n"
            yield b"event: reconnect\ndata: " + encode({"cursor": cursor}) + b"\n\n"


def _resumed(headers: dict[bytes, bytes]) -> int | None:
    """The cursor of a browser's EventSource that reconnects."""
    value = headers.get(b"last-event-id", b"").strip()
    return int(value) if value.isdigit() and len(value) < 19 else None
