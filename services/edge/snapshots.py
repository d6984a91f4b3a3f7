"""POST /v1/snapshots: a game's snapshot in, the revision and its clusters out."""

from __future__ import annotations

import re
import time
from typing import Any

from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common import tracing
from services.common.clock import Clock
from services.common.errors import DeadlineExceeded, EarshotError, Overloaded, Unavailable
from services.common.logs import get_logger
from services.common.settings import Settings
from services.common.telemetry import Metrics
from services.edge.answer import Answer, json_answer
from services.edge.contract.snapshot import PlainSnapshot, Snapshot, SnapshotAnswer, TransitionAnswer
from services.edge.ingests import Submits
from services.edge.request import Request
from services.edge.routes import Route
from services.edge.snapshot import Reading, SnapshotReader
from services.edge.view import TRANSITIONS, cluster_answers, refusals

OUTCOMES = {
    state_pb2.INGEST_OUTCOME_APPLIED: "applied",
    state_pb2.INGEST_OUTCOME_DUPLICATE: "duplicate",
    state_pb2.INGEST_OUTCOME_RESYNC: "resync",
    state_pb2.INGEST_OUTCOME_SUPERSEDED: "superseded",
}


LOGGED_REFUSALS = 8
# Paths of the existing game, and of positions by member, lead through names and ids, which no log holds.
_ENTRY = re.compile(
    r"^humanContext(?:\[|\.).*?(\.(?:position|health|currentGroups|lastSeen)[.\w]*)?$", re.DOTALL
)  # fmt: skip
_POSITIONS = re.compile(r"\.positions\..*$", re.DOTALL)

_log = get_logger("edge")


class Snapshots:
    """The endpoint; the existing game's path and sync requests use `apply` too."""

    def __init__(self, ingest: Submits, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._ingest = ingest
        self._deadline_s = settings.snapshot_deadline_s
        self._reader = self.reader(settings, PlainSnapshot, Snapshot)
        self._metrics = metrics
        self._clock = clock

    def routes(self) -> list[Route]:
        return [Route("POST", "/v1/snapshots", self.post, Snapshot, SnapshotAnswer)]

    async def post(self, request: Request) -> Answer:
        """200 with the revision that the snapshot became, or why it became none."""
        body = await request.content.read()
        deadline = self.deadline()
        reading = self.read(body)
        world = request.world(reading.world)
        result = await self.apply(reading, world, deadline)
        with tracing.span("answer", stage="answer"):
            return json_answer(snapshot_answer(world.world, result, reading))

    def deadline(self) -> float:
        """Counted from the last byte: how fast a body comes is the client's doing, and bounded by itself."""
        return self._clock.monotonic() + self._deadline_s

    @staticmethod
    def reader(settings: Settings, known: type[Any], opened: type[Any]) -> SnapshotReader:
        """A reader with the settings' bounds."""
        return SnapshotReader(known, opened, entities_max=settings.entities_max, stale_after_s=settings.stale_after_s)

    def read(self, body: bytes, reader: SnapshotReader | None = None) -> Reading:
        """The body as an item of the stream. Raises BadInput and TooLarge."""
        started = time.perf_counter()
        try:
            reading = (reader or self._reader).read(body)
        except EarshotError:
            self._metrics.snapshots.labels("refused").inc()
            raise
        finally:
            self._metrics.observe_stage("parse", time.perf_counter() - started)
        for refusal in reading.refused[:LOGGED_REFUSALS]:
            _log.info("field_refused", path=nameless(refusal.path), reason=refusal.reason)
        return reading

    async def apply(self, reading: Reading, world: type_pb2.WorldRef, deadline: float) -> state_pb2.SnapshotResult:
        """State's result. Raises what state answered, Overloaded, Unavailable, DeadlineExceeded."""
        started = time.perf_counter()
        try:
            with tracing.span("hop", stage="hop"):
                reading.item.world.CopyFrom(world)
                reading.item.traceparent = tracing.traceparent()
                return await self._ingest.submit(reading.item, deadline)
        except (Unavailable, DeadlineExceeded, Overloaded):
            # State counts what it answered; here counts what got no answer or none in time.
            self._metrics.snapshots.labels("failed").inc()
            raise
        finally:
            self._metrics.observe_whole("snapshot", time.perf_counter() - started)


def nameless(path: str) -> str:
    """The path of a refusal without names of the game's."""
    return _POSITIONS.sub(".positions[*]", _ENTRY.sub(r"humanContext[*]\1", path))


def snapshot_answer(world: str, result: state_pb2.SnapshotResult, reading: Reading) -> SnapshotAnswer:
    """The result as clients read it."""
    return SnapshotAnswer(
        world,
        result.revision,
        OUTCOMES.get(result.outcome, ""),
        cluster_answers(result.clusters),
        transition_answers(result),
        refusals([*reading.refused, *result.refused]),
    )


def transition_answers(result: state_pb2.SnapshotResult) -> list[TransitionAnswer]:
    return [
        TransitionAnswer(TRANSITIONS.get(one.type, ""), one.lineage, list(one.member_ids), one.other_lineage)
        for one in result.transitions
    ]
