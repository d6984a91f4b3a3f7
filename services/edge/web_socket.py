"""GET /v1/stream: the log pushed over a WebSocket, for engines and tools that may keep one (Roblox servers may not).

The same cursors as the long poll: whoever loses the socket goes on there and misses nothing. One task writes, this one
reads; a client that reads slowly holds up only itself, because nothing is buffered beyond the page in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.common.clock import Clock
from services.common.errors import BadInput, EarshotError, Internal, NotFound, Overloaded
from services.common.logs import get_logger
from services.edge import bounds
from services.edge.admission import Admission, Bucket
from services.edge.answer import error_answer, fault
from services.edge.body import Body, Limits
from services.edge.contract.frame import (
    ClientFrame,
    ErrorFrame,
    EventsFrame,
    PongFrame,
    ReconnectFrame,
    SaidFrame,
)
from services.edge.document import Document, wrong_type
from services.edge.doorbell import Doorbell
from services.edge.entry import Entry
from services.edge.event import public_event
from services.edge.events import Events
from services.edge.messages import message_answer, said
from services.edge.request import Request, ask
from services.edge.rooms import WRITE_S, Rooms
from services.edge.routes import Route, Target

FRAME_BYTES = 64 * 1024
# Frames of one connection (operations.md, Security); who goes on after so many refusals is closed.
RATE, BURST = 5.0, 20.0
STRIKES = 20
PATH = ("v1", "stream")
JSON, MSGPACK = "earshot.json", "earshot.msgpack"
# RFC 6455, 7.4.1, and its registry.
POLICY, TOO_BIG, SERVER_ERROR, RESTART = 1008, 1009, 1011, 1012

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_FRAME = Document(ClientFrame)
# For admission: a handshake is a request like any other.
_ROUTE = Route("GET", "/v1/stream", None)
_log = get_logger("edge")


class WebSockets:
    """Takes connections for the gateway."""

    def __init__(
        self,
        rooms: Rooms,
        entry: Entry,
        admission: Admission,
        events: Events,
        doorbell: Doorbell,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._rooms = rooms
        self._entry = entry
        self._admission = admission
        self._events = events
        self._doorbell = doorbell
        self._limits = limits
        self._clock = clock

    async def serve(self, scope: Scope, receive: Receive, send: Send, target: Target) -> None:
        """One connection, from its handshake to its end."""
        await receive()  # websocket.connect
        with contextlib.ExitStack() as gates:
            try:
                gates.enter_context(self._admission.admitted(_ROUTE))
                request, world, cursor = await self._opened(scope, receive, target)
                # From here on it waits, as a held poll does.
                gates.enter_context(self._admission.hold())
            except EarshotError as error:
                await _deny(scope, send, error)
                return
            offered = scope.get("subprotocols") or []
            protocol = next((one for one in offered if one in (JSON, MSGPACK)), None)
            await send({"type": "websocket.accept", "subprotocol": protocol})
            await self._talk(_Connection(send, packed=protocol == MSGPACK), request, world, cursor, receive)

    async def _talk(
        self, connection: _Connection, request: Request, world: type_pb2.WorldRef, cursor: int, receive: Receive
    ) -> None:
        writer = asyncio.create_task(self._push(connection, world, cursor), name="edge.socket")
        reader = asyncio.create_task(self._listen(connection, request, world, receive), name="edge.socket.read")
        try:
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            code = _end_of(writer if writer.done() else reader)
            if code:
                await connection.close(code)
        finally:
            writer.cancel()
            reader.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _opened(self, scope: Scope, receive: Receive, target: Target) -> tuple[Request, type_pb2.WorldRef, int]:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if target.segments != PATH:
            raise NotFound("no WebSocket here; it is at /v1/stream", reason="UNKNOWN_PATH")
        caller = self._entry.caller(target, scope, headers)
        content = Body(receive, headers, self._limits)
        request = Request("GET", headers, scope["query_string"], caller, content, target.job)
        world = request.world()
        if "cursor" in request.query:
            return request, world, request.whole("cursor", 0, 2**63 - 1)
        return request, world, (await self._events.read(world, -1)).next_cursor

    async def _push(self, connection: _Connection, world: type_pb2.WorldRef, cursor: int) -> int:
        """Write events as the log grows; the code to close with."""
        with (
            self._events.connected("websocket", world),
            self._events.polls.held(world.tenant, "") as held,
            self._doorbell.listening(world, held),
        ):
            waited, held.cursor = False, cursor
            while not self._events.polls.draining:
                held.wake.clear()
                try:
                    response = await self._events.read(world, cursor)
                except EarshotError as error:
                    await connection.send(ErrorFrame(fault(error)))
                    return SERVER_ERROR
                cursor = held.cursor = response.next_cursor or cursor
                if response.events or response.resync:
                    events = [public for one in response.events if (public := public_event(one)) is not None]
                    await connection.send(EventsFrame(events, cursor, response.resync))
                    if waited:
                        self._events.told(response, "websocket")
                    waited = False
                else:
                    await held.wake.wait()
                    waited = True
            await connection.send(ReconnectFrame(cursor))
            return RESTART

    async def _listen(
        self, connection: _Connection, request: Request, world: type_pb2.WorldRef, receive: Receive
    ) -> int:
        """Take the client's frames; the code to close with, 0 when it has left."""
        bucket = Bucket(RATE, BURST)
        strikes = 0
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return 0
            data: bytes = message.get("bytes") or (message.get("text") or "").encode("utf-8", "surrogatepass")
            if len(data) > FRAME_BYTES:
                return TOO_BIG
            ref = ""
            try:
                wait = bucket.take(self._clock.monotonic())
                if wait:
                    raise Overloaded("more frames than a connection may send", reason="RATE_LIMITED",
                                     retry_after_ms=round(wait * 1000) + 1)  # fmt: skip
                frame = connection.read(data)
                ref = "" if frame.ref is None else bounds.identify(frame.ref, "ref")
                await connection.send(await self._answer(frame, ref, request, world))
            except EarshotError as error:
                await connection.send(ErrorFrame(fault(error), ref))
                strikes += 1
                if strikes >= STRIKES:
                    return POLICY

    async def _answer(
        self, frame: ClientFrame, ref: str, request: Request, world: type_pb2.WorldRef
    ) -> SaidFrame | PongFrame:
        if frame.type == "ping":
            return PongFrame(ref)
        if frame.type == "message":
            say = said(frame, world if frame.world is None else request.world(frame.world))
            response: chat_pb2.SayResponse = await ask(self._rooms.chat.Say(say, timeout=WRITE_S))
            return SaidFrame(message_answer(response), ref)
        raise BadInput("type: ping or message", reason="UNKNOWN_FRAME")


