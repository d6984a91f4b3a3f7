"""One turn through sync.Converse: what the NPC witnessed goes in, sentences and actions come back into the input log.

Everything that arrives is handed to the world's actor, in order, and becomes visible only with its append; the end of
the turn alone is waited for, so that what comes together is one append. Being cancelled means that the floor is
somebody else's: nothing is handed in any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from earshot.state.v1 import state_pb2
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.chat import context_budget, history, hygiene, outside
from services.chat.actor import WorldActor
from services.chat.conversation import SOLO, Act, Recalled
from services.chat.effects import Ask
from services.chat.inputs import Acted, Spoke, TurnEnded, TurnStarted
from services.chat.moderation import Moderator, check_after
from services.chat.policy import NPC
from services.chat.recollection import Recollection, Remembered, Witness
from services.common import tracing
from services.common.clock import Clock
from services.common.errors import EarshotError, from_rpc
from services.common.logs import get_logger

REASONS = {
    "reply": sync_pb2.CONVERSE_REASON_REPLY,
    "silence": sync_pb2.CONVERSE_REASON_SILENCE,
    "greeting": sync_pb2.CONVERSE_REASON_GREETING,
    "decide": sync_pb2.CONVERSE_REASON_DECIDE,
}
OUTCOMES = {
    sync_pb2.CONVERSE_OUTCOME_SPOKE: "spoke",
    sync_pb2.CONVERSE_OUTCOME_PASSED: "passed",
    sync_pb2.CONVERSE_OUTCOME_ACTED: "acted",
}

_log = get_logger("chat")


class Observer(Protocol):
    """Port: bring a world's clusters to a revision."""

    async def observe(self, actor: WorldActor, min_revision: int = 0) -> int:
        """The revision now known. Raises EarshotError."""
        ...


