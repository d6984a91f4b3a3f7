"""The ASGI application: admission, tenant, route, endpoint, answer; errors and metrics in one place.

Whatever goes wrong, the client gets one JSON answer and the connection serves the next request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Histogram

from services.common import tracing
from services.common.errors import EarshotError, Internal, Unavailable
from services.common.logs import get_logger
from services.common.telemetry import Metrics
from services.edge.admission import Admission
from services.edge.answer import BASE_HEADERS, Answer, compressed, error_answer
from services.edge.body import Body, ClientGone, Limits
from services.edge.entry import Entry
from services.edge.keys import Caller
from services.edge.request import Request
from services.edge.routes import UNMATCHED, MethodNotAllowed, Route, Routes, Target, target_of

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# nginx's "client closed request": seen in metrics only.
GONE = 499
NOBODY = Caller("")

_log = get_logger("edge")


@dataclass(slots=True, frozen=True)
class Flow:
    """An answer that goes on: chunks are written as they come (server-sent events)."""

    kind: bytes
    chunks: AsyncIterator[bytes]
    status: int = 200


class Gateway:
    """One per process; uvicorn and in-process tests call it. `socket` takes WebSocket connections."""

    def __init__(
        self,
        routes: Routes,
        entry: Entry,
        admission: Admission,
        limits: Limits,
        metrics: Metrics,
        socket: Callable[[Scope, Receive, Send, Target], Awaitable[None]] | None = None,
    ) -> None:
        self._routes = routes
        self._entry = entry
        self._admission = admission
        self._limits = limits
        self._metrics = metrics
        self._socket = socket
        # Of a route and a status, both bounded: labels are slow to look up for every request.
        self._series: dict[tuple[str, int], tuple[Histogram, Counter]] = {}
        self._open = frozenset(route.template.encode() for route in routes.all if route.open)

    def is_open(self, url: bytes) -> bool:
        """Whether a request is for a probe or a page, which always may come in."""
        return url.partition(b"?")[0] in self._open

    def may_enter(self) -> bool:
        """Whether another request may come in now. The listener asks before it does anything."""
        return self._admission.arrives()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket" and self._socket is not None:
            await self._socket(scope, receive, send, target_of(scope.get("raw_path") or scope["path"].encode()))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        content = Body(receive, headers, self._limits, self._admission.waiting)
        label, status = UNMATCHED, GONE
        answering = False
        try:
            found = self._find(scope)
            if isinstance(found, Answer):
                answer: Answer | Flow = found
            else:
                label = f"{found[1].method} {found[1].template}"
                answer = await self._serve(*found, scope, headers, content)
            status, answering = answer.status, True
            if isinstance(answer, Flow):
                await _flow(answer, send, content)
            else:
                answer = compressed(answer, headers.get(b"accept-encoding", b""))
                await _write(answer, send, head=scope["method"] == "HEAD", close=content.abandoned)
        except ClientGone:
            status = GONE
        except asyncio.CancelledError:
            # The server stops and has waited long enough: the client shall know that it may try again.
            if not answering:
                stopping = Unavailable("the server is stopping", reason="STOPPING", retry_after_ms=1000)
                answer = error_answer(stopping)
                status = answer.status
                await _write(answer, send, head=scope["method"] == "HEAD", close=True)
            raise
        finally:
            self._count(label, status, time.perf_counter() - started)

    def _count(self, label: str, status: int, seconds: float) -> None:
        series = self._series.get((label, status))
        if series is None:
            metrics = self._metrics
            series = metrics.http_seconds.labels(label), metrics.http_requests.labels(label, str(status))
            self._series[label, status] = series
        series[0].observe(seconds)
        series[1].inc()

    def _find(self, scope: Scope) -> tuple[Target, Route, tuple[str, ...]] | Answer:
        try:
            target = target_of(scope.get("raw_path") or scope["path"].encode())
            return target, *self._routes.find(scope["method"], target.segments)
        except MethodNotAllowed as error:
            return error_answer(error, ((b"allow", ", ".join(error.allowed).encode()),))
        except EarshotError as error:
            return error_answer(error)

    async def _serve(
        self,
        target: Target,
        route: Route,
        parameters: tuple[str, ...],
        scope: Scope,
        headers: dict[bytes, bytes],
        content: Body,
    ) -> Answer | Flow:
        try:
            with self._admission.admitted(route):
                caller = NOBODY if route.open else self._entry.caller(target, scope, headers)
                request = Request(
                    scope["method"], headers, scope["query_string"], caller, content, target.job, parameters
                )
                with _traced(route, headers):
                    answer: Answer | Flow = await route.endpoint(request)
                    return answer
        except EarshotError as error:
            if isinstance(error, Internal):
                _log.error("request_failed", route=route.template, reason=error.reason)
            return error_answer(error)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - the one place where a defect becomes a 500
            _log.error("request_failed", route=route.template, error=type(error).__name__, exc_info=error)
            return error_answer(Internal("internal error"))


def _traced(route: Route, headers: dict[bytes, bytes]) -> AbstractContextManager[Any]:
    """A request's trace. Probes, pages and what waits on purpose (a poll) have none."""
    if route.open or "hold" in route.query:
        return tracing.NOTHING
    parent = headers.get(b"traceparent", b"").decode("latin-1")
    return tracing.entered(f"{route.method} {route.template}", parent, floor=route.method != "GET")


async def _write(answer: Answer, send: Send, *, head: bool, close: bool) -> None:
    headers = [*BASE_HEADERS, *answer.headers]
    if answer.status != 204:
        headers.append((b"content-type", answer.kind))
        headers.append((b"content-length", str(len(answer.body)).encode()))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})


async def _flow(flow: Flow, send: Send, content: Body) -> None:
    headers = [*BASE_HEADERS, (b"content-type", flow.kind), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": flow.status, "headers": headers})

    async def write() -> None:
        async with aclosing(flow.chunks) as chunks:  # type: ignore[type-var] # chunks come from async generators
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    await content.attended(write)
