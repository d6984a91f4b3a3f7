"""The snapshot hop: one long-lived, coalesced stream to state (record 5).

Items of all worlds share messages: whatever waits when the stream is free goes out at once, no timer. At most WINDOW
messages are unanswered, so that items gather while state is busy. A lost stream fails what was sent UNAVAILABLE, or
sends it again once when it carries a sequence number (state then answers `duplicate` if it had applied it).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from earshot.state.v1 import state_pb2

from services.common.errors import DeadlineExceeded, Overloaded, Unavailable, from_status
from services.common.logs import get_logger

WINDOW = 4
# Items of one message, and items that may wait or be unanswered in all.
BATCH = 64
PENDING_MAX = 1024
BACKOFF_MIN_S = 0.05
# With the channel's own back-off (channels.py) less than a snapshot's deadline: who waits for state sees it come back.
BACKOFF_MAX_S = 0.25
# A stream that lasted so long was one, though nothing was asked on it.
STEADY_S = 1.0
# What an answer may need on its way back after state's own deadline for the item.
GRACE_S = 0.1

_log = get_logger("edge")


@dataclass(slots=True, eq=False)
class _Waiting:
    item: state_pb2.SnapshotItem
    deadline: float
    future: asyncio.Future[state_pb2.SnapshotResult]
    message: _Message | None = None
    retried: bool = False


@dataclass(slots=True, eq=False)
class _Message:
    """One sent message; it leaves the window with its first answer: state has taken it up."""

    open: bool = True


@dataclass(slots=True)
class Ingest:
    """Port of snapshots to state. `run` keeps the stream; `submit` may be called before it and while it reconnects."""

    stub: Any
    monotonic: Callable[[], float]
    _queue: deque[_Waiting] = field(default_factory=deque)
    _sent: dict[int, _Waiting] = field(default_factory=dict)
    _next_id: int = 0
    _in_flight: int = 0
    # Whether the last attempt at a stream failed at once.
    _away: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def submit(self, item: state_pb2.SnapshotItem, deadline: float) -> state_pb2.SnapshotResult:
        """The result of one snapshot.

        deadline: monotonic seconds. Raises what state answered, Overloaded when too many wait, Unavailable when the
        stream is lost, DeadlineExceeded.
        """
        waiting_now = len(self._queue) + len(self._sent)
        if waiting_now >= PENDING_MAX:
            raise Overloaded("too many snapshots wait", retry_after_ms=1000)
        if self._away and waiting_now:
            # One waits and will find out when state is back; the others would only keep requests from being worked on.
            raise Unavailable("state cannot be reached", retry_after_ms=1000)
        self._next_id += 1
        item.id = self._next_id
        waiting = _Waiting(item, deadline, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        try:
            async with asyncio.timeout(max(deadline + GRACE_S - self.monotonic(), 0.0)):
                result = await waiting.future
        except TimeoutError:
            if waiting.message is None:
                raise Unavailable("state cannot be reached", retry_after_ms=1000) from None
            raise DeadlineExceeded("the snapshot was not answered in time") from None
        finally:
            self._forget(waiting)
        if result.status.code:
            raise from_status(result.status)
        return result

    def _forget(self, waiting: _Waiting) -> None:
        self._sent.pop(waiting.item.id, None)
        if waiting.message is not None:
            self._answered(waiting.message)
        else:
            with contextlib.suppress(ValueError):
                self._queue.remove(waiting)

    async def run(self) -> None:
        """Keep a stream for ever, with back-off while it cannot be had."""
        delay = BACKOFF_MIN_S
        while True:
            started = self.monotonic()
            answered = await self._stream()
            self._away = not answered and self.monotonic() - started < STEADY_S
            delay = BACKOFF_MIN_S if answered else min(delay * 2, BACKOFF_MAX_S)
            self._lost()
            await asyncio.sleep(delay)

    async def _stream(self) -> bool:
        """One stream until it is lost; whether it answered anything."""
        call = self.stub.Ingest()
        answered = False
        writer = asyncio.create_task(self._write(call), name="edge.ingest.write")
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                answered = True
                self._away = False
                self._take(response)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._warn("CANCELLED")
        except grpc.aio.AioRpcError as error:
            self._warn(error.code().name)
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return answered

    def _warn(self, code: str) -> None:
        """Once for each time that state goes away, not for each attempt to reach it."""
        if not self._away:
            _log.warning("ingest_stream_lost", code=code)

    async def _write(self, call: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._in_flight < WINDOW and (batch := self._batch()):
                message = _Message()
                self._in_flight += 1
                for waiting in batch:
                    waiting.message = message
                    self._sent[waiting.item.id] = waiting
                try:
                    await call.write(state_pb2.IngestRequest(items=[waiting.item for waiting in batch]))
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return  # the reader sees why

    def _batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        now = self.monotonic()
        while self._queue and len(batch) < BATCH:
            waiting = self._queue.popleft()
            left = round((waiting.deadline - now) * 1000)
            if waiting.future.done() or left <= 0:
                continue  # nobody waits any more: work past its deadline is dropped
            waiting.item.budget_ms = left
            batch.append(waiting)
        return batch

    def _take(self, response: state_pb2.IngestResponse) -> None:
        for result in response.results:
            waiting = self._sent.pop(result.id, None)
            if waiting is None:
                continue  # its caller stopped waiting
            if waiting.message is not None:
                self._answered(waiting.message)
            if not waiting.future.done():
                waiting.future.set_result(result)

    def _answered(self, message: _Message) -> None:
        if message.open:
            message.open = False
            self._in_flight -= 1
            self._wake.set()

    def _lost(self) -> None:
        """The stream ended: retry once what state can recognise, fail the rest."""
        lost = list(self._sent.values())
        self._sent.clear()
        self._in_flight = 0
        for waiting in reversed(lost):
            if waiting.message is not None:
                waiting.message.open = False
                waiting.message = None
            if waiting.future.done():
                continue
            if waiting.item.seq and not waiting.retried:
                waiting.retried = True
                self._queue.appendleft(waiting)
            else:
                waiting.future.set_exception(Unavailable("the stream to state was lost", retry_after_ms=1000))
        self._wake.set()
