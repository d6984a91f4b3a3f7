"""The caller's side of a turn: from deltas to sentences and actions, tool calls validated, one continuation at most."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from services.common import tracing
from services.common.errors import EarshotError
from services.common.logs import get_logger
from services.sync.agents.entry import Entry
from services.sync.blocks.notes import FACT_MAX, Note
from services.sync.context import Context, Place
from services.sync.hygiene import clean
from services.sync.reconciler import Reconciler
from services.sync.routing.endpoint import Endpoint
from services.sync.runtimes.port import (
    End,
    Garbled,
    TextDelta,
    TimedOut,
    ToolCall,
    ToolResult,
    ToolSpec,
    UsageDelta,
)
from services.sync.speech.reply import ReplyReader
from services.sync.speech.tools import REMEMBER, Accepted, Refused, accept, find_member, mismatch
from services.sync.speech.turn import Acted, Ask, Ended, Event, Finished, Progress, Spoken
from services.sync.turns.exchange import Exchange
from services.sync.turns.preparation import Prepared

# Actions of one turn; more are refused.
ACTIONS_MAX = 4

_log = get_logger("sync")


@dataclass(slots=True)
class Hearing:
    """Listens to one exchange on behalf of the caller."""

    reconciler: Reconciler
    ask: Ask
    entry: Entry
    context: Context
    places: Sequence[Place]
    tools: tuple[ToolSpec, ...]
    progress: Progress
    endpoint: Endpoint
    why: str = ""
    _model: str = field(default="", init=False)
    _asked_at: float = field(default=0.0, init=False)

    async def listen(self, exchange: Exchange, first_by: float) -> AsyncGenerator[Event, None]:
        """Events up to Finished. Raises RuntimeFault (also when nothing came by `first_by`) and EarshotError."""
        reader = ReplyReader(self.context.profile.name)
        calls: list[ToolCall] = []
        continued = False
        deadline = first_by
        while True:
            item = await self._next(exchange, deadline)
            match item:
                case Prepared():
                    self._asked_at = exchange.asked_at
                    self.progress.spent.calls += 1
                    yield item.started
                case TextDelta(text):
                    deadline = self.ask.deadline
                    for sentence in self._spoken(reader.feed(text)):
                        yield sentence
                case ToolCall():
                    deadline = self.ask.deadline
                    calls.append(item)
                case UsageDelta(prompt, completion):
                    self.progress.spent.prompt_tokens += prompt
                    self.progress.spent.completion_tokens += completion
                case End(model=model, tools=True) if not continued:
                    self._model = model or self._model
                    for sentence in self._spoken(reader.finish()):
                        yield sentence
                    async for action in self._answer(exchange, calls):
                        yield action
                    if self.progress.sentences or not self.ask.speech or reader.passed:
                        break  # the results reach the agent, and nobody waits for what it says to them
                    continued, reader = True, ReplyReader(self.context.profile.name)
                    self.progress.spent.calls += 1
                case End(model=model):
                    self._model = model or self._model
                    for sentence in self._spoken(reader.finish()):
                        yield sentence
                case None:
                    break
            if reader.full:
                break
        yield self._finished(exchange, passed=reader.passed, acted=bool(calls), full=reader.full)

    async def _next(self, exchange: Exchange, deadline: float) -> object:
        try:
            return await exchange.next(deadline)
        except TimeoutError as error:
            raise TimedOut("nothing came in time") from error

    def _spoken(self, sentences: Sequence[str]) -> list[Spoken]:
        if not self.ask.speech:
            return []
        spoken = []
        for text in sentences:
            if self.progress.first_at is None:
                self.progress.first_at = _now()
            spoken.append(Spoken(self.progress.sentences, text))
            self.progress.sentences += 1
        return spoken

    async def _answer(self, exchange: Exchange, calls: Sequence[ToolCall]) -> AsyncGenerator[Acted, None]:
        """Validate the calls: actions go to the caller and, as expected status, to state; results to the agent."""
        results: list[ToolResult] = []
        taken: list[tuple[str, Accepted]] = []
        for call in calls:
            if call.name == REMEMBER.name:
                results.append(await self._remember(call))
                continue
            outcome = self._judge(call, len(taken))
            results.append(ToolResult(call, outcome.told, ok=isinstance(outcome, Accepted)))
            if isinstance(outcome, Accepted):
                taken.append((f"{self.ask.turn_id}:{len(taken)}", outcome))
        exchange.answer(results)
        for action_id, action in taken:
            self.progress.actions += 1
            yield Acted(action_id, action.type, action.data)
        if taken:
            self.reconciler.crew.spawn(self._expect(taken), "sync.expect")

    def _judge(self, call: ToolCall, taken: int) -> Accepted | Refused:
        if taken >= ACTIONS_MAX:
            return Refused("That is enough for one moment.")
        actions = [tool for tool in self.tools if tool is not REMEMBER]
        return accept(call.name, call.arguments, actions, self.context, self.places)

    async def _expect(self, taken: Sequence[tuple[str, Accepted]]) -> None:
        expires_ms = round(self.reconciler.settings.expected_status_s * 1000)
        try:
            await self.reconciler.reader.expect(self.ask.key, taken, expires_ms)
        except EarshotError as error:
            _log.warning("expected_status_lost", reason=error.reason)  # the game's own report will tell

    async def _remember(self, call: ToolCall) -> ToolResult:
        """Note a fact about somebody present; refused with a sentence."""
        try:
            value = json.loads(call.arguments or "{}")
        except ValueError:
            return ToolResult(call, "The arguments are not JSON.", ok=False)
        problem = mismatch(value, REMEMBER.parameters)
        if problem:
            return ToolResult(call, f"The arguments do not fit: {problem}.", ok=False)
        member = find_member(value["subject"], self.context.members)
        own = clean(value["subject"], 64).lower() in ("me", "myself", self.context.profile.name.lower())
        fact = clean(value["fact"], FACT_MAX)
        if (member is None and not own) or not fact:
            return ToolResult(call, "Nobody of that name is within earshot.", ok=False)
        note = Note(
            member.id if member else "", member.name if member else self.context.profile.name, fact,
            bool(self.ask.player_ids or any(line.player for line in self.ask.lines)),
            self.ask.generation, self.reconciler.clock.now_ms(),
        )  # fmt: skip
        await self.reconciler.agents.note(self.entry, note)
        return ToolResult(call, "Noted.")

    def _finished(self, exchange: Exchange, *, passed: bool, acted: bool, full: bool) -> Finished:
        progress = self.progress
        if self.ask.speech and not (progress.given or passed or acted):
            raise Garbled("the answer is empty")
        exchange.leave(complete=not full)
        now = _now()
        self.reconciler.metrics.observe_whole("model", now - self._asked_at)
        self._traced(now)
        outcome = Ended.SPOKE if progress.sentences else Ended.ACTED if progress.actions else Ended.PASSED
        first = progress.first_at
        return Finished(
            outcome, progress.spent, self.endpoint.name, self._model,
            "" if self.endpoint.capabilities.model else self.endpoint.name,
            round((first - progress.started_at) * 1000) if first is not None else 0,
            round((now - progress.started_at) * 1000), "" if self.endpoint.capabilities.model else self.why,
        )  # fmt: skip

    def _traced(self, now: float) -> None:
        """The model's part of the trace, in the words of OpenTelemetry's GenAI conventions; no content (H2)."""
        spent, first = self.progress.spent, self.progress.first_at
        tracing.record(
            "invoke_agent",
            now - self._asked_at,
            stage="model",
            kind="client",
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.provider.name": self.endpoint.name,
                "gen_ai.response.model": self._model or self.endpoint.name,
                "gen_ai.usage.input_tokens": spent.prompt_tokens,
                "gen_ai.usage.output_tokens": spent.completion_tokens,
                "earshot.first_sentence_ms": round(((first or now) - self._asked_at) * 1000),
            },
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
