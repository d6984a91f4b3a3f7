"""Letta V1 (server 0.16.8, client 1.7.12 to 1.x): the only module that imports letta_client.

What the server does, and this module therefore does (measured, docs/architecture.md):
* it runs two messages to one agent at once and keeps only the last: who calls keeps one in flight;
* it runs a turn to its end although the client left: `look_up` finds it by the turn id, stored as `otid`;
* a tool call that nobody answered makes every later message fail (409, or an error event in a stream): it is answered
  `cancelled` in the same request as the new message; answering when nothing waits would start a turn of its own;
* one of two concurrent writes of a block answers 409: retried here;
* blocks outlive their agent: ours carry its tag and are deleted with it;
* the client's own retries send a message again: max_retries is 0.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from types import ModuleType
from typing import Any, TypeVar

from services.sync.runtimes.letta_params import approval, block_param, fit_name, message_param, model_settings
from services.sync.runtimes.letta_stream import Reading, is_pending, is_unknown_call, stream_fault
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
    Raced,
    Rejected,
    RuntimeFault,
    ToolResult,
    Turn,
    TurnState,
)
from services.sync.runtimes.stainless import fault_of

T = TypeVar("T")

CONNECT_S = 5.0
# Waits between attempts to write a block that another write changed at the same moment.
RACE_WAITS_S = (0.02, 0.05, 0.1, 0.2)
# Newest messages among which a turn is looked up.
LOOK_BACK = 50
_TAG = "earshot:"


def _load() -> tuple[ModuleType, Any]:
    """Half a second of imports, for who uses this runtime only: the SDK, and what bounds its answers."""
    import letta_client

    from services.sync.runtimes.bounded import bound

    return letta_client, bound


class LettaRuntime:
    """Implements `port.Runtime` on a Letta server. base_url is required: the SDK's own default is Letta's cloud."""

    name = "letta"
    capabilities = Capabilities(stateful=True, remote=True)

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        *,
        model: str = "openai/gpt-4o-mini",
        embedding: str = "openai/text-embedding-3-small",
        max_tokens: int = 150,
        temperature: float = 0.7,
    ) -> None:
        if not re.match(r"https?://[^/]+", base_url):
            raise Rejected("the Letta URL needs a protocol and a host, for example http://127.0.0.1:8283")
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._model = model
        self._embedding = embedding
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._sdk: ModuleType | None = None
        self._client: Any = None
        self._opening = asyncio.Lock()

    async def open(self) -> tuple[Any, ModuleType]:
        """The SDK's client; its package is imported on a thread, the first time."""
        async with self._opening:
            if self._sdk is None:
                sdk, bound = await asyncio.to_thread(_load)
                http = sdk.DefaultAsyncHttpxClient(base_url=self._base_url, event_hooks={"response": [bound]})
                self._client = sdk.AsyncLetta(
                    base_url=self._base_url,
                    api_key=self._api_key or "none",
                    max_retries=0,
                    timeout=30.0,
                    http_client=http,
                )
                self._sdk = sdk
        return self._client, self._sdk

    async def _call(self, step: Awaitable[T], timeout: float) -> T:
        _, sdk = await self.open()
        try:
            return await within(step, timeout)
        except RuntimeFault:
            raise
        except Exception as error:
            raise _fault(error, sdk) from error

    # -- agents ----------------------------------------------------------------------------------------------------

    async def create_agent(self, spec: AgentSpec, timeout: float) -> str:
        if spec.adopt:
            return await self._call(self._adopt(spec), timeout)
        client, sdk = await self.open()
        model = spec.model or self._model
        optional: dict[str, Any] = {}
        settings = model_settings(model, spec.settings, self._max_tokens, self._temperature)
        if settings:
            optional["model_settings"] = settings
        if isinstance(window := spec.settings.get("context_window"), int) and window > 0:
            optional["context_window_limit"] = window
        agent = await self._call(
            client.agents.create(
                name=fit_name(spec.name),
                agent_type="letta_v1_agent",
                system=spec.instructions,
                model=model,
                embedding=self._embedding,
                memory_blocks=[block_param(block, spec.tag) for block in spec.blocks],
                tags=[spec.tag],
                # No memory tools: an agent that rewrites its own memory could keep what must be forgotten.
                include_base_tools=False,
                timeout=_timeout(sdk, timeout),
                **optional,
            ),
            timeout,
        )
        return str(agent.id)

    async def _adopt(self, spec: AgentSpec) -> str:
        client, _ = await self.open()
        agent = await client.agents.retrieve(spec.adopt, include=["agent.blocks", "agent.tags"])
        held = {block.label for block in agent.blocks or ()}
        for block in spec.blocks:
            if block.label not in held:
                await self._attach(spec.adopt, block, spec.tag)
        if spec.tag not in (agent.tags or ()):
            await client.agents.update(spec.adopt, tags=[*(agent.tags or ()), spec.tag])
        return spec.adopt

    async def _attach(self, agent_id: str, block: Block, tag: str) -> None:
        client, _ = await self.open()
        made = await client.blocks.create(**block_param(block, tag))
        await client.agents.blocks.attach(made.id, agent_id=agent_id)

    async def find_agents(self, tag: str, timeout: float) -> list[str]:
        client, _ = await self.open()

        async def collect() -> list[str]:
            return [str(agent.id) async for agent in client.agents.list(tags=[tag], order="asc")]

        return await self._call(collect(), timeout)

    async def delete_agent(self, agent_id: str, tag: str, timeout: float) -> None:
        await self._call(self._delete(agent_id, tag), timeout)

    async def _delete(self, agent_id: str, tag: str) -> None:
        client, sdk = await self.open()
        try:
            ours = [b.id async for b in client.agents.blocks.list(agent_id) if tag in (b.tags or ())]
            await client.agents.delete(agent_id)
        except sdk.NotFoundError:
            # Deleted before, perhaps by an attempt that did not get to its blocks.
            ours = [b.id async for b in client.blocks.list(tags=[tag], connected_to_agents_count_eq=[0])]
        for block_id in ours:
            try:
                await client.blocks.delete(block_id)
            except sdk.NotFoundError:
                continue

    # -- blocks ----------------------------------------------------------------------------------------------------

    async def read_blocks(self, agent_id: str, timeout: float) -> dict[str, str]:
        client, _ = await self.open()

        async def collect() -> dict[str, str]:
            return {str(b.label): str(b.value) async for b in client.agents.blocks.list(agent_id)}

        return await self._call(collect(), timeout)

    async def write_block(self, agent_id: str, block: Block, timeout: float) -> None:
        client, sdk = await self.open()

        async def write() -> None:
            waits = iter(RACE_WAITS_S)
            while True:
                try:
                    held = await client.agents.blocks.update(block.label, agent_id=agent_id, value=block.text)
                    if getattr(held, "value", None) != block.text:
                        raise Garbled("the answer to a write does not hold what was written")
                    return
                except sdk.ConflictError as error:
                    wait = next(waits, None)
                    if wait is None:
                        raise Raced("the block was changed by another write") from error
                    await asyncio.sleep(wait)
                except sdk.NotFoundError as error:
                    if "label" not in str(error.body):
                        raise
                    agent = await client.agents.retrieve(agent_id, include=["agent.tags"])
                    tag = next((t for t in agent.tags or () if t.startswith(_TAG)), _TAG)
                    await self._attach(agent_id, block, tag)
                    return

        await self._call(write(), timeout)

    # -- turns -----------------------------------------------------------------------------------------------------

    async def send(self, agent_id: str, turn: Turn, timeout: float) -> AsyncIterator[Delta]:
        """Send the new messages; a call that an earlier turn left pending is answered `cancelled` with them."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": turn.system}] if turn.system else []
        messages += [message_param(message) for message in turn.messages]
        # Found again by look_up; ids of other messages are Letta's own.
        messages[-1]["otid"] = turn.turn_id
        tools = [{"name": t.name, "description": t.description, "parameters": dict(t.parameters)} for t in turn.tools]
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with aclosing(self._stream(agent_id, messages, tools, timeout)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except RuntimeFault as fault:
            if not is_pending(fault):
                raise
        left = deadline - asyncio.get_running_loop().time()
        cancelled = await self._cancelled(agent_id, left)
        left = deadline - asyncio.get_running_loop().time()
        async with aclosing(self._stream(agent_id, [*cancelled, *messages], tools, left)) as deltas:
            async for delta in deltas:
                yield delta

    async def answer(
        self, agent_id: str, turn: Turn, results: Sequence[ToolResult], timeout: float
    ) -> AsyncIterator[Delta]:
        """Give the results. No tools are offered again: at most one continuation, and nothing left pending."""
        approvals = [
            approval(result.call.call_id, result.text, "success" if result.ok else "error") for result in results
        ]
        deadline = asyncio.get_running_loop().time() + timeout
        message = {"type": "approval", "approvals": approvals}
        try:
            async with aclosing(self._stream(agent_id, [message], [], timeout)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except RuntimeFault as fault:
            if not is_unknown_call(fault):
                raise
        # Letta kept fewer calls than it streamed: answer those that really wait.
        left = deadline - asyncio.get_running_loop().time()
        waiting = await self._pending(agent_id, left)
        if not waiting:
            yield End()
            return
        given = {one["tool_call_id"]: one for one in approvals}
        message["approvals"] = [given.get(call) or approval(call, "cancelled", "error") for call in waiting]
        left = deadline - asyncio.get_running_loop().time()
        async with aclosing(self._stream(agent_id, [message], [], left)) as deltas:
            async for delta in deltas:
                yield delta

    async def _stream(
        self, agent_id: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], timeout: float
    ) -> AsyncGenerator[Delta, None]:
        client, sdk = await self.open()
        optional: dict[str, Any] = {"client_tools": tools} if tools else {}

        async def read() -> AsyncIterator[Delta]:
            stream = await client.agents.messages.create(
                agent_id,
                messages=messages,
                streaming=True,
                stream_tokens=True,
                include_pings=False,
                timeout=_timeout(sdk, timeout),
                **optional,
            )
            reading = Reading()
            async with stream:
                async for chunk in stream:
                    for delta in reading.take(chunk):
                        yield delta
            for delta in reading.finish():
                yield delta

        try:
            async with aclosing(paced(read(), timeout)) as deltas:
                async for delta in deltas:
                    yield delta
        except RuntimeFault:
            raise
        except Exception as error:
            raise (stream_fault(error) or _fault(error, sdk)) from error

    async def _pending(self, agent_id: str, timeout: float) -> list[str]:
        """Ids of the tool calls that wait for an answer."""
        client, _ = await self.open()
        agent = await self._call(client.agents.retrieve(agent_id, include=["agent.pending_approval"]), timeout)
        request = agent.pending_approval
        if request is None:
            return []
        calls = request.tool_calls if isinstance(request.tool_calls, list) else [request.tool_call]
        return [str(call.tool_call_id) for call in calls]

    async def _cancelled(self, agent_id: str, timeout: float) -> list[dict[str, Any]]:
        waiting = await self._pending(agent_id, timeout)
        if not waiting:
            return []
        return [{"type": "approval", "approvals": [approval(call, "cancelled", "error") for call in waiting]}]

    async def settle(self, agent_id: str, timeout: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout
        messages = await self._cancelled(agent_id, timeout)
        if messages:
            async for _ in self._stream(agent_id, messages, [], deadline - asyncio.get_running_loop().time()):
                pass

    async def look_up(self, agent_id: str, turn_id: str, timeout: float) -> TurnState:
        client, _ = await self.open()

        async def look() -> TurnState:
            page = await client.runs.list(agent_id=agent_id, active=True, limit=1)
            if page.items:
                return TurnState.RUNNING
            # A turn's messages are stored when it ends, so an inactive run without them did nothing.
            stored = await client.agents.messages.list(agent_id, order="desc", limit=LOOK_BACK)
            done = any(getattr(message, "otid", None) == turn_id for message in stored.items)
            return TurnState.DONE if done else TurnState.ABSENT

        return await self._call(look(), timeout)

    async def reset_messages(self, agent_id: str, timeout: float) -> None:
        client, _ = await self.open()
        await self._call(client.agents.messages.reset(agent_id), timeout)

    # -- the rest --------------------------------------------------------------------------------------------------

    async def complete(self, system: str, text: str, image_url: str, max_tokens: int, timeout: float) -> Completion:
        raise Rejected("letta answers only through agents")

    async def check(self, timeout: float) -> Health:
        client, _ = await self.open()
        try:
            health = await self._call(client.health(), timeout)
        except RuntimeFault as fault:
            return Health(False, fault.message)
        return Health(health.status == "ok", str(health.version))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


def _fault(error: Exception, sdk: ModuleType) -> RuntimeFault:
    """As `fault_of`; a fault that was raised while the SDK read is the cause of what the SDK raises."""
    cause = error.__cause__
    return cause if isinstance(cause, RuntimeFault) else fault_of(error, sdk)


def _timeout(sdk: ModuleType, seconds: float) -> Any:
    return sdk.Timeout(max(seconds, 0.01), connect=min(max(seconds, 0.01), CONNECT_S))
