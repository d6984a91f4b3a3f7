"""Any OpenAI-compatible endpoint: OpenAI, vLLM, Ollama, llama.cpp. Earshot keeps blocks and window itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from types import ModuleType
from typing import Any

from services.sync.runtimes.chat_stream import ANSWER_MAX, ChatReading, Thoughts
from services.sync.runtimes.local import KeepsAgents, LocalAgents, NoShelf, Shelf
from services.sync.runtimes.pace import paced, within
from services.sync.runtimes.port import (
    Capabilities,
    Completion,
    Delta,
    Garbled,
    Health,
    Missing,
    Rejected,
    RuntimeFault,
    ToolResult,
    Turn,
    TurnState,
)
from services.sync.runtimes.stainless import fault_of, limits_of

DEFAULT_BASE_URL = "https://api.openai.com/v1"
# What a server says when the prompt does not fit its window.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|exceeds? the (available )?context",
    re.IGNORECASE,
)
# What a server says that has no tools, or none for this model.
_NO_TOOLS = re.compile(
    r"does not support tools|tool choice requires|tools? (is|are) not supported|--jinja", re.IGNORECASE
)
# Parameters that one call may find refused.
LEARN_MAX = 4
# Profile settings that are passed on to the endpoint.
PASSED = ("top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "reasoning_effort")


def _load() -> ModuleType:
    """Half a second of imports, for who uses this runtime only."""
    import openai

    return openai


class OpenAIRuntime(KeepsAgents):
    """Implements `port.Runtime`. No retries of its own: who calls has the budget."""

    capabilities = Capabilities(stateful=False, remote=False, completes=True)

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        *,
        name: str = "openai",
        shelf: Shelf | None = None,
        agents: LocalAgents | None = None,
    ) -> None:
        """agents: those that several endpoints share; by default its own, kept by `shelf`."""
        self.name = name
        self._base_url = base_url or DEFAULT_BASE_URL
        self._api_key = api_key or "none"  # servers on one's own machine want none; the SDK wants some text
        self._model = model
        self._agents = agents or LocalAgents(name, shelf or NoShelf())
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
                # aiohttp's connections: a call costs 2.4 ms of processor time instead of 3.5, and no more of it the
                # more connections are idle.
                wire = sdk.DefaultAioHttpClient()
                self._client = sdk.AsyncOpenAI(
                    base_url=self._base_url, api_key=self._api_key, max_retries=0, http_client=wire
                )
                self._sdk = sdk
        return self._client, self._sdk

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
            raise _fault(error, sdk) from error

    async def _stream(
        self, client: Any, sdk: ModuleType, request: dict[str, Any], timeout: float
    ) -> AsyncIterator[Delta]:
        response = await self._opened(client, sdk, request, timeout)
        if (limits := limits_of(response.response.headers)) is not None:
            yield limits
        reading = ChatReading()
        async with response:
            async for chunk in response:
                for delta in reading.take(chunk):
                    yield delta
        for delta in reading.finish():
            yield delta

    async def _opened(self, client: Any, sdk: ModuleType, request: dict[str, Any], timeout: float) -> Any:
        """The stream. What a server refuses is left out and asked once more; a prompt too long for it is halved."""
        for _ in range(LEARN_MAX):
            try:
                return await self._posted(client, sdk, request, timeout)
            except sdk.APIStatusError as error:
                # llama.cpp has said 500 for a prompt that is too long, and for tools.
                said = _said(error)
                shorter = _halved(request) if _TOO_LONG.search(said) else None
                if shorter is not None:
                    request = shorter
                elif not ((error.status_code == 400 or _NO_TOOLS.search(said)) and self._learn(said)):
                    raise
        return await self._posted(client, sdk, request, timeout)

    async def _posted(self, client: Any, sdk: ModuleType, request: dict[str, Any], timeout: float) -> Any:
        """Chunks as plain data: the SDK's typed call costs 9 ms more, walking the types of what it sends."""
        return await client.post(
            "/chat/completions",
            body=self._fitted(request),
            options={"timeout": timeout},
            cast_to=object,
            stream=True,
            stream_cls=sdk.AsyncStream[object],
        )

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

    def _learn(self, text: str) -> bool:
        """Newer models refuse `max_tokens` or a temperature, older servers `stream_options` or tools; True = again."""
        if _NO_TOOLS.search(text) and "tools" not in self._refused:
            self._refused.add("tools")
            return True
        for name in ("max_tokens", "temperature", "stream_options"):
            if name in text and name not in self._refused:
                self._refused.add(name)
                return True
        return False

    @property
    def refused(self) -> frozenset[str]:
        """Parameters that this server does not take."""
        return frozenset(self._refused)

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
            call = client.chat.completions.with_raw_response.create(**request, timeout=timeout)
            raw = await within(call, timeout)
            response = raw.parse()
            thoughts = Thoughts()
            answer = thoughts.feed(response.choices[0].message.content or "") + thoughts.finish()
            usage = response.usage
        except RuntimeFault:
            raise
        except Exception as error:
            raise _fault(error, sdk) from error
        if not answer:
            raise Garbled("the completion is empty")
        return Completion(
            answer.strip()[:ANSWER_MAX],
            usage.prompt_tokens if usage else len(system + text) // 3,
            usage.completion_tokens if usage else len(answer) // 3,
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


def _fault(error: Exception, sdk: ModuleType) -> RuntimeFault:
    """The agents are ours, so what a server does not find is its model or its path: no agent is made anew for that."""
    fault = fault_of(error, sdk)
    return Rejected("the server has no such model or path (404)") if isinstance(fault, Missing) else fault


def _said(error: Any) -> str:
    return str(error.body or error.message)


def _halved(request: dict[str, Any]) -> dict[str, Any] | None:
    """Without the older half of what was said; None when there is nothing left to leave out."""
    system, *said = request["messages"]
    if len(said) < 2:
        return None
    return {**request, "messages": [system, *said[(len(said) + 1) // 2 :]]}
