"""One watch on chat's logs for all held polls and streams of this edge: watches are doorbells.

A ring says only that a world's log grew; listeners fetch. After a (re)connect everybody is rung, because rings may have
been missed, and once more a moment later, because the new watch may have begun after the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.common.logs import get_logger

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0
SETTLE_S = 0.5

_log = get_logger("edge")


@dataclass(slots=True)
class Doorbell:
    """Listeners by world."""

    stub: Any
    _listeners: dict[tuple[str, str], set[asyncio.Event]] = field(default_factory=dict)

    @contextmanager
    def listening(self, world: type_pb2.WorldRef, event: asyncio.Event) -> Iterator[None]:
        """Set `event` whenever the world's log may have grown. Listen first, then read the log."""
        key = (world.tenant, world.world)
        self._listeners.setdefault(key, set()).add(event)
        try:
            yield
        finally:
            listeners = self._listeners[key]
            listeners.discard(event)
            if not listeners:
                del self._listeners[key]

    def ring_all(self) -> None:
        for listeners in self._listeners.values():
            for event in listeners:
                event.set()

    async def run(self) -> None:
        """Watch for ever, with back-off while chat cannot be reached."""
        delay = BACKOFF_MIN_S
        while True:
            heard = await self._watch()
            delay = BACKOFF_MIN_S if heard else min(delay * 2, BACKOFF_MAX_S)
            await asyncio.sleep(delay)

    async def _watch(self) -> bool:
        """One watch until it is lost; whether it rang."""
        heard = False
        # A stream of the life of the process: no deadline, keep-alive of the channel notices a dead peer.
        call = self.stub.WatchEvents(chat_pb2.WatchEventsRequest())
        settle = asyncio.get_running_loop().call_later(SETTLE_S, self.ring_all)
        self.ring_all()
        try:
            while (ring := await call.read()) is not grpc.aio.EOF:
                heard = True
                for event in self._listeners.get((ring.world.tenant, ring.world.world), ()):
                    event.set()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            _log.warning("event_watch_lost", code="CANCELLED")
        except grpc.aio.AioRpcError as error:
            _log.warning("event_watch_lost", code=error.code().name)
        finally:
            settle.cancel()
            call.cancel()
        return heard
