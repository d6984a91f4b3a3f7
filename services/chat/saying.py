"""From a caller's words to a durable utterance and, when it waits, to what came of it.

Order: hygiene and bounds, message id, allowance, moderation, who hears (state), append. A caller that is refused before
the append is told so; one that is answered has its words in the log.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.chat import effects, hygiene
from services.chat.actor import WorldActor
from services.chat.allowance import Toll
from services.chat.inputs import Heard, Wished
from services.chat.moderation import ALLOWED, Moderator, Verdict, check_before
from services.chat.outcome import Outcome
from services.chat.policy import PLAYER, Participant
from services.chat.store import ChatStore, Seen
from services.chat.worlds import OBSERVE_S, Key, Worlds
from services.common import tracing
from services.common.clock import Clock
from services.common.errors import BadInput, Conflict, EarshotError, NotFound, Overloaded, from_rpc
from services.common.telemetry import Metrics

PERIOD_S = 10.0
# Answered this much before the caller's deadline, so that the answer arrives.
MARGIN_S = 0.05


class _GivenUp(Exception):
    """The caller who was first with a message left before it was durable."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a caller wants said."""

    world: Key
    speaker_id: str
    speaker_name: str
    text: str
    kind: str = PLAYER
    message_id: str = ""
    epoch: int = 0
    seq: int = 0
    index: int = 0
    to_npc: str = ""
    waiting_npc: str = ""
    system: bool = False
    min_revision: int = 0
    wait_s: float = 0.0

    @property
    def key(self) -> str:
        """Identity of the message, "" = it has none."""
        if self.message_id:
            return f"m:{self.message_id}:{self.waiting_npc}"
        return f"s:{self.epoch}:{self.seq}:{self.index}" if self.seq else ""


@dataclass(frozen=True, slots=True)
class Said:
    """What became of it. settled is None while more may come."""

    accepted: Seen
    duplicate: bool
    outcome: Outcome | None


