"""POST /v1/sync: one request of a game server's loop. Snapshot, utterances and action results in, events out.

Idempotent by seq without a record here: state recognises the snapshot, chat each utterance by (epoch, seq, index),
state each action result by its action. What failed half way is repeated whole with the same seq.
"""

from __future__ import annotations

from collections.abc import Sequence

from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput, Conflict, EarshotError, Forbidden, Overloaded, TooLarge
from services.common.settings import Settings
from services.common.telemetry import Metrics
from services.edge import bounds, game_metrics
from services.edge.answer import Answer, fault, json_answer
from services.edge.columns import FLOAT_MAX, Refusals, listed, refuse
from services.edge.contract.message import Message
from services.edge.contract.session import (
    ActionResult,
    ActionUpdates,
    PlainSync,
    Said,
    Sync,
    SyncAnswer,
    SyncMetrics,
    SyncUtterance,
)
from services.edge.contract.shared import Refusal
from services.edge.event import page
from services.edge.events import Events
from services.edge.messages import OUTCOMES as SAID
from services.edge.messages import said
from services.edge.request import Request, ask
from services.edge.rooms import NOBODY_HEARD, READ_S, WRITE_S, Rooms
from services.edge.routes import Route
from services.edge.snapshot import Reading
from services.edge.snapshots import OUTCOMES, Snapshots, transition_answers
from services.edge.view import cluster_answers, refusals

UTTERANCES_MAX = 16
RESULTS_MAX = 64
# An utterance that is refused for itself does not stop the others; what concerns the rooms stops the request.
_OWN = (BadInput, Conflict, Forbidden, Overloaded, TooLarge)


class GameSync:
    """The endpoint."""

    def __init__(
        self, rooms: Rooms, snapshots: Snapshots, events: Events, settings: Settings, metrics: Metrics
    ) -> None:
        self._rooms = rooms
        self._snapshots = snapshots
        self._events = events
        self._metrics = metrics
        self._reader = Snapshots.reader(settings, PlainSync, Sync)

    def routes(self) -> list[Route]:
        return [Route("POST", "/v1/sync", self.post, Sync, SyncAnswer)]

    async def post(self, request: Request) -> Answer:
        """200 at once with the revision, what became of each part, and the events that are ready."""
        session = request.session()
        body = await request.content.read()
        deadline = self._snapshots.deadline()
        reading = self._snapshots.read(body, self._reader)
        world = request.world(reading.world)
        asked: Sync = reading.parsed
        reading.item.epoch = session.epoch
        if not reading.item.seq:
            raise BadInput("seq: a sync needs its number, from 1", reason="INVALID_FIELD")
        utterances, results = listed(asked.utterances), listed(asked.action_results)
        bounds.count(utterances, "utterances", UTTERANCES_MAX)
        bounds.count(results, "action_results", RESULTS_MAX)
        cursor = None if asked.cursor is None else bounds.whole(asked.cursor, "cursor")
        observations = action_results(results, reading.refused)
        answer = await self._snapshot(reading, world, deadline)
        if observations:
            message = state_pb2.ReportObservationsRequest(world=world, observations=observations.values())
            reported = await ask(self._rooms.state.ReportObservations(message, timeout=WRITE_S))
            answer.revision = max(answer.revision, reported.revision)
            answer.refused += [_own_path(one, list(observations)) for one in refusals(reported.refused)]
        if utterances:
            answer.utterances = await self._utter(utterances, reading.item, world, answer.revision)
        if isinstance(asked.metrics, SyncMetrics) and not _repeated(answer):
            answer.refused += game_metrics.count(asked.metrics, self._metrics)
        if cursor is not None:
            await self._ready(answer, world, cursor)
        return json_answer(answer)

    async def _snapshot(self, reading: Reading, world: type_pb2.WorldRef, deadline: float) -> SyncAnswer:
        item = reading.item
        answer = SyncAnswer(world.world, item.epoch, item.seq, 0, "none", refusals(reading.refused))
        if reading.parsed.entities is None and not item.delta:
            # Nothing about the world: only its revision, for what was said.
            nobody = state_pb2.GetEarshotRequest(world=world, entity_id=NOBODY_HEARD)
            told = await ask(self._rooms.state.GetEarshot(nobody, timeout=READ_S))
            if told.epoch > item.epoch:
                raise Conflict("a newer session of this world is open", reason="STALE_EPOCH")
            answer.revision = told.revision
            return answer
        result = await self._snapshots.apply(reading, world, deadline)
        answer.outcome = OUTCOMES.get(result.outcome, "")
        answer.revision = result.revision
        answer.refused = refusals([*reading.refused, *result.refused])
        answer.clusters = cluster_answers(result.clusters)
        answer.transitions = transition_answers(result)
        return answer

    async def _utter(
        self,
        utterances: Sequence[SyncUtterance],
        item: state_pb2.SnapshotItem,
        world: type_pb2.WorldRef,
        revision: int,
    ) -> list[Said]:
        """Say them one after the other: their order is what people heard."""
        outcomes = []
        for index, one in enumerate(utterances):
            try:
                message = Message(player_id=one.player_id, player_name=one.player_name, text=one.text, to=one.to)
                say = said(message, world)
                say.epoch, say.seq, say.index, say.min_revision = item.epoch, item.seq, index, revision
                response: chat_pb2.SayResponse = await ask(self._rooms.chat.Say(say, timeout=WRITE_S))
                outcomes.append(Said(SAID.get(response.outcome, ""), response.utterance_id))
            except _OWN as error:
                outcomes.append(Said("refused", error=fault(error)))
        return outcomes

    async def _ready(self, answer: SyncAnswer, world: type_pb2.WorldRef, cursor: int) -> None:
        try:
            response = await self._events.read(world, cursor)
        except EarshotError:
            return  # they come by the long poll
        events, answer.cursor = page(response.events, response.next_cursor)
        answer.events = events  # type: ignore[assignment] # encoded already
        answer.resync = response.resync


