"""Converse: blocks as of the asked revision first, then the model, one message per agent, the next runtime on failure.

An NPC never answers about a world older than the one in which it was spoken to (DESIGN 4): state is read, not the
informer; what differs is written; what could not be written goes into the turn's system line instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.common import tracing
from services.common.errors import Conflict, DeadlineExceeded, EarshotError, Overloaded, Unavailable
from services.common.logs import get_logger
from services.sync.context import Context, Place
from services.sync.endpoint import Endpoint
from services.sync.entry import Entry
from services.sync.exchange import Exchange
from services.sync.hearing import Hearing
from services.sync.preparation import Preparation
from services.sync.reconciler import Reconciler
from services.sync.runtimes.port import Missing, RateLimited, RuntimeFault
from services.sync.tools import REMEMBER, offered
from services.sync.turn import Ask, Event, Progress

# Share of what is left that a runtime may take to its first word while another one could still answer.
FIRST_SHARE = 0.6
PLACES_S = 0.5

_log = get_logger("sync")


class Turns:
    """Turn ids are executed at most once, over restarts too."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._open: set[tuple[str, str]] = set()

    async def converse(self, ask: Ask) -> AsyncGenerator[Event, None]:
        """Events of the turn, the last one Finished. Raises EarshotError; closing the iterator frees the caller."""
        turn = (ask.key.tenant, ask.turn_id)
        if turn in self._open:
            raise Conflict("this turn is under way", reason="ALREADY_EXISTS")
        self._open.add(turn)
        try:
            async with aclosing(self._converse(ask)) as events:
                async for event in events:
                    yield event
        finally:
            self._open.discard(turn)

    async def _converse(self, ask: Ask) -> AsyncGenerator[Event, None]:
        reconciler, progress = self._reconciler, Progress(_now())
        entry = reconciler.agents.entry(ask.key)
        entry.turns += 1
        with reconciler.metrics.stage("read"):
            context = await reconciler.current(entry, ask.min_revision, _left(ask.deadline))
        progress.read_ms = _ms(progress.started_at)
        if context.closed:
            raise Conflict("the world is closed", reason="WORLD_CLOSED")
        places = await self._places(ask)
        chain = reconciler.agents.chain.of(context.profile)
        failed: EarshotError | RuntimeFault | None = None
        for number, endpoint in enumerate(chain):
            last = number == len(chain) - 1
            if not last and endpoint.retry_at(turn=True) > _now():
                continue
            first_by = ask.deadline if last else _now() + FIRST_SHARE * _left(ask.deadline)
            try:
                attempt = self._attempt(ask, entry, context, places, endpoint, progress, first_by)
                async with aclosing(attempt) as events:
                    async for event in events:
                        yield event
                return
            except RuntimeFault as fault:
                failed = fault
                entry.last_error = type(fault).__name__
                _log.info("runtime_failed", runtime=endpoint.name, fault=type(fault).__name__, detail=fault.message)
                if progress.given:
                    raise Unavailable(
                        "the runtime failed in the middle of the turn", reason="RUNTIME_FAILED"
                    ) from fault
        if _left(ask.deadline) <= 0.01:
            raise DeadlineExceeded("no runtime answered in time", reason="TURN_TIMEOUT") from failed
        if isinstance(failed, RateLimited):
            wait_ms = round(failed.retry_after_s * 1000)
            raise Overloaded(
                "the runtime limits the rate", reason="RUNTIME_RATE_LIMITED", retry_after_ms=wait_ms
            ) from failed
        raise Unavailable("no runtime could answer", reason="RUNTIME_FAILED") from failed

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
        self,
        ask: Ask,
        entry: Entry,
        context: Context,
        places: tuple[Place, ...],
        endpoint: Endpoint,
        progress: Progress,
        first_by: float,
    ) -> AsyncGenerator[Event, None]:
        """One runtime. Raises RuntimeFault when the next one may try."""
        agent = self._reconciler.agents.embodiment(entry, endpoint)
        tools = (*offered(context, places),) if ask.actions else ()
        if endpoint.capabilities.model:
            tools = (*tools, REMEMBER)
        preparation = Preparation(self._reconciler, ask, entry, agent, context, places, tools, progress)
        again = False
        while True:
            began = _now()
            async with agent.turn(_left(ask.deadline)) as hold:
                tracing.record("hold", _now() - began, stage="hold")
                exchange = Exchange(agent, hold, preparation.prepare, ask.deadline)
                exchange.begin(self._reconciler.crew)
                hearing = Hearing(self._reconciler, ask, entry, context, places, tools, progress, endpoint)
                try:
                    async with aclosing(hearing.listen(exchange, first_by)) as events:
                        async for event in events:
                            yield event
                    return
                except Missing:
                    # The agent is gone from its runtime: made anew, once.
                    agent.forget_agent()
                    if again or progress.given:
                        raise
                    again = True
                finally:
                    exchange.leave()


def _left(deadline: float) -> float:
    return max(deadline - _now(), 0.001)


def _ms(since: float) -> int:
    return round((_now() - since) * 1000)


def _now() -> float:
    return asyncio.get_running_loop().time()
