"""Any OpenAI-compatible endpoint: OpenAI, vLLM, Ollama, llama.cpp. Earshot keeps blocks and window itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from services.sync.runtimes.local import LocalAgents, NoShelf, Shelf
from services.sync.runtimes.pace import paced, within
from services.sync.runtimes.port import (
    AgentSpec,
    Block,
    Capabilities,
    Completion,
    Delta,
    End,
    Garbled,
    Health,
    Rejected,
    RuntimeFault,
    TextDelta,
    ToolCall,
    ToolResult,
    Turn,
    TurnState,
    UsageDelta,
)
from services.sync.runtimes.stainless import fault_of

DEFAULT_BASE_URL = "https://api.openai.com/v1"
# Characters of one answer; more is a broken server.
ANSWER_MAX = 32_768
# Profile settings that are passed on to the endpoint.
PASSED = ("top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "reasoning_effort")


@dataclass(slots=True)
class _Gathered:
    """Tool calls arrive in pieces, by index."""

    calls: dict[int, list[str]] = field(default_factory=dict)

    def add(self, piece: Any) -> None:
        entry = self.calls.setdefault(piece.index or 0, ["", "", ""])
        entry[0] += piece.id or ""
        if piece.function is not None:
            entry[1] += piece.function.name or ""
            entry[2] += piece.function.arguments or ""

    def whole(self) -> list[ToolCall]:
        return [
            ToolCall(call_id or f"call_{index}", name, arguments)
            for index, (call_id, name, arguments) in sorted(self.calls.items())
            if name
        ]


def _load() -> ModuleType:
    """Half a second of imports, for who uses this runtime only."""
    import openai

    return openai


class OpenAIRuntime:
    """Implements `port.Runtime`. No retries of its own: who calls has the budget."""

    capabilities = Capabilities(stateful=False, remote=False, completes=True)

    def __init__(
        self, base_url: str, api_key: str, model: str, *, name: str = "openai", shelf: Shelf | None = None
    ) -> None:
        self.name = name
        self._base_url = base_url or DEFAULT_BASE_URL
        self._api_key = api_key or "none"  # servers on one's own machine want none; the SDK wants some text
        self._model = model
        self._agents = LocalAgents(name, shelf or NoShelf())
        self._sdk: ModuleType | None = None
        self._client: Any = None
        self._opening = asyncio.Lock()
        # Parameters that this endpoint refused once: sent under their new name, or no more.
        self._refused: set[str] = set()

    async def open(self) -> tuple[Any, ModuleType]:
        """The SDK's client; its package is imported on a thread, the first time."""
        async with self._opening:
            if self._sdk is None:
                sdk = await asyncio.to_thread(_load)
                self._client = sdk.AsyncOpenAI(base_url=self._base_url, api_key=self._api_key, max_retries=0)
                self._sdk = sdk
        return self._client, self._sdk

    # -- agents: kept here -----------------------------------------------------------------------------------------

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

    async def look_up(self, agent_id: str, turn_id: str, timeout: float) -> TurnState:
        return TurnState.ABSENT  # nothing of a turn stays behind

    async def settle(self, agent_id: str, timeout: float) -> None: ...

    async def reset_messages(self, agent_id: str, timeout: float) -> None: ...

    # -- turns -----------------------------------------------------------------------------------------------------

    def send(self, agent_id: str, turn: Turn, timeout: float) -> AsyncIterator[Delta]:
        return self._ask(agent_id, turn, (), timeout)

    def answer(self, agent_id: str, turn: Turn, results: Sequence[ToolResult], timeout: float) -> AsyncIterator[Delta]:
        return self._ask(agent_id, turn, results, timeout)

    async def _ask(
        self, agent_id: str, turn: Turn, results: Sequence[ToolResult], timeout: float
    ) -> AsyncIterator[Delta]:
        blocks = self._agents.read(agent_id)
        client, sdk = await self.open()
        request = self._request(turn, blocks, results)
        try:
            async with aclosing(paced(self._stream(client, sdk, request, timeout), timeout)) as deltas:
                async for delta in deltas:
                    yield delta
        except RuntimeFault:
            raise
        except Exception as error:
            raise fault_of(error, sdk) from error

    async def _stream(
        self, client: Any, sdk: ModuleType, request: dict[str, Any], timeout: float
    ) -> AsyncIterator[Delta]:
        try:
            response = await client.chat.completions.create(**self._fitted(request), timeout=timeout)
        except sdk.BadRequestError as error:
            if not self._learn(error):
                raise
            response = await client.chat.completions.create(**self._fitted(request), timeout=timeout)
        gathered, length, model, ended = _Gathered(), 0, "", False
        async with response:
            async for chunk in response:
                model = chunk.model or model
                if chunk.usage is not None:
                    yield UsageDelta(chunk.usage.prompt_tokens or 0, chunk.usage.completion_tokens or 0)
                for choice in chunk.choices or ():
                    text = choice.delta.content or ""
                    length += len(text)
                    if length > ANSWER_MAX:
                        raise Garbled("the answer is too large")
                    if text:
                        yield TextDelta(text)
                    for piece in choice.delta.tool_calls or ():
                        gathered.add(piece)
                    ended = ended or choice.finish_reason is not None
        calls = gathered.whole()
        if not ended and not length and not calls:
            raise Garbled("the answer is no completion")
        for call in calls:
            yield call
        yield End(model, tools=bool(calls))

    def _request(self, turn: Turn, blocks: dict[str, str], results: Sequence[ToolResult]) -> dict[str, Any]:
        """The request's body. One system message, first: chat templates of local servers refuse another."""
        held = [f"<{label}>\n{text}\n</{label}>" for label, text in blocks.items() if text]
        system = "\n\n".join(part for part in (turn.instructions, *held, turn.system) if part)
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
        messages += [{"role": message.role.value, "content": message.text} for message in turn.messages]
        if results:
            calls = [
                {
                    "id": result.call.call_id,
                    "type": "function",
                    "function": {"name": result.call.name, "arguments": result.call.arguments or "{}"},
                }
                for result in results
            ]
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
            messages += [
                {"role": "tool", "tool_call_id": result.call.call_id, "content": result.text} for result in results
            ]
        request: dict[str, Any] = {
            "model": turn.model or self._model,
            "messages": messages,
            "max_tokens": turn.max_tokens,
            "temperature": turn.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{key: turn.settings[key] for key in PASSED if key in turn.settings},
        }
        if turn.tools and not results:
            request["tools"] = [
                {
                    "type": "function",
                    "function": {"name": t.name, "description": t.description, "parameters": dict(t.parameters)},
                }
                for t in turn.tools
            ]
        return request

    def _fitted(self, request: dict[str, Any]) -> dict[str, Any]:
        fitted = dict(request)
        for name in self._refused & fitted.keys():
            value = fitted.pop(name)
            if name == "max_tokens":
                fitted["max_completion_tokens"] = value
        return fitted

    def _learn(self, error: Any) -> bool:
        """Newer models refuse `max_tokens` or a temperature, older servers `stream_options`; True = try once more."""
        text = str(error.body or error.message)
        for name in ("max_tokens", "temperature", "stream_options"):
            if name in text and name not in self._refused:
                self._refused.add(name)
                return True
        return False

    # -- the rest --------------------------------------------------------------------------------------------------

    async def complete(self, system: str, text: str, image_url: str, max_tokens: int, timeout: float) -> Completion:
        client, sdk = await self.open()
        content: Any = text
        if image_url:
            content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image_url}}]
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": content})
        request = self._fitted({"model": self._model, "messages": messages, "max_tokens": max_tokens})
        try:
            response = await within(client.chat.completions.create(**request, timeout=timeout), timeout)
            answer = response.choices[0].message.content or ""
            usage = response.usage
        except RuntimeFault:
            raise
        except Exception as error:
            raise fault_of(error, sdk) from error
        if not answer:
            raise Garbled("the completion is empty")
        return Completion(
            answer[:ANSWER_MAX], usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0
        )

    async def check(self, timeout: float) -> Health:
        try:
            client, sdk = await self.open()
            try:
                await within(client.models.list(timeout=timeout), timeout)
            except RuntimeFault:
                raise
            except Exception as error:
                raise fault_of(error, sdk) from error
        except Rejected as fault:
            return Health(False, fault.message)
        except RuntimeFault as fault:
            # A server that answers 404 here still completes chats.
            return Health(type(fault).__name__ == "Missing", fault.message)
        return Health(True, self._model)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
