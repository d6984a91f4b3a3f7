"""The way to the cluster room: questions of many worlds that arise together travel in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
from earshot.cluster.v1 import cluster_pb2, cluster_pb2_grpc

from services.common import tracing
from services.common.errors import BadInput, EarshotError, Unavailable, from_rpc
from services.state.membership import Assignment, Change, Move, Points

# Calls in flight at once; while they are, further questions gather for the next one.
WINDOW = 4
BATCH = 256
DEADLINE_S = 0.8


@dataclass(slots=True, eq=False)
class _Question:
    world: str
    points: Points
    answer: asyncio.Future[Assignment]
    trace: str


class Assigner:
    """Asks ClusterService.

    `run` must be running: it owns the calls, so that a caller who gives up harms no other.
    """

    def __init__(
        self, stub: cluster_pb2_grpc.ClusterServiceAsyncStub, settings: Callable[[str], cluster_pb2.Settings]
    ) -> None:
        self._stub = stub
        self._settings = settings  # of a world by its name
        self._questions: list[_Question] = []
        self._idle: deque[asyncio.Future[None]] = deque()  # calls that wait for a question

    async def assign(self, world: str, points: Points) -> Assignment:
        """The clusters of one world.

        Raises Unavailable (CLUSTER_UNAVAILABLE) when no answer comes in time.
        """
        question = _Question(world, points, asyncio.get_running_loop().create_future(), tracing.traceparent())
        self._questions.append(question)
        while self._idle:  # wake one
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await question.answer
        except TimeoutError:
            raise Unavailable("clusters were not answered in time", reason="CLUSTER_UNAVAILABLE") from None

    async def assign_all(self, questions: Sequence[tuple[str, Points]]) -> list[Assignment | EarshotError]:
        """The clusters of several worlds, asked in one call; in their order, a failure alone in its place."""
        try:
            request = cluster_pb2.AssignRequest(worlds=[self._world(world, points) for world, points in questions])
            response = await self._stub.Assign(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            if isinstance(from_rpc(error), BadInput) and len(questions) > 1:  # one world's defect is not the others'
                return [answer for question in questions for answer in await self.assign_all([question])]
            failed = Unavailable("clusters cannot be computed now", reason="CLUSTER_UNAVAILABLE")
            return [failed] * len(questions)
        return [_assignment(points, answer) for (_, points), answer in zip(questions, response.worlds, strict=True)]

    async def run(self) -> None:
        """Send what gathers, as soon as a call is free. Never returns."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WINDOW):
                group.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            if not self._questions:
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
            batch = [q for q in self._questions[:BATCH] if not q.answer.done()]
            del self._questions[:BATCH]
            if batch:
                await self._ask(batch)

    async def _ask(self, batch: Sequence[_Question]) -> None:
        try:
            request = cluster_pb2.AssignRequest(worlds=[self._world(q.world, q.points) for q in batch])
            # One call for several worlds: it is a part of the first trace among them.
            with tracing.carried(next((q.trace for q in batch if q.trace), "")):
                response = await self._stub.Assign(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc(error)
            if isinstance(failure, BadInput) and len(batch) > 1:
                for question in batch:  # one world's defect is not the others'
                    await self._ask([question])
                return
            for question in batch:
                _fail(question, Unavailable("clusters cannot be computed now", reason="CLUSTER_UNAVAILABLE"))
            return
        for question, world in zip(batch, response.worlds, strict=True):
            if not question.answer.done():
                question.answer.set_result(_assignment(question.points, world))

    def _world(self, world: str, points: Points) -> cluster_pb2.WorldPoints:
        x, y, z = points.xyz
        ended = [
            cluster_pb2.Lineage(id=lineage, formed_revision=formed, dissolved_ms=tick, members=rows)
            for lineage, formed, tick, rows in points.ended
        ]
        return cluster_pb2.WorldPoints(
            revision=points.revision,
            count=len(x),
            x=x.tobytes(),
            y=y.tobytes(),
            z=z.tobytes(),
            previous_of=points.previous_of.tobytes(),
            lineages=points.lineages,
            formed=points.formed,
            ended=ended,
            links=[row for link in points.links for row in link],
            settings=self._settings(world),
            now_ms=points.tick,  # monotonic, like the dissolutions: wall time may jump
        )


def _fail(question: _Question, error: Exception) -> None:
    if not question.answer.done():
        question.answer.set_exception(error)


_CHANGES = {int(change): change for change in Change}


def _assignment(points: Points, world: cluster_pb2.WorldClusters) -> Assignment:
    moves = tuple([Move(_CHANGES[t.type], t.lineage, tuple(t.rows), t.other_lineage) for t in world.transitions])
    if world.unchanged:
        return Assignment(points.lineages, points.formed, points.previous_of.astype(np.int32) - 1, moves)
    of = np.frombuffer(world.of, "<u4").astype(np.int32) - 1
    return Assignment(tuple(world.lineages), tuple(world.formed), of, moves)
