"""A TCP proxy that fails on command: what stands between a client and Letta, Redis or another room in a test.

Bytes are passed on as they come; `fault` says what happens to them from now on, also on open connections. It runs in
the loop of who opens it, and everything it waits for ends with it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType

CHUNK = 16 * 1024
# A connection whose client writes on while nothing is passed holds at most so much.
HELD = 1024 * 1024
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """delay_s: each chunk waits so long. bytes_per_s: no faster, 0 = as fast as it comes. black_hole: taken and not
    passed on, until the fault is taken off. drop: closed at once, mid-sentence. reset: the same with RST. refuse: reset
    as soon as it connects."""

    delay_s: float = 0.0
    bytes_per_s: int = 0
    black_hole: bool = False
    drop: bool = False
    reset: bool = False
    refuse: bool = False

    @property
    def cuts(self) -> bool:
        return self.drop or self.reset or self.refuse


NONE = Fault()


@dataclass
class Proxy:
    """Listens on `host`, passes to `target` (host, port). Use `async with`; `port` is set then."""

    target: tuple[str, int]
    host: str = "127.0.0.1"
    port: int = 0
    connections: int = 0
    passed: int = 0
    _fault: Fault = NONE
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if fault.cuts:
            self.cut(reset=fault.reset)

    def cut(self, *, reset: bool = False) -> None:
        """End every open connection now; new ones are as the fault says."""
        for writer in list(self._open):
            _end(writer, reset=reset)

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=HELD)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        if self._fault.cuts:
            _end(writer, reset=not self._fault.drop)
            return
        with suppress(OSError):
            async with _opened(self.target) as (there, back):
                self._open |= {writer, back}
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self._pass(reader, back))
                        both.create_task(self._pass(there, writer))
                finally:
                    self._open -= {writer, back}
                    _end(writer)
            return
        _end(writer, reset=True)  # the target refused: so do we

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until either side ends or is cut."""
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._wait(len(chunk))
                if writer.is_closing():
                    return
                writer.write(chunk)
                await writer.drain()
                self.passed += len(chunk)
            if writer.can_write_eof():
                writer.write_eof()

    async def _wait(self, size: int) -> None:
        """As long as the fault says; a black hole until it is gone."""
        if self._fault.delay_s:
            await asyncio.sleep(self._fault.delay_s)
        if self._fault.bytes_per_s:
            await asyncio.sleep(size / self._fault.bytes_per_s)
        while self._fault.black_hole:
            await self._changed.wait()


@asynccontextmanager
async def _opened(target: tuple[str, int]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*target)
    try:
        yield reader, writer
    finally:
        _end(writer)


def _end(writer: asyncio.StreamWriter, *, reset: bool = False) -> None:
    """Close at once; with RST when asked."""
    if reset:
        sock = writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort() if reset else writer.close()
