"""The load generator: closed loop, one request in flight per connection, a process of its own.

`python -m bench.load` reads one JSON order a line on stdin and answers with one JSON object a line. Bodies are made and
encoded before the clock runs; the loop is epoll over plain sockets, so that a request costs the generator little
beside what the kernel does for it.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import crowd
from bench.figures import percentile

ROOT = Path(__file__).parents[1]
RECEIVE = 1 << 18
SEND_BUFFER = 1 << 20
# How long answers that are on their way may take once no more is sent.
DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to send where. A connection sends the worlds that are its own, so no world has two requests in flight."""

    port: int
    path: str = "/v1/snapshots"
    connections: int = 1
    worlds: int = 64
    # Counted from the first request; the first warm_up seconds are sent but not counted.
    seconds: float = 3.0
    warm_up: float = 0.5
    # An answer counts as good when its status is 200 and it contains this.
    marker: str = '"revision"'


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back. rate and latencies (milliseconds) are of good answers; `sent` includes the warm-up."""

    sent: int
    good: int
    bad: int
    rate: float
    p50: float
    p90: float
    p99: float
    most: float
    answer_bytes: int
    # Beginning of the first answer that was not good.
    complaint: str = ""


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    requests: Iterator[bytes]
    started: float = 0.0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)
    wanted: int = 0
    watched: int = select.EPOLLIN


class Generator:
    """One run of an order."""

    def __init__(self, order: Order, bodies: Sequence[Sequence[bytes]]) -> None:
        self._order = order
        self._marker = order.marker.encode()
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._latencies: list[float] = []
        self._bad = self._sent = self._answer_bytes = 0
        self._complaint = ""
        self._waiting = 0
        for number in range(order.connections):
            own = bodies[number % order.worlds :: order.connections] if number < order.worlds else []
            if own:
                self._connect(own)

    def _connect(self, own: Sequence[Sequence[bytes]]) -> None:
        connected = socket.create_connection(("127.0.0.1", self._order.port), timeout=5)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connected.setblocking(False)
        requests = [[crowd.request(body, self._order.path, self._order.port) for body in world] for world in own]
        self._connections[connected.fileno()] = _Connection(connected, _rotated(requests))
        self._poll.register(connected, select.EPOLLIN)

    def run(self) -> Outcome:
        """Send until the time is over, then wait for what is on its way."""
        begin = time.perf_counter()
        counted_from, end = begin + self._order.warm_up, begin + self._order.warm_up + self._order.seconds
        for connection in self._connections.values():
            self._send(connection)
        while self._waiting:
            if time.perf_counter() > end + DRAIN_S:
                self._bad += self._waiting
                self._complaint = self._complaint or "no answer in time"
                break
            for number, events in self._poll.poll(0.5):
                connection = self._connections[number]
                if connection.unsent and events & select.EPOLLOUT:
                    self._push(connection)
                if events & ~select.EPOLLOUT and self._receive(connection):
                    now = time.perf_counter()
                    self._waiting -= 1
                    if self._good(connection) and counted_from <= now < end:
                        self._latencies.append((now - connection.started) * 1000)
                    if now < end:
                        self._send(connection)
        return self._outcome()

    def _send(self, connection: _Connection) -> None:
        connection.started = time.perf_counter()
        connection.unsent = memoryview(next(connection.requests))
        connection.wanted = 0
        connection.received.clear()
        self._sent += 1
        self._waiting += 1
        self._push(connection)

    def _push(self, connection: _Connection) -> None:
        with contextlib.suppress(BlockingIOError):
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        watched = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
        if watched != connection.watched:
            connection.watched = watched
            self._poll.modify(connection.socket, watched)

    def _receive(self, connection: _Connection) -> bool:
        """Take what is there; whether the answer is complete."""
        data = connection.socket.recv(RECEIVE)
        if not data:
            raise ConnectionError("the server closed a connection")
        received = connection.received
        received += data
        if not connection.wanted:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return False
            connection.wanted = end + 4 + _content_length(bytes(received[:end]))
        return len(received) >= connection.wanted

    def _good(self, connection: _Connection) -> bool:
        received = connection.received
        if received[9:12] == b"200" and received.find(self._marker) >= 0:
            self._answer_bytes = connection.wanted
            return True
        self._bad += 1
        self._complaint = self._complaint or bytes(received[:300]).decode("latin-1")
        return False

    def _outcome(self) -> Outcome:
        for connection in self._connections.values():
            connection.socket.close()
        self._poll.close()
        ordered = sorted(self._latencies)
        p50, p90, p99, most = (percentile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0))
        rate = len(ordered) / self._order.seconds
        good = self._sent - self._bad
        return Outcome(self._sent, good, self._bad, rate, p50, p90, p99, most, self._answer_bytes, self._complaint)


def _rotated(worlds: Sequence[Sequence[bytes]]) -> Iterator[bytes]:
    """A world after the other, each with its next frame."""
    orders = [crowd.back_and_forth(len(world)) for world in worlds]
    while True:
        for world, order in zip(worlds, orders, strict=True):
            yield world[next(order)]


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ConnectionError("an answer without content-length")


class LoadProcess:
    """The generator as a child process, for many orders; a context."""

    def __enter__(self) -> LoadProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "opened with a pipe"
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def run(self, order: Order) -> Outcome:
        """Blocks for the order's time. Raises RuntimeError when the generator died."""
        assert self._process.stdin is not None, "opened with a pipe"
        assert self._process.stdout is not None, "opened with a pipe"
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise RuntimeError(f"the load generator failed: {answer['error']}")
        return Outcome(**answer)


def main() -> None:
    """Orders on stdin, outcomes on stdout."""
    bodies: list[list[bytes]] = []
    for line in sys.stdin:
        order = Order(**json.loads(line))
        bodies += [crowd.frames(number) for number in range(len(bodies), order.worlds)]
        try:
            answer = asdict(Generator(order, bodies[: order.worlds]).run())
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
