"""Server-sent events: the log and cursors of the long poll; a client that changes between them misses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.common.errors import Unavailable
from services.edge.doorbell import LOOK_S
from tests.unit.edge.fakes import World, world


class Stream:
    """A client's side of one streamed answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.ended = asyncio.Event()
        self._text = ""
        self._grown = asyncio.Event()
        self._gone = asyncio.Event()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        self._text += message["body"].decode()
        self._grown.set()
        if not message.get("more_body"):
            self.ended.set()

    async def next(self) -> dict[str, str]:
        """The next event or comment, by field."""
        while "\n\n" not in self._text:
            self._grown.clear()
            await self._grown.wait()
        block, _, self._text = self._text.partition("\n\n")
        return dict(line.split(": ", 1) for line in block.split("\n"))

    def leave(self) -> None:
        self._gone.set()


@asynccontextmanager
async def streaming(edge: World, query: str, **headers: str) -> AsyncIterator[Stream]:
    stream = Stream()
    given = {"host": "localhost", "accept": "text/event-stream", **headers}
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/events",
        "raw_path": b"/v1/events",
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()],
    }
    serving = asyncio.create_task(edge.edge.gateway(scope, stream.receive, stream.send))
    try:
        yield stream
    finally:
        stream.leave()
        await asyncio.wait_for(serving, 5)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_events_come_as_they_happen() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "before")
        async with streaming(edge, "world=w") as stream:
            assert await stream.next() == {"retry": "1000"}
            assert stream.status == 200
            assert stream.headers[b"content-type"].startswith(b"text/event-stream")
            await asyncio.sleep(1)
            said = now()
            edge.chat.utter("local", "w", "One.\nline")
            event = await stream.next()
            assert now() - said < 0.05
            assert event["id"] == "2"
            assert json.loads(event["data"])["text"] == "One.\nline"
            assert json.loads(event["data"])["type"] == "utterance"


async def test_from_a_cursor_and_after_a_reconnect() -> None:
    async with world() as edge:
        for number in range(130):
            edge.chat.utter("local", "w", str(number))
        async with streaming(edge, "world=w&cursor=0") as stream:
            await stream.next()
            ids = [int((await stream.next())["id"]) for _ in range(130)]
            assert ids == list(range(1, 131))
        async with streaming(edge, "world=w&cursor=0", last_event_id="129") as stream:
            await stream.next()
            assert (await stream.next())["id"] == "130"


async def test_silence_is_filled_with_comments() -> None:
    async with world() as edge, streaming(edge, "world=w&cursor=0") as stream:
        await stream.next()
        started = now()
        assert await stream.next() == {"": "ping"}
        assert now() - started <= 16


async def test_a_hole_asks_for_a_resync_and_goes_on() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "x")
        async with streaming(edge, "world=w&cursor=900") as stream:
            await stream.next()
            assert await stream.next() == {"event": "resync", "data": '{"cursor":1}'}
            edge.chat.utter("local", "w", "y")
            assert (await stream.next())["id"] == "2"


async def test_a_drain_says_where_to_go_on() -> None:
    async with world() as edge, streaming(edge, "world=w&cursor=0") as stream:
        await stream.next()
        edge.chat.utter("local", "w", "x")
        await stream.next()
        await asyncio.sleep(1)
        edge.edge.drain()
        assert await stream.next() == {"event": "reconnect", "data": '{"cursor":1}'}
        await stream.ended.wait()


async def test_a_chat_that_goes_away_ends_the_stream_with_a_reason() -> None:
    async with world() as edge, streaming(edge, "world=w&cursor=0") as stream:
        await stream.next()
        await asyncio.sleep(1)
        edge.chat.failure = Unavailable("away")
        edge.chat.utter("local", "w", "x")
        event = await stream.next()
        assert event["event"] == "error"
        assert json.loads(event["data"])["error"]["retryable"] is True
        await stream.ended.wait()


async def test_a_client_that_leaves_ends_its_stream() -> None:
    async with world() as edge:
        async with streaming(edge, "world=w&cursor=0") as stream:
            await stream.next()
        await asyncio.sleep(3 * LOOK_S)
        assert not edge.chat.watches[-1].worlds
        assert not edge.edge.events.polls._all


async def test_a_client_that_changes_between_transports_misses_nothing() -> None:
    async with world() as edge:
        seen: list[int] = []

        async def polled(cursor: int) -> int:
            answer = await edge.client.get(f"/v1/events?world=w&cursor={cursor}&hold=1")
            page: Any = answer.json() if answer.status_code == 200 else {"events": [], "cursor": cursor}
            seen.extend(event["seq"] for event in page["events"])
            return int(page["cursor"])

        cursor = 0
        for number in range(6):
            edge.chat.utter("local", "w", f"before {number}")
            if number % 2:
                cursor = await polled(cursor)
                continue
            async with streaming(edge, f"world=w&cursor={cursor}") as stream:
                await stream.next()
                cursor = int((await stream.next())["id"])
                seen.append(cursor)
            # Said while no transport is open.
            edge.chat.utter("local", "w", f"between {number}")
        while cursor < len(edge.chat.logs["local", "w"]):
            cursor = await polled(cursor)
        assert seen == list(range(1, len(edge.chat.logs["local", "w"]) + 1))


async def test_who_does_not_ask_for_a_stream_gets_the_long_poll() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "x")
        answer = await edge.client.get("/v1/events?world=w&cursor=0", headers={"accept": "*/*"})
        assert len(answer.json()["events"]) == 1
