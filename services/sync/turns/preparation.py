"""What happens between holding an agent and asking it: settled, made, as of the asked revision, the turn composed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from services.common import tracing
from services.sync.agents.embodiment import Embodiment
from services.sync.agents.entry import Entry
from services.sync.agents.record import AgentRecord
from services.sync.blocks.desired import Desired
from services.sync.blocks.memory import news
from services.sync.blocks.situation import about
from services.sync.context import Context, Place
from services.sync.reconciler import Reconciler
from services.sync.routing.endpoint import Endpoint
from services.sync.runtimes.port import Block, Message, RuntimeFault, ToolSpec, Turn, Unreachable
from services.sync.schedule.due import Lane
from services.sync.speech.memories import memories
from services.sync.speech.prompt import (
    INSTRUCTIONS,
    heard_of_last,
    messages,
    system_line,
    tokens,
    told,
    unseen,
    within_budget,
)
from services.sync.speech.turn import Ask, BlockState, Progress, Started, scene_of
from services.sync.store import Intent

# Longest wait for block writes before a turn; then their text goes with the turn.
WRITE_S = 3.0
# Of the room for history, at most so much for the summary of what came before.
SUMMARY_SHARE = 0.15
# A stateful agent that is seeded anew gets at most this many lines.
SEED_LINES = 200


@dataclass(frozen=True, slots=True)
class Prepared:
    """Ready to be sent. first: no other runtime was asked for this turn before. tokens: about what it will cost."""

    turn: Turn
    intent: Intent
    first: bool
    started: Started
    tokens: int


@dataclass(slots=True)
class Preparation:
    """Prepares one agent for one turn. May run to its end although the caller has left."""

    reconciler: Reconciler
    ask: Ask
    entry: Entry
    agent: Embodiment
    endpoint: Endpoint
    context: Context
    places: Sequence[Place]
    tools: tuple[ToolSpec, ...]
    progress: Progress
    why: str = ""
    _began: float = field(default=0.0, init=False)
    _relaxed: bool = field(default=False, init=False)
    _news: tuple[str, ...] = field(default=(), init=False)

    async def prepare(self) -> Prepared:
        """Raises RuntimeFault when this runtime cannot be asked, AgentBusy when the agent cannot."""
        with tracing.span("prepare", stage="prepare"):
            return await self._prepare()

    async def _prepare(self) -> Prepared:
        self._began = _now()
        agent, ask = self.agent, self.ask
        if agent.unsettled and agent.agent_id:
            await agent.settle(self._left())
        await self.reconciler.agents.drop_notes(self.entry, ask.generation)
        desired = self.reconciler.agents.render(self.entry, self.context, agent, ask.generation)
        self._relaxed = self._fresh_enough()
        with self.reconciler.metrics.stage("write", self.entry.causes):
            made = await self.reconciler.agents.ensure(
                agent, self.context, desired, lane=Lane.HIGH, timeout=self._left()
            )
            await agent.begin_generation(ask.generation, timeout=self._left())
            wanted = desired.without(("memory",)) if self._gained(desired) else desired
            labels = () if made or self._relaxed else await self._write(wanted)
        # Once more: meanwhile a write of the schedule's may have brought them.
        self._news = self._gained(desired)
        told = desired.without(("memory",)) if self._news else desired
        # What the agent does not surely hold, or what a late write could still change, goes with the turn.
        suspects = set(agent.suspects())
        unsure = set() if self._relaxed else {block.label for block in agent.record.missing(told)}
        inlined = tuple(block for block in desired.blocks if block.label in unsure | suspects)
        if not unsure and not self._relaxed and self.entry.agent is agent:
            self.reconciler.confirm(self.entry, self.context, desired)
        return self._prepared(desired, inlined, tuple(b.label for b in desired.blocks) if made else labels)

    def _gained(self, desired: Desired) -> tuple[str, ...]:
        """Events that memory only gained, if they are few: they go with the turn, which waits for no write of them."""
        block, agent = desired.get("memory"), self.agent
        held = agent.holds("memory") if agent.endpoint.capabilities.remote else None
        return (news(held, block.text) or ()) if held is not None and block is not None else ()

    async def _write(self, desired: Desired) -> tuple[str, ...]:
        timeout = min(WRITE_S, 0.4 * self._left())
        if self.agent.suspects():
            try:
                await self.agent.read_back(lane=Lane.HIGH, timeout=timeout)
            except Unreachable:
                raise
            except RuntimeFault:
                pass  # what is suspect goes with the turn
        written = await self.reconciler.agents.bring(
            self.entry, self.agent, self.context, desired, lane=Lane.HIGH, timeout=timeout
        )
        if isinstance(written.fault, Unreachable):
            raise written.fault  # the message would not pass either
        return written.labels

    def _fresh_enough(self) -> bool:
        """The documents' mode: a status of 15 s (1 s in combat) will do, but never a cluster change behind (C1)."""
        settings, entry = self.reconciler.settings, self.entry
        if settings.freshness == "strict" or entry.agent is not self.agent or not entry.confirmed_revision:
            return False
        if self.ask.generation != self.agent.record.generation:
            return False  # what must be forgotten leaves the blocks first
        oldest = settings.fresh_combat_s if self.context.combat else settings.fresh_s
        age_s = (self.reconciler.clock.now_ms() - entry.confirmed_ms) / 1000
        return age_s <= oldest and self.context.group_revision <= entry.confirmed_revision

    def _prepared(self, desired: Desired, inlined: tuple[Block, ...], written: tuple[str, ...]) -> Prepared:
        ask, record = self.ask, self.agent.record
        first = self.progress.intents == 0
        self.progress.intents += 1
        upto = max((line.seq for line in ask.lines), default=record.upto)
        intent = Intent(
            ask.key, ask.turn_id, record.runtime, record.agent_id, upto,
            self.reconciler.clock.now_ms() + round(self._left() * 1000),
        )  # fmt: skip
        turn = self._turn(record, desired, inlined)
        return Prepared(turn, intent, first, self._started(desired, inlined, written), _size(turn, desired))

    def _started(self, desired: Desired, inlined: tuple[Block, ...], written: tuple[str, ...]) -> Started:
        record = self.agent.record
        revision, age_ms = desired.revision, desired.age_ms
        if self._relaxed:
            revision = min(desired.revision, record.revision(tuple(block.label for block in desired.blocks)))
            age_ms = max(self.reconciler.clock.now_ms() - self.entry.confirmed_ms, 0)
        states = tuple(
            BlockState(block.label, held.revision, held.digest, block.label in written)
            for block in desired.blocks
            if (held := record.blocks.get(block.label)) is not None
        )
        metrics = self.reconciler.metrics
        metrics.freshness_seconds.observe(max(age_ms, 0) / 1000)
        metrics.freshness_revisions.observe(max(self.ask.min_revision - revision, 0))
        return Started(
            revision, age_ms, states, self.endpoint.name, bool(inlined), self.progress.read_ms,
            round((_now() - self._began) * 1000),
            "" if self.endpoint.capabilities.model else self.endpoint.name,
            "" if self.endpoint.capabilities.model else self.why,
        )  # fmt: skip

    def _turn(self, record: AgentRecord, desired: Desired, inlined: tuple[Block, ...]) -> Turn:
        ask, settings, profile, provider = (
            self.ask, self.reconciler.settings, self.context.profile, self.endpoint.provider
        )  # fmt: skip
        stateful = self.endpoint.capabilities.stateful
        cut = heard_of_last(ask.lines, record.upto, record.turn) if stateful and record.cut else None
        system = system_line(
            ask.reason, speech=ask.speech, tools=bool(self.tools), inlined=inlined, cut=cut, news=self._news,
            about=about(self.context),
        )  # fmt: skip
        most = _bounded(profile.settings.get("max_tokens"), provider.max_tokens or settings.max_tokens, 1, 4096)
        warmth = settings.temperature if provider.temperature is None else provider.temperature
        fixed = _fixed(desired, system, self.tools) + most
        return Turn(
            turn_id=ask.turn_id,
            instructions=INSTRUCTIONS,
            system=system,
            messages=self._messages(record, stateful, fixed),
            tools=self.tools,
            max_tokens=most,
            temperature=_bounded(profile.settings.get("temperature"), warmth, 0.0, 2.0),
            model=str(profile.settings.get("model") or ""),
            settings=profile.settings,
            scene=scene_of(self.context, ask, tuple(place.name for place in self.places)),
        )

    def _messages(self, record: AgentRecord, stateful: bool, fixed: int) -> tuple[Message, ...]:
        """What was said, within the budget. fixed: tokens of everything else in the prompt, and of the answer."""
        settings, provider, ask = self.reconciler.settings, self.endpoint.provider, self.ask
        lines = told(ask.lines)
        most = provider.context_messages or settings.context_messages
        reminded = memories(ask.recalled, lines[-most:])
        spent = tokens(reminded.text) + 4 if reminded is not None else 0
        before = (reminded,) if reminded is not None else ()
        if stateful:
            lines = unseen(lines, record.upto, record.turn) if record.asked else lines
            kept = within_budget(lines, most=SEED_LINES, budget=settings.history_tokens - spent)
            return (*before, *messages(kept, ask.reason, ask.happened))
        room = settings.history_tokens
        if window := provider.context_tokens or settings.context_tokens:
            room = max(min(room, window - fixed), 0)
        earlier = self.reconciler.summaries.text(ask.key, ask.generation, round(SUMMARY_SHARE * room))
        room -= tokens(earlier) + spent
        kept = within_budget(lines, most=most, budget=room)
        return (*before, *messages(kept, ask.reason, ask.happened, earlier))

    def _left(self) -> float:
        return max(self.ask.deadline - _now(), 0.001)


def _fixed(desired: Desired, system: str, tools: Sequence[ToolSpec]) -> int:
    """Tokens of what comes with every turn of an agent that Earshot keeps."""
    shapes = sum(tokens(f"{tool.name} {tool.description} {dict(tool.parameters)}") for tool in tools)
    return tokens(INSTRUCTIONS) + tokens(system) + sum(tokens(block.text) + 8 for block in desired.blocks) + shapes


def _size(turn: Turn, desired: Desired) -> int:
    said = sum(tokens(message.text) + 4 for message in turn.messages)
    return _fixed(desired, turn.system, turn.tools) + said + turn.max_tokens


N = TypeVar("N", int, float)


def _bounded(value: object, default: N, least: N, most: N) -> N:
    """A number of the profile's settings within bounds; anything else is the default."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return default
    return type(default)(min(max(value, least), most))


def _now() -> float:
    return asyncio.get_running_loop().time()
