"""A runtime that implements the port and fails in every way on order, and that watches how it is used."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from services.sync.runtimes.port import (
    AgentSpec,
    Block,
    Busy,
    Capabilities,
    Completion,
    Delta,
    End,
    Health,
    Message,
    Missing,
    RuntimeFault,
    TextDelta,
    ToolCall,
    ToolResult,
    Turn,
    TurnState,
    Unreachable,
    UsageDelta,
)


@dataclass(frozen=True)
class Plan:
    """How one call goes: after `wait` the client gets the fault or the answer; hang: it gets nothing, ever.

    lands: seconds after which it takes effect at the server, None = never; by default with the answer, and not when
    a fault is given.
    """

    wait: float = 0.0
    fault: RuntimeFault | None = None
    hang: bool = False
    lands: float | None = -1.0
    reply: str = "Hello there. I am well."
    calls: tuple[ToolCall, ...] = ()

    @property
    def effect(self) -> float | None:
        if self.lands is None or self.lands >= 0:
            return self.lands
        return None if self.fault is not None or self.hang else self.wait


GOOD = Plan()


@dataclass
class Agent:
    spec: AgentSpec
    blocks: dict[str, str]
    messages: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    pending: tuple[ToolCall, ...] = ()
    running: int = 0
    writing: set[str] = field(default_factory=set)


def mark_of(text: str) -> int:
    """The revision with which FakeState marked a text."""
    return int(text.split("mark ")[1].split(".")[0])


@dataclass(frozen=True)
class Asked:
    """What the model saw at the moment it was asked."""

    agent_id: str
    turn: Turn
    blocks: dict[str, str]
    at: float

    @property
    def situation(self) -> str:
        """The situation that holds: the one inlined when there is one, else the block's."""
        start, end = "<situation>", "</situation>"
        if start in self.turn.system:
            return self.turn.system.split(start)[1].split(end)[0]
        return self.blocks["situation"]

    @property
    def mark(self) -> int:
        """Revision of the world that the model saw (FakeState marks every revision)."""
        return mark_of(self.situation)


