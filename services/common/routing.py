"""Calls find the replica that owns their world; callers keep using generated stubs.

A call goes where the registry says; a replica that does not own the world (any more) answers NOT_OWNER with the owner's
address, and the call goes there, once. Nothing was done by then, so that this is safe for every call. Calls without a
world go to all replicas and their answers are put together, or to any.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from services.common.directory import Directory
from services.common.errors import EarshotError, NotFound, NotOwner, Unavailable, from_rpc, to_trailers
from services.common.gather import GATHERED, SPLIT
from services.common.ownership import partition_of

# Rooms whose worlds have owners; the others' replicas are all alike.
OWNED = ("state", "sync", "chat")
# Calls of owned rooms that any replica can answer.
ANY = frozenset({"sync/Complete", "sync/Embed"})
# Longest wait for somebody to serve a partition that is changing hands.
PATIENCE_S = 2.5
# Of a call without a deadline, and margin to say why within the deadline.
LONGEST_S, MARGIN_S = 60.0, 0.05

Stubs = Callable[[str], Any]
"""The channel to an address."""


def name_of(method: str) -> str:
    """`state/GetWorld` for `/earshot.state.v1.StateService/GetWorld`."""
    return f"{method.split('.')[1]}/{method.rpartition('/')[2]}"


def world_of(request: Any) -> tuple[str, str]:
    """(tenant, world) that a request is about; world "" = the tenant as such."""
    fields = request.DESCRIPTOR.fields_by_name
    if "npc" in fields:
        request = request.npc
    elif "npcs" in fields and request.npcs and not (_is_ref(fields.get("world")) and request.world.tenant):
        request = request.npcs[0]
    world = getattr(request, "world", "")
    if isinstance(world, str):
        return getattr(request, "tenant", ""), world
    return world.tenant, world.world


def _is_ref(field: Any) -> bool:
    return field is not None and field.message_type is not None


def guarded(method: str) -> bool:
    """Whether only the owner of its world may answer a call."""
    name = name_of(method)
    return name.split("/")[0] in OWNED and name not in ANY and name not in GATHERED and name not in UNGUARDED


# Streams of many worlds, whose items are looked at one by one.
UNGUARDED = frozenset({"state/Ingest", "chat/WatchEvents"})


class RoutedChannel:
    """A channel to a room, for its generated stub."""

    def __init__(self, directory: Directory, channel_to: Stubs) -> None:
        self._directory = directory
        self._channel_to = channel_to

    def unary_unary(self, method: str, **codec: Any) -> Callable[..., Any]:
        name = name_of(method)
        calls = _Calls(self._channel_to, "unary_unary", method, codec)
        if name in GATHERED:
            return _Gathered(self._directory, calls, GATHERED[name]).unary
        if name.split("/")[0] not in OWNED or name in ANY:
            return _Anywhere(self._directory, calls).unary
        owner = _Owner(self._directory, calls)
        return owner.split if name in SPLIT else owner.unary

    def unary_stream(self, method: str, **codec: Any) -> Callable[..., Any]:
        calls = _Calls(self._channel_to, "unary_stream", method, codec)
        name = name_of(method)
        if name in GATHERED:
            return _Gathered(self._directory, calls, GATHERED[name]).stream
        return _Owner(self._directory, calls).stream

    def stream_unary(self, method: str, **_: Any) -> Callable[..., Any]:
        raise NotImplementedError(f"{method}: no room has such a call")

    def stream_stream(self, method: str, **_: Any) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"{method} speaks of many worlds: open one to each replica")

        return refuse


class _Calls:
    """One method on every address."""

    def __init__(self, channel_to: Stubs, kind: str, method: str, codec: Mapping[str, Any]) -> None:
        self._channel_to = channel_to
        self._kind = kind
        self._method = method
        self._codec = codec
        self._known: dict[str, tuple[Any, Callable[..., Any]]] = {}

    def at(self, address: str) -> Callable[..., Any]:
        channel = self._channel_to(address)
        known = self._known.get(address)
        if known is None or known[0] is not channel:
            known = self._known[address] = channel, getattr(channel, self._kind)(self._method, **self._codec)
        return known[1]


class _Owner:
    """Calls about one world."""

    def __init__(self, directory: Directory, calls: _Calls) -> None:
        self._directory = directory
        self._calls = calls

    async def unary(self, request: Any, *, timeout: float | None = None, metadata: Any = None) -> Any:
        partition, until = partition_of(*world_of(request)), _until(timeout)
        address = await _served(self._directory, partition, until)
        try:
            return await self._calls.at(address)(request, timeout=_left(until), metadata=metadata)
        except AioRpcError as error:
            address = await self._elsewhere(error, partition, address, until)
        return await self._calls.at(address)(request, timeout=_left(until), metadata=metadata)

    async def _elsewhere(self, error: AioRpcError, partition: int, asked: str, until: float) -> str:
        """Where to try again; raises the error when that would not help."""
        known = from_rpc(error)
        if not isinstance(known, NotOwner):
            if known.reason == Unavailable.default_reason or self._directory.quiet(asked):
                # Its process is gone, or hangs: somebody else serves its worlds soon.
                self._directory.doubt()
                raise rpc_error(self._directory.moving(asked)) from error
            raise error
        if known.owner and known.owner != asked:
            return known.owner
        return await _served(self._directory, partition, until, but=asked)

    async def split(self, request: Any, *, timeout: float | None = None, metadata: Any = None) -> Any:
        """A call about NPCs of several worlds: one for each owner, answers in the order of the keys."""
        if "world" in request.DESCRIPTOR.fields_by_name and request.world.tenant:
            return await self.unary(request, timeout=timeout, metadata=metadata)
        parts: dict[int, list[int]] = {}
        for place, key in enumerate(request.npcs):
            parts.setdefault(partition_of(key.world.tenant, key.world.world), []).append(place)
        if len(parts) < 2:
            return await self.unary(request, timeout=timeout, metadata=metadata)
        asked = []
        for places in parts.values():
            part = type(request)()
            part.CopyFrom(request)
            del part.npcs[:]
            part.npcs.extend(request.npcs[place] for place in places)
            asked.append(self.unary(part, timeout=timeout, metadata=metadata))
        answers = await asyncio.gather(*asked)
        field = answers[0].DESCRIPTOR.fields[0].name
        found = {
            place: one
            for places, answer in zip(parts.values(), answers, strict=True)
            for place, one in zip(places, getattr(answer, field), strict=True)
        }
        return type(answers[0])(**{field: [found[place] for place in range(len(request.npcs))]})

    def stream(self, request: Any, *, timeout: float | None = None, metadata: Any = None) -> Stream:
        return Stream(lambda holder: self._stream(request, timeout, metadata, holder))

    async def _stream(
        self, request: Any, timeout: float | None, metadata: Any, holder: list[Any]
    ) -> AsyncIterator[Any]:
        partition, until = partition_of(*world_of(request)), _until(timeout)
        address = await _served(self._directory, partition, until)
        begun = False
        try:
            async for message in _held(
                holder, self._calls.at(address)(request, timeout=_left(until), metadata=metadata)
            ):
                begun = True
                yield message
            return
        except AioRpcError as error:
            if begun:
                raise
            address = await self._elsewhere(error, partition, address, until)
        async for message in _held(holder, self._calls.at(address)(request, timeout=_left(until), metadata=metadata)):
            yield message


class _Anywhere:
    """Calls that any replica can answer: one after the other until one does."""

    def __init__(self, directory: Directory, calls: _Calls) -> None:
        self._directory = directory
        self._calls = calls

    async def unary(self, request: Any, *, timeout: float | None = None, metadata: Any = None) -> Any:
        until = _until(timeout)
        addresses = self._directory.nearest() or await self._anybody(until)
        for address in addresses[:-1]:
            try:
                return await self._calls.at(address)(request, timeout=_left(until), metadata=metadata)
            except AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self._directory.doubt()
        return await self._calls.at(addresses[-1])(request, timeout=_left(until), metadata=metadata)

    async def _anybody(self, until: float) -> Sequence[str]:
        await _patiently(self._directory, lambda: bool(self._directory.nearest()), until)
        return self._directory.nearest()


class _Gathered:
    """Calls to all replicas, or to those that serve the partitions that a request names."""

    def __init__(self, directory: Directory, calls: _Calls, how: Any) -> None:
        self._directory = directory
        self._calls = calls
        self._how = how

    async def unary(self, request: Any, *, timeout: float | None = None, metadata: Any = None) -> Any:
        """Complete or not at all: every partition was served, by the same replicas before and after."""
        until = _until(timeout)
        await _patiently(self._directory, lambda: self._directory.complete, until)
        addresses, seen = self._asked(request), self._directory.version
        request = self._how.prepare(request)
        try:
            answers = await asyncio.gather(*(self._ask(one, request, until, metadata) for one in addresses))
            await self._directory.refresh()
        except AioRpcError:
            self._directory.doubt()
            raise
        except EarshotError as error:
            raise rpc_error(error) from None
        if not self._directory.complete or self._directory.version != seen:
            raise rpc_error(Unavailable("replicas changed meanwhile", reason="MOVING", retry_after_ms=500))
        told = {one: answer for one, answer in zip(addresses, answers, strict=True) if answer is not None}
        if not told:
            raise rpc_error(NotFound("nobody knows of it"))
        return self._how.join(request, told)

    def _asked(self, request: Any) -> Sequence[str]:
        """Who serves what it is about: some partitions, or everything."""
        return self._directory.everybody(tuple(getattr(request, "partitions", ())))

    async def _ask(self, address: str, request: Any, until: float, metadata: Any) -> Any:
        try:
            return await self._calls.at(address)(request, timeout=_left(until), metadata=metadata)
        except AioRpcError as error:
            if self._how.lacking and error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def stream(self, request: Any, *, timeout: float | None = None, metadata: Any = None) -> Stream:
        return Stream(lambda holder: self._stream(request, timeout, metadata, holder))

    async def _stream(
        self, request: Any, timeout: float | None, metadata: Any, holder: list[Any]
    ) -> AsyncIterator[Any]:
        """The streams of all replicas as one, which ends when one of them does or others serve."""
        until = _until(timeout) if timeout is not None else None
        await _patiently(self._directory, lambda: self._directory.complete, _until(timeout))
        addresses, changed = self._asked(request), self._directory.watch()
        requests = self._how.requests(request, addresses)
        if requests is None:
            yield self._how.gap
            return
        queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(64)
        pumps = [
            asyncio.create_task(
                _pump(queue, address, self._calls.at(address)(
                    requests[address], timeout=None if until is None else _left(until), metadata=metadata)),
                name="routing.pump",
            )
            for address in addresses
        ]  # fmt: skip
        pumps.append(asyncio.create_task(_announce(queue, changed), name="routing.changed"))
        holder[:] = [_Tasks(pumps)]
        try:
            while True:
                address, message = await queue.get()
                if isinstance(message, AioRpcError):
                    raise message
                yield self._how.stamp(request, requests, address, message)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(queue: asyncio.Queue[tuple[str, Any]], address: str, call: Any) -> None:
    try:
        async for message in call:
            await queue.put((address, message))
        await queue.put((address, rpc_error(Unavailable("a replica ended its stream", reason="MOVING"))))
    except AioRpcError as error:
        await queue.put((address, error))
    finally:
        call.cancel()


async def _announce(queue: asyncio.Queue[tuple[str, Any]], changed: asyncio.Event) -> None:
    await changed.wait()
    await queue.put(("", rpc_error(Unavailable("other replicas serve now", reason="MOVING"))))


class _Tasks:
    """What a merged stream runs, under the name that a call's `cancel` has."""

    def __init__(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        self._tasks = tasks

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


class Stream:
    """A call that answers a stream, as far as callers use it."""

    def __init__(self, begin: Callable[[list[Any]], AsyncIterator[Any]]) -> None:
        # The call that runs just now.
        self._holder: list[Any] = []
        self._messages = begin(self._holder)
        self._cancelled = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages

    async def read(self) -> Any:
        """The next message, or EOF."""
        if self._cancelled:
            raise asyncio.CancelledError
        try:
            return await anext(self._messages)
        except StopAsyncIteration:
            return grpc.aio.EOF

    def cancel(self) -> bool:
        self._cancelled = True
        for call in self._holder:
            call.cancel()
        return True


async def _held(holder: list[Any], call: Any) -> AsyncIterator[Any]:
    holder[:] = [call]
    try:
        async for message in call:
            yield message
    finally:
        call.cancel()


async def _served(directory: Directory, partition: int, until: float, but: str = "") -> str:
    """As `Directory.served`, for a call that ends at `until`: errors are a call's, and come in time to be told."""
    try:
        return await directory.served(partition, _patience(until), but)
    except EarshotError as error:
        raise rpc_error(error) from None


async def _patiently(directory: Directory, done: Callable[[], bool], until: float) -> None:
    """As `Directory.patiently`, likewise."""
    try:
        await directory.patiently(done, _patience(until))
    except EarshotError as error:
        raise rpc_error(error) from None


def _patience(until: float) -> float:
    return min(until - MARGIN_S, _now() + PATIENCE_S)


def rpc_error(error: EarshotError) -> AioRpcError:
    """The error as a call would have raised it."""
    return AioRpcError(error.code, Metadata(), Metadata(*to_trailers(error)), details=error.message)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _until(timeout: float | None) -> float:
    return _now() + (LONGEST_S if timeout is None else timeout)


def _left(until: float) -> float:
    return max(until - _now(), 0.001)
