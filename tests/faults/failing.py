"""`earshot up` that dies, as by kill -9, at a named point of its own code.

    FAILPOINT=chat.committed FAILPOINT_HITS=40 python -m tests.faults.failing up --target all

The product knows nothing of it: a point is a function of it that is wrapped here. One that is renamed fails at start.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli import main


@dataclass(frozen=True, slots=True)
class Point:
    """Before or after a function of the product is run. room: only in that room's store."""

    module: str
    function: str
    after: bool = False
    room: str = ""


def _store(room: str) -> dict[str, Point]:
    """A room's group commit: before anything of it, inside its transaction, committed but not told, told."""
    module = "services.common.store"
    return {
        f"{room}.taken": Point(module, "Database._commit", room=room),
        f"{room}.begun": Point(module, "Database._commit_group", room=room),
        f"{room}.committed": Point(module, "Database._commit_group", after=True, room=room),
        f"{room}.told": Point(module, "Database._done", after=True, room=room),
    }


POINTS: dict[str, Point] = {
    **_store("state"),
    **_store("chat"),
    **_store("sync"),
    # Within a transaction, after its statements: SQLite has written to the log, nothing is committed.
    "transaction.written": Point("services.common.store", "_attempt", after=True),
    "checkpoint.begun": Point("services.common.store_file", "Checkpointer.committed"),
    "opening.claimed": Point("services.common.store", "Database._claim", after=True),
    "state.assigned": Point("services.state.intake", "Intake._answers", after=True),
    "state.shown": Point("services.state.intake", "Intake._show", after=True),
    "chat.reduced": Point("services.chat.actor", "WorldActor._reduce", after=True),
    "chat.granted": Point("services.chat.actor", "WorldActor._ask"),
    "chat.asked": Point("services.chat.actor", "WorldActor._turn"),
    "sync.intended": Point("services.sync.store", "SyncStore.open_turn", after=True),
    "sync.confirmed": Point("services.sync.store", "SyncStore.confirm", after=True),
    "sync.closed": Point("services.sync.store", "SyncStore.close_turn"),
    "sync.embodied": Point("services.sync.store", "SyncStore.save_agent"),
    "edge.answered": Point("services.edge.game_sync", "GameSync.post", after=True),
}
_hits = 0


def arm(point: Point, hits: int) -> None:
    """Die at the n-th time that the point is reached."""
    owner: Any = importlib.import_module(point.module)
    *path, name = point.function.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, _wrapped(getattr(owner, name), point, hits))


def _wrapped(function: Callable[..., Any], point: Point, hits: int) -> Callable[..., Any]:
    def reached(args: tuple[Any, ...]) -> None:
        global _hits
        if point.room and Path(args[0]._path).stem != point.room:
            return
        _hits += 1
        if _hits >= hits:
            os.kill(os.getpid(), signal.SIGKILL)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waits(*args: Any, **kwargs: Any) -> Any:
            if not point.after:
                reached(args)
            result = await function(*args, **kwargs)
            if point.after:
                reached(args)
            return result

        return waits

    @functools.wraps(function)
    def calls(*args: Any, **kwargs: Any) -> Any:
        if not point.after:
            reached(args)
        result = function(*args, **kwargs)
        if point.after:
            reached(args)
        return result

    return calls


if __name__ == "__main__":
    if name := os.environ.get("FAILPOINT", ""):
        arm(POINTS[name], int(os.environ.get("FAILPOINT_HITS", "1")))
    sys.exit(main())
