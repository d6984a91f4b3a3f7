"""The coalesced stream of snapshots: items run side by side, answers leave as soon as the line is free.

One slow world holds up nobody: its item keeps one of the stream's places, the others go on. When all places
are taken the stream is not read, which is HTTP/2's flow control for the sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

from earshot.state.v1 import state_pb2

from services.common import tracing
from services.common.errors import DeadlineExceeded, EarshotError, Internal, to_status
from services.common.logs import get_logger

PLACES = 512
# A snapshot's deadline, for senders that name none.
BUDGET_MS = 1000

Apply = Callable[[state_pb2.SnapshotItem], Awaitable[state_pb2.SnapshotResult]]

_log = get_logger("state")


class IngestStream:
    """One call of Ingest."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
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
            for item in request.items:
                await self._places.acquire()
                self._running += 1
                group.create_task(self._item(item))
        self._ended = True
        self._ready.set()

    async def _item(self, item: state_pb2.SnapshotItem) -> None:
        try:
            async with asyncio.timeout((item.budget_ms or BUDGET_MS) / 1000):
                with tracing.received("earshot.state.v1.StateService/Ingest", item.traceparent):
                    result = await self._apply(item)
        except TimeoutError:
            result = _failed(item, DeadlineExceeded("the snapshot's deadline passed"))
        except EarshotError as error:
            result = _failed(item, error)
        except Exception as error:  # noqa: BLE001 - a defect costs one item, not the stream
            _log.error("snapshot_failed", error=type(error).__name__, exc_info=error)
            result = _failed(item, Internal("internal error; see the log"))
        finally:
            self._running -= 1
            self._places.release()
        self._results.append(result)
        self._ready.set()


def _failed(item: state_pb2.SnapshotItem, error: EarshotError) -> state_pb2.SnapshotResult:
    return state_pb2.SnapshotResult(id=item.id, status=to_status(error))
