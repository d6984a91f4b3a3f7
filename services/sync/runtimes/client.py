"""A client for scripts (F1): create an agent, read and update its memory, talk to it, delete it. Blocking.

from services.sync.runtimes.client import ChatMemory, LettaRobloxClient, LLMConfig

with LettaRobloxClient("http://127.0.0.1:8283") as client:      # what it made is deleted at the end
    agent = client.create_agent(
        name="merchant_npc",                                     # optional: generated when absent
        memory=ChatMemory(human="Ada, a baker.", persona="I sell apples."),
        llm_config=LLMConfig(model="gpt-4o-mini", context_window=128_000),
    )
    print(client.send_message(agent.id, "Hello!", speaker="Ada"))
    client.update_memory(agent.id, {"human": "Ada, a baker who owes me two coins."})   # all of it or nothing
    print(client.get_memory(agent.id)["human"])
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from services.sync.runtimes.letta import LettaRuntime
from services.sync.runtimes.port import (
    AgentSpec,
    Block,
    Message,
    Role,
    Runtime,
    RuntimeFault,
    TextDelta,
    Turn,
)

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8283"
BLOCK_MAX = 5000
OPENAI = "https://api.openai.com/v1"


class ClientError(Exception):
    """What went wrong, in a sentence; `retryable` when the same call may pass later."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class MemoryUpdateFailed(ClientError):
    """A write failed after others had passed. restored: labels that hold their earlier text again.

    lost: labels that could not be restored, empty as a rule.
    """

    def __init__(self, label: str, restored: list[str], lost: list[str]) -> None:
        state = f"; could not restore {', '.join(lost)}" if lost else "; nothing was changed"
        super().__init__(f"memory block {label!r} could not be written{state}", retryable=True)
        self.label = label
        self.restored = restored
        self.lost = lost


@dataclass(frozen=True, slots=True)
class ChatMemory:
    """The two blocks of a talking agent."""

    human: str
    persona: str


