"""What the Letta adapter relies on, checked against a real Letta 0.16.8 whose model is the fake one.

Starts nothing: `deploy/letta/run-tests.sh .venv/bin/pytest -m letta` provides both servers and their addresses. The
sentences in the names are the contract; when one fails, the adapter's design has to be looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import letta_client
import pytest
from letta_client import AsyncLetta
from letta_client.types import AgentState
from letta_client.types.agents import LettaResponse

from tests.fakes.fake_model import block_text
from tests.fakes.model_script import messages_of, system_text

pytestmark = pytest.mark.letta

MODEL = "openai-proxy/earshot-fake"
EMBEDDING = "openai/text-embedding-3-small"
PATROL: Any = {
    "name": "patrol",
    "description": "Walk somewhere and keep watch.",
    "parameters": {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]},
}


@dataclass(frozen=True, slots=True)
class Rig:
    """A client of the real server and one of the fake model behind it."""

    letta: AsyncLetta
    model: httpx.AsyncClient

    async def prompt(self) -> dict[str, Any]:
        """The last request that the model got."""
        (body,) = (await self.model.get("/last")).json()
        assert isinstance(body, dict)
        return body

    async def chats(self) -> int:
        """How many requests the model got so far."""
        return int((await self.model.get("/stats")).json()["chat"])

    async def say(self, agent: AgentState, text: str, **options: Any) -> LettaResponse:
        """One message from a player, answered whole."""
        answer: LettaResponse = await self.letta.agents.messages.create(agent.id, messages=[spoken(text)], **options)
        return answer

    async def history(self, agent: AgentState) -> list[tuple[str, str]]:
        """Kind and text of what Letta has stored of an agent's messages."""
        messages = [m async for m in self.letta.agents.messages.list(agent.id)]
        return [(str(m.message_type), str(getattr(m, "content", ""))) for m in messages]

    @asynccontextmanager
    async def agent(self, **options: Any) -> AsyncIterator[AgentState]:
        """An agent with a persona and a situation; it and its blocks are deleted afterwards."""
        agent = await self.letta.agents.create(
            name="Mira",
            agent_type="letta_v1_agent",
            system="You are a character in a game.",
            model=MODEL,
            embedding=EMBEDDING,
            include_base_tools=False,
            memory_blocks=[
                {"label": "persona", "value": "I am Mira, the smith.", "limit": 2000},
                {"label": "situation", "value": "In the smithy.", "limit": 60, "read_only": True},
            ],
            **options,
        )
        try:
            yield agent
        finally:
            await self.forget(agent)

    async def forget(self, agent: AgentState) -> None:
        """Delete an agent and its blocks, as far as they still exist."""
        removals = [self.letta.blocks.delete(str(block.id)) for block in agent.blocks]
        for removal in [self.letta.agents.delete(agent.id), *removals]:
            with contextlib.suppress(letta_client.NotFoundError):
                await removal


@pytest.fixture
def rig() -> Callable[[Callable[[Rig], Awaitable[None]]], None]:
    """Runs a scenario against the servers that the environment names."""
    addresses = {name: os.environ.get(name, "") for name in ("LETTA_BASE_URL", "EARSHOT_FAKE_MODEL_URL")}
    missing = [name for name, value in addresses.items() if not value]
    if missing:
        pytest.fail(f"{' and '.join(missing)} not set: run deploy/letta/run-tests.sh pytest -m letta")

    async def run(scenario: Callable[[Rig], Awaitable[None]]) -> None:
        async with (
            asyncio.timeout(30),
            AsyncLetta(base_url=addresses["LETTA_BASE_URL"], max_retries=0, timeout=20) as letta,
            httpx.AsyncClient(base_url=addresses["EARSHOT_FAKE_MODEL_URL"], trust_env=False) as model,
        ):
            (await model.post("/control", json={"reset": True})).raise_for_status()
            await scenario(Rig(letta, model))

    return lambda scenario: asyncio.run(run(scenario))


RunRig = Callable[[Callable[[Rig], Awaitable[None]]], None]


def spoken(text: str) -> Any:
    content = json.dumps({"speaker": "Ada", "text": text})
    return {"role": "user", "content": content, "name": "Player_1", "sender_id": "u-4711"}


