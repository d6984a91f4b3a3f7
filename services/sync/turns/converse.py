"""Converse: blocks as of the asked revision first, then the model, one message per agent, the next runtime on failure.

An NPC never answers about a world older than the one in which it was spoken to: state is read, not the
informer; what differs is written; what could not be written goes into the turn's system line instead. One runtime is
asked at a time, and none after something of another was given to the caller.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from services.common import tracing
from services.common.errors import Conflict, DeadlineExceeded, EarshotError, Overloaded, Unavailable
from services.common.logs import get_logger
from services.sync.agents.entry import Entry
from services.sync.agents.hold import BUSY_WAIT_S, AgentBusy
from services.sync.context import Context, Place
from services.sync.degraded import reply_cache
from services.sync.degraded.reply_cache import CacheKey
from services.sync.degraded.voices import Said, Voices
from services.sync.reconciler import Reconciler
from services.sync.routing.chain import Tier
from services.sync.routing.endpoint import Endpoint
from services.sync.routing.metering import Meter
from services.sync.routing.router import Plan, RetryBudget, Step, plan
from services.sync.runtimes.port import Busy, Missing, RateLimited, RuntimeFault, TimedOut
from services.sync.speech.prompt import tokens
from services.sync.speech.tools import REMEMBER, offered
from services.sync.speech.turn import Ask, Ended, Event, Finished, Progress, Spoken, Started
from services.sync.store import Intent
from services.sync.turns.exchange import Exchange
from services.sync.turns.flight import Flights
from services.sync.turns.hearing import Hearing
from services.sync.turns.preparation import Preparation
from services.sync.turns.replays import Replays

PLACES_S = 0.5
# What the next runtime is left of the time to the first words, when nobody knows how long it takes.
NEXT_S = 0.7
# A runtime gets at least so long, however late it is.
ATTEMPT_S = 0.3
# So many times its 95th percentile, the last model is waited for.
PATIENT_TIMES = 2.0
# Share of its time that is waited for an agent which still executes a turn that nobody waits for.
BUSY_SHARE = 0.5
# So long after its caller left, an agent that still executes the turn is passed over.
ABANDONED_S = 1.0
# Prompt beside the lines, for the key's allowance, before anything is rendered; tokens.
PROMPT_TOKENS = 800
_SKIPPED = {"ALLOWANCE": "RUNTIME_RATE_LIMITED", "BROKEN": "RUNTIME_FAILED", "SLOW": "RUNTIME_FAILED"}

_log = get_logger("sync")


class Turns:
    """Turn ids are executed at most once, over restarts too; one that ended a moment ago is told again."""

    def __init__(self, reconciler: Reconciler, voices: Voices, meter: Meter, rng: random.Random) -> None:
        self._reconciler = reconciler
        self._voices = voices
        self._meter = meter
        self._rng = rng
        self._retries = RetryBudget()
        self._flights = Flights()
        self._open: set[tuple[str, str]] = set()
        self.replays = Replays()

    async def converse(self, ask: Ask) -> AsyncGenerator[Event, None]:
        """Events of the turn, the last one Finished. Raises EarshotError; closing the iterator frees the caller."""
        turn = (ask.key.tenant, ask.turn_id)
        if turn in self._open:
            raise Conflict("this turn is under way", reason="ALREADY_EXISTS")
        for event in self.replays.get(ask.key, ask.turn_id, _now()):
            yield event
            if isinstance(event, Finished):
                return
        self._open.add(turn)
        given: list[Event] = []
        try:
            async with aclosing(self._converse(ask)) as events:
                async for event in events:
                    given.append(event)
                    yield event
        finally:
            self._open.discard(turn)
            self.replays.keep(ask.key, ask.turn_id, given, _now())

    async def _converse(self, ask: Ask) -> AsyncGenerator[Event, None]:
        reconciler, progress = self._reconciler, Progress(_now())
        entry = reconciler.agents.entry(ask.key)
        entry.turns += 1
        with reconciler.metrics.stage("read"):
            context = await reconciler.current(entry, ask.min_revision, _left(ask.deadline))
        progress.read_ms = _ms(progress.started_at)
        if context.closed:
            raise Conflict("the world is closed", reason="WORLD_CLOSED")
        # A turn may come before the reconciler heard of the NPC: its status names the agent all the same.
        entry.primary = reconciler.agents.chain.primary(context.profile).home
        with tracing.span("summary", stage="summary"):
            await reconciler.summaries.turned(ask.key, ask.generation)
        turn = _Turn(ask, entry, context, await self._places(ask), progress, self._cache_key(ask, context))
        async with aclosing(self._cached_or_asked(turn)) as events:
            async for event in events:
                yield event
        self._voices.learn(entry, ask, context)

    def _cache_key(self, ask: Ask, context: Context) -> CacheKey | None:
        model = str(context.profile.settings.get("model") or "") or ",".join(context.profile.runtimes)
        scope = context.profile.memory_scope or self._reconciler.settings.memory_scope
        return reply_cache.key_of(ask, context, model, scope)

    async def _cached_or_asked(self, turn: _Turn) -> AsyncGenerator[Event, None]:
        """A reply that was given before, when there is one; identical questions are asked one at a time."""
        key = turn.cache_key
        if key is None:
            async with aclosing(self._routed(turn)) as events:
                async for event in events:
                    yield event
            return
        await self._flights.landed(key, self._reconciler.settings.first_sentence_s / 2)
        if (said := self._voices.cached(turn.ask, key, _now())) is not None:
            async with aclosing(self._voiced(turn, said, "")) as events:
                async for event in events:
                    yield event
            return
        async with self._flights.flight(key), aclosing(self._routed(turn)) as events:
            async for event in events:
                yield event

    # -- one runtime after the other -------------------------------------------------------------------------------

    async def _routed(self, turn: _Turn) -> AsyncGenerator[Event, None]:
        self._retries.turn()
        tiers = self._reconciler.agents.chain.of(turn.context.profile)
        planned = self._plan(turn, tiers)
        steps, why = planned.steps, _why(planned)
        failed: EarshotError | RuntimeFault | None = None
        if self._meter.spent(turn.ask.key.tenant) and any(step.model for step in steps):
            self._meter.refused(turn.ask.key.tenant)
            steps, why = tuple(step for step in steps if not step.model), "BUDGET_SPENT"
            failed = Overloaded("the tenant's budget of today is spent", reason=why, retryable=False)
        for number, step in enumerate(steps):
            rest = steps[number + 1 :]
            try:
                async with aclosing(self._step(turn, step, rest, why)) as events:
                    told = False
                    async for event in events:
                        told = True
                        yield event
                if told:
                    return
            except RuntimeFault as fault:
                failed, why = fault, _reason(fault)
                self._failed(turn, step, fault)
        raise _failure(failed, why, turn.ask)

    def _plan(self, turn: _Turn, tiers: Sequence[Tier]) -> Plan:
        model = str(turn.context.profile.settings.get("model") or "")
        size = PROMPT_TOKENS + sum(tokens(line.text) for line in turn.ask.lines[-10:])
        first_by = turn.progress.started_at + self._reconciler.settings.first_sentence_s
        return plan(tiers, model=model, tokens=size, now=_now(), first_by=first_by, rng=self._rng)

    def _failed(self, turn: _Turn, step: Step, fault: RuntimeFault) -> None:
        turn.entry.last_error = type(fault).__name__
        _log.info("runtime_failed", runtime=step.tier, fault=type(fault).__name__, detail=fault.message)
        if turn.progress.given:
            raise Unavailable("the runtime failed in the middle of the turn", reason="RUNTIME_FAILED") from fault

    async def _step(self, turn: _Turn, step: Step, rest: Sequence[Step], why: str) -> AsyncGenerator[Event, None]:
        """One attempt; nothing = the voice has nothing to say. Raises RuntimeFault when the next one may try."""
        if step.endpoint is None:
            said = self._voices.say(step.tier, turn.ask, turn.context, turn.cache_key, _now(), last=not rest)
            if said is None:
                return
            events = self._voiced(turn, said, why)
        else:
            events = self._attempt(turn, step.endpoint, self._first_by(turn, step, rest), rest, why)
        async with aclosing(events):
            async for event in events:
                yield event

    def _first_by(self, turn: _Turn, step: Step, rest: Sequence[Step]) -> float:
        """Loop time until which this one may take to its first words: the next model needs its time too (G7)."""
        deadline, settings, now = turn.ask.deadline, self._reconciler.settings, _now()
        if not rest or not step.model:
            return deadline
        following = next((one.endpoint for one in rest if one.model), None)
        if following is None:
            # Only a degraded reply is left: worth waiting longer than the target, as long as it is known to take.
            usual = step.endpoint.latency.p95(now) if step.endpoint is not None else None
            patience = settings.patience_s if usual is None else min(PATIENT_TIMES * usual, settings.patience_s)
            by = max(turn.progress.started_at + settings.first_sentence_s, now + patience)
            return min(by, deadline - min(1.0, 0.1 * _left(deadline)))
        by = turn.progress.started_at + settings.first_sentence_s
        needs = following.latency.p95(now)
        left = by - now
        reserve = min(max(needs if needs is not None else NEXT_S, 0.1), 0.5 * max(left, 0.0))
        return min(max(by - reserve, now + ATTEMPT_S), deadline)

    async def _places(self, ask: Ask) -> tuple[Place, ...]:
        """Places to go to; a turn can do without."""
        if not ask.actions:
            return ()
        try:
            with tracing.span("places", stage="read"):
                return await self._reconciler.reader.places(ask.key.tenant, min(PLACES_S, _left(ask.deadline)))
        except EarshotError:
            return ()

    async def _attempt(
        self, turn: _Turn, endpoint: Endpoint, first_by: float, rest: Sequence[Step], why: str
    ) -> AsyncGenerator[Event, None]:
        """One runtime. Raises RuntimeFault when the next one may try."""
        ask, context, progress = turn.ask, turn.context, turn.progress
        agent = self._reconciler.agents.embodiment(turn.entry, endpoint)
        tools = (*offered(context, turn.places),) if ask.actions else ()
        if endpoint.capabilities.model:
            tools = (*tools, REMEMBER)
        # An agent that keeps its messages may speak of anything it was told: not to be repeated to others.
        blank = not (endpoint.capabilities.stateful and agent.record.asked)
        last_model = not any(step.model for step in rest)
        again = False
        while True:
            preparation = Preparation(
                self._reconciler, ask, turn.entry, agent, endpoint, context, turn.places, tools, progress, why
            )
            began = _now()
            wait = min(BUSY_WAIT_S, BUSY_SHARE * _left(min(ask.deadline, first_by)))
            since = agent.abandoned_at if rest else None
            if since is not None:
                # Cut off a moment ago it ends soon; one that hangs is not waited for again and again.
                wait = min(wait, max(since + ABANDONED_S - _now(), 0.0))
            async with agent.turn(wait, spare=since is not None) as hold:
                tracing.record("hold", _now() - began, stage="hold")
                exchange = Exchange(
                    agent, hold, preparation.prepare, ask.deadline, endpoint, first_by,
                    lambda: last_model and self._retries.take(_now()), self._meter,
                )  # fmt: skip
                exchange.begin(self._reconciler.crew)
                hearing = Hearing(
                    self._reconciler, ask, turn.entry, context, turn.places, tools, progress, endpoint, why
                )
                try:
                    async with aclosing(hearing.listen(exchange, first_by)) as events:
                        async for event in events:
                            turn.heard(event)
                            yield event
                    self._answered(turn, endpoint, blank=blank)
                    return
                except Missing:
                    # The agent is gone from its runtime: made anew, once.
                    agent.forget_agent()
                    if again or progress.given:
                        raise
                    again = True
                finally:
                    exchange.leave(heard=progress.given)

    def _answered(self, turn: _Turn, endpoint: Endpoint, *, blank: bool) -> None:
        """A runtime answered: count it, keep what may be given again, sum up what left the window."""
        ask, context, model = turn.ask, turn.context, endpoint.capabilities.model
        self._reconciler.metrics.replies.labels(endpoint.name, "model" if model else endpoint.name).inc()
        if not model:
            return
        key, cache = turn.cache_key, self._voices.cache
        spoke_only = bool(turn.sentences) and not turn.progress.actions
        if key is not None and spoke_only and blank and reply_cache.impersonal(ask, context, turn.sentences):
            cache.keep(key, ask.turn_id, turn.sentences, _now())
            cache.spoke((ask.key.tenant, ask.key.world, ask.conversation), turn.sentences, _now())
        if not endpoint.capabilities.stateful:
            window = endpoint.provider.context_messages or self._reconciler.settings.context_messages
            self._reconciler.summaries.consider(ask.key, ask.generation, ask.lines, window, context.profile.name)

    # -- without a runtime -----------------------------------------------------------------------------------------

    async def _voiced(self, turn: _Turn, said: Said, why: str) -> AsyncGenerator[Event, None]:
        """A reply that no model made now: marked, and told to no agent."""
        ask, progress, context = turn.ask, turn.progress, turn.context
        deadline_ms = self._reconciler.clock.now_ms() + round(_left(ask.deadline) * 1000)
        upto = max((line.seq for line in ask.lines), default=0)
        intent = Intent(ask.key, ask.turn_id, said.kind, "", upto, deadline_ms)
        await self._reconciler.agents.store.open_turn(intent, first=progress.intents == 0, ended=True)
        progress.intents += 1
        yield Started(context.revision, context.age_ms, (), said.kind, False, progress.read_ms, 0, said.kind, why)
        progress.first_at = _now()
        for text in said.sentences:
            yield Spoken(progress.sentences, text)
            progress.sentences += 1
        self._reconciler.metrics.replies.labels(said.kind, said.kind).inc()
        yield Finished(
            Ended.SPOKE, progress.spent, said.kind, "", said.kind,
            round((progress.first_at - progress.started_at) * 1000), _ms(progress.started_at), why,
        )  # fmt: skip


class _Turn:
    """One turn on its way: what it is asked, and what came of it so far."""

    __slots__ = ("ask", "cache_key", "context", "entry", "places", "progress", "sentences")

    def __init__(
        self, ask: Ask, entry: Entry, context: Context, places: tuple[Place, ...], progress: Progress,
        cache_key: CacheKey | None,
    ) -> None:  # fmt: skip
        self.ask = ask
        self.entry = entry
        self.context = context
        self.places = places
        self.progress = progress
        self.cache_key = cache_key
        self.sentences: list[str] = []

    def heard(self, event: Event) -> None:
        if isinstance(event, Spoken):
            self.sentences.append(event.text)


def _why(planned: Plan) -> str:
    """Why no model is among the steps; "" when one is, or none was in the chain."""
    if any(step.model for step in planned.steps):
        return ""
    return next((_SKIPPED[reason] for reason in planned.skipped.values()), "")


def _reason(fault: RuntimeFault) -> str:
    if isinstance(fault, Busy):
        return "AGENT_BUSY"
    if isinstance(fault, RateLimited):
        return "RUNTIME_RATE_LIMITED"
    return "TURN_TIMEOUT" if isinstance(fault, TimedOut) else "RUNTIME_FAILED"


def _failure(failed: EarshotError | RuntimeFault | None, why: str, ask: Ask) -> EarshotError:
    """What a turn that nobody answered ends with. why: the reason that no model was asked."""
    error: EarshotError
    if _left(ask.deadline) <= 0.01:
        error = DeadlineExceeded("no runtime answered in time", reason="TURN_TIMEOUT")
    elif isinstance(failed, EarshotError):
        return failed
    elif isinstance(failed, Busy):
        error = AgentBusy()
    elif isinstance(failed, RateLimited) or (failed is None and why == "RUNTIME_RATE_LIMITED"):
        wait_ms = round(failed.retry_after_s * 1000) if isinstance(failed, RateLimited) else 1000
        error = Overloaded("the runtime limits the rate", reason="RUNTIME_RATE_LIMITED", retry_after_ms=wait_ms)
    else:
        error = Unavailable("no runtime could answer", reason="RUNTIME_FAILED")
    error.__cause__ = failed
    return error


def _left(deadline: float) -> float:
    return max(deadline - _now(), 0.001)


def _ms(since: float) -> int:
    return round((_now() - since) * 1000)


def _now() -> float:
    return asyncio.get_running_loop().time()
