"""SyncService: translates requests into values and values into answers."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common import tracing
from services.common.clock import Clock
from services.common.errors import BadInput, EarshotError, TooLarge, Unavailable, to_status
from services.common.settings import Settings
from services.sync.agents.entry import Entry
from services.sync.context import Key
from services.sync.embedders.port import TEXTS_MAX, Embedder
from services.sync.erasure import Erasure
from services.sync.reader import key_from, to_proto
from services.sync.reconciler import Reconciler
from services.sync.refresh import Freshness, Refreshed, Refresher, states
from services.sync.routing.chain import Chain
from services.sync.routing.completions import Completions
from services.sync.schedule.due import Lane
from services.sync.speech.prompt import Line, Reason
from services.sync.speech.turn import Acted, Ask, BlockState, Ended, Event, Finished, Spoken, Started
from services.sync.turns.converse import Turns

ID_MAX = 128
LINES_MAX = 1000
NPCS_MAX = 2000
TEXT_MAX = 32_768

_REASONS = {
    sync_pb2.CONVERSE_REASON_UNSPECIFIED: Reason.REPLY,
    sync_pb2.CONVERSE_REASON_REPLY: Reason.REPLY,
    sync_pb2.CONVERSE_REASON_SILENCE: Reason.SILENCE,
    sync_pb2.CONVERSE_REASON_GREETING: Reason.GREETING,
    sync_pb2.CONVERSE_REASON_DECIDE: Reason.DECIDE,
}
_OUTCOMES = {
    Ended.SPOKE: sync_pb2.CONVERSE_OUTCOME_SPOKE,
    Ended.PASSED: sync_pb2.CONVERSE_OUTCOME_PASSED,
    Ended.ACTED: sync_pb2.CONVERSE_OUTCOME_ACTED,
}
_FRESHNESS = {
    Freshness.CONFIRMED: sync_pb2.REFRESH_OUTCOME_CONFIRMED,
    Freshness.PENDING: sync_pb2.REFRESH_OUTCOME_PENDING,
    Freshness.REFUSED: sync_pb2.REFRESH_OUTCOME_REFUSED,
}
_LANES = {Lane.HIGH: type_pb2.LANE_HIGH, Lane.MEDIUM: type_pb2.LANE_MEDIUM, Lane.LOW: type_pb2.LANE_LOW}


class SyncServicer(sync_pb2_grpc.SyncServiceServicer):
    """Deadlines are the calls' own."""

    def __init__(
        self,
        reconciler: Reconciler,
        turns: Turns,
        refresher: Refresher,
        erasure: Erasure,
        completions: Completions,
        chain: Chain,
        settings: Settings,
        clock: Clock,
        embedder: Embedder,
    ) -> None:
        self._reconciler = reconciler
        self._turns = turns
        self._refresher = refresher
        self._erasure = erasure
        self._completions = completions
        self._chain = chain
        self._settings = settings
        self._clock = clock
        self._embedder = embedder

    async def Refresh(self, request: sync_pb2.RefreshRequest, context: Any) -> sync_pb2.RefreshResponse:
        if len(request.npcs) > NPCS_MAX:
            raise TooLarge(f"at most {NPCS_MAX} NPCs a call")
        keys = [_key(npc) for npc in request.npcs]
        if not keys and request.HasField("world"):
            keys = self._refresher.embodied(request.world.tenant, request.world.world)
        answers = await self._refresher.refresh(
            keys,
            min_revision=request.min_revision,
            force=request.force,
            invalidate=request.invalidate,
            wait=request.wait,
            timeout=_within(context.time_remaining()),
        )
        return sync_pb2.RefreshResponse(results=[_refreshed(answer) for answer in answers])

    # Written, not yielded, so that a cancelled call ends the turn's iterator at once.
    async def Converse(  # type: ignore[override]  # grpc.aio takes either form
        self, request: sync_pb2.ConverseRequest, context: Any
    ) -> None:
        with tracing.span("ask", stage="ask"):
            ask = self._ask(request, context.time_remaining())
        async with aclosing(self._turns.converse(ask)) as events:
            async for event in events:
                await context.write(_event(event))

    def _ask(self, request: sync_pb2.ConverseRequest, remaining: float | None) -> Ask:
        if not request.turn_id or len(request.turn_id) > ID_MAX:
            raise BadInput("turn_id must have 1 to 128 characters")
        if len(request.lines) + len(request.recalled) > LINES_MAX:
            raise TooLarge(f"at most {LINES_MAX} lines a turn")
        budget = self._settings.turn_deadline_s
        if remaining is not None:
            budget = min(budget, _within(remaining))
        return Ask(
            key=_key(request.npc),
            turn_id=request.turn_id,
            min_revision=request.min_revision,
            reason=_REASONS.get(request.reason, Reason.REPLY),
            lines=tuple(map(_line, request.lines)),
            deadline=self._clock.monotonic() + budget,
            player_ids=tuple(request.player_ids),
            happened=tuple(request.decide_reasons[:20]),
            speech=request.speech,
            actions=request.actions,
            generation=request.history_generation,
            recalled=tuple(map(_line, request.recalled)),
            conversation=request.conversation_id,
        )

    async def Complete(self, request: sync_pb2.CompleteRequest, context: Any) -> sync_pb2.CompleteResponse:
        if not request.text and not request.image_url:
            raise BadInput("text or image_url is needed")
        if len(request.text) + len(request.system) > TEXT_MAX:
            raise TooLarge(f"at most {TEXT_MAX} characters of text")
        done = await self._completions.run(
            request.tenant,
            request.system,
            request.text,
            request.image_url,
            most=min(request.max_tokens or self._settings.max_tokens, 4096),
            lane=Lane.MEDIUM,
            timeout=_within(context.time_remaining()),
        )
        answer = done.completion
        usage = sync_pb2.Usage(
            prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens, runtime_calls=1
        )
        return sync_pb2.CompleteResponse(text=answer.text, usage=usage, runtime=done.runtime)

    async def Embed(self, request: sync_pb2.EmbedRequest, context: Any) -> sync_pb2.EmbedResponse:
        if len(request.texts) > TEXTS_MAX or sum(map(len, request.texts)) > 4 * TEXT_MAX:
            raise TooLarge(f"at most {TEXTS_MAX} texts of {4 * TEXT_MAX} characters in all")
        try:
            made = await self._embedder.embed(list(request.texts), _within(context.time_remaining()))
        except TimeoutError as error:
            raise Unavailable("the embedder is slow", reason="EMBEDDER_SLOW") from error
        return sync_pb2.EmbedResponse(model=made.model, dim=made.dim, vectors=made.vectors)

    async def GetSyncStatus(
        self, request: sync_pb2.GetSyncStatusRequest, context: Any
    ) -> sync_pb2.GetSyncStatusResponse:
        world = (request.world.tenant, request.world.world)
        wanted = set(request.npc_ids)
        entries = [
            entry
            for key, entry in self._reconciler.agents.entries.items()
            if (key.tenant, key.world) == world and (not wanted or key.npc in wanted)
        ]
        runtimes = [
            sync_pb2.RuntimeStatus(
                name=endpoint.name,
                healthy=endpoint.health.ok and endpoint.breaker() == "closed",
                detail=endpoint.health.detail,
                in_flight=endpoint.in_flight,
                breaker=endpoint.breaker(),
                hold_ms=endpoint.hold_ms(),
                p95_ms=endpoint.p95_ms(),
                model=endpoint.provider.model,
            )
            for endpoint in self._chain.endpoints.values()
        ]
        npcs = [self._status(entry) for entry in sorted(entries, key=lambda entry: entry.key)]
        return sync_pb2.GetSyncStatusResponse(npcs=npcs, runtimes=runtimes)

    def _status(self, entry: Entry) -> sync_pb2.NpcSyncStatus:
        agent = entry.agent
        behind = max(entry.desired_revision - entry.confirmed_revision, 0) if entry.dirty is not None else 0
        age = max(self._clock.now_ms() - entry.confirmed_ms, 0) if entry.confirmed_ms else 0
        return sync_pb2.NpcSyncStatus(
            key=to_proto(entry.key),
            runtime=entry.primary,
            agent_id=agent.agent_id if agent is not None else "",
            confirmed_revision=entry.confirmed_revision,
            desired_revision=max(entry.desired_revision, entry.confirmed_revision),
            revisions_behind=behind,
            age_ms=age,
            lane=_LANES[entry.dirty.lane if entry.dirty is not None else entry.last_lane],
            dirty=entry.dirty is not None,
            in_flight=agent is not None and (agent.busy or agent.writing),
            suspect=agent is not None and bool(agent.suspects()),
            last_error=entry.last_error,
            blocks=[_block(state) for state in states(entry)],
            writes=entry.writes,
            turns=entry.turns,
        )

    async def ErasePlayer(self, request: sync_pb2.ErasePlayerRequest, context: Any) -> sync_pb2.ErasePlayerResponse:
        lines = bool(request.texts or request.turn_ids)
        if not request.tenant or bool(request.player_id) == lines:
            raise BadInput("tenant is needed, and either player_id or texts and turn_ids")
        if len(request.texts) + len(request.turn_ids) > LINES_MAX:
            raise TooLarge(f"at most {LINES_MAX} texts and turns a call")
        keys = [_key(npc) for npc in request.npcs]
        if any(key.tenant != request.tenant for key in keys):
            raise BadInput("an NPC of another tenant")
        if lines:
            receipts = await self._erasure.forget_lines(
                request.tenant, request.texts, request.turn_ids, keys, request.speaker_id, request.since_ms
            )
        else:
            timeout = _within(context.time_remaining()) * 0.9
            receipts = await self._erasure.erase(request.tenant, request.player_id, keys, timeout)
        return sync_pb2.ErasePlayerResponse(
            receipts=[
                type_pb2.ErasureReceipt(store=one.store, removed=one.removed, not_erasable=one.not_erasable)
                for one in receipts
            ]
        )


