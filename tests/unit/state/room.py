"""The state room with its cluster room behind in-process stubs, and short ways to say what a game sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from earshot.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.type.v1 import type_pb2

from services.cluster.proximity import components_in_python
from services.cluster.servicer import ClusterServicer
from services.common.app import App
from services.common.clock import Clock, LoopClock
from services.common.mirror import PRIVATE, Layout
from services.common.settings import Settings
from services.common.store import Database
from services.state import server

WORLD = type_pb2.WorldRef(tenant="t", world="w")
NPC, PLAYER = 1, 2
Rows = dict[str, tuple[Any, ...]]
"""id -> (kind, x, z) or (kind,) without a position."""


class SlowCluster(ClusterServicer):
    """The real cluster room, which waits while `gate` is closed and fails while `broken`."""

    def __init__(self) -> None:
        super().__init__(components_in_python)
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False
        self.calls = 0

    async def Assign(self, request: cluster_pb2.AssignRequest, context: Any) -> cluster_pb2.AssignResponse:
        self.calls += 1
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("broken")
        return await super().Assign(request, context)


class StoringApp(App):
    """An app that tells which store its room opened, so that a test can fill the disk."""

    database: Database

    def open_store(self, room: str, schema: Sequence[str], layout: Layout = PRIVATE) -> Database:
        self.database = super().open_store(room, schema, layout)
        return self.database


class Room:
    """A running state room and its stub."""

    def __init__(self, app: StoringApp, cluster: SlowCluster) -> None:
        self.app = app
        self.cluster = cluster
        self.stub: state_pb2_grpc.StateServiceAsyncStub = state_pb2_grpc.StateServiceStub(app.channels.to("state"))

    async def send(self, *items: state_pb2.SnapshotItem) -> list[state_pb2.SnapshotResult]:
        """Items of one message; results in the order of the items."""
        for number, item in enumerate(items):
            item.id = number
        stream = self.stub.Ingest(timeout=30)
        await stream.write(state_pb2.IngestRequest(items=items))
        await stream.done_writing()
        results = [result async for response in stream for result in response.results]
        return sorted(results, key=lambda result: result.id)

    async def snapshot(self, rows: Rows | None = None, **fields: Any) -> state_pb2.SnapshotResult:
        """One snapshot."""
        (result,) = await self.send(item(rows, **fields))
        return result

    async def earshot(self, **fields: Any) -> state_pb2.GetEarshotResponse:
        return await self.stub.GetEarshot(state_pb2.GetEarshotRequest(world=WORLD, **fields), timeout=5)

    async def context(self, npc: str, **fields: Any) -> state_pb2.NpcContext:
        request = state_pb2.BatchGetNpcContextRequest(npcs=[state_pb2.NpcKey(world=WORLD, npc_id=npc)], **fields)
        (found,) = (await self.stub.BatchGetNpcContext(request, timeout=5)).contexts
        return found

    async def observe(self, *observations: Any) -> state_pb2.ReportObservationsResponse:
        request = state_pb2.ReportObservationsRequest(world=WORLD, observations=map(observation, observations))
        return await self.stub.ReportObservations(request, timeout=5)

    async def open(self, boot: str = "boot", job: str = "job") -> int:
        request = state_pb2.OpenSessionRequest(world=WORLD, job=job, boot=boot)
        return (await self.stub.OpenSession(request, timeout=5)).epoch

    async def roster(self, **fields: Any) -> state_pb2.ImportRosterResponse:
        return await self.stub.ImportRoster(state_pb2.ImportRosterRequest(tenant="t", **fields), timeout=5)

    async def world(self, min_revision: int = 0) -> state_pb2.GetWorldResponse:
        return await self.stub.GetWorld(state_pb2.GetWorldRequest(world=WORLD, min_revision=min_revision), timeout=5)


@asynccontextmanager
async def running(data: str = ":memory:", clock: Clock | None = None, **settings: Any) -> AsyncIterator[Room]:
    """A room on a data directory; virtual time unless a clock is given."""
    app = StoringApp(
        Settings(data=data, **settings), ("state", "cluster"), clock=clock or LoopClock(), inline_stores=clock is None
    )
    cluster = SlowCluster()
    app.add(cluster_pb2_grpc.add_ClusterServiceServicer_to_server, cluster, "earshot.cluster.v1.ClusterService")
    await server.bind(app)
    async with app:
        yield Room(app, cluster)


def item(rows: Rows | None = None, **fields: Any) -> state_pb2.SnapshotItem:
    """A snapshot item of WORLD; fields named like columns go to the columns."""
    given: dict[str, Any] = {}
    for name in ("names", "actions", "locations"):
        if name in fields:
            given[name] = fields.pop(name)
    for name in ("looks", "details"):
        if name in fields:
            given[name] = b"[" + b",".join(fields.pop(name)) + b"]"
    for name, kind in (("health", "<f4"), ("max_health", "<f4"), ("last_seen", "<f8")):
        if name in fields:
            given[name] = np.array(fields.pop(name), kind).tobytes()
    entities = columns(rows or {}, **given)
    return state_pb2.SnapshotItem(**{"world": WORLD, "entities": entities, **fields})


def columns(rows: Rows, **given: Any) -> type_pb2.EntityColumns:
    """Columns of rows at ground level."""
    nan = float("nan")
    x, z = ([row[at] if len(row) > at else nan for row in rows.values()] for at in (1, 2))
    y = [nan if value != value else 0.0 for value in x]
    return type_pb2.EntityColumns(
        ids=list(rows),
        kinds=bytes(row[0] for row in rows.values()),
        x=np.array(x, "<f4").tobytes(),
        y=np.array(y, "<f4").tobytes(),
        z=np.array(z, "<f4").tobytes(),
        **given,
    )


def observation(message: Any) -> state_pb2.Observation:
    """Any of the four kinds."""
    field = {
        state_pb2.StatusObservation: "status",
        state_pb2.Link: "link",
        state_pb2.ActionResult: "action_result",
        type_pb2.GameEvent: "event",
    }[type(message)]
    return state_pb2.Observation(**{field: message})


def members(columns: state_pb2.ClusterColumns) -> list[set[str]]:
    """The clusters of an answer as sets of ids."""
    ids, found = list(columns.member_ids), []
    for size in columns.sizes:
        found.append(set(ids[:size]))
        ids = ids[size:]
    return found


def clusters(answer: state_pb2.GetEarshotResponse) -> list[set[str]]:
    """The clusters of an earshot answer as sets of ids."""
    return [{member.id for member in cluster.members} for cluster in answer.clusters]


def told(transitions: Iterable[state_pb2.Transition]) -> list[tuple[str, set[str]]]:
    """Transitions as (type, members)."""
    return [
        (type_pb2.TransitionType.Name(t.type).removeprefix("TRANSITION_TYPE_").lower(), set(t.member_ids))
        for t in transitions
    ]
