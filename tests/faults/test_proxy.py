"""The fault proxy does what it is told, and nothing without being told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import NONE, Fault, Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LONG_S = 20.0


@asynccontextmanager
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that says everything back."""

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(back, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[:2]) as proxy:
        yield proxy


async def connected(proxy: Proxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def said(streams: Streams, data: bytes) -> bytes:
    reader, writer = streams
    writer.write(data)
    await writer.drain()
    async with asyncio.timeout(LONG_S):
        return await reader.readexactly(len(data))


async def test_without_a_fault_everything_passes_both_ways() -> None:
    async with echo() as proxy:
        streams = await connected(proxy)
        whole = bytes(range(256)) * 4000
        assert await said(streams, whole) == whole
        streams[1].write_eof()
        async with asyncio.timeout(LONG_S):
            assert await streams[0].read() == b""
        assert (proxy.connections, proxy.passed) == (1, 2 * len(whole))
        streams[1].close()


async def test_a_black_hole_answers_nothing_and_loses_nothing() -> None:
    async with echo() as proxy:
        streams = await connected(proxy)
        assert await said(streams, b"before") == b"before"
        proxy.fault = Fault(black_hole=True)
        streams[1].write(b"within")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await streams[0].read(1)
        proxy.fault = NONE
        async with asyncio.timeout(LONG_S):
            assert await streams[0].readexactly(6) == b"within"
        streams[1].close()


@pytest.mark.parametrize("fault", [Fault(drop=True), Fault(reset=True), Fault(refuse=True)], ids=str)
async def test_connections_are_cut_and_new_ones_too(fault: Fault) -> None:
    async with echo() as proxy:
        streams = await connected(proxy)
        assert await said(streams, b"before") == b"before"
        proxy.fault = fault
        async with asyncio.timeout(LONG_S):
            with _cut(fault):
                assert await streams[0].read(1) == b""
            with _cut(fault):
                reader, writer = await connected(proxy)
                assert await reader.read(1) == b""
                writer.close()
        proxy.fault = NONE
        again = await connected(proxy)
        assert await said(again, b"after") == b"after"
        again[1].close()
        streams[1].close()


class _cut:
    """A reset raises, an end of the stream does not."""

    def __init__(self, fault: Fault) -> None:
        self._reset = not fault.drop

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, ConnectionResetError) and self._reset


async def test_slow_and_late_are_slow_and_late() -> None:
    async with echo() as proxy:
        loop = asyncio.get_running_loop()
        streams = await connected(proxy)
        proxy.fault = Fault(delay_s=0.1)
        began = loop.time()
        assert await said(streams, b"x") == b"x"
        assert loop.time() - began >= 0.2  # there and back
        proxy.fault = Fault(bytes_per_s=10_000)
        began = loop.time()
        await said(streams, bytes(1000))
        assert loop.time() - began >= 0.2
        streams[1].close()


async def test_a_target_that_is_gone_resets() -> None:
    async with Proxy(("127.0.0.1", 1)) as proxy:
        reader, writer = await connected(proxy)
        async with asyncio.timeout(LONG_S):
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
        writer.close()