def _within(remaining: float | None) -> float:
    """Seconds to a little before the call's own deadline, so that the caller learns what became of it."""
    if remaining is None:
        return 30.0
    return max(remaining - min(0.1, 0.05 * remaining), 0.001)


def _key(proto: Any) -> Key:
    key = key_from(proto)
    if not all(key) or any(len(part.encode()) > ID_MAX for part in key):
        raise BadInput("an NPC needs tenant, world and npc_id of at most 128 bytes")
    return key


def _line(proto: sync_pb2.Line) -> Line:
    return Line(
        seq=proto.log_seq,
        speaker=proto.speaker_name or proto.speaker_id,
        text=proto.text,
        own=proto.own,
        notice=proto.notice,
        player=proto.speaker_kind != type_pb2.ENTITY_KIND_NPC,
        turn=proto.turn_id,
        degraded=proto.degraded,
    )


def _block(state: BlockState) -> sync_pb2.BlockStatus:
    return sync_pb2.BlockStatus(
        label=state.label, confirmed_revision=state.revision, digest=state.digest, written=state.written
    )


def _refreshed(answer: Refreshed) -> sync_pb2.RefreshResult:
    error: EarshotError | None = answer.error
    return sync_pb2.RefreshResult(
        key=to_proto(answer.key),
        outcome=_FRESHNESS[answer.outcome],
        revision=answer.revision,
        blocks=[_block(state) for state in answer.blocks],
        status=to_status(error) if error is not None else None,
    )


