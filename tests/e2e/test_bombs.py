"""What is sent to hurt is refused within the limits, and a game beside it plays on."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator

import httpx

from tests.e2e.conftest import Keyed
from tests.integration.test_edge_http import answer, request

HALF_OPEN, SLOW = 500, 20
TIMES = 3


def blown_up(size: int) -> bytes:
    """So many bytes of JSON as gzip, about a thousand times smaller."""
    return gzip.compress(b'{"world":"' + b" " * size + b'"}', 9)


# What is sent, with which headers, and how it may be refused.
BOMBS: tuple[tuple[bytes, tuple[str, ...], set[str]], ...] = (
    (b"[" * 10_000_000, (), {"BODY_TOO_LARGE"}),
    (b'{"entities":' + b"[" * 250_000 + b"]" * 250_000 + b"}", (), {"TOO_DEEP"}),
    (blown_up(10_000_000), ("content-encoding: gzip",), {"GZIP_RATIO", "BODY_TOO_LARGE"}),
    (blown_up(100_000), ("content-encoding: gzip",), {"GZIP_RATIO"}),
    (blown_up(100_000_000), ("content-encoding: gzip",), {"GZIP_RATIO", "BODY_TOO_LARGE"}),
    (gzip.compress(blown_up(1_000_000)), ("content-encoding: gzip",), {"INVALID_JSON", "NOT_UTF8"}),
)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that is closed whatever happens: one left open fails whichever test runs when it is collected."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end. Closed while a line was on its way, the system answers that line with a reset: ended
    just the same.
    """
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_bombs_of_every_kind_at_once_leave_others_alone(keyed: Keyed) -> None:
    port = int(keyed.stack.url.rpartition(":")[2])
    bearer = keyed.bearer("yellow")
    authorization = f"authorization: {bearer['authorization']}"

    async def bomb(body: bytes, headers: tuple[str, ...], reasons: set[str]) -> None:
        for _ in range(TIMES):
            async with connected(port) as (reader, writer):
                writer.write(request(body, "/v1/snapshots", authorization, *headers))
                status, _, told = await answer(reader)
                assert status in (400, 413)
                assert json.loads(told)["error"]["reason"] in reasons

    async def half_open() -> None:
        async with connected(port) as (reader, _):
            assert await ended(reader) == b"", "closed when its header did not come"

    async def slow_header() -> None:
        async with connected(port) as (reader, writer), asyncio.TaskGroup() as tasks:
            closed = tasks.create_task(ended(reader))
            with contextlib.suppress(ConnectionError):
                writer.write(b"POST /v1/snapshots HTTP/1.1\r\n")
                while not closed.done():
                    writer.write(b"x-a: b\r\n")
                    await writer.drain()
                    await asyncio.wait([closed], timeout=0.1)
            assert await closed == b"", "closed when its header did not come"

    async def slow_body() -> None:
        async with connected(port) as (reader, writer), asyncio.TaskGroup() as tasks:
            writer.write(request(b" " * 10, "/v1/snapshots", authorization, length=100_000))
            answering = tasks.create_task(answer(reader))
            with contextlib.suppress(ConnectionError):
                while not answering.done():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.wait([answering], timeout=0.1)
            assert (await answering)[0] == 408

    async with httpx.AsyncClient(base_url=keyed.stack.url, headers=bearer, timeout=30, trust_env=False) as game:
        async with asyncio.timeout(100), asyncio.TaskGroup() as attack:
            attacks = [attack.create_task(bomb(*one)) for one in BOMBS]
            for kind, times in ((half_open, HALF_OPEN), (slow_header, SLOW), (slow_body, SLOW)):
                attacks += [attack.create_task(kind()) for _ in range(times)]
            played = 0
            while not all(one.done() for one in attacks):
                posted = await game.post("/v1/snapshots", json={"world": "peaceful", "entities": []})
                assert posted.status_code == 200, posted.text
                assert (await game.get("/healthz")).status_code == 200
                played += 1
        assert played > TIMES
        assert (await game.get("/v1/worlds/peaceful")).json()["revision"] >= 1
        assert [one["id"] for one in (await game.get("/v1/worlds")).json()["worlds"]] == ["peaceful"]
