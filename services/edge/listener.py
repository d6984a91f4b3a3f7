"""The HTTP server: uvicorn with httptools under our own life cycle, plus the bounds that it leaves out.

Header time and size, connections, and a clear JSON answer to what is not HTTP. Signals belong to the process, not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.common.errors import BadInput, EarshotError, Overloaded
from services.common.settings import Settings
from services.edge.answer import error_answer

HEADER_BYTES = 16 * 1024
KEEP_ALIVE_S = 75
BACKLOG = 1024


class ListenFailed(EarshotError):
    """The address cannot be listened on."""

    default_reason = "LISTEN_FAILED"


class EdgeProtocol(HttpToolsProtocol):
    """One connection. A request's headers must arrive within `header_timeout_s` and HEADER_BYTES."""

    header_timeout_s: ClassVar[float] = 5.0
    connections_max: ClassVar[int] = 25_000

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._header_bytes = 0
        self._in_headers = True
        self._header_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.connections_max:
            self._refuse(Overloaded("too many connections", retry_after_ms=1000))
            return
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_timer is None:
                # The first bytes of the next request on this connection.
                self._expect_headers()
        super().data_received(data)
        if self._in_headers and self._header_bytes > HEADER_BYTES and not self.transport.is_closing():
            self._refuse(BadInput(f"headers are larger than {HEADER_BYTES} bytes", reason="HEADERS_TOO_LARGE"))

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadInput("this is not HTTP/1.1", reason="INVALID_HTTP"))

    def _expect_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if self._in_headers and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, error: EarshotError) -> None:
        """Answer without the application, then close."""
        self._stop_timer()
        answer = error_answer(error)
        head = f"HTTP/1.1 {answer.status} \r\ncontent-type: application/json\r\ncontent-length: {len(answer.body)}\r\n"
        extra = b"".join(name + b": " + value + b"\r\n" for name, value in answer.headers)
        self.transport.write(head.encode() + extra + b"connection: close\r\n\r\n" + answer.body)
        self.transport.close()


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


def listener(application: Any, settings: Settings, drain_s: float) -> Listener:
    """A server for the application; `drain_s` bounds how long running requests may finish at its end."""
    bounds = {"header_timeout_s": settings.header_timeout_s, "connections_max": settings.connections_max}
    protocol = type("EdgeProtocol", (EdgeProtocol,), bounds)
    config = uvicorn.Config(
        application,
        http=protocol,
        ws="auto",
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
