"""The coalesced stream of snapshots: items run side by side, answers leave as soon as the line is free.

One slow world holds up nobody: its item keeps one of the stream's places, the others go on. When all places
are taken the stream is not read, which is HTTP/2's flow control for the sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from earshot.state.v1 import state_pb2

from services.common import tracing
from services.common.errors import DeadlineExceeded, EarshotError, Internal, to_status
from services.common.logs import get_logger

PLACES = 512
# A snapshot's deadline, for senders that name none.
BUDGET_MS = 1000

# Items that are taken up in one go, some milliseconds of the loop: probes and refusals get it in between.
TOGETHER = 8

Item: TypeAlias = state_pb2.SnapshotItem
Result: TypeAlias = state_pb2.SnapshotResult


class Ingest(Protocol):
    """What becomes of the items."""

    async def alone(self, item: Item) -> Result:
        """One item, which may have to wait for its world's turn."""
        ...

    def take(self, items: Sequence[Item]) -> Taken:
        """Take up what need not wait; never blocks."""
        ...


@dataclass(slots=True)
class Taken:
    """Items of one message. together: those whose worlds' turns are held, to be carried out in one go or `dropped`;
    alone: each has to wait for something; results: of those that were refused at once.
    """

    items: Sequence[Item]
    together: Callable[[], Awaitable[Sequence[Result]]]
    dropped: Callable[[], None]
    alone: Sequence[Item]
    results: Sequence[Result]


_log = get_logger("state")


class IngestStream:
    """One call of Ingest."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._places = asyncio.Semaphore(PLACES)
        self._results: list[state_pb2.SnapshotResult] = []
        self._ready = asyncio.Event()
        self._running = 0
        self._ended = False

    async def serve(
        self,
        requests: AsyncIterable[state_pb2.IngestRequest],
        write: Callable[[state_pb2.IngestResponse], Awaitable[Any]],
    ) -> None:
        """Answer every item; returns when the requests have ended and all are answered."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(requests, group))
            while not (self._ended and self._running == 0 and not self._results):
                await self._ready.wait()
                self._ready.clear()
                if self._results:
                    results, self._results = self._results, []
                    await write(state_pb2.IngestResponse(results=results))

    async def _read(self, requests: AsyncIterable[state_pb2.IngestRequest], group: asyncio.TaskGroup) -> None:
        async for request in requests:
            items = request.items
            for start in range(0, len(items), TOGETHER):
                part = items[start : start + TOGETHER]
                for _ in part:
                    await self._places.acquire()
                self._running += len(part)
                self._begin(self._ingest.take(part), group)
                await asyncio.sleep(0)
        self._ended = True
        self._ready.set()

    def _begin(self, taken: Taken, group: asyncio.TaskGroup) -> None:
        if taken.results:
            self._finish(taken.results)
        if taken.items:
            started = False

            async def together() -> None:
                nonlocal started
                started = True
                await self._together(taken)

            def ended(_: asyncio.Task[None]) -> None:
                if not started:  # cancelled before its first step: nobody else gives the turns back
                    taken.dropped()

            group.create_task(together()).add_done_callback(ended)
        for item in taken.alone:
            group.create_task(self._item(item))

    def _finish(self, results: Sequence[Result]) -> None:
        self._running -= len(results)
        for _ in results:
            self._places.release()
        self._results += results
        self._ready.set()

    async def _together(self, taken: Taken) -> None:
        items = taken.items
        error: EarshotError
        try:
            async with asyncio.timeout(max(item.budget_ms or BUDGET_MS for item in items) / 1000):
                self._finish(await taken.together())
                return
        except TimeoutError:
            error = DeadlineExceeded("the snapshot's deadline passed")
        except Exception as failure:  # noqa: BLE001 - a defect costs these items, not the stream
            _log.error("snapshot_failed", error=type(failure).__name__, exc_info=failure)
            error = Internal("internal error; see the log")
        self._finish([failed(item, error) for item in items])

    async def _item(self, item: Item) -> None:
        try:
            async with asyncio.timeout((item.budget_ms or BUDGET_MS) / 1000):
                with tracing.received("earshot.state.v1.StateService/Ingest", item.traceparent):
                    result = await self._ingest.alone(item)
        except TimeoutError:
            result = failed(item, DeadlineExceeded("the snapshot's deadline passed"))
        except EarshotError as error:
            result = failed(item, error)
        except Exception as error:  # noqa: BLE001 - a defect costs one item, not the stream
            _log.error("snapshot_failed", error=type(error).__name__, exc_info=error)
            result = failed(item, Internal("internal error; see the log"))
        self._finish((result,))


def failed(item: Item, error: EarshotError) -> Result:
    """The answer to an item that was refused."""
    return state_pb2.SnapshotResult(id=item.id, status=to_status(error))
