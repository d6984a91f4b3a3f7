"""What keeping agents fresh costs the process that takes snapshots: CPU of sync for each, worlds of 80 entities.

State, cluster and sync in one process on virtual time, a snapshot every half second by turns, so that none is taken up
together with the next. Beside it the same without sync, by turns in the same run; of each the best.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.type.v1 import type_pb2

from bench import crowd
from bench.feed import TENANT, Disturbed
from bench.ledger import LedgerRuntime
from bench.result import Result
from services.cluster import server as cluster_room
from services.common.app import App
from services.common.clock import LoopClock
from services.common.settings import Settings
from services.edge.contract.snapshot import PlainSnapshot, Snapshot
from services.edge.snapshot import SnapshotReader
from services.state import server as state_room
from services.sync import server as sync_room
from services.sync.store import SyncStore
from tests.fakes import virtual_time

WORLDS, FRAMES, WARM, ROUNDS = 4, 40, 5, 3
PAUSE_S = 0.5

Bind = Callable[[App], Awaitable[None]]


async def _remote(app: App) -> None:
    """A runtime at 0 ms that holds its agents' blocks, as Letta does."""
    runtime = LedgerRuntime()
    await sync_room.serve(
        app, SyncStore(app.open_store("sync", sync_room.TABLES)), {runtime.name: runtime}, (runtime.name,)
    )


# With no sync, with a runtime whose blocks Earshot holds itself, with one that holds them.
KINDS: Mapping[str, Bind | None] = {"without sync": None, "offline": sync_room.bind, "remote": _remote}


def items() -> list[list[state_pb2.SnapshotItem]]:
    """Every world's frames: most NPCs shift a little, a player now and then goes to another stall."""
    reader = SnapshotReader(PlainSnapshot, Snapshot, entities_max=500, stale_after_s=60.0)
    found = []
    for number in range(WORLDS):
        world = type_pb2.WorldRef(tenant=TENANT, world=f"w{number}")
        found.append([reader.read(body).item for body in crowd.frames(number, FRAMES)])
        for item in found[-1]:
            item.id, item.budget_ms = 1, 1000
            item.world.CopyFrom(world)
    return found


async def _cpu(bind: Bind | None, worlds: list[list[state_pb2.SnapshotItem]]) -> float:
    """Microseconds of CPU for each snapshot."""
    settings = Settings.model_validate({"data": ":memory:", "runtimes": "offline", "otlp_endpoint": ""})
    app = App(settings, ("cluster", "state", *(("sync",) if bind else ())), clock=LoopClock(), inline_stores=True)
    await cluster_room.bind(app)
    await state_room.bind(app)
    if bind is not None:
        await bind(app)
    began = 0.0
    async with app:
        state: Any = state_pb2_grpc.StateServiceStub(app.channels.to("state"))
        streams = [state.Ingest() for _ in worlds]
        for frame in range(FRAMES):
            if frame == WARM:
                gc.collect()
                began = time.process_time()
            for stream, frames in zip(streams, worlds, strict=True):
                await stream.write(state_pb2.IngestRequest(items=[frames[frame]]))
                (result,) = (await stream.read()).results
                if result.status.code:
                    raise Disturbed(f"a snapshot was not applied: {result.status.reason}")
                await asyncio.sleep(PAUSE_S)
        spent = time.process_time() - began
        for stream in streams:
            stream.cancel()
    return 1e6 * spent / (len(worlds) * (FRAMES - WARM))


def run() -> list[Result]:
    """CPU that sync adds to a snapshot."""
    worlds = items()
    best = dict.fromkeys(KINDS, float("inf"))
    for _ in range(ROUNDS):
        for name, bind in KINDS.items():
            best[name] = min(best[name], virtual_time.run(_cpu(bind, worlds)))
    bare = best["without sync"]
    return [
        Result(
            f"CPU that sync adds to a snapshot of 80 entities, {name} runtime", best[name] - bare, "us",
            peers={"without sync": bare, "times": best[name] / bare},
        )
        for name in ("offline", "remote")
    ]  # fmt: skip
