"""An event loop whose time another process moves: two real programs on one virtual clock, over real sockets.

The other side (the game) connects to the control port and sends lines of JSON:

    {"hello": wall}                          wall: unix seconds now. From here on time stands still.
    {"until": seconds, "sent": [request, ...]}

Times are seconds since hello. The loop goes on from timer to timer until `until`, or until it has answered something,
and says

    {"now": seconds, "answered": [request, ...], "written": {request: bytes}}

It never moves its time while there is anything to do: a request that was sent and has not arrived, a callback, a
thread. A busy machine makes this slower and changes nothing else. Before hello and after the connection ends time is
the machine's.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Executor
from typing import Any

# The header by which the game numbers its requests.
NUMBER = b"x-game-request"
# Real seconds between looks while a thread works.
THREAD_S = 0.05

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Ledger:
    """Which of the game's requests have arrived whole, and what has been answered since the last report."""

    def __init__(self) -> None:
        self.arrived: set[int] = set()
        self.answered: list[int] = []
        self.written: dict[int, int] = {}

    def around(self, application: Application) -> Application:
        """The ASGI application, its traffic noted."""

        async def noted(scope: Message, receive: Receive, send: Send) -> None:
            headers = dict(scope.get("headers", ()))
            if NUMBER not in headers:
                await application(scope, receive, send)
                return
            number = int(headers[NUMBER])
            if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
                self.arrived.add(number)

            async def arriving() -> Message:
                message = await receive()
                if not message.get("more_body"):
                    self.arrived.add(number)
                return message

            async def writing(message: Message) -> None:
                await send(message)
                if body := message.get("body"):
                    self.written[number] = self.written.get(number, 0) + len(body)

            try:
                await application(scope, arriving, writing)
            finally:
                self.arrived.add(number)
                self.answered.append(number)

        return noted


class _Waiting(selectors.DefaultSelector):
    loop: DrivenLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if not self.loop.driven:
            return super().select(timeout)
        if self.loop.threads > 0:
            return super().select(THREAD_S)
        if self.loop.pass_time(timeout):
            return []
        return super().select(None)


class DrivenLoop(asyncio.SelectorEventLoop):
    """Use `wall` as the wall clock, and `ledger` around the application that the game talks to."""

    def __init__(self, wall: float) -> None:
        self.ledger = Ledger()
        self.threads = 0
        self._game: socket.socket | None = None
        self._partial = b""
        self._now = 0.0
        self._born = time.monotonic()
        self._wall = wall
        self._hello = 0.0
        self._until: float | None = None
        self._sent: set[int] = set()
        selector = _Waiting()
        selector.loop = self
        super().__init__(selector)

    @property
    def driven(self) -> bool:
        return self._game is not None

    def time(self) -> float:
        return self._now if self._game is not None else self._now + time.monotonic() - self._born

    def wall(self) -> float:
        """Unix seconds."""
        return self._wall + self.time()

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override] # asyncio's own signature has a TypeVarTuple
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self.threads -= 1

    async def control(self, port: int) -> None:
        """Take orders on a loopback port, one game at a time, for ever."""
        listening = socket.create_server(("127.0.0.1", port))
        listening.setblocking(False)
        with listening:
            while True:
                game, _ = await self.sock_accept(listening)
                game.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # Read only when there is something; a report is short.
                game.setblocking(True)
                gone = self.create_future()
                self.add_reader(game, self._ordered, game, gone)
                await gone

    def _ordered(self, game: socket.socket, gone: asyncio.Future[None]) -> None:
        data = game.recv(65536)
        if not data:
            self.remove_reader(game)
            game.close()
            self._release()
            gone.set_result(None)
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._obey(game, json.loads(line))

    def _obey(self, game: socket.socket, order: dict[str, Any]) -> None:
        if "hello" in order:
            now = self.time()
            self._game, self._now, self._hello = game, now, now
            self._wall = order["hello"] - now
            return
        self._until = self._hello + order["until"]
        self._sent.update(order["sent"])

    def _release(self) -> None:
        self._game, self._until, self._partial = None, None, b""
        self._born = time.monotonic()
        self._sent.clear()

    def pass_time(self, timeout: float | None) -> bool:
        """With nothing to do: go on to the next timer, `timeout` from now, or report. False: wait for the game."""
        if self._until is None or self._sent - self.ledger.arrived:
            return False
        if self.ledger.answered or self.ledger.written:
            self._report()
            return False
        if timeout is None or self._now + timeout > self._until:
            self._now = max(self._now, self._until)
            self._report()
            return False
        self._now += timeout
        return True

    def _report(self) -> None:
        assert self._game is not None
        self._until = None
        self._sent.clear()
        report = {
            "now": self._now - self._hello, "answered": self.ledger.answered, "written": self.ledger.written,
        }  # fmt: skip
        self.ledger.answered, self.ledger.written = [], {}
        try:
            self._game.sendall(json.dumps(report).encode() + b"\n")
        except OSError:
            # The game is gone: its reader notices.
            self._until = None


class DrivenClock:
    """Implements `services.common.clock.Clock` on a driven loop."""

    def __init__(self, loop: DrivenLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return round(self._loop.wall() * 1000)

    def monotonic(self) -> float:
        return self._loop.time()
