"""A runtime that answers at once and keeps a ledger of what was written to it, when, and which lines differed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from services.sync.blocks.memory import with_news
from services.sync.runtimes.port import (
    AgentSpec,
    Block,
    Capabilities,
    Completion,
    Delta,
    End,
    Health,
    Missing,
    Rejected,
    TextDelta,
    ToolResult,
    Turn,
    TurnState,
)
from services.sync.speech.prompt import NEWS

# What a line of a block tells: the first pattern that is found in it names it.
FIELDS: Mapping[str, re.Pattern[str]] = {
    "member": re.compile(r"^- .*, (a player|an NPC)"),
    "departed": re.compile(r" left( at \d\d:\d\d)?\.$"),
    "head count": re.compile(r"^(Within earshot of me|Nobody is within earshot)"),
    "health": re.compile(r"^(My health is|I have no health)"),
    "combat": re.compile(r"^I am in combat"),
    "place": re.compile(r"^I am (at|near|far from|somewhere) |^When last seen|^About this place"),
    "action": re.compile(r"^(I am|What I am doing)"),
}
# Lines of people that are the same but for how near they are.
BAND = re.compile(r", (right beside me|near|some way off)(?=[,.]|$)")


@dataclass(frozen=True, slots=True)
class Write:
    """One write. causes: what the lines tell that differ from what the agent held."""

    at: float
    agent_id: str
    label: str
    causes: frozenset[str]


def causes(label: str, old: str, new: str) -> frozenset[str]:
    """What the differing lines of two texts of a block tell."""
    if label != "situation":
        return frozenset({label})
    lines = set(old.splitlines()) ^ set(new.splitlines())
    found = {next((name for name, pattern in FIELDS.items() if pattern.search(line)), "other") for line in lines}
    if "member" in found and unbanded(old) == unbanded(new):
        found = found - {"member"} | {"distance"}
    if "member" in found:
        found.discard("head count")
    return frozenset(found)


def unbanded(text: str) -> list[str]:
    """The lines about members without how near they are."""
    return [BAND.sub("", line) for line in text.splitlines() if FIELDS["member"].search(line)]


def lines_after(system: str, title: str) -> list[str]:
    """The list under a title of a turn's system line."""
    _, found, rest = system.partition(title + "\n")
    return list(takewhile(lambda line: line.startswith("- "), rest.split("\n"))) if found else []


class LedgerRuntime:
    """Implements `port.Runtime` as a remote, stateful one at 0 ms."""

    name = "ledger"
    capabilities = Capabilities(stateful=True, remote=True)

    def __init__(self) -> None:
        self.writes: list[Write] = []
        # Blocks by agent; agent by tag.
        self.blocks: dict[str, dict[str, str]] = {}
        self.agents: dict[str, str] = {}
        # What each agent was made with.
        self.first: dict[str, dict[str, str]] = {}
        # The blocks that each turn's model saw, by turn id.
        self.seen: dict[str, dict[str, str]] = {}
        self.inlined: int = 0
        # Turns that brought events along instead of waiting for a write.
        self.carried: int = 0

    async def create_agent(self, spec: AgentSpec, timeout: float) -> str:
        agent_id = f"agent-{len(self.blocks) + 1}"
        self.blocks[agent_id] = {block.label: block.text for block in spec.blocks}
        self.first[agent_id] = dict(self.blocks[agent_id])
        self.agents[spec.tag] = agent_id
        return agent_id

    async def find_agents(self, tag: str, timeout: float) -> list[str]:
        return [self.agents[tag]] if tag in self.agents else []

    async def delete_agent(self, agent_id: str, tag: str, timeout: float) -> None:
        self.blocks.pop(agent_id, None)
        self.agents.pop(tag, None)

    async def read_blocks(self, agent_id: str, timeout: float) -> dict[str, str]:
        return dict(self._held(agent_id))

    async def write_block(self, agent_id: str, block: Block, timeout: float) -> None:
        held = self._held(agent_id)
        why = causes(block.label, held.get(block.label, ""), block.text)
        self.writes.append(Write(asyncio.get_running_loop().time(), agent_id, block.label, why))
        held[block.label] = block.text

    async def send(self, agent_id: str, turn: Turn, timeout: float) -> AsyncIterator[Delta]:
        seen = dict(self._held(agent_id))
        happened = lines_after(turn.system, NEWS)
        self.carried += bool(happened)
        if happened:
            seen["memory"] = with_news(seen["memory"], happened)
        self.seen[turn.turn_id] = seen
        self.inlined += "<situation>" in turn.system
        yield TextDelta("So it is.")
        yield End(self.name)

    async def answer(
        self, agent_id: str, turn: Turn, results: Sequence[ToolResult], timeout: float
    ) -> AsyncIterator[Delta]:
        yield End(self.name)

    async def look_up(self, agent_id: str, turn_id: str, timeout: float) -> TurnState:
        return TurnState.DONE if turn_id in self.seen else TurnState.ABSENT

    async def settle(self, agent_id: str, timeout: float) -> None: ...

    async def reset_messages(self, agent_id: str, timeout: float) -> None: ...

    async def complete(self, system: str, text: str, image_url: str, max_tokens: int, timeout: float) -> Completion:
        raise Rejected("there is no model here")

    async def check(self, timeout: float) -> Health:
        return Health(True, "a ledger")

    async def close(self) -> None: ...

    def _held(self, agent_id: str) -> dict[str, str]:
        if agent_id not in self.blocks:
            raise Missing("no such agent")
        return self.blocks[agent_id]
