"""Sync now, decide, and many updates in one call; each NPC answered for itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput, EarshotError, from_status
from services.common.settings import Settings
from services.edge import bounds
from services.edge.admission import Admission
from services.edge.answer import Answer, fault, json_answer
from services.edge.columns import FLOAT_MAX, listed
from services.edge.contract.npc_call import Batch, BatchAnswer, Companion, Decide, DecideAnswer, NpcRefresh, SyncNpc
from services.edge.contract.session import ActionUpdates
from services.edge.contract.shared import Refusal
from services.edge.document import Document
from services.edge.messages import reply_answer
from services.edge.request import Request, ask
from services.edge.rooms import MARGIN_S, WRITE_S, Rooms
from services.edge.routes import Route
from services.edge.world_view import block_statuses
from services.edge.worlds import Worlds

NPCS_MAX = 200
REASONS_MAX = 16
REFRESH = {
    sync_pb2.REFRESH_OUTCOME_CONFIRMED: "confirmed",
    sync_pb2.REFRESH_OUTCOME_PENDING: "pending",
    sync_pb2.REFRESH_OUTCOME_REFUSED: "refused",
}

_SYNC, _DECIDE, _BATCH = Document(SyncNpc), Document(Decide), Document(Batch)


@dataclass(slots=True)
class _Updates:
    """Observations of a batch, whose each is, and what was refused before state saw it."""

    observations: list[state_pb2.Observation] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    refused: dict[str, list[Refusal]] = field(default_factory=dict)

    def refuse(self, npc: str, path: str, reason: str) -> None:
        self.refused.setdefault(npc, []).append(Refusal(path, reason))


class NpcCalls:
    """The endpoints."""

    def __init__(self, rooms: Rooms, worlds: Worlds, admission: Admission, settings: Settings) -> None:
        self._rooms = rooms
        self._worlds = worlds
        self._admission = admission
        self._wait_s = settings.messages_wait_s

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/npcs:batch", self.batch, Batch, BatchAnswer, ("world",)),
            Route("POST", "/v1/npcs/{id}/sync", self.sync, SyncNpc, NpcRefresh, ("world",)),
            Route("POST", "/v1/npcs/{id}/decide", self.decide, Decide, DecideAnswer, ("world",)),
        ]

    async def sync(self, request: Request) -> Answer:
        """200 with the revision that the blocks are confirmed as of, or pending."""
        npc = bounds.identify(request.parameters[0], "id")
        asked = _SYNC.value(await request.content.read())
        world = await self._world(request, asked.world, npc)
        message = sync_pb2.RefreshRequest(
            npcs=[state_pb2.NpcKey(world=world, npc_id=npc)],
            min_revision=bounds.whole(asked.min_revision, "min_revision"),
            force=asked.force is True,
            invalidate=asked.invalidate is True,
            wait=asked.wait is not False,
        )
        result = (await self._refresh(request, message)).results[0]
        if result.status.code:
            raise from_status(result.status)
        return json_answer(refreshed(result))

    async def decide(self, request: Request) -> Answer:
        """200 with what the NPC does; reasons that come meanwhile are merged into one call."""
        npc = bounds.identify(request.parameters[0], "id")
        asked = _DECIDE.value(await request.content.read())
        world = await self._world(request, asked.world, npc)
        reasons = listed(asked.reasons)
        bounds.count(reasons, "reasons", REASONS_MAX)
        wait_s = 0.0 if asked.wait is False else self._wait_s
        message = chat_pb2.DecideRequest(
            world=world,
            npc_id=npc,
            reasons=[bounds.shown(one, f"reasons[{index}]", bounds.CHAT) for index, one in enumerate(reasons)],
            speech=asked.speech is True,
            request_id="" if asked.request_id is None else bounds.identify(asked.request_id, "request_id"),
            wait_ms=round(wait_s * 1000),
        )

        async def call() -> chat_pb2.DecideResponse:
            return await ask(self._rooms.chat.Decide(message, timeout=wait_s + MARGIN_S))

        with self._admission.hold():
            response = await request.content.attended(call)
        reply = reply_answer(response.reply) if response.HasField("reply") else None
        return json_answer(DecideAnswer(response.turn_id, response.outcome, reply, response.reason))

    async def batch(self, request: Request) -> Answer:
        """200 with one entry an NPC: what state refused, and how far the blocks are."""
        asked = _BATCH.value(await request.content.read())
        world = request.world(asked.world)
        updates = batch_updates(asked)
        npcs = list(dict.fromkeys((*updates.owners, *updates.refused)))
        bounds.count(npcs, "npcs", NPCS_MAX)
        revision = await self._report(world, updates)
        keys = [state_pb2.NpcKey(world=world, npc_id=npc) for npc in dict.fromkeys(updates.owners)]
        found: dict[str, NpcRefresh] = {}
        if keys:
            message = sync_pb2.RefreshRequest(npcs=keys, min_revision=revision, wait=asked.wait is not False)
            try:
                response = await self._refresh(request, message)
                found = {result.key.npc_id: refreshed(result) for result in response.results}
            except EarshotError as error:
                # State has it: sync writes it when it is back.
                found = {key.npc_id: NpcRefresh(key.npc_id, "pending", error=fault(error)) for key in keys}
        entries = []
        for npc in npcs:
            entry = found.get(npc) or NpcRefresh(npc, "refused")
            entry.refused = updates.refused.get(npc)
            entries.append(entry)
        return json_answer(BatchAnswer(world.world, revision, entries))

    async def _report(self, world: type_pb2.WorldRef, updates: _Updates) -> int:
        """Enter the observations as one revision; who was refused loses its place among the owners."""
        if not updates.observations:
            return 0
        message = state_pb2.ReportObservationsRequest(world=world, observations=updates.observations)
        response = await ask(self._rooms.state.ReportObservations(message, timeout=WRITE_S))
        refused: set[int] = set()
        for one in response.refused:
            index = one.path.partition("[")[2].partition("]")[0]
            if index.isdigit() and int(index) < len(updates.owners):
                refused.add(int(index))
                updates.refuse(updates.owners[int(index)], one.path.partition("]")[2].lstrip("."), one.reason)
        updates.owners = [owner for index, owner in enumerate(updates.owners) if index not in refused]
        revision: int = response.revision
        return revision

    async def _refresh(self, request: Request, message: sync_pb2.RefreshRequest) -> sync_pb2.RefreshResponse:
        async def call() -> sync_pb2.RefreshResponse:
            wait_s = self._wait_s if message.wait else WRITE_S
            return await ask(self._rooms.sync.Refresh(message, timeout=wait_s))

        with self._admission.hold():
            return await request.content.attended(call)

    async def _world(self, request: Request, named: object, npc: str) -> type_pb2.WorldRef:
        return await self._worlds.world_of(request, npc) if named is None else request.world(named)


def batch_updates(asked: Batch) -> _Updates:
    """The batch as observations, location before status before group (C5); what cannot stand is refused alone."""
    updates = _Updates()
    locations = asked.location if isinstance(asked.location, dict) else {}
    statuses = asked.status if isinstance(asked.status, dict) else {}
    groups = asked.group if isinstance(asked.group, dict) else {}
    for npc, slug in locations.items():
        _enter(updates, npc, "location", ActionUpdates(location=slug))
    for npc, status in statuses.items():
        _enter(updates, npc, "status", status if isinstance(status, ActionUpdates) else ActionUpdates())
    for npc, told in groups.items():
        for companion in told if isinstance(told, list) else [told]:
            _enter(updates, npc, "group", companion or Companion())
    return updates


def _enter(updates: _Updates, npc: str, block: str, told: ActionUpdates | Companion) -> None:
    try:
        name = bounds.identify(npc, block)
        observation = _status(name, told) if isinstance(told, ActionUpdates) else _link(name, told)
    except BadInput as error:
        updates.refuse(npc[: bounds.ID], error.message.partition(":")[0], error.reason)
        return
    updates.observations.append(observation)
    updates.owners.append(name)


def _status(npc: str, told: ActionUpdates) -> state_pb2.Observation:
    seen = state_pb2.StatusObservation(
        npc_id=npc,
        action=bounds.short(told.action, "status.action", bounds.WORD),
        location=bounds.short(told.location, "location", bounds.WORD),
    )
    for name, value in (("health", told.health), ("max_health", told.max_health)):
        if value is not None and not abs(value) < FLOAT_MAX:
            raise BadInput(f"status.{name}: not finite", reason="NOT_FINITE")
    if told.health is not None:
        seen.health = told.health
    if told.max_health is not None:
        seen.max_health = told.max_health
    return state_pb2.Observation(status=seen)


def _link(npc: str, told: Companion) -> state_pb2.Observation:
    if told.player_id is None:
        raise BadInput("group.player_id: missing", reason="MISSING_ID")
    return state_pb2.Observation(
        link=state_pb2.Link(
            npc_id=npc,
            player_id=bounds.identify(told.player_id, "group.player_id"),
            player_name=bounds.shown(told.player_name, "group.player_name", bounds.NAME),
            leaving=told.is_joining is False,
        )
    )


def refreshed(result: sync_pb2.RefreshResult) -> NpcRefresh:
    """Sync's result for one NPC as clients read it."""
    error = fault(from_status(result.status)) if result.status.code else None
    blocks = block_statuses(result.blocks)
    return NpcRefresh(result.key.npc_id, REFRESH.get(result.outcome, ""), result.revision, blocks or None, error)
