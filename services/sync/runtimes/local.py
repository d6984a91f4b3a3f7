"""Agents that Earshot keeps itself, for runtimes that only answer: blocks in memory, remembered by a shelf."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from services.sync.runtimes.port import AgentSpec, Block, Missing, Rejected


@dataclass(slots=True)
class LocalAgent:
    """One agent: its tag and the texts of its blocks."""

    tag: str
    blocks: dict[str, str] = field(default_factory=dict)
    name: str = ""


class Shelf(Protocol):
    """Port of what remembers local agents across restarts. Writes return at once and are kept in order.

    life: changes when agents came that another process wrote.
    """

    @property
    def life(self) -> int: ...

    def load(self, runtime: str) -> Iterable[tuple[str, LocalAgent]]: ...

    def save_local(self, runtime: str, agent_id: str, agent: LocalAgent) -> None: ...

    def save_block(self, agent_id: str, tag: str, label: str, text: str) -> None: ...

    def drop_agent(self, agent_id: str, tag: str) -> None: ...


class NoShelf:
    """Remembers nothing."""

    life = 0

    def load(self, runtime: str) -> Iterable[tuple[str, LocalAgent]]:
        return ()

    def save_local(self, runtime: str, agent_id: str, agent: LocalAgent) -> None: ...

    def save_block(self, agent_id: str, tag: str, label: str, text: str) -> None: ...

    def drop_agent(self, agent_id: str, tag: str) -> None: ...


class LocalAgents:
    """The agents of one local runtime. Implements the agent half of the port; memory is authoritative."""

    def __init__(self, runtime: str, shelf: Shelf) -> None:
        self._runtime = runtime
        self._shelf = shelf
        self._life = shelf.life
        self._loaded = dict(shelf.load(runtime))

    @property
    def _agents(self) -> dict[str, LocalAgent]:
        if self._life != self._shelf.life:
            self._life = self._shelf.life
            self._loaded = dict(self._shelf.load(self._runtime))
        return self._loaded

    def create(self, spec: AgentSpec) -> str:
        """A new agent's id. An id to adopt must be one of ours."""
        if spec.adopt:
            agent = self._agents.get(spec.adopt)
            if agent is None:
                raise Rejected("this runtime keeps its own agents: it has none of that id to adopt")
            for block in spec.blocks:
                agent.blocks.setdefault(block.label, block.text)
            return spec.adopt
        agent_id = f"{self._runtime}-{uuid.uuid5(uuid.NAMESPACE_URL, spec.tag)}"
        agent = LocalAgent(spec.tag, {block.label: block.text for block in spec.blocks}, spec.name)
        self._agents[agent_id] = agent
        self._shelf.save_local(self._runtime, agent_id, agent)
        return agent_id

    def find(self, tag: str) -> list[str]:
        return [agent_id for agent_id, agent in self._agents.items() if agent.tag == tag]

    def get(self, agent_id: str) -> LocalAgent:
        agent = self._agents.get(agent_id)
        if agent is None:
            raise Missing("no such agent")
        return agent

    def delete(self, agent_id: str) -> None:
        agent = self._agents.pop(agent_id, None)
        if agent is not None:
            self._shelf.drop_agent(agent_id, agent.tag)

    def read(self, agent_id: str) -> dict[str, str]:
        return dict(self.get(agent_id).blocks)

    def write(self, agent_id: str, block: Block) -> None:
        agent = self.get(agent_id)
        agent.blocks[block.label] = block.text
        self._shelf.save_block(agent_id, agent.tag, block.label, block.text)


class KeepsAgents:
    """The agent half of `port.Runtime` for a runtime that keeps its agents here."""

    _agents: LocalAgents

    async def create_agent(self, spec: AgentSpec, timeout: float) -> str:
        return self._agents.create(spec)

    async def find_agents(self, tag: str, timeout: float) -> list[str]:
        return self._agents.find(tag)

    async def delete_agent(self, agent_id: str, tag: str, timeout: float) -> None:
        self._agents.delete(agent_id)

    async def read_blocks(self, agent_id: str, timeout: float) -> dict[str, str]:
        return self._agents.read(agent_id)

    async def write_block(self, agent_id: str, block: Block, timeout: float) -> None:
        self._agents.write(agent_id, block)
