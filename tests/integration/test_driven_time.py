"""The loop whose time a game moves: it goes exactly as far as it may, and never past something that is under way."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.stack import free_ports
from tests.fakes.driven_time import DrivenClock, DrivenLoop

WALL = 1_800_000_000.0
# Only a hang takes so long.
HANG_S = 30.0


class Game:
    """The other side of the control port."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), HANG_S)
        self._lines = self._socket.makefile()
        self.tell(hello=WALL)
        # From here on time stands still.
        assert self.until(0)["now"] == 0

    def tell(self, **order: Any) -> None:
        self._socket.sendall(json.dumps(order).encode() + b"\n")

    def report(self) -> dict[str, Any]:
        return dict(json.loads(self._lines.readline()))

    def until(self, seconds: float, sent: tuple[int, ...] = ()) -> dict[str, Any]:
        self.tell(until=seconds, sent=sent)
        return self.report()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@contextmanager
def running(start: Any) -> Iterator[tuple[DrivenLoop, Game]]:
    """A driven loop in a thread of its own; `start(loop)` is awaited in it before the game connects."""
    (port,) = free_ports(1)
    loop, ready, ended = DrivenLoop(WALL), threading.Event(), asyncio.Event()

    async def main() -> None:
        control = asyncio.create_task(loop.control(port))
        await start(loop)
        # The control task listens with its first step.
        await asyncio.sleep(0)
        ready.set()
        await ended.wait()
        control.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert ready.wait(HANG_S)
    game = Game(port)
    try:
        yield loop, game
    finally:
        game.close()
        loop.call_soon_threadsafe(ended.set)
        thread.join(HANG_S)
        loop.close()


def test_it_goes_from_timer_to_timer_and_stops_where_it_was_told() -> None:
    seen: list[float] = []

    async def start(loop: DrivenLoop) -> None:
        async def tick() -> None:
            began = loop.time()
            for _ in range(4):
                await asyncio.sleep(10)
                seen.append(round(loop.time() - began))

        loop.ticking = loop.create_task(tick())  # type: ignore[attr-defined] # kept from the collector

    with running(start) as (loop, game):
        assert game.until(25)["now"] == pytest.approx(25)
        assert seen == [10, 20]
        assert DrivenClock(loop).now_ms() == round((WALL + 25) * 1000)
        assert game.until(1000)["now"] == pytest.approx(1000)
        assert seen == [10, 20, 30, 40]


def test_time_stands_still_while_a_thread_works() -> None:
    """What a thread brings back happens before any later timer, however long it really takes."""
    seen: list[str] = []

    async def start(loop: DrivenLoop) -> None:
        async def slow() -> None:
            await asyncio.sleep(1)
            await asyncio.to_thread(time.sleep, 0.2)
            seen.append("thread")

        async def timer() -> None:
            await asyncio.sleep(1.001)
            seen.append("timer")

        loop.tasks = [loop.create_task(slow()), loop.create_task(timer())]  # type: ignore[attr-defined] # kept

    with running(start) as (_, game):
        game.until(5)
    assert seen == ["thread", "timer"]


def test_it_waits_for_a_request_that_was_sent_and_says_when_it_answers() -> None:
    replies: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await asyncio.sleep(2)
        await send({"type": "http.response.body", "body": b"12345"})
        replies.append(1)

    with running(_nothing) as (loop, game):
        game.tell(until=60, sent=[7])
        # Nothing is reported and no time passes before request 7 is here, whole.
        arriving: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {"headers": [(b"x-game-request", b"7"), (b"content-length", b"3")]}
        noted = loop.ledger.around(application)

        async def sent(message: Any) -> None: ...

        async def request() -> None:
            await noted(scope, arriving.get, sent)

        asyncio.run_coroutine_threadsafe(request(), loop)
        loop.call_soon_threadsafe(arriving.put_nowait, {"body": b"a", "more_body": True})
        assert 7 not in loop.ledger.arrived
        loop.call_soon_threadsafe(arriving.put_nowait, {"body": b"bc", "more_body": False})
        report = game.report()
        assert (report["answered"], report["written"]) == ([7], {"7": 5})
        # It stopped when it had answered, 58 s before it had to.
        assert report["now"] == pytest.approx(2)
        assert game.until(60) == {"now": pytest.approx(60), "answered": [], "written": {}}
    assert replies == [1]


async def _nothing(_: DrivenLoop) -> None: ...
