"""The HTTP server: uvicorn with httptools under our own life cycle, plus the bounds that it leaves out.

Header time and size, connections, and a clear JSON answer to what is not HTTP. Signals belong to the process, not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from services.common.errors import BadInput, EarshotError, Overloaded
from services.common.settings import Settings
from services.edge.admission import RETRY_MS
from services.edge.answer import BASE_HEADERS, error_answer

HEADER_BYTES = 16 * 1024
KEEP_ALIVE_S = 75
BACKLOG = 1024
# Costs next to nothing, unlike the other open paths: a flood of those must not come before all other work.
PROBE = b"/healthz"
CLOSE = b"connection: close\r\n"
END = b"\r\n\r\n"


class ListenFailed(EarshotError):
    """The address cannot be listened on."""

    default_reason = "LISTEN_FAILED"


class EdgeProtocol(HttpToolsProtocol):
    """One connection. A request's headers must arrive within `header_timeout_s` and HEADER_BYTES."""

    header_timeout_s: ClassVar[float] = 5.0
    body_timeout_s: ClassVar[float] = 10.0
    connections_max: ClassVar[int] = 25_000
    # Whether this URL is a probe's or a page's, and whether a request for another one may come in now.
    is_open: ClassVar[Callable[[bytes], bool]]
    may_enter: ClassVar[Callable[[], bool]]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._header_bytes = 0
        self._in_headers = True
        self._shedding = False
        self._timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.connections_max:
            self._refuse(Overloaded("too many connections", retry_after_ms=1000))
            return
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        # Most requests come whole: a timer is for what is still missing.
        if self._in_headers and self._header_bytes > HEADER_BYTES:
            self._refuse(BadInput(f"headers are larger than {HEADER_BYTES} bytes", reason="HEADERS_TOO_LARGE"))
        elif self._in_headers and self._header_bytes and self._timer is None:
            self._expect_headers()
        elif self._shedding and self._timer is None:
            self._timer = self.loop.call_later(self.body_timeout_s, self.transport.close)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = 0
        self._stop_timer()
        if self.url == PROBE:
            # Its task is PROMPT, as this connection is.
            super().on_headers_complete()
        elif not type(self).is_open(self.url) and self._in_turn() and not type(self).may_enter():
            self._shedding = True
        else:
            Context().run(super().on_headers_complete)

    def on_response_complete(self) -> None:
        # The next request on this connection is no part of this one.
        Context().run(super().on_response_complete)

    def on_body(self, body: bytes) -> None:
        if not self._shedding:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_headers = True
        if self._shedding:
            self._shed()
        else:
            super().on_message_complete()

    def _in_turn(self) -> bool:
        """Whether this request is answered next, by a plain answer: not one behind others, not a handshake."""
        busy = self.cycle is not None and not self.cycle.response_complete
        return not (busy or self.expect_100_continue or self.parser.should_upgrade())

    def _shed(self) -> None:
        """Answer a request that was not let in, without a task or a look at it: refusing must cost next to nothing."""
        self._shedding = False
        self._stop_timer()
        if self.transport.is_closing():
            return
        last = not self.parser.should_keep_alive()
        answer = SHED_LAST if last else SHED
        if self.parser.get_method() == b"HEAD":
            answer = answer[: answer.index(END) + len(END)]
        self.transport.write(answer)
        if last:
            self.transport.close()
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def handle_websocket_upgrade(self) -> None:
        Context().run(super().handle_websocket_upgrade)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadInput("this is not HTTP/1.1", reason="INVALID_HTTP"))

    def _expect_headers(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_headers and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, error: EarshotError) -> None:
        """Answer without the application, then close."""
        self._stop_timer()
        self.transport.write(plain(error, CLOSE))
        self.transport.close()


def plain(error: EarshotError, more: bytes = b"") -> bytes:
    """The whole HTTP/1.1 answer for an error. more: further header lines."""
    answer = error_answer(error)
    head = f"HTTP/1.1 {answer.status} \r\ncontent-type: application/json\r\ncontent-length: {len(answer.body)}\r\n"
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in (*BASE_HEADERS, *answer.headers))
    return head.encode() + lines + more + b"\r\n" + answer.body


SHED = plain(Overloaded("the edge is overloaded", retry_after_ms=RETRY_MS))
SHED_LAST = plain(Overloaded("the edge is overloaded", retry_after_ms=RETRY_MS), CLOSE)


class Listener(uvicorn.Server):
    """A uvicorn server on a socket that is already bound."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process handles its signals."""
        yield


def bound_socket(host: str, port: int) -> socket.socket:
    """Listen now, so that a busy port is a clear failure at start. Raises ListenFailed."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        # asyncio sets TCP_NODELAY only on connections of a socket that names its protocol.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ListenFailed(f"cannot listen on {host}:{port}: {error.strerror or 'unknown address'}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ListenFailed(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


class EdgeSocket(WebSocketsSansIOProtocol):
    """A WebSocket that tells how long each of its pings took."""

    round_trip: ClassVar[Callable[[float], None]]

    def handle_pong(self, event: Frame) -> None:
        awaited = self.pending_ping_payload is not None
        super().handle_pong(event)
        if awaited and self.pending_ping_payload is None:
            type(self).round_trip(self.last_ping_rtt)


def listener(
    application: Any,
    is_open: Callable[[bytes], bool],
    may_enter: Callable[[], bool],
    settings: Settings,
    drain_s: float,
    round_trip: Callable[[float], None],
) -> Listener:
    """A server for the application.

    is_open: whether a URL is a probe's or a page's, which are always let in. may_enter: whether another request is let
    in now. drain_s: how long running requests may finish at its end.
    round_trip: told the seconds from a WebSocket's ping to its pong.
    """
    bounds = {
        "header_timeout_s": settings.header_timeout_s,
        "body_timeout_s": settings.body_timeout_s,
        "connections_max": settings.connections_max,
        "is_open": staticmethod(is_open),
        "may_enter": staticmethod(may_enter),
    }
    protocol = type("EdgeProtocol", (EdgeProtocol,), bounds)
    config = uvicorn.Config(
        application,
        http=protocol,
        ws=type("EdgeSocket", (EdgeSocket,), {"round_trip": staticmethod(round_trip)}),
        ws_max_size=64 * 1024,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        # Failures are answered and logged by the gateway; what uvicorn would add is noise that a client can cause.
        log_level="critical",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn would let the header replace the peer; the edge reads it itself, from trusted proxies only (peer.py).
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(drain_s) or 1,
        backlog=BACKLOG,
    )
    return Listener(config)