async def eventually(check: Callable[[], Awaitable[object]]) -> None:
    """Ask until it is true; bounded by the scenario's time-out."""
    while not await check():  # noqa: ASYNC110 # it happens in another process: no event to wait for
        await asyncio.sleep(0.05)


def texts(response: LettaResponse) -> list[str]:
    return [str(m.content) for m in response.messages if m.message_type == "assistant_message"]


def test_the_server_is_the_version_that_was_studied(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        health = await rig.letta.health()
        assert (health.version, health.status) == ("0.16.8", "ok")
        assert MODEL in [model.handle for model in await rig.letta.models.list()]

    rig(scenario)


def test_an_agent_has_the_blocks_and_tags_it_was_created_with(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent(tags=["earshot", "tenant-a"]) as agent, rig.agent(tags=["tenant-b"]):
            blocks = {block.label: block async for block in rig.letta.agents.blocks.list(agent.id)}
            assert {label: block.value for label, block in blocks.items()} == {
                "persona": "I am Mira, the smith.",
                "situation": "In the smithy.",
            }
            assert blocks["situation"].read_only is True
            found = [a.id async for a in rig.letta.agents.list(tags=["tenant-a", "earshot"], match_all_tags=True)]
            assert found == [agent.id]
            assert agent.tools == []

    rig(scenario)


def test_a_block_update_is_in_the_very_next_prompt(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            await rig.say(agent, "hello")
            assert block_text(await rig.prompt(), "situation") == "In the smithy."
            await rig.letta.agents.blocks.update("situation", agent_id=agent.id, value="At the well.\nWolves!")
            answer = await rig.say(agent, "RECITE:situation")
            assert texts(answer) == ["At the well. Wolves!"]
            assert block_text(await rig.prompt(), "situation") == "At the well.\nWolves!"
            assert system_text(await rig.prompt()).startswith("You are a character in a game.")

    rig(scenario)


def test_a_block_update_during_a_message_is_kept_for_the_next(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent, asyncio.TaskGroup() as group:
            slow = group.create_task(rig.say(agent, "DELAY:1500 SAY:first"))
            await eventually(rig.chats)  # the model is thinking
            await rig.letta.agents.blocks.update("situation", agent_id=agent.id, value="On fire.")
            assert not slow.done()
            assert texts(await slow) == ["first"]
            assert texts(await rig.say(agent, "RECITE:situation")) == ["On fire."]

    rig(scenario)


def test_block_limits_are_not_enforced_and_unknown_labels_not_created(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            long = "x" * 100
            block = await rig.letta.agents.blocks.update("situation", agent_id=agent.id, value=long)
            assert (block.value, block.limit) == (long, 60)
            with pytest.raises(letta_client.NotFoundError):
                await rig.letta.agents.blocks.update("memory", agent_id=agent.id, value="x")

    rig(scenario)


def test_the_name_of_a_message_reaches_the_model_and_the_sender_id_does_not(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            await rig.say(agent, "hello")
            prompt = await rig.prompt()
            assert messages_of(prompt)[-1] == {
                "role": "user",
                "content": '{"speaker": "Ada", "text": "hello"}',
                "name": "Player_1",
            }
            assert "u-4711" not in json.dumps(prompt)

    rig(scenario)


def test_a_client_tool_pauses_the_agent_until_its_result_comes(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            first = await rig.say(agent, 'CALL:patrol {"to": "gate"} SAY:On my way.', client_tools=[PATROL])
            assert first.stop_reason.stop_reason == "requires_approval"
            assert texts(first) == ["On my way."]
            (request,) = [m for m in first.messages if m.message_type == "approval_request_message"]
            assert (request.tool_call.name, request.tool_call.arguments) == ("patrol", '{"to": "gate"}')

            with pytest.raises(letta_client.ConflictError) as pending:
                await rig.say(agent, "Are you there?")
            assert isinstance(pending.value.body, dict)
            assert pending.value.body["detail"]["code"] == "PENDING_APPROVAL"
            assert pending.value.body["detail"]["pending_request_id"] == request.id

            result: Any = {
                "type": "tool",
                "tool_call_id": request.tool_call.tool_call_id,
                "tool_return": "arrived",
                "status": "success",
            }
            second = await rig.letta.agents.messages.create(
                agent.id, messages=[{"type": "approval", "approvals": [result]}], client_tools=[PATROL]
            )
            assert second.stop_reason.stop_reason == "end_turn"
            assert texts(second) == ["That is done: arrived."]
            returned = messages_of(await rig.prompt())[-1]
            assert (returned["role"], json.loads(returned["content"])["message"]) == ("tool", "arrived")
            assert "Are you there?" not in json.dumps(await rig.prompt())
            assert texts(await rig.say(agent, "SAY:free again")) == ["free again"]

    rig(scenario)


def test_a_reset_clears_the_prompt_but_neither_blocks_nor_stored_messages(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            await rig.say(agent, "The password is swordfish.")
            await rig.say(agent, "hello")
            assert "swordfish" in json.dumps(await rig.prompt())
            await rig.letta.agents.messages.reset(agent.id)
            await rig.say(agent, "hello")
            prompt = await rig.prompt()
            assert "swordfish" not in json.dumps(prompt)
            assert [m["role"] for m in messages_of(prompt)] == ["system", "user"]
            assert block_text(prompt, "situation") == "In the smithy."
            assert "swordfish" in repr(await rig.history(agent))  # only deleting the agent erases it

    rig(scenario)


def test_a_stream_brings_the_text_in_pieces_while_the_model_writes(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            kinds, pieces, arrived = [], [], []
            stream = await rig.letta.agents.messages.create(
                agent.id,
                messages=[spoken("DRIP:100 SAY:One two three. Four five six.")],
                streaming=True,
                stream_tokens=True,
            )
            async for chunk in stream:
                kinds.append(chunk.message_type)
                if chunk.message_type == "assistant_message":
                    pieces.append(str(chunk.content))
                    arrived.append(asyncio.get_running_loop().time())
            assert "".join(pieces) == "One two three. Four five six."
            assert len(pieces) >= 4
            assert arrived[-1] - arrived[0] > 0.2  # not held back to the end
            assert [k for k in kinds if k not in ("assistant_message", "ping")] == [
                "stop_reason",
                "usage_statistics",
            ]

    rig(scenario)


def test_a_failed_turn_costs_three_calls_and_stores_nothing(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            with pytest.raises(letta_client.InternalServerError):
                await rig.say(agent, "FAIL:500 swordfish")
            assert await rig.chats() == 3
            await rig.say(agent, "hello")
            assert "swordfish" not in json.dumps(await rig.prompt())

    rig(scenario)


def test_a_turn_that_the_client_gave_up_is_still_completed_and_stored(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            with pytest.raises(letta_client.APITimeoutError):
                await rig.say(agent, "DELAY:1200 SAY:late answer", timeout=0.6)

            async def stored() -> bool:
                return "late answer" in [answer for _, answer in await rig.history(agent)]

            await eventually(stored)
            assert await rig.chats() == 1

    rig(scenario)


def test_two_messages_at_once_are_not_serialised(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            async with asyncio.TaskGroup() as group:
                for name in ("one", "two"):
                    group.create_task(rig.say(agent, f"DELAY:1000 SAY:{name}"))
            stats = (await rig.model.get("/stats")).json()
            assert stats["max_inflight"] == 2
            await rig.say(agent, "hello")
            roles = [m["role"] for m in messages_of(await rig.prompt())]
            assert roles == ["system", "user", "assistant", "user"]  # one of the two turns is lost

    rig(scenario)


def test_our_server_keeps_no_copies_of_prompts(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            answer = await rig.say(agent, "hello")
            steps = {str(m.step_id) for m in answer.messages if m.message_type == "assistant_message"}
            assert len(steps) == 1
            assert await rig.letta.steps.trace.retrieve(steps.pop()) is None

    rig(scenario)


def test_deleting_an_agent_leaves_its_blocks_behind(rig: RunRig) -> None:
    async def scenario(rig: Rig) -> None:
        async with rig.agent() as agent:
            await rig.letta.agents.delete(agent.id)
            with pytest.raises(letta_client.NotFoundError):
                await rig.letta.agents.retrieve(agent.id)
            with pytest.raises(letta_client.NotFoundError):
                await rig.letta.agents.delete(agent.id)
            for block_id, value in [(str(block.id), block.value) for block in agent.blocks]:
                assert (await rig.letta.blocks.retrieve(block_id)).value == value
                await rig.letta.blocks.delete(block_id)
                with pytest.raises(letta_client.NotFoundError):
                    await rig.letta.blocks.retrieve(block_id)

    rig(scenario)