@dataclass(frozen=True, slots=True)
class Asking:
    """What running a turn needs."""

    sync: Any
    moderator: Moderator
    observer: Observer
    clock: Clock
    deadline_s: float
    history_tokens: int
    recollection: Recollection

    async def run(self, actor: WorldActor, ask: Ask) -> None:
        """Run a turn to its end; whatever happens, one TurnEnded is fed unless the turn was cancelled."""
        with tracing.span("chat.turn") as span:
            if span is not None:
                span.describe({"earshot.turn.kind": ask.kind})
            await self._run(actor, ask)

    async def _run(self, actor: WorldActor, ask: Ask) -> None:
        started = self.clock.monotonic()
        outcome, reason = "failed", "INCOMPLETE"
        finished: sync_pb2.ConverseFinished | None = None
        call: Any = None
        try:
            with tracing.span("history", stage="history"):
                request, remembered = await self._request(actor, ask)
            told = (*request.lines, *request.recalled)
            elsewhere = [line.text for line in told if outside.outside(line.speaker_id)]
            recall_ms = round((self.clock.monotonic() - started) * 1000)
            with tracing.span("hop", stage="hop"):
                call = self.sync.Converse(request, timeout=self.deadline_s)
                async for message in call:
                    finished = (
                        await self._take(actor, ask, message, elsewhere, started, remembered, recall_ms) or finished
                    )
            if finished is not None:
                outcome, reason = OUTCOMES.get(finished.outcome, "spoke"), ""
        except grpc.aio.AioRpcError as error:
            reason = from_rpc(error).reason
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            reason = "CANCELLED"
        except EarshotError as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001 - a defect must not keep the floor for ever
            _log.error("turn_failed", error=type(error).__name__, exc_info=error)
            reason = "INTERNAL"
        finally:
            if call is not None:
                call.cancel()
        ended = TurnEnded(0, ask.turn_id, outcome, reason)
        if finished is not None:
            ended = TurnEnded(0, ask.turn_id, outcome, reason, finished.degraded, {"total": finished.total_ms})
        if not actor.closed:
            await actor.feed(ended)

    async def _take(
        self,
        actor: WorldActor,
        ask: Ask,
        message: sync_pb2.ConverseResponse,
        elsewhere: Sequence[str],
        started: float,
        remembered: Remembered,
        recall_ms: int,
    ) -> sync_pb2.ConverseFinished | None:
        match message.WhichOneof("event"):
            case "started":
                await self._started(actor, ask, message.started, started, remembered, recall_ms)
            case "sentence":
                text = await check_after(self.moderator, hygiene.clean(message.sentence.text))
                if text:
                    actor.submit(Spoke(0, ask.turn_id, text, outside.quotes(text, elsewhere)))
            case "action":
                action = message.action.action
                actor.submit(Acted(0, ask.turn_id, Act(action.action_id, action.type, action.data)))
            case "finished":
                return message.finished
        return None

    async def _started(
        self,
        actor: WorldActor,
        ask: Ask,
        told: sync_pb2.ConverseStarted,
        started: float,
        remembered: Remembered,
        recall_ms: int,
    ) -> None:
        """Note how fresh the NPC is; membership up to that revision is logged first."""
        if told.revision > actor.observed:
            try:
                await self.observer.observe(actor, told.revision)
            except EarshotError as error:
                _log.warning("observe_failed", reason=error.reason)
        stages = {
            "append": actor.append_ms,
            "decision": actor.decision_ms,
            "read": told.read_ms,
            "write": told.write_ms,
            "recall": recall_ms,
            "model": max(
                0, round((self.clock.monotonic() - started) * 1000) - told.read_ms - told.write_ms - recall_ms
            ),
        }
        recalled = tuple(
            Recalled(one.memory.utterance_id, one.memory.world, one.memory.seq, one.memory.at_ms, one.score, one.legs)
            for one in remembered.found
        )
        actor.submit(
            TurnStarted(
                0, ask.turn_id, told.revision, told.age_ms, told.runtime, told.inlined, stages, told.degraded,
                recalled, remembered.notes,
            )
        )  # fmt: skip

    async def _request(self, actor: WorldActor, ask: Ask) -> tuple[sync_pb2.ConverseRequest, Remembered]:
        tenant, world = actor.key
        log, sessions = tuple(actor.recent), actor.world.sessions
        lasting = ask.npc_id in self.recollection.lasting(tenant)
        here = actor.world.where(ask.npc_id)
        everything = history.witnessed(log, ask.npc_id, ask.conversation_id, sessions, self.history_tokens)
        remembered = await self.recollection.of(
            Witness(actor.key, ask.npc_id, lasting, sessions),
            everything,
            here.people if here else (),
            actor.now_ms(),
        )
        spent = sum(context_budget.cost(line.text) for line in remembered.lines)
        lines = everything
        if spent:
            lines = history.witnessed(log, ask.npc_id, ask.conversation_id, sessions, self.history_tokens - spent)
        solo = ask.conversation_id.startswith(SOLO)
        request = sync_pb2.ConverseRequest(
            npc=state_pb2.NpcKey(world=type_pb2.WorldRef(tenant=tenant, world=world), npc_id=ask.npc_id),
            turn_id=ask.turn_id,
            min_revision=ask.min_revision,
            reason=REASONS[ask.kind],
            lines=[_line(line) for line in lines],
            recalled=[_line(line) for line in remembered.lines],
            player_ids=ask.player_ids,
            decide_reasons=ask.decide_reasons,
            speech=ask.speech,
            actions=True,
            conversation_id="" if solo else ask.conversation_id,
            history_generation=ask.generation,
        )
        return request, remembered


def _line(line: history.Line) -> sync_pb2.Line:
    kind = type_pb2.ENTITY_KIND_UNSPECIFIED
    if line.kind:
        kind = type_pb2.ENTITY_KIND_NPC if line.kind == NPC else type_pb2.ENTITY_KIND_PLAYER
    return sync_pb2.Line(
        log_seq=line.seq,
        speaker_id=line.speaker_id,
        speaker_name=line.speaker_name,
        speaker_kind=kind,
        text=line.text,
        at_ms=line.at_ms,
        own=line.own,
        notice=line.notice,
        turn_id=line.turn_id,
        degraded=line.degraded,
    )