def _event(event: Event) -> sync_pb2.ConverseResponse:
    match event:
        case Started():
            started = sync_pb2.ConverseStarted(
                revision=event.revision,
                age_ms=event.age_ms,
                blocks=[_block(state) for state in event.blocks],
                runtime=event.runtime,
                inlined=event.inlined,
                read_ms=event.read_ms,
                write_ms=event.write_ms,
                degraded=event.degraded,
                degraded_reason=event.why,
            )
            return sync_pb2.ConverseResponse(started=started)
        case Spoken():
            return sync_pb2.ConverseResponse(sentence=sync_pb2.ConverseSentence(index=event.index, text=event.text))
        case Acted():
            data = json.dumps(dict(event.data), ensure_ascii=False).encode()
            action = type_pb2.Action(action_id=event.action_id, type=event.type, data=data)
            return sync_pb2.ConverseResponse(action=sync_pb2.ConverseAction(action=action))
        case Finished():
            return sync_pb2.ConverseResponse(finished=_finished(event))


def _finished(event: Finished) -> sync_pb2.ConverseFinished:
    usage = sync_pb2.Usage(
        prompt_tokens=event.spent.prompt_tokens,
        completion_tokens=event.spent.completion_tokens,
        runtime_calls=event.spent.calls,
    )
    return sync_pb2.ConverseFinished(
        outcome=_OUTCOMES[event.outcome],
        usage=usage,
        runtime=event.runtime,
        model=event.model,
        degraded=event.degraded,
        first_sentence_ms=event.first_sentence_ms,
        total_ms=event.total_ms,
        degraded_reason=event.why,
    )