class FakeRuntime:
    """`plan(operation, plan, ...)` orders the next calls; `chooser` decides when nothing is ordered."""

    def __init__(self, name: str = "fake", *, stateful: bool = True, remote: bool = True) -> None:
        self.name = name
        self.capabilities = Capabilities(stateful=stateful, remote=remote)
        self.agents: dict[str, Agent] = {}
        self.plans: dict[str, deque[Plan]] = {}
        self.chooser: Callable[[str], Plan] = lambda operation: GOOD
        self.down = False
        self.calls: list[str] = []
        self.checked: list[float] = []  # when it was asked whether it is well
        self.writes: list[tuple[float, str, str, str]] = []  # as they took effect: time, agent, label, text
        self.issued: list[tuple[str, str, str]] = []  # as they were sent: agent, label, text
        self.asked: list[Asked] = []
        self.answered: list[Sequence[ToolResult]] = []
        self.violations: list[str] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self._serial = 0

    def plan(self, operation: str, *plans: Plan) -> None:
        self.plans.setdefault(operation, deque()).extend(plans)

    def _next(self, operation: str) -> Plan:
        self.calls.append(operation)
        if self.down:
            return Plan(fault=Unreachable("refused for a test"))
        ordered = self.plans.get(operation)
        return ordered.popleft() if ordered else self.chooser(operation)

    def count(self, operation: str) -> int:
        return self.calls.count(operation)

    def agent(self) -> Agent:
        (agent,) = self.agents.values()
        return agent

    async def _carry_out(self, plan: Plan, effect: Callable[[], None]) -> None:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        loop = asyncio.get_running_loop()
        try:
            if plan.effect is not None:
                loop.call_later(plan.effect, effect)
            if plan.hang:
                await loop.create_future()
            # One step later than the effect of the same time.
            await asyncio.sleep(plan.wait)
            await asyncio.sleep(0)
            if plan.fault is not None:
                raise plan.fault
        finally:
            self._in_flight -= 1

    def _get(self, agent_id: str) -> Agent:
        if agent_id not in self.agents:
            raise Missing("no such agent")
        return self.agents[agent_id]

    # -- the port --------------------------------------------------------------------------------------------------

    async def create_agent(self, spec: AgentSpec, timeout: float) -> str:
        plan = self._next("create")
        self._serial += 1
        agent_id = spec.adopt or f"agent-{self._serial}"

        def effect() -> None:
            old = self.agents.get(agent_id)
            blocks = {block.label: block.text for block in spec.blocks}
            self.agents[agent_id] = Agent(spec, {**blocks, **(old.blocks if old else {})})

        await self._carry_out(plan, effect)
        return agent_id

    async def find_agents(self, tag: str, timeout: float) -> list[str]:
        await self._carry_out(self._next("find"), lambda: None)
        return [agent_id for agent_id, agent in self.agents.items() if agent.spec.tag == tag]

    async def delete_agent(self, agent_id: str, tag: str, timeout: float) -> None:
        def effect() -> None:
            self.agents.pop(agent_id, None)

        await self._carry_out(self._next("delete"), effect)

    async def read_blocks(self, agent_id: str, timeout: float) -> dict[str, str]:
        plan = self._next("read")
        await self._carry_out(plan, lambda: None)
        return dict(self._get(agent_id).blocks)

    async def write_block(self, agent_id: str, block: Block, timeout: float) -> None:
        plan = self._next("write")
        self.issued.append((agent_id, block.label, block.text))
        agent = self._get(agent_id)
        if block.label in agent.writing:
            self.violations.append(f"two writes of {block.label} in flight")
        agent.writing.add(block.label)

        def effect() -> None:
            agent.blocks[block.label] = block.text
            self.writes.append((asyncio.get_running_loop().time(), agent_id, block.label, block.text))

        try:
            await self._carry_out(plan, effect)
        finally:
            agent.writing.discard(block.label)

    async def send(self, agent_id: str, turn: Turn, timeout: float) -> AsyncIterator[Delta]:
        plan = self._next("send")
        agent = self._get(agent_id)
        if agent.running:
            self.violations.append("two messages in flight for one agent")
        if agent.pending and self.capabilities.stateful:
            agent.pending = ()  # as the port says: answered `cancelled` with the message
        asked = Asked(agent_id, turn, dict(agent.blocks), asyncio.get_running_loop().time())
        if plan.fault is None or plan.effect is not None:
            self.asked.append(asked)
            agent.running += 1 if plan.effect is not None else 0

        def effect() -> None:
            agent.running = 0
            if self.capabilities.stateful:
                agent.messages += [message.text for message in turn.messages]
                agent.messages.append(f"I: {plan.reply}")
                agent.turns.append(turn.turn_id)
                agent.pending = plan.calls

        try:
            await self._carry_out(plan, effect)
        except asyncio.CancelledError:
            if not self.capabilities.stateful:
                agent.running = 0
            raise
        for piece in plan.reply.split(" "):
            if piece:
                yield TextDelta(piece + " ")
        for call in plan.calls:
            yield call
        yield UsageDelta(10, 5)
        yield End("fake-model", tools=bool(plan.calls))

    async def answer(
        self, agent_id: str, turn: Turn, results: Sequence[ToolResult], timeout: float
    ) -> AsyncIterator[Delta]:
        plan = self._next("answer")
        agent = self._get(agent_id)

        def effect() -> None:
            agent.pending = ()
            self.answered.append(results)
            agent.messages.append(f"I: {plan.reply}")

        await self._carry_out(plan, effect)
        yield TextDelta(plan.reply)
        yield UsageDelta(3, 2)
        yield End("fake-model")

    async def look_up(self, agent_id: str, turn_id: str, timeout: float) -> TurnState:
        plan = self._next("look_up")
        await self._carry_out(plan, lambda: None)
        agent = self._get(agent_id)
        if turn_id in agent.turns:
            return TurnState.DONE
        return TurnState.RUNNING if agent.running else TurnState.ABSENT

    async def settle(self, agent_id: str, timeout: float) -> None:
        await self._carry_out(self._next("settle"), lambda: None)
        self._get(agent_id).pending = ()

    async def reset_messages(self, agent_id: str, timeout: float) -> None:
        plan = self._next("reset")
        agent = self._get(agent_id)
        await self._carry_out(plan, lambda: agent.messages.clear())

    async def complete(self, system: str, text: str, image_url: str, max_tokens: int, timeout: float) -> Completion:
        raise Busy("not in these tests")

    async def check(self, timeout: float) -> Health:
        self.checked.append(asyncio.get_running_loop().time())
        return Health(not self.down, "down" if self.down else "well")

    async def close(self) -> None: ...


def words(messages: Sequence[Message]) -> str:
    return "\n".join(message.text for message in messages)
