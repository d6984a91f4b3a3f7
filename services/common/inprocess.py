"""A gRPC server and channel without a socket, for rooms that share a process.

Generated `add_...Servicer_to_server` functions and generated stubs work on them unchanged. Deadlines, cancellation,
metadata, trailing metadata and error codes behave as on real gRPC (tests/contract runs one suite over both); messages
are handed over by reference, so a message belongs to the receiver once sent: neither side changes it afterwards.
It replaces the loopback hop on the hot path and makes virtual-time tests exact.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, NoReturn

import grpc
from grpc.aio import AioRpcError, Metadata

# Messages that a stream holds before its sender waits: the flow control that HTTP/2 windows give on a socket.
STREAM_WINDOW = 64

_END = object()
Pairs = tuple[tuple[str, str | bytes], ...]


class _Pipe:
    """A bounded queue with an end, one reader and one writer; cheaper than asyncio.Queue plus a task to race it."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._closed = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def put(self, item: Any) -> None:
        """Raises asyncio.InvalidStateError when the pipe is closed: nobody will read it."""
        while len(self._items) >= STREAM_WINDOW and not self._closed:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        if self._closed:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._items.append(item)
        _wake(self._reader)

    async def get(self) -> Any:
        """The next item, _END when closed and empty."""
        while not self._items:
            if self._closed:
                return _END
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        item = self._items.popleft()
        _wake(self._writer)
        return item

    def close(self, *, discard: bool = False) -> None:
        self._closed = True
        if discard:
            self._items.clear()
        _wake(self._reader)
        _wake(self._writer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class _Details:
    """grpc.HandlerCallDetails of a call."""

    def __init__(self, method: str, metadata: Pairs) -> None:
        self.method = method
        self.invocation_metadata = metadata


class InProcessServer:
    """What generated code registers servicers on. Interceptors wrap handlers as grpc.aio.server's do.

    A handler is resolved once per method: interceptors must not choose by metadata (ours read it from the context).
    """

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()) -> None:
        self._interceptors = tuple(interceptors)
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._resolved: dict[str, grpc.RpcMethodHandler[Any, Any] | None] = {}
        self._calls: set[_Call] = set()
        self._closed = False

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Ignored: generated code registers the same methods by name right after."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        for method, handler in handlers.items():
            self._handlers[f"/{service}/{method}"] = handler

    async def resolve(self, method: str) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method behind all interceptors; None when nobody serves it."""
        if method in self._resolved:
            return self._resolved[method]

        async def innermost(details: Any) -> Any:
            return self._handlers.get(details.method)

        continuation: Callable[[Any], Awaitable[Any]] = innermost
        for interceptor in reversed(self._interceptors):
            continuation = _chained(interceptor, continuation)
        handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(_Details(method, ()))
        self._resolved[method] = handler
        return handler

    def channel(self) -> InProcessChannel:
        """A channel to this server, for generated stubs."""
        return InProcessChannel(self)

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls; wait up to `grace` seconds for running ones, then cancel them."""
        self._closed = True
        running = [call.task for call in self._calls if call.task is not None]
        if running and grace:
            await asyncio.wait(running, timeout=grace)
        for call in list(self._calls):
            call.terminate(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    @property
    def closed(self) -> bool:
        return self._closed

    def _track(self, call: _Call) -> None:
        self._calls.add(call)

    def _untrack(self, call: _Call) -> None:
        self._calls.discard(call)


def _chained(
    interceptor: grpc.aio.ServerInterceptor, continuation: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[Any]]:
    async def intercepted(details: Any) -> Any:
        return await interceptor.intercept_service(continuation, details)

    return intercepted


class _Aborted(grpc.aio.AbortError):
    """Raised by context.abort to leave the handler."""


class _Context:
    """grpc.aio.ServicerContext of one call."""

    def __init__(self, call: _Call, metadata: Pairs) -> None:
        self._call = call
        self._metadata = metadata
        self.code_value: grpc.StatusCode | None = None
        self.details_value = ""
        self.trailing: Pairs = ()

    def invocation_metadata(self) -> Pairs:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._call.time_remaining()

    def peer(self) -> str:
        return "inprocess:"

    def cancelled(self) -> bool:
        return self._call.code_value is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._call.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        self.code_value = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
        self.details_value = details
        if trailing_metadata:
            self.trailing = tuple(trailing_metadata)
        raise _Aborted("Locally aborted.")

    async def send_initial_metadata(self, initial_metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self._call.initial = tuple(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self.trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Pairs:
        return self.trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code_value = code

    def code(self) -> grpc.StatusCode | None:
        return self.code_value

    def set_details(self, details: str) -> None:
        self.details_value = details

    def details(self) -> str:
        return self.details_value

    async def write(self, message: Any) -> None:
        await self._call.deliver(message)

    async def read(self) -> Any:
        return await self._call.next_request()


class _Call:
    """Both ends of one RPC. Subclasses give it the face of the matching grpc.aio call."""

    def __init__(
        self,
        server: InProcessServer,
        method: str,
        *,
        timeout: float | None,
        metadata: Any,
        request_streaming: bool,
        response_streaming: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._server = server
        self._method = method
        self._metadata: Pairs = tuple((key, value) for key, value in metadata or ())
        self._deadline = None if timeout is None else loop.time() + timeout
        self._loop = loop
        self._responses = _Pipe() if response_streaming else None
        self._requests = _Pipe() if request_streaming else None
        self._finished = loop.create_future()
        self._callbacks: list[Callable[[Any], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.initial: Pairs = ()
        self.code_value: grpc.StatusCode | None = None
        self.details_value = ""
        self.trailing: Pairs = ()
        self.response: Any = None
        self.task: asyncio.Task[None] | None = None
        # Pumps the caller's request iterator, when it gave one.
        self.feeder: asyncio.Task[None] | None = None

    def start(self, request: Any) -> None:
        self._server._track(self)
        if self._deadline is not None:
            self._timer = self._loop.call_at(self._deadline, self._expire)
        self.task = self._loop.create_task(self._serve(request), name=self._method)
        if self._requests is not None and request is not None:
            self.feeder = self._loop.create_task(self._feed(request), name=f"{self._method} requests")

    async def _feed(self, requests: Any) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for message in requests:
                    await self.write(message)
            else:
                for message in requests:
                    await self.write(message)
            await self.done_writing()
        except asyncio.InvalidStateError:
            return
        except Exception:  # noqa: BLE001 - grpc cancels the RPC when the caller's own iterator fails
            self.cancel()

    async def write(self, message: Any) -> None:
        """Client side: one streamed request; waits while the server is STREAM_WINDOW behind."""
        assert self._requests is not None, "this method takes one request"
        if self.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        await self._requests.put(message)

    async def done_writing(self) -> None:
        assert self._requests is not None, "this method takes one request"
        self._requests.close()

    # -- client side ---------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        return self.terminate(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")

    def cancelled(self) -> bool:
        return self.code_value is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._finished.done()

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    async def wait_for_connection(self) -> None:
        """There is nothing to connect."""

    async def initial_metadata(self) -> Metadata:
        return Metadata(*self.initial)

    async def trailing_metadata(self) -> Metadata:
        await asyncio.shield(self._finished)
        return Metadata(*self.trailing)

    async def code(self) -> grpc.StatusCode:
        await asyncio.shield(self._finished)
        return self.code_value or grpc.StatusCode.UNKNOWN

    async def details(self) -> str:
        await asyncio.shield(self._finished)
        return self.details_value

    # -- shared --------------------------------------------------------------------------------------------------

    def terminate(self, code: grpc.StatusCode, details: str) -> bool:
        """End the call from outside the handler; the handler is cancelled. False when it had ended."""
        if self.done():
            return False
        self._finish(code, details, discard=True)
        if self.task is not None:
            self.task.cancel()
        return True

    def _expire(self) -> None:
        self.terminate(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _finish(self, code: grpc.StatusCode, details: str = "", trailing: Pairs = (), *, discard: bool = False) -> None:
        if self.done():
            return
        self.code_value, self.details_value, self.trailing = code, details, trailing
        if self._timer is not None:
            self._timer.cancel()
        self._finished.set_result(None)
        if self._responses is not None:
            self._responses.close(discard=discard)
        if self._requests is not None:
            self._requests.close(discard=True)
        if self.feeder is not None:
            self.feeder.cancel()
        self._server._untrack(self)
        for callback in self._callbacks:
            callback(self)

    def failure(self) -> BaseException:
        """What awaiting the call raises when it did not end OK."""
        if self.code_value is grpc.StatusCode.CANCELLED:
            return asyncio.CancelledError()
        return AioRpcError(
            self.code_value or grpc.StatusCode.UNKNOWN,
            Metadata(*self.initial),
            Metadata(*self.trailing),
            details=self.details_value,
        )

    async def deliver(self, message: Any) -> None:
        """Server side: hand one response over; waits while the client is STREAM_WINDOW behind."""
        if self._responses is None:
            self.response = message
        else:
            await self._responses.put(message)

    async def next_request(self) -> Any:
        """Server side: the next streamed request, or grpc.aio.EOF."""
        assert self._requests is not None, "this method takes one request"
        message = await self._requests.get()
        return grpc.aio.EOF if message is _END else message

    async def _request_iterator(self) -> AsyncIterator[Any]:
        while (message := await self.next_request()) is not grpc.aio.EOF:
            yield message

    async def _serve(self, request: Any) -> None:
        context = _Context(self, self._metadata)
        try:
            if self._server.closed:
                self._finish(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
                return
            handler = await self._server.resolve(self._method)
            if handler is None:
                self._finish(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
                return
            await self._run(handler, request, context)
            self._finish(context.code_value or grpc.StatusCode.OK, context.details_value, context.trailing)
        except _Aborted:
            assert context.code_value is not None
            self._finish(context.code_value, context.details_value, context.trailing)
        except asyncio.CancelledError:
            # The client's cancel or the deadline has set the status; a handler that cancels itself is CANCELLED.
            self._finish(grpc.StatusCode.CANCELLED, "the handler was cancelled")
            raise
        except Exception as error:  # noqa: BLE001 - grpc answers UNKNOWN for whatever a handler raises
            self._finish(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")

    async def _run(self, handler: Any, request: Any, context: _Context) -> None:
        if handler.request_streaming:
            argument: Any = self._request_iterator()
            behavior = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            argument = request
            behavior = handler.unary_stream if handler.response_streaming else handler.unary_unary
        if inspect.isasyncgenfunction(behavior):
            async for message in behavior(argument, context):
                await self.deliver(message)
            return
        result = await behavior(argument, context)
        if not handler.response_streaming:
            self.response = result


class _UnaryResponseCall(_Call):
    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        if not self.done():
            try:
                await asyncio.shield(self._finished)
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self.code_value is not grpc.StatusCode.OK:
            raise self.failure()
        return self.response


class _StreamResponseCall(_Call):
    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        """The next response, grpc.aio.EOF at the end; raises as awaiting a unary call does."""
        assert self._responses is not None
        try:
            message = await self._responses.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is not _END:
            return message
        if self.code_value is not grpc.StatusCode.OK:
            raise self.failure()
        return grpc.aio.EOF


class _MultiCallable:
    def __init__(
        self, server: InProcessServer, method: str, *, request_streaming: bool, response_streaming: bool
    ) -> None:
        self._server = server
        self._method = method
        self._request_streaming = request_streaming
        self._response_streaming = response_streaming
        self._face = _StreamResponseCall if response_streaming else _UnaryResponseCall

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        call = self._face(
            self._server,
            self._method,
            timeout=timeout,
            metadata=metadata,
            request_streaming=self._request_streaming,
            response_streaming=self._response_streaming,
        )
        call.start(request)
        return call


class InProcessChannel:
    """grpc.aio.Channel to an InProcessServer; serializers are not called."""

    def __init__(self, server: InProcessServer) -> None:
        self._server = server

    def unary_unary(self, method: str, *_: Any, **__: Any) -> _MultiCallable:
        return _MultiCallable(self._server, method, request_streaming=False, response_streaming=False)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> _MultiCallable:
        return _MultiCallable(self._server, method, request_streaming=False, response_streaming=True)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> _MultiCallable:
        return _MultiCallable(self._server, method, request_streaming=True, response_streaming=False)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> _MultiCallable:
        return _MultiCallable(self._server, method, request_streaming=True, response_streaming=True)

    async def close(self, grace: float | None = None) -> None:
        """Nothing to close: the server's stop ends running calls."""

    async def channel_ready(self) -> None:
        """Always ready."""
