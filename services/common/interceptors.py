"""Server interceptors: errors, deadlines, rate/errors/duration, trace context. Own and small: the contrib ones break
`context.write` handlers and lose cancellation.

One interceptor does all four, so that a handler is wrapped once.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message
from opentelemetry.trace import SpanKind

from services.common.errors import BadInput, EarshotError, Internal, Unavailable, to_trailers
from services.common.logs import get_logger
from services.common.telemetry import Metrics, context_of, tracer

# RPCs that last as long as both processes do.
ENDLESS = ("Watch", "Ingest")

_log = get_logger("common")


class RoomInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of a process. Unary calls without a deadline are refused DEADLINE_REQUIRED."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._endless: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()

    def end_streams(self) -> None:
        """End streams that last as long as the process: they would hold its stop. Their readers reconnect."""
        self._ending.update(self._endless)
        for task in self._endless:
            task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        method: str = details.method
        if handler is None or not method.startswith("/earshot."):
            return handler
        return _wrapped(handler, method, self._metrics, self._endless, self._ending)


def _wrapped(
    handler: Any, method: str, metrics: Metrics, endless: set[asyncio.Task[Any]], ending: set[asyncio.Task[Any]]
) -> Any:
    room = method.split(".")[1]
    rpc = method.rsplit("/", 1)[1]

    async def fail(error: Exception, context: Any) -> None:
        known = error if isinstance(error, EarshotError) else Internal("internal error; see the log")
        if known is not error:
            _log.error("rpc_failed", rpc=method, error=type(error).__name__, exc_info=error)
        await context.abort(known.code, known.message, to_trailers(known))

    def observe(started: float, context: Any, error: BaseException | None = None) -> None:
        code = "OK"
        if isinstance(error, asyncio.CancelledError):
            code = "CANCELLED"
        elif isinstance(error, EarshotError):
            code = error.code.name
        elif error is not None:
            code = "INTERNAL"
        metrics.rpc_seconds.labels(room, rpc, code).observe(time.perf_counter() - started)

    def parent(context: Any) -> Any:
        for key, value in context.invocation_metadata() or ():
            if key == "traceparent":
                return context_of(value)
        return None

    async def unary_response(request: Any, context: Any) -> Any:
        started = time.perf_counter()
        try:
            if isinstance(request, message.Message) and context.time_remaining() is None:
                raise BadInput("every call needs a deadline", reason="DEADLINE_REQUIRED")
            with tracer().start_as_current_span(method[1:], context=parent(context), kind=SpanKind.SERVER):
                response = await behavior(request, context)
        except asyncio.CancelledError as error:
            observe(started, context, error)
            raise
        except grpc.aio.AbortError:
            observe(started, context)
            raise
        except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
            observe(started, context, error)
            return await fail(error, context)
        observe(started, context)
        return response

    async def stream_response(request: Any, context: Any) -> AsyncIterator[Any]:
        started = time.perf_counter()
        task = asyncio.current_task()
        if task is not None and rpc.startswith(ENDLESS):
            endless.add(task)
        try:
            if inspect.isasyncgenfunction(behavior):
                async for response in behavior(request, context):
                    yield response
            else:
                await behavior(request, context)
        except (asyncio.CancelledError, GeneratorExit, grpc.aio.AbortError) as error:
            observe(started, context, error)
            if task not in ending or not isinstance(error, asyncio.CancelledError):
                raise
            # grpc.aio sends no status for a handler that was cancelled from this side: the client would wait on.
            task.uncancel()
            await fail(Unavailable("the room is stopping", reason="STOPPING"), context)
        except Exception as error:  # noqa: BLE001 - as above
            observe(started, context, error)
            await fail(error, context)
            return
        finally:
            if task is not None:
                endless.discard(task)
                ending.discard(task)
        observe(started, context)

    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.request_streaming and handler.response_streaming:
        behavior = handler.stream_stream
        return grpc.stream_stream_rpc_method_handler(stream_response, **codec)
    if handler.request_streaming:
        behavior = handler.stream_unary
        return grpc.stream_unary_rpc_method_handler(unary_response, **codec)
    if handler.response_streaming:
        behavior = handler.unary_stream
        return grpc.unary_stream_rpc_method_handler(stream_response, **codec)
    behavior = handler.unary_unary
    return grpc.unary_unary_rpc_method_handler(unary_response, **codec)