@dataclass(slots=True)
class Saying:
    """The way in."""

    worlds: Worlds
    store: ChatStore
    state: Any
    moderator: Moderator
    clock: Clock
    metrics: Metrics
    players: Toll
    conversations: Toll
    _flying: dict[tuple[Key, str], asyncio.Future[Seen]] = field(default_factory=dict)

    async def say(self, words: Words) -> Said:
        """Append and, if the caller waits, wait. Raises BadInput, Conflict STALE_EPOCH, Overloaded, Unavailable."""
        text = hygiene.system_line(words.text) if words.system else hygiene.utterance(words.text)
        if not words.speaker_id:
            raise BadInput("who speaks?", reason="SPEAKER_REQUIRED")
        actor = await self.worlds.get(words.world)
        first = await self._first(words)
        if first is not None:
            return await self._waited(actor, words, first, duplicate=True)
        flight = self._take_off(words)
        try:
            accepted = await self._append(actor, words, text)
        except BaseException as error:
            if flight is not None:
                # Who left takes nobody along: a repetition that waited for this call goes its own way.
                flight.set_exception(_GivenUp() if isinstance(error, asyncio.CancelledError) else error)
                flight.exception()
            raise
        finally:
            self._flying.pop((words.world, words.key), None)
        seen = Seen(accepted.utterance_id, accepted.conversation_id, accepted.seq, accepted.revision, accepted.unheard)
        if flight is not None:
            flight.set_result(seen)
        self._count(accepted)
        return await self._waited(actor, words, seen, duplicate=accepted.duplicate)

    async def _first(self, words: Words) -> Seen | None:
        """The first message of this id: on its way, or in the store."""
        if not words.key:
            return None
        while (flying := self._flying.get((words.world, words.key))) is not None:
            try:
                return await asyncio.shield(flying)
            except _GivenUp:
                continue
        return self.store.seen(words.world, words.key)

    def _take_off(self, words: Words) -> asyncio.Future[Seen] | None:
        if not words.key:
            return None
        flight: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self._flying[(words.world, words.key)] = flight
        return flight

    async def _append(self, actor: WorldActor, words: Words, text: str) -> effects.Accepted:
        self._charge(self.players, words.speaker_id, words, text)
        verdict = ALLOWED if words.system else await check_before(self.moderator, text)
        began = self.clock.monotonic()
        with tracing.span("hear", stage="hear"):
            revision = await self._observed(actor, words)
        earshot_ms = round((self.clock.monotonic() - began) * 1000)
        where = actor.world.where(words.speaker_id)
        if where is not None:
            self._charge(self.conversations, where.id, words, text)
        speaker = self._speaker(actor, words)
        heard = Heard(
            at_ms=0,
            speaker=speaker,
            text=text,
            revision=revision,
            key=words.key,
            to_npc=words.to_npc,
            waiting_npc=words.waiting_npc,
            system=words.system,
            verdict="ok" if verdict.allowed else "refused",
            notice=_notice(verdict),
            earshot_ms=earshot_ms,
        )
        accepted = await asyncio.shield(actor.submit(heard, key=words.key, retain=False))
        assert accepted is not None, "a line that was heard is always answered"
        return accepted

    def _charge(self, toll: Toll, whose: str, words: Words, text: str) -> None:
        """Charge a line to a player, or to a conversation. Raises Overloaded RATE_LIMITED."""
        speaker = "\0".join((*words.world, words.speaker_id))
        line = "system" if words.system else text
        wait = toll.charge("\0".join((*words.world, whose)), speaker, line, self.clock.monotonic())
        if wait > 0:
            self.metrics.utterances.labels("rate_limited").inc()
            told = "this player says too much" if toll is self.players else "this conversation is too loud"
            raise Overloaded(told, reason="RATE_LIMITED", retry_after_ms=round(wait * 1000))

    async def _observed(self, actor: WorldActor, words: Words) -> int:
        """State's revision; the existing game's calls are themselves a sign of being together."""
        revision = await self.worlds.observe(actor, words.min_revision)
        known = actor.world
        if words.epoch and known.epoch > words.epoch:
            raise Conflict("a newer session of this world began", reason="STALE_EPOCH")
        if words.waiting_npc and not _together(actor, words):
            link = state_pb2.Link(npc_id=words.waiting_npc, player_id=words.speaker_id, player_name=words.speaker_name)
            request = state_pb2.ReportObservationsRequest(
                world=type_pb2.WorldRef(tenant=words.world[0], world=words.world[1]),
                observations=[state_pb2.Observation(link=link)],
            )
            try:
                reported = await self.state.ReportObservations(request, timeout=OBSERVE_S)
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error) from error
            revision = await self.worlds.observe(actor, reported.revision)
        return revision

    def _speaker(self, actor: WorldActor, words: Words) -> Participant:
        where = actor.world.where(words.speaker_id)
        known = where.members[words.speaker_id] if where else None
        if known is not None and known.name != known.id:
            return known
        shown = hygiene.name(words.speaker_name, known.name if known else words.speaker_id)
        return Participant(words.speaker_id, shown, words.kind, (shown,))

    async def _waited(self, actor: WorldActor, words: Words, seen: Seen, *, duplicate: bool) -> Said:
        outcome = actor.outcomes.find(seen.utterance_id)
        if words.wait_s > 0 and outcome is not None and not seen.unheard:
            await outcome.wait(words.waiting_npc, words.wait_s - MARGIN_S)
        return Said(seen, duplicate, outcome)

    def _count(self, accepted: effects.Accepted) -> None:
        outcome = "duplicate" if accepted.duplicate else "unheard" if accepted.unheard else "accepted"
        self.metrics.utterances.labels(outcome).inc()

    async def decide(
        self, world: Key, npc_id: str, reasons: tuple[str, ...], speech: bool, min_revision: int, request_id: str,
        wait_s: float,
    ) -> effects.WishSettled | None:  # fmt: skip
        """Ask an NPC to decide without chat; None = it is still to. Raises NotFound UNKNOWN_NPC."""
        actor = await self.worlds.get(world)
        revision = await self.worlds.observe(actor, min_revision)
        where = actor.world.where(npc_id)
        npc = where.members[npc_id] if where else await self.worlds.person(world, npc_id)
        if npc is None:
            raise NotFound("no such NPC", reason="UNKNOWN_NPC")
        waiting = actor.requests.get(request_id)
        if waiting is None:
            waiting = actor.requests[request_id] = asyncio.get_running_loop().create_future()
            cleaned = tuple(hygiene.clean(reason)[: hygiene.LIMIT] for reason in reasons) or ("asked to decide",)
            urgent = any("combat" in reason for reason in cleaned)
            wished = Wished(0, npc, cleaned, speech, urgent, revision, request_id)
            try:
                await asyncio.shield(actor.submit(wished, retain=False))
            except EarshotError as error:
                # Never logged, so never settled: whoever asks again under this id asks anew.
                del actor.requests[request_id]
                waiting.set_exception(error)
                waiting.exception()
                raise
        try:
            async with asyncio.timeout(max(wait_s - MARGIN_S, 0)):
                return await asyncio.shield(waiting)
        except TimeoutError:
            return None


def _together(actor: WorldActor, words: Words) -> bool:
    where = actor.world.where(words.speaker_id)
    return where is not None and words.waiting_npc in where.members


def _notice(verdict: Verdict) -> str:
    return "" if verdict.allowed else verdict.instead
