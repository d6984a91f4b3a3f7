"""Owns the tasks that outlive the call that began them: an agent's turn goes on when its caller left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.common.errors import EarshotError, Unavailable
from services.common.logs import get_logger
from services.sync.runtimes.port import RuntimeFault

T = TypeVar("T")

_log = get_logger("sync")


class Crew:
    """spawn begins a task, close waits for all and ends those that take too long. Bounded: more is refused."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Begin a task that this crew owns. Its failure is logged; who awaits it gets it too."""
        if self._closed or len(self._tasks) >= self._most:
            work.close()
            raise Unavailable("sync is stopping" if self._closed else "too much work is under way")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def unhurried(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """The result of `work`; when the caller is cancelled, the work goes on."""
        return await asyncio.shield(self.spawn(work, name))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, EarshotError | RuntimeFault):
            _log.debug("task_failed", task=task.get_name(), error=type(error).__name__)
        else:
            _log.error("task_failed", task=task.get_name(), error=type(error).__name__, exc_info=error)

    async def close(self, grace_s: float) -> None:
        """Wait for what runs, then cancel the rest."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
