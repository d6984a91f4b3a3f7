"""A deadline over a stream: each step may last as long as is left, and who reads is never cancelled by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from services.sync.runtimes.port import TimedOut

T = TypeVar("T")


async def within(step: Awaitable[T], timeout: float) -> T:
    """The result of one call. Raises TimedOut."""
    try:
        async with asyncio.timeout(timeout):
            return await step
    except TimeoutError as error:
        raise TimedOut("no answer in time") from error


async def paced(stream: AsyncIterator[T], timeout: float) -> AsyncGenerator[T, None]:
    """The items of `stream`, all within `timeout` seconds from now. Raises TimedOut; closes the stream in any case."""
    deadline = asyncio.get_running_loop().time() + timeout
    # Generators are what adapters pass; a plain iterator has nothing to close.
    async with aclosing(stream) if hasattr(stream, "aclose") else _Nothing():  # type: ignore[type-var]  # just checked
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise TimedOut("the answer did not end in time") from error
            yield item


class _Nothing:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...
