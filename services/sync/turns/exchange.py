"""The agent's side of a turn: asks, listens to the end, and leaves the agent settled, whether or not anybody hears.

A stateful runtime goes on when its caller has left, so the agent stays held until it has answered; what comes late is
dropped, and tool calls that nobody executes are answered `cancelled`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

from services.common import tracing
from services.common.errors import EarshotError
from services.common.logs import get_logger
from services.sync.agents.embodiment import LOOK_UP_S, Embodiment
from services.sync.agents.hold import TurnHold
from services.sync.crew import Crew
from services.sync.routing.endpoint import Endpoint
from services.sync.routing.metering import Meter
from services.sync.runtimes.port import (
    Delta,
    RuntimeFault,
    TextDelta,
    ToolCall,
    ToolResult,
    Unreachable,
    UsageDelta,
)
from services.sync.speech.prompt import tokens
from services.sync.store import Intent
from services.sync.turns.preparation import Prepared

# A refused connection is tried once more, after this.
AGAIN_S = 0.2

_log = get_logger("sync")


class Exchange:
    """One message to one agent. The caller reads with `next`, answers tool calls, and may leave at any time."""

    def __init__(
        self,
        agent: Embodiment,
        hold: TurnHold,
        prepare: Callable[[], Awaitable[Prepared]],
        deadline: float,
        endpoint: Endpoint,
        first_by: float,
        again: Callable[[], bool],
        meter: Meter,
    ) -> None:
        """endpoint: who is asked, of those that share the agent. again: whether a refused connection is tried again."""
        self._agent = agent
        self._endpoint = endpoint
        self._first_by = first_by
        self._again = again
        self._meter = meter
        self._hold = hold
        self._prepare = prepare
        self._deadline = deadline
        # Bounded by what a runtime may say in one answer.
        self._items: asyncio.Queue[Prepared | Delta | Exception | None] = asyncio.Queue()
        self._results: asyncio.Future[Sequence[ToolResult]] = asyncio.get_running_loop().create_future()
        self._listened = True
        self._received = False
        self._texted = False
        self._cut = False
        self._heard = True
        self._task: asyncio.Task[None] | None = None
        self._begun_at = 0.0
        # Loop time at which the runtime is asked.
        self.asked_at = 0.0

    def begin(self, crew: Crew) -> None:
        """Ask. The agent's hold passes to this exchange."""
        self._begun_at = _now()
        self._task = crew.spawn(self._run(), "sync.turn")
        self._hold.keep()

    async def next(self, deadline: float) -> Prepared | Delta | None:
        """Prepared once the model is being asked, then deltas, None after the last.

        Raises RuntimeFault or EarshotError when it failed, TimeoutError at `deadline` (loop time).
        """
        async with asyncio.timeout_at(deadline):
            item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item

    def answer(self, results: Sequence[ToolResult]) -> None:
        """Results of the tool calls; the deltas of the continuation follow."""
        if not self._results.done():
            self._results.set_result(results)

    def leave(self, *, complete: bool = False, heard: bool = True) -> None:
        """Nobody listens any more; a stateless runtime is stopped. complete: what was said so far was heard.

        heard: anything of it was.
        """
        if not self._listened:
            return
        self._listened = False
        self._heard = heard
        self._hold.abandon()
        self._cut = self._cut or (self._texted and not complete)
        self.answer(())
        if not self._endpoint.capabilities.stateful and self._task is not None and not self._task.done():
            self._task.cancel()

    async def _run(self) -> None:
        try:
            tracing.record("hold", _now() - self._begun_at, stage="hold")
            prepared = await self._prepare()
            if self._listened:
                await self._agent.begin_turn(prepared.intent, first=prepared.first)
                self.asked_at = _now()
                self._items.put_nowait(prepared)
                await self._send(prepared)
        except (RuntimeFault, EarshotError) as error:
            self._items.put_nowait(error)
        except Exception as error:
            self._items.put_nowait(error)
            raise
        finally:
            self._hold.release()

    async def _send(self, prepared: Prepared) -> None:
        """Ask, and close the intent as soon as the outcome is known."""
        intent, stateful = prepared.intent, self._endpoint.capabilities.stateful
        try:
            await self._ask(prepared)
        except RuntimeFault as fault:
            self._items.put_nowait(fault)
            if stateful and (fault.unknown or self._received):
                await self._recover(intent)
            else:
                self._agent.end_turn(intent, executed=False)
        except asyncio.CancelledError:
            # A stateful agent is only let go at shutdown: its turn stays open and is looked up at the next start.
            if not stateful:
                self._agent.end_turn(intent, executed=False)
            raise
        except Exception:
            self._agent.restore(intent)
            raise
        else:
            self._agent.end_turn(intent, executed=True, cut=self._cut, heard=self._heard)
            self._items.put_nowait(None)

    async def _ask(self, prepared: Prepared) -> None:
        runtime, agent_id, turn = self._endpoint.runtime, self._agent.agent_id, prepared.turn
        calls = await self._listen("send", lambda left: runtime.send(agent_id, turn, left), prepared, self._first_by)
        if not calls:
            return
        given = {result.call.call_id: result for result in await self._results}
        if not given and not self._endpoint.capabilities.stateful:
            return
        results = [given.get(call.call_id) or ToolResult(call, "cancelled", ok=False) for call in calls]
        await self._listen(
            "answer", lambda left: runtime.answer(agent_id, turn, results, left), prepared, self._deadline
        )

    async def _listen(
        self, operation: str, begin: Callable[[float], AsyncIterator[Delta]], prepared: Prepared, first_by: float
    ) -> list[ToolCall]:
        """Pass deltas on until the end; the tool calls of this stream. A refused connection is tried once more."""
        try:
            return await self._once(operation, begin, prepared, first_by)
        except Unreachable:
            if self._received or first_by - _now() < 2 * AGAIN_S or not self._again():
                raise
        await asyncio.sleep(AGAIN_S)
        return await self._once(operation, begin, prepared, first_by)

    async def _once(
        self, operation: str, begin: Callable[[float], AsyncIterator[Delta]], prepared: Prepared, first_by: float
    ) -> list[ToolCall]:
        calls: list[ToolCall] = []
        stream = self._endpoint.stream(
            operation, begin, timeout=self._left(), first_by=first_by, model=prepared.turn.model, tokens=prepared.tokens
        )
        spent = _Spent(self._meter, prepared, self._endpoint)
        try:
            async with aclosing(stream) as deltas:  # type: ignore[type-var]  # it is a generator
                async for delta in deltas:
                    self._received = True
                    spent.take(delta)
                    if isinstance(delta, ToolCall):
                        calls.append(delta)
                    elif isinstance(delta, TextDelta):
                        self._texted = True
                        self._cut = self._cut or not self._listened
                    if self._listened:
                        self._items.put_nowait(delta)
        finally:
            spent.over()
        return calls

    def _left(self) -> float:
        return max(self._deadline - _now(), 0.001)

    async def _recover(self, intent: Intent) -> None:
        """Nobody knows what became of the turn: look it up now, else again before the agent is used next."""
        self._agent.restore(intent)
        try:
            await self._agent.settle(LOOK_UP_S)
        except (RuntimeFault, EarshotError) as error:
            _log.info("turn_unsettled", runtime=intent.runtime, error=type(error).__name__)


class _Spent:
    """What one call costs its tenant: as its answer says, else estimated; whoever listens."""

    def __init__(self, meter: Meter, prepared: Prepared, endpoint: Endpoint) -> None:
        self._meter = meter
        self._tenant = prepared.intent.key.tenant
        self._provider = endpoint.provider
        self._model = endpoint.capabilities.model
        self._promised = prepared.tokens
        self._prompt = max(prepared.tokens - prepared.turn.max_tokens, 0)
        self._told = False
        self._said = 0
        meter.promise(self._tenant, self._promised)

    def take(self, delta: Delta) -> None:
        if isinstance(delta, UsageDelta):
            self._told = True
            self._meter.add(self._tenant, self._provider, delta.prompt_tokens, delta.completion_tokens)
        elif isinstance(delta, TextDelta):
            self._said += len(delta.text)

    def over(self) -> None:
        self._meter.promise(self._tenant, -self._promised)
        if self._model and self._said and not self._told:
            self._meter.add(self._tenant, self._provider, self._prompt, tokens(" " * self._said))


def _now() -> float:
    return asyncio.get_running_loop().time()