@dataclass(frozen=True, slots=True)
class LLMConfig:
    """Which model answers. An endpoint other than OpenAI's own is the one that the Letta server is set up with."""

    model: str = "gpt-4o-mini"
    model_endpoint_type: str = "openai"
    model_endpoint: str = OPENAI
    context_window: int = 128_000

    @property
    def handle(self) -> str:
        """The model as Letta names it: provider/model."""
        if "/" in self.model:
            return self.model
        own = self.model_endpoint_type == "openai" and self.model_endpoint.rstrip("/") != OPENAI
        return f"{'openai-proxy' if own else self.model_endpoint_type}/{self.model}"


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that this client made."""

    id: str
    name: str


class LettaRobloxClient:
    """Every method raises ClientError. Leave it by `close` or as a context manager: what it made is deleted."""

    def __init__(
        self, base_url: str = "", api_key: str = "", *, timeout: float = 30.0, runtime: Runtime | None = None
    ) -> None:
        url = base_url or os.environ.get("LETTA_BASE_URL") or DEFAULT_URL
        self._runtime: Runtime = runtime or LettaRuntime(
            checked_url(url), api_key or os.environ.get("LETTA_API_KEY", "")
        )
        self._timeout = timeout
        self._runner = asyncio.Runner()
        self._made: dict[str, str] = {}

    def create_agent(
        self, name: str | None = None, memory: ChatMemory | None = None, llm_config: LLMConfig | None = None
    ) -> Agent:
        """A new agent; its name is generated when absent."""
        name = name or f"npc-{uuid.uuid4().hex[:8]}"
        memory = memory or ChatMemory("I know nothing of the human yet.", f"My name is {name}.")
        tag = f"earshot:client:{uuid.uuid4().hex}:npc"
        blocks = {"human": memory.human, "persona": memory.persona}
        _check(blocks, blocks)
        spec = AgentSpec(
            tag,
            name,
            "You are a character in a game. Stay in character and answer briefly.",
            tuple(Block(label, text, BLOCK_MAX) for label, text in blocks.items()),
            model=llm_config.handle if llm_config else "",
            settings={"context_window": llm_config.context_window} if llm_config else {},
        )
        agent_id = self._run(self._runtime.create_agent(spec, self._timeout), "the agent could not be made")
        self._made[agent_id] = tag
        return Agent(agent_id, name)

    def get_memory(self, agent_id: str) -> dict[str, str]:
        """Label -> text of every block."""
        return self._run(self._runtime.read_blocks(agent_id, self._timeout), "the memory could not be read")

    def update_memory(self, agent_id: str, memory: Mapping[str, str]) -> None:
        """Write these blocks: every key and text is checked first; when a write fails, earlier ones are restored."""
        before = self.get_memory(agent_id)
        _check(memory, before)
        self._run(self._update(agent_id, memory, before), "the memory could not be written")

    async def _update(self, agent_id: str, memory: Mapping[str, str], before: Mapping[str, str]) -> None:
        written: list[str] = []
        for label, text in memory.items():
            try:
                await self._runtime.write_block(agent_id, Block(label, text, BLOCK_MAX), self._timeout)
                written.append(label)
            except RuntimeFault as fault:
                # A write that timed out may still have landed: put its old text back too.
                doubtful = [*written, label] if fault.unknown else written
                restored, lost = await self._restore(agent_id, doubtful, before)
                raise MemoryUpdateFailed(label, restored, lost) from fault

    async def _restore(
        self, agent_id: str, labels: list[str], before: Mapping[str, str]
    ) -> tuple[list[str], list[str]]:
        restored: list[str] = []
        lost: list[str] = []
        for label in labels:
            try:
                await self._runtime.write_block(agent_id, Block(label, before[label], BLOCK_MAX), self._timeout)
                restored.append(label)
            except RuntimeFault:
                lost.append(label)
        return restored, lost

    def send_message(self, agent_id: str, text: str, *, speaker: str = "") -> str:
        """Say something to the agent; what it answers."""
        content = json.dumps({"speaker": speaker, "text": text}, ensure_ascii=False) if speaker else text
        turn = Turn(f"client-{uuid.uuid4()}", "", "", (Message(Role.USER, content),))
        return self._run(self._ask(agent_id, turn), "the agent did not answer")

    async def _ask(self, agent_id: str, turn: Turn) -> str:
        pieces = [
            delta.text
            async for delta in self._runtime.send(agent_id, turn, self._timeout)
            if isinstance(delta, TextDelta)
        ]
        return "".join(pieces).strip()

    def delete_agent(self, agent_id: str) -> None:
        """Delete the agent and the blocks that came with it."""
        tag = self._made.get(agent_id, "earshot:client")
        self._run(self._runtime.delete_agent(agent_id, tag, self._timeout), "the agent could not be deleted")
        self._made.pop(agent_id, None)

    def close(self) -> None:
        """Delete what this client made, then disconnect. Raises the first failure, after trying everything."""
        failures: list[ClientError] = []
        for agent_id in list(self._made):
            try:
                self.delete_agent(agent_id)
            except ClientError as error:
                failures.append(error)
        self._runner.run(self._runtime.close())
        self._runner.close()
        if failures:
            raise failures[0]

    def _run(self, call: Coroutine[Any, Any, T], problem: str) -> T:
        try:
            return self._runner.run(call)
        except RuntimeFault as fault:
            raise ClientError(f"{problem}: {fault.message}", retryable=fault.retryable) from fault

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def checked_url(url: str) -> str:
    """The URL of a Letta server. Raises ClientError unless it carries protocol and port (F2); https implies 443."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ClientError("the server URL has no valid port, for example http://127.0.0.1:8283") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientError("the server URL needs a protocol, for example http://127.0.0.1:8283")
    if port is None and parts.scheme != "https":
        raise ClientError("the server URL needs a port, for example http://127.0.0.1:8283")
    return url


def _check(memory: Mapping[str, str], known: Mapping[str, str]) -> None:
    for label, text in memory.items():
        if label not in known:
            raise ClientError(f"the agent has no memory block {label!r}; it has {', '.join(sorted(known))}")
        if not isinstance(text, str):
            raise ClientError(f"memory block {label!r} must be text")
        if len(text) > BLOCK_MAX:
            raise ClientError(f"memory block {label!r} is longer than {BLOCK_MAX} characters")
