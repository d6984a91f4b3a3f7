"""Server interceptors: errors, deadlines, rate/errors/duration, trace context. Own and small: the contrib ones break
`context.write` handlers and lose cancellation.

One interceptor does all four, so that a handler is wrapped once.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import message
from prometheus_client import Counter

from services.common import tracing
from services.common.errors import BadInput, EarshotError, Internal, NotOwner, Unavailable, to_trailers
from services.common.logs import get_logger
from services.common.ownership import Ownership
from services.common.routing import guarded, world_of
from services.common.telemetry import Metrics

# RPCs that last as long as both processes do.
ENDLESS = ("Watch", "Ingest")

_log = get_logger("common")


@dataclass(slots=True)
class _Endless:
    """Streams that last as long as the process: running, and told to end."""

    running: set[asyncio.Task[Any]] = field(default_factory=set)
    ending: set[asyncio.Task[Any]] = field(default_factory=set)

    def end(self) -> None:
        self.ending.update(self.running)
        for task in self.running:
            task.cancel()


class RoomInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of a process. Unary calls without a deadline are refused DEADLINE_REQUIRED."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._endless = _Endless()
        self._owners: dict[str, Ownership] = {}

    def guard(self, room: str, ownership: Ownership) -> None:
        """Refuse calls of a room about worlds that this replica does not own."""
        self._owners[room] = ownership

    def end_streams(self) -> None:
        """End streams that last as long as the process: they would hold its stop. Their readers reconnect."""
        self._endless.end()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        method: str = details.method
        if handler is None or not method.startswith("/earshot."):
            return handler
        ownership = self._owners.get(method.split(".")[1]) if guarded(method) else None
        return _wrapped(handler, method, self._metrics, self._endless, ownership)


def _wrapped(handler: Any, method: str, metrics: Metrics, endless: _Endless, ownership: Ownership | None) -> Any:
    """The handler with a `_Method` around its behavior, of the same kind."""
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.request_streaming and handler.response_streaming:
        wrapped = _Method(handler.stream_stream, method, metrics, endless, ownership)
        return grpc.stream_stream_rpc_method_handler(wrapped.stream, **codec)
    if handler.request_streaming:
        wrapped = _Method(handler.stream_unary, method, metrics, endless, ownership)
        return grpc.stream_unary_rpc_method_handler(wrapped.unary, **codec)
    if handler.response_streaming:
        wrapped = _Method(handler.unary_stream, method, metrics, endless, ownership)
        return grpc.unary_stream_rpc_method_handler(wrapped.stream, **codec)
    wrapped = _Method(handler.unary_unary, method, metrics, endless, ownership)
    return grpc.unary_unary_rpc_method_handler(wrapped.unary, **codec)


class _Method:
    """One RPC with what is done around every call of it."""

    __slots__ = (
        "_behavior", "_counted", "_endless", "_generates", "_lasts", "_method", "_metrics", "_ownership", "_room",
        "_rpc", "_seconds",
    )  # fmt: skip

    def __init__(
        self, behavior: Any, method: str, metrics: Metrics, endless: _Endless, ownership: Ownership | None
    ) -> None:
        self._behavior = behavior
        self._ownership = ownership
        self._method = method
        self._metrics = metrics
        self._endless = endless
        self._room = method.split(".")[1]
        self._rpc = method.rsplit("/", 1)[1]
        self._lasts = self._rpc.startswith(ENDLESS)
        self._generates = inspect.isasyncgenfunction(behavior)
        # Labels are slow to look up for every call.
        self._seconds = metrics.rpc_seconds.labels(self._room, self._rpc)
        self._counted: dict[str, Counter] = {}

    async def unary(self, request: Any, context: Any) -> Any:
        """For handlers that answer one message."""
        started = time.perf_counter()
        try:
            if isinstance(request, message.Message) and context.time_remaining() is None:
                raise BadInput("every call needs a deadline", reason="DEADLINE_REQUIRED")
            self._own(request)
            with self._traced(context):
                response = await self._behavior(request, context)
        except asyncio.CancelledError as error:
            self._observe(started, error)
            raise
        except grpc.aio.AbortError:
            self._observe(started)
            raise
        except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
            self._observe(started, error)
            return await self._fail(error, context)
        self._observe(started)
        return response

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """For handlers that answer a stream."""
        started = time.perf_counter()
        task = asyncio.current_task()
        if task is not None and self._lasts:
            self._endless.running.add(task)
        try:
            self._own(request)
            with self._traced(context):
                if self._generates:
                    async for response in self._behavior(request, context):
                        yield response
                else:
                    await self._behavior(request, context)
        except (asyncio.CancelledError, GeneratorExit, grpc.aio.AbortError) as error:
            self._observe(started, error)
            if task not in self._endless.ending or not isinstance(error, asyncio.CancelledError):
                raise
            # grpc.aio sends no status for a handler that was cancelled from this side: the client would wait on.
            task.uncancel()
            await self._fail(Unavailable("the room is stopping", reason="STOPPING"), context)
        except Exception as error:  # noqa: BLE001 - as above
            self._observe(started, error)
            await self._fail(error, context)
            return
        finally:
            if task is not None:
                self._endless.running.discard(task)
                self._endless.ending.discard(task)
        self._observe(started)

    def _own(self, request: Any) -> None:
        """Raises NotOwner for a world that another replica serves."""
        if self._ownership is not None:
            tenant, world = world_of(request)
            # Who names nobody is told what is wrong with that by the call itself.
            if tenant and not self._ownership.owns(tenant, world):
                raise NotOwner(self._ownership.owner(tenant, world))

    async def _fail(self, error: Exception, context: Any) -> None:
        known = error if isinstance(error, EarshotError) else Internal("internal error; see the log")
        if known is not error:
            _log.error("rpc_failed", rpc=self._method, error=type(error).__name__, exc_info=error)
        await context.abort(known.code, known.message, to_trailers(known))

    def _observe(self, started: float, error: BaseException | None = None) -> None:
        code = "OK"
        if isinstance(error, asyncio.CancelledError):
            code = "CANCELLED"
        elif isinstance(error, EarshotError):
            code = error.code.name
        elif error is not None:
            code = "INTERNAL"
        self._seconds.observe(time.perf_counter() - started, tracing.exemplar())
        counted = self._counted.get(code)
        if counted is None:
            counted = self._counted[code] = self._metrics.rpcs.labels(self._room, self._rpc, code)
        counted.inc()

    def _traced(self, context: Any) -> AbstractContextManager[Any]:
        """The call's part of its caller's trace."""
        for key, value in context.invocation_metadata() or ():
            if key == "traceparent":
                return tracing.received(self._method[1:], value)
        return tracing.NOTHING
