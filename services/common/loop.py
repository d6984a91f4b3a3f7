"""The event loop of a process: sockets and timers are looked at every few milliseconds, however much is ready to run.

asyncio runs all that is ready before it looks at the sockets again. Where four rooms share a loop, that is often 50 ms
and sometimes 200, and a new connection passes through five such turns: a refusal or a probe, which costs next to
nothing, comes late because of work that others gave. Here what is ready waits in a queue of its own, in asyncio's
order, and is worked on for a slice of time between two looks.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import TypeVarTuple

# Work between two looks at the sockets; as long as the look and what it led to took, when that was longer: whatever
# floods the sockets leaves half of the time to the work.
SLICE_S = 0.005
# The same while steps of a connection follow each other: each of them comes after a look.
HURRIED_S = 0.001

Arguments = TypeVarTuple("Arguments")

# Set where what is scheduled must not wait in the queue: steps of next to no work, between bytes and their protocol.
PROMPT: ContextVar[bool] = ContextVar("prompt", default=False)


class PromptLoop(asyncio.SelectorEventLoop):
    """asyncio's loop over selectors, with its ready callbacks in slices."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[asyncio.Handle] = deque()
        self._due = False
        self._hurried = False
        # When work was broken off that goes on after the look.
        self._left = math.inf
        self._apart = Context()

    def call_soon(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's: in the order of the calls, but for those of a PROMPT context, which come first."""
        prompt = PROMPT.get() if context is None else context.get(PROMPT)
        if prompt or self.is_closed() or self.get_debug():
            self._hurried = True
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._waiting.append(handle)
        if not self._due:
            self._due = True
            super().call_soon(self._work, context=self._apart)
        return handle

    def _work(self) -> None:
        """Run what waits, for a slice of time; what it schedules comes after the next look, as in asyncio."""
        waiting = self._waiting
        now = self.time()
        end = now + max(HURRIED_S if self._hurried else SLICE_S, now - self._left)
        self._hurried = False
        try:
            for _ in range(len(waiting)):
                handle = waiting.popleft()
                if not handle.cancelled():
                    handle._run()  # as every loop does; it keeps the handle's context and reports failures
                if self.time() >= end:
                    break
        finally:
            self._due = bool(waiting)
            self._left = self.time() if waiting else math.inf
            if waiting:
                super().call_soon(self._work, context=self._apart)
