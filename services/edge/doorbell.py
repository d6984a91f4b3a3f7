"""One watch on each chat replica for all held polls and streams of this edge: watches are doorbells.

A watch names the worlds that somebody here listens to, so that an edge is told of nothing else. A ring says where a
world's log ends now; who has read less is woken, and fetches. Whenever a watch begins to listen to a world it is told
that number: after a lost connection, or when the world has moved, nothing is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from earshot.chat.v1 import chat_pb2, chat_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.channels import Channels
from services.common.directory import Directory
from services.common.logs import get_logger
from services.common.ownership import partition_of

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0
# Between looks at who serves what, and at worlds that nobody listens to any more: for one look they are kept, because
# a client polls again at once.
LOOK_S = 2.0
# A world that is where it was said not to be is asked for there again after this.
ASTRAY_S = 0.2
# Worlds of one message.
BATCH = 256

World = tuple[str, str]

_log = get_logger("edge")


class Listener(Protocol):
    """Who waits for a world's log to grow. cursor: up to where it has read."""

    wake: asyncio.Event
    cursor: int


@dataclass(slots=True, eq=False)
class _Heard:
    """A world that is listened to. at: the replica that is asked, None = not known which."""

    listeners: set[Any] = field(default_factory=set)
    at: str | None = None
    idle: bool = False


class _Line:
    """One watch, kept for as long as there is somebody to listen for. worlds: what it should ring for."""

    def __init__(self, stub: Any, rung: Callable[[_Line, World, int, bool], None]) -> None:
        self._stub = stub
        self._rung = rung
        self._told: set[World] = set()
        self._wake = asyncio.Event()
        self._lost = False
        self.worlds: set[World] = set()

    def listen(self, world: World) -> None:
        self.worlds.add(world)
        self._wake.set()

    def leave(self, world: World) -> None:
        self.worlds.discard(world)
        self._wake.set()

    async def run(self) -> None:
        """Watch for ever, with back-off while the replica cannot be reached."""
        delay = BACKOFF_MIN_S
        while True:
            heard = await self._watch()
            delay = BACKOFF_MIN_S if heard else min(delay * 2, BACKOFF_MAX_S)
            await asyncio.sleep(delay)

    async def _watch(self) -> bool:
        """One watch until it is lost; whether it rang."""
        heard = False
        self._told = set()
        self._wake.set()
        # A stream of the life of the process: no deadline, keep-alive of the channel notices a dead peer.
        call = self._stub.WatchEvents()
        writer = asyncio.create_task(self._write(call), name="edge.doorbell.write")
        try:
            while (ring := await call.read()) is not grpc.aio.EOF:
                heard, self._lost = True, False
                world = (ring.world.tenant, ring.world.world)
                if ring.elsewhere:
                    self._told.discard(world)
                self._rung(self, world, ring.last_seq, ring.elsewhere)
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
        return heard

    def _warn(self, code: str) -> None:
        """Once for each time that a replica goes away."""
        if not self._lost:
            _log.warning("event_watch_lost", code=code)
        self._lost = True

    async def _write(self, call: Any) -> None:
        """Tell the replica what to ring for, whenever that changes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while listen := list(self.worlds - self._told)[:BATCH]:
                self._told.update(listen)
                await self._send(call, chat_pb2.WatchEventsRequest(listen=map(_ref, listen)))
            while leave := list(self._told - self.worlds)[:BATCH]:
                self._told.difference_update(leave)
                await self._send(call, chat_pb2.WatchEventsRequest(leave=map(_ref, leave)))

    async def _send(self, call: Any, request: chat_pb2.WatchEventsRequest) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader sees why
            await call.write(request)


class Doorbell:
    """Listeners by world. `run` keeps the watches."""

    def __init__(self, stub_at: Callable[[str], Any], directory: Directory | None = None) -> None:
        self._stub_at = stub_at
        self._directory = directory
        self._heard: dict[World, _Heard] = {}
        self._lines: dict[str, tuple[_Line, asyncio.Task[None]]] = {}
        self._running = False
        self._astray = asyncio.Event()

    @contextmanager
    def listening(self, world: type_pb2.WorldRef, listener: Listener) -> Iterator[None]:
        """Set the listener's `wake` whenever the log may have grown past its cursor. Listen, then read the log."""
        key = (world.tenant, world.world)
        heard = self._heard.get(key)
        if heard is None:
            heard = self._heard[key] = _Heard()
            self._place(key, heard)
        heard.listeners.add(listener)
        heard.idle = False
        try:
            yield
        finally:
            heard.listeners.discard(listener)

    async def run(self) -> None:
        """Keep a watch on every replica that serves a world that is listened to, until cancelled."""
        self._running = True
        try:
            while True:
                changed = self._directory.watch() if self._directory else None
                await asyncio.gather(*self._arrange(), return_exceptions=True)
                await self._pause(changed)
        finally:
            self._running = False
            tasks = [task for _, task in self._lines.values()]
            self._lines.clear()
            for heard in self._heard.values():
                heard.at = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pause(self, changed: asyncio.Event | None) -> None:
        """Until others serve, a world was not where it should be, or it is time to look."""
        waits = [asyncio.ensure_future(event.wait()) for event in (changed, self._astray) if event is not None]
        try:
            await asyncio.wait(waits, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._astray.is_set():
            self._astray.clear()
            if self._directory is not None:
                self._directory.doubt()
            await asyncio.sleep(ASTRAY_S)

    def _arrange(self) -> list[asyncio.Task[None]]:
        """Each world at its owner's watch; worlds that nobody came back to, and watches without worlds, end.

        Answers the watches that are ending.
        """
        for world, heard in list(self._heard.items()):
            if not heard.listeners and heard.idle:
                self._move(world, heard, None)
                del self._heard[world]
                continue
            heard.idle = not heard.listeners
            self._place(world, heard)
        ending = [self._lines.pop(one)[1] for one, (line, _) in list(self._lines.items()) if not line.worlds]
        for task in ending:
            task.cancel()
        return ending

    def _place(self, world: World, heard: _Heard) -> None:
        if not self._running:
            return
        owner = "" if self._directory is None else self._directory.owner(partition_of(*world)) or None
        if owner != heard.at:
            self._move(world, heard, owner)

    def _move(self, world: World, heard: _Heard, address: str | None) -> None:
        if heard.at is not None and heard.at in self._lines:
            self._lines[heard.at][0].leave(world)
        heard.at = address
        if address is None:
            return
        if address not in self._lines:
            line = _Line(self._stub_at(address), self._rung)
            self._lines[address] = line, asyncio.create_task(line.run(), name="edge.watch")
        self._lines[address][0].listen(world)

    def _rung(self, line: _Line, world: World, last_seq: int, elsewhere: bool) -> None:
        heard = self._heard.get(world)
        if heard is None or world not in line.worlds:
            return  # it has moved, or nobody listens any more
        if elsewhere:
            self._move(world, heard, None)
            self._astray.set()
            return
        for listener in heard.listeners:
            if listener.cursor != last_seq:
                listener.wake.set()


def doorbell_to(channels: Channels) -> Doorbell:
    """Watches on chat, one a replica."""
    directory = channels.directory("chat")
    if directory is None:
        return Doorbell(lambda _: chat_pb2_grpc.ChatServiceStub(channels.to("chat")))
    return Doorbell(lambda address: chat_pb2_grpc.ChatServiceStub(channels.at("chat", address)), directory)


def _ref(world: World) -> type_pb2.WorldRef:
    return type_pb2.WorldRef(tenant=world[0], world=world[1])