def _repeated(answer: SyncAnswer) -> bool:
    """Whether a room recognised a part of the sync: its answer was lost, and it came again."""
    return answer.outcome == "duplicate" or any(one.outcome == "duplicate" for one in answer.utterances or ())


def action_results(results: Sequence[ActionResult], refused: Refusals) -> dict[int, state_pb2.Observation]:
    """Results of actions as observations, by their place; one that names no action is reported and left out."""
    observations = {}
    for index, result in enumerate(results):
        path = f"action_results[{index}]"
        if not result.action_id:
            refuse(refused, f"{path}.action_id", "MISSING_ID")
            continue
        npc = "" if result.npc_id is None else bounds.identify(result.npc_id, f"{path}.npc_id")
        report = state_pb2.ActionResult(
            action_id=bounds.short(result.action_id, f"{path}.action_id", 128),
            npc_id=npc,
            success=result.success is not False,
            critical=bool(result.critical),
        )
        if isinstance(result.updates, ActionUpdates):
            report.updates.CopyFrom(_updates(result.updates, npc, path))
        observations[index] = state_pb2.Observation(action_result=report)
    return observations


def _own_path(refusal: Refusal, places: Sequence[int]) -> Refusal:
    """State's path into the observations as a path into this request."""
    number, _, rest = refusal.path.removeprefix("observations[").partition("]")
    if number.isdigit() and int(number) < len(places):
        return Refusal(f"action_results[{places[int(number)]}]{rest}", refusal.reason)
    return refusal


def _updates(updates: ActionUpdates, npc: str, path: str) -> state_pb2.StatusObservation:
    seen = state_pb2.StatusObservation(
        npc_id=npc,
        action=bounds.short(updates.action, f"{path}.updates.action", bounds.WORD),
        location=bounds.short(updates.location, f"{path}.updates.location", bounds.WORD),
    )
    if updates.health is not None and abs(updates.health) < FLOAT_MAX:
        seen.health = updates.health
    if updates.max_health is not None and abs(updates.max_health) < FLOAT_MAX:
        seen.max_health = updates.max_health
    return seen
