"""The owner of the room's tasks: world actors, turns, look-ups. They live and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from services.common.errors import Unavailable
from services.common.logs import get_logger

_log = get_logger("chat")


class Crew:
    """A TaskGroup whose members may fail alone. `run` is a worker of the app; `spawn` works while it runs."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Own tasks until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._ready.set()
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None
            self._ready.clear()

    async def ready(self) -> None:
        """Wait until tasks can be spawned. Raises Unavailable when that takes long."""
        try:
            async with asyncio.timeout(2.0):
                await self._ready.wait()
        except TimeoutError:
            raise Unavailable("the room is starting or stopping", reason="NOT_READY") from None

    def spawn(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `work`; its failure is logged and touches nobody else. Raises Unavailable outside `run`."""
        if self._group is None:
            raise Unavailable("the room is starting or stopping", reason="NOT_READY")
        return self._group.create_task(_alone(name, work), name=name)


async def _alone(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await work()
    except Exception as error:  # noqa: BLE001 - one world's or turn's failure must not end the others
        _log.error("task_failed", task=name, error=type(error).__name__, exc_info=error)