class _Connection:
    """Frames in the connection's encoding."""

    def __init__(self, send: Send, *, packed: bool) -> None:
        self._send = send
        self._packed = packed
        self._encode = msgspec.msgpack.Encoder().encode if packed else msgspec.json.Encoder().encode
        self._unpack = msgspec.msgpack.Decoder(ClientFrame).decode

    def read(self, data: bytes) -> ClientFrame:
        """A frame of the client. Raises BadInput."""
        if not self._packed:
            return _FRAME.value(data)
        try:
            return self._unpack(data)
        except msgspec.ValidationError as error:
            raise wrong_type(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadInput("the frame is not MessagePack", reason="INVALID_MSGPACK") from None

    async def send(self, frame: msgspec.Struct) -> None:
        data = self._encode(frame)
        key, value = ("bytes", data) if self._packed else ("text", data.decode())
        await self._send({"type": "websocket.send", key: value})

    async def close(self, code: int) -> None:
        await self._send({"type": "websocket.close", "code": code})


def _end_of(task: asyncio.Task[int]) -> int:
    """The close code that a task ended with; a defect is logged, not shown."""
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, OSError):
        return 0  # the client went while we wrote
    _log.error("socket_failed", error=type(error).__name__, exc_info=error)
    return SERVER_ERROR


async def _deny(scope: Scope, send: Send, error: EarshotError) -> None:
    """Refuse the handshake with the same JSON as any request, where the server can say it."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": POLICY})
        return
    answer = error_answer(Internal("internal error") if isinstance(error, Internal) else error)
    headers = [*answer.headers, (b"content-type", answer.kind), (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": answer.body})
