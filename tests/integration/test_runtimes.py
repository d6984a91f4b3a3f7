"""One conformance suite over every runtime: offline, openai over HTTP against the fake model, letta on a real server.

The letta tests need LETTA_BASE_URL, and EARSHOT_FAKE_MODEL_URL of the model behind that server.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from services.sync.runtimes.client import ChatMemory, ClientError, LettaRobloxClient, LLMConfig
from services.sync.runtimes.letta import LettaRuntime
from services.sync.runtimes.letta_params import fit_name, model_settings
from services.sync.runtimes.local import LocalAgents, NoShelf
from services.sync.runtimes.offline import OfflineRuntime
from services.sync.runtimes.openai import OpenAIRuntime
from services.sync.runtimes.port import (
    AgentSpec,
    Block,
    Delta,
    End,
    Garbled,
    Message,
    Missing,
    RateLimited,
    Rejected,
    Role,
    Runtime,
    RuntimeFault,
    Scene,
    ServerFault,
    TextDelta,
    TimedOut,
    ToolCall,
    ToolResult,
    ToolSpec,
    Turn,
    TurnState,
    Unreachable,
    UsageDelta,
)
from tests.fakes.fake_letta import FakeLetta
from tests.fakes.fake_model import FakeModel

LETTA = pytest.param("letta", marks=pytest.mark.letta)
ALL = ["offline", "openai", LETTA]
# What the fake Letta has beside its faults: it has no model.
WITH_FAKE = [*ALL, "fake_letta"]
WITH_MODEL = ["openai", LETTA]
FOLLOW = ToolSpec(
    "follow",
    "Follow somebody.",
    {"type": "object", "properties": {"target": {"type": "string"}}, "required": ["target"]},
)
WAVE = ToolSpec("emote", "Make a gesture.", {"type": "object", "properties": {"type": {"type": "string"}}})
LIMIT_S = 20.0


class Model:
    """The fake model, by HTTP wherever it runs."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, trust_env=False)

    async def requests(self, containing: str) -> list[dict[str, Any]]:
        """Chat requests that hold a text, oldest first."""
        last = (await self._client.get("/last", params={"n": 200})).json()
        return [body for body in last if containing in json.dumps(body, ensure_ascii=False)]

    async def fault(self, **fault: Any) -> None:
        (await self._client.post("/control", json={"faults": [fault]})).raise_for_status()

    async def close(self) -> None:
        await self._client.post("/control", json={"faults": []})
        await self._client.aclose()


@dataclass
class Said:
    """A whole answer."""

    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    tokens: int = 0


@dataclass
class Stage:
    """A runtime with one agent, and marks that are this test's own."""

    runtime: Runtime
    model: Model | None
    mark: str
    tag: str
    agent_id: str = ""

    def turn(
        self, text: str, *, tools: Sequence[ToolSpec] = (), scene: Scene | None = None, system: str = "Answer."
    ) -> Turn:
        said = f"{self.mark} {text}"
        return Turn(
            turn_id=f"turn-{uuid.uuid4()}", instructions="You play an NPC.", system=system,
            messages=(Message(Role.USER, json.dumps({"speaker": "Ada", "text": said})),), tools=tuple(tools),
            scene=scene or Scene("Mara", lines=("Mind the step.",), speaker="Ada", said=said),
        )  # fmt: skip

    async def ask(self, text: str, *, timeout: float = LIMIT_S, **fields: Any) -> Said:
        return await self.collect(self.runtime.send(self.agent_id, self.turn(text, **fields), timeout))

    async def settled(self, turn_id: str) -> TurnState:
        """State of a turn once nothing runs any more."""
        for _ in range(100):
            state = await self.runtime.look_up(self.agent_id, turn_id, LIMIT_S)
            if state is not TurnState.RUNNING:
                return state
            await asyncio.sleep(0.2)
        raise AssertionError("the agent never rests")

    @staticmethod
    async def collect(deltas: AsyncIterator[Delta]) -> Said:
        said = Said()
        async for delta in deltas:
            match delta:
                case TextDelta(text):
                    said.text += text
                case ToolCall():
                    said.calls.append(delta)
                case UsageDelta(prompt, completion):
                    said.tokens += prompt + completion
                case End():
                    said.ends.append(delta)
        return said

    def spec(self, **fields: Any) -> AgentSpec:
        blocks = (
            Block("persona", "My name is Mara.", 500, "who I am"),
            Block("situation", "I am at the Lantern.", 500, "what is true now"),
        )
        return replace(AgentSpec(self.tag, "Mara of the <Lantern>", "You play an NPC.", blocks), **fields)


@asynccontextmanager
async def staged(kind: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        model: Model | None = None
        runtime: Runtime
        if kind == "openai":
            fake = await stack.enter_async_context(FakeModel())
            model = Model(fake.url)
            runtime = OpenAIRuntime(fake.base_url, "", "earshot-fake")
        elif kind == "fake_letta":
            runtime = LettaRuntime((await stack.enter_async_context(FakeLetta())).url)
        elif kind == "letta":
            model = Model(os.environ["EARSHOT_FAKE_MODEL_URL"])
            runtime = LettaRuntime(os.environ["LETTA_BASE_URL"], model="openai-proxy/gpt-4o-mini")
        else:
            runtime = OfflineRuntime()
        if model is not None:
            stack.push_async_callback(model.close)
        stack.push_async_callback(runtime.close)
        unique = uuid.uuid4().hex[:12]
        stage = Stage(runtime, model, f"mark{unique}", f"earshot:t:w%2F{unique}:mara")
        stage.agent_id = await runtime.create_agent(stage.spec(), LIMIT_S)
        try:
            yield stage
        finally:
            for agent_id in await runtime.find_agents(stage.tag, LIMIT_S):
                await runtime.delete_agent(agent_id, stage.tag, LIMIT_S)


# -- agents and blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITH_FAKE)
async def test_an_agent_is_made_found_changed_and_deleted(kind: str) -> None:
    async with staged(kind) as stage:
        runtime = stage.runtime
        assert await runtime.find_agents(stage.tag, LIMIT_S) == [stage.agent_id]
        assert await runtime.find_agents(stage.tag[:-1], LIMIT_S) == []
        before = await runtime.read_blocks(stage.agent_id, LIMIT_S)
        assert before == {"persona": "My name is Mara.", "situation": "I am at the Lantern."}
        await runtime.write_block(stage.agent_id, Block("situation", "I am at the Mill.", 500), LIMIT_S)
        await runtime.write_block(stage.agent_id, Block("notes", "A block it did not have.", 500), LIMIT_S)
        after = await runtime.read_blocks(stage.agent_id, LIMIT_S)
        assert after == {**before, "situation": "I am at the Mill.", "notes": "A block it did not have."}
        for _ in range(2):
            await runtime.delete_agent(stage.agent_id, stage.tag, LIMIT_S)
        assert await runtime.find_agents(stage.tag, LIMIT_S) == []
        with pytest.raises(Missing) as caught:
            await runtime.read_blocks(stage.agent_id, LIMIT_S)
        assert not caught.value.retryable
        with pytest.raises(Missing):
            await runtime.write_block(stage.agent_id, Block("situation", "x", 500), LIMIT_S)
        with pytest.raises(Missing):
            await stage.ask("Hello?")


@pytest.mark.parametrize("kind", WITH_FAKE)
async def test_an_agent_that_exists_is_adopted_with_its_own_text(kind: str) -> None:
    async with staged(kind) as stage:
        blocks = (Block("persona", "Not mine.", 500), Block("group", "Nobody.", 500))
        adopted = await stage.runtime.create_agent(stage.spec(adopt=stage.agent_id, blocks=blocks), LIMIT_S)
        assert adopted == stage.agent_id
        texts = await stage.runtime.read_blocks(stage.agent_id, LIMIT_S)
        assert (texts["persona"], texts["group"]) == ("My name is Mara.", "Nobody.")
        with pytest.raises((Missing, Rejected)):
            await stage.runtime.create_agent(stage.spec(adopt="agent-00000000-0000-4000-8000-000000000000"), LIMIT_S)


@pytest.mark.parametrize("kind", WITH_FAKE)
async def test_many_writes_of_many_blocks_all_land(kind: str) -> None:
    async with staged(kind) as stage:
        labels = ["situation", "memory", "human"]
        await asyncio.gather(
            *(stage.runtime.write_block(stage.agent_id, Block(label, "first", 500), LIMIT_S) for label in labels)
        )
        await asyncio.gather(
            *(stage.runtime.write_block(stage.agent_id, Block(label, f"{label} 2", 500), LIMIT_S) for label in labels)
        )
        texts = await stage.runtime.read_blocks(stage.agent_id, LIMIT_S)
        assert {label: texts[label] for label in labels} == {label: f"{label} 2" for label in labels}


# -- turns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITH_FAKE)
async def test_a_turn_streams_and_ends_once(kind: str) -> None:
    async with staged(kind) as stage:
        said = await stage.ask("SAY:Good evening to you. Come in.")
        assert said.text.strip()
        assert len(said.ends) == 1
        assert not said.ends[0].tools
        assert said.calls == []
        if stage.model is not None:
            assert said.text == "Good evening to you. Come in."
            assert said.tokens > 0


@pytest.mark.parametrize("kind", WITH_MODEL)
async def test_the_model_sees_what_was_last_written(kind: str) -> None:
    async with staged(kind) as stage:
        assert stage.model is not None
        for place in ("Mill", "Harbour"):
            await stage.runtime.write_block(stage.agent_id, Block("situation", f"I am at the {place}.", 500), LIMIT_S)
            await stage.ask(f"Where are we, {place}?", system=f"Answer about {place}.")
            asked = (await stage.model.requests(f"Where are we, {place}?"))[-1]
            system = "\n".join(m["content"] for m in asked["messages"] if m["role"] == "system")
            assert f"I am at the {place}." in system
            assert f"Answer about {place}." in system
            assert "You play an NPC." in system
            assert "I am at the Lantern." not in system
            users = [m["content"] for m in asked["messages"] if m["role"] == "user"]
            assert json.loads(users[-1])["speaker"] == "Ada"


@pytest.mark.parametrize("kind", WITH_MODEL)
async def test_tool_calls_come_whole_and_are_answered(kind: str) -> None:
    async with staged(kind) as stage:
        turn = stage.turn('CALL:follow {"target": "Ada"} CALL:emote {"type": "wave"}', tools=[FOLLOW, WAVE])
        said = await stage.collect(stage.runtime.send(stage.agent_id, turn, LIMIT_S))
        assert said.ends == [said.ends[0]]
        assert said.ends[0].tools
        assert [(call.name, json.loads(call.arguments)) for call in said.calls] == [
            ("follow", {"target": "Ada"}),
            ("emote", {"type": "wave"}),
        ]
        results = [ToolResult(said.calls[0], "accepted"), ToolResult(said.calls[1], "no such gesture", ok=False)]
        more = await stage.collect(stage.runtime.answer(stage.agent_id, turn, results, LIMIT_S))
        assert more.text
        assert (len(more.ends), more.ends[0].tools) == (1, False)
        assert (await stage.ask("SAY:Anything else?")).text == "Anything else?"


async def test_offline_acts_on_what_it_is_told() -> None:
    async with staged("offline") as stage:
        scene = Scene("Mara", speaker="Ada", said="Mara, follow me please!", players=("Ada",))
        turn = stage.turn("", tools=[FOLLOW], scene=scene)
        said = await stage.collect(stage.runtime.send(stage.agent_id, turn, LIMIT_S))
        assert [(call.name, call.arguments) for call in said.calls] == [("follow", '{"target": "Ada"}')]
        assert said.ends[0].tools
        refused = [ToolResult(said.calls[0], "nobody there", ok=False)]
        more = await stage.collect(stage.runtime.answer(stage.agent_id, turn, refused, LIMIT_S))
        assert "cannot" in more.text


@pytest.mark.parametrize("kind", WITH_MODEL)
async def test_no_agent_is_left_pending(kind: str) -> None:
    """A call that nobody answered does not stop the next turn, and settle leaves nothing behind."""
    async with staged(kind) as stage:
        said = await stage.ask('CALL:follow {"target": "Ada"}', tools=[FOLLOW])
        assert said.ends[0].tools
        assert (await stage.ask("SAY:I go on.", tools=[FOLLOW])).text == "I go on."
        said = await stage.ask('CALL:follow {"target": "Ada"}', tools=[FOLLOW])
        assert said.ends[0].tools
        await stage.runtime.settle(stage.agent_id, LIMIT_S)
        await stage.runtime.settle(stage.agent_id, LIMIT_S)
        assert (await stage.ask("SAY:And on.")).text == "And on."


@pytest.mark.parametrize("kind", WITH_MODEL)
async def test_a_turn_that_times_out_is_looked_up(kind: str) -> None:
    async with staged(kind) as stage:
        turn = stage.turn("DELAY:1500 SAY:Too late.")
        started = asyncio.get_running_loop().time()
        with pytest.raises(TimedOut) as caught:
            await stage.collect(stage.runtime.send(stage.agent_id, turn, 0.7))
        assert caught.value.unknown
        assert caught.value.retryable
        assert asyncio.get_running_loop().time() - started < 1.4
        stateful = stage.runtime.capabilities.stateful
        state = await stage.runtime.look_up(stage.agent_id, turn.turn_id, LIMIT_S)
        assert state is (TurnState.RUNNING if stateful else TurnState.ABSENT)
        state = await stage.settled(turn.turn_id)
        assert state is (TurnState.DONE if stateful else TurnState.ABSENT)
        assert await stage.runtime.look_up(stage.agent_id, "turn-never", LIMIT_S) is TurnState.ABSENT


@pytest.mark.parametrize("kind", WITH_MODEL)
async def test_what_was_reset_is_in_no_later_prompt(kind: str) -> None:
    async with staged(kind) as stage:
        assert stage.model is not None
        await stage.ask("SAY:I will keep it to myself. xyzzysecret")
        if stage.runtime.capabilities.stateful:
            await stage.ask("SAY:Before.")
            assert "xyzzysecret" in json.dumps((await stage.model.requests(f"{stage.mark} SAY:Before"))[-1])
        await stage.runtime.reset_messages(stage.agent_id, LIMIT_S)
        await stage.ask("SAY:After.")
        after = (await stage.model.requests(f"{stage.mark} SAY:After"))[-1]
        assert "xyzzysecret" not in json.dumps(after)
        assert "I am at the Lantern." in json.dumps(after)


@pytest.mark.parametrize("kind", WITH_MODEL)
@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ({"mode": "status", "status": 500}, (ServerFault,)),
        ({"mode": "status", "status": 503}, (ServerFault,)),
        ({"mode": "status", "status": 429, "retry_after": "1"}, (RateLimited,)),
        ({"mode": "status", "status": 400}, (Rejected,)),
        ({"mode": "drop"}, (ServerFault,)),
        ({"mode": "hang"}, (TimedOut,)),
        ({"mode": "reset"}, (ServerFault, TimedOut)),
        ({"mode": "huge", "size": 200_000}, (Garbled,)),
    ],
    ids=lambda value: f"{value['mode']}{value.get('status', '')}" if isinstance(value, dict) else "",
)
async def test_every_failure_of_the_model_is_a_typed_fault(
    kind: str, fault: dict[str, Any], kinds: tuple[type[RuntimeFault], ...]
) -> None:
    async with staged(kind) as stage:
        assert stage.model is not None
        # A runtime that retries by itself must meet the fault every time.
        await stage.model.fault(**fault, count=9, match=stage.mark)
        with pytest.raises(kinds) as caught:
            await stage.ask("Hello?", timeout=3.0 if fault["mode"] == "hang" else 15.0)
        assert stage.mark not in str(caught.value)
        if isinstance(caught.value, RateLimited) and kind == "openai":
            assert caught.value.retry_after_s == 1.0
        await stage.model._client.post("/control", json={"faults": []})
        if fault["mode"] == "hang" and stage.runtime.capabilities.stateful:
            return  # the server still waits for its model
        await stage.settled("any")
        assert (await stage.ask("SAY:Back again.")).text == "Back again."


@pytest.mark.parametrize("kind", WITH_MODEL)
async def test_leaving_a_stream_frees_the_caller(kind: str) -> None:
    async with staged(kind) as stage:
        stream = stage.runtime.send(stage.agent_id, stage.turn("DRIP:200 SAY:one two three four five six."), LIMIT_S)
        async for delta in stream:
            if isinstance(delta, TextDelta):
                break
        started = asyncio.get_running_loop().time()
        await stream.aclose()  # type: ignore[attr-defined]  # adapters give generators
        assert asyncio.get_running_loop().time() - started < 0.5


@pytest.mark.parametrize("kind", WITH_FAKE)
async def test_check_and_completion(kind: str) -> None:
    async with staged(kind) as stage:
        assert (await stage.runtime.check(5.0)).ok
        if stage.runtime.capabilities.completes:
            done = await stage.runtime.complete("Be brief.", f"{stage.mark} SAY:A summary.", "", 50, LIMIT_S)
            assert done.text == "A summary."
            assert done.prompt_tokens > 0
            pictured = await stage.runtime.complete("", "SAY:A red cloak.", "http://127.0.0.1/x.png", 50, LIMIT_S)
            assert pictured.text == "A red cloak."
        else:
            with pytest.raises(Rejected):
                await stage.runtime.complete("", "x", "", 10, 1.0)


@pytest.mark.parametrize("kind", ["openai", "letta"])
async def test_a_refused_connection_is_surely_without_effect(kind: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        runtime: Runtime = OpenAIRuntime(f"{url}/v1", "", "m") if kind == "openai" else LettaRuntime(url)
        try:
            health = await runtime.check(2.0)
            assert not health.ok
            turn = Turn("t", "", "", (Message(Role.USER, "x"),))
            agent_id = "agent-x" if kind == "letta" else await runtime.create_agent(AgentSpec("tag", "n", ""), 1.0)
            with pytest.raises(Unreachable) as caught:
                await Stage.collect(runtime.send(agent_id, turn, 3.0))
            assert not caught.value.unknown
        finally:
            await runtime.close()


# -- openai: quirks of compatible servers ------------------------------------------------------------------------------


async def test_openai_learns_which_parameters_an_endpoint_refuses() -> None:
    class Strict(FakeModel):
        async def _chat(self, body: Any, exchange: Any) -> bool:
            for name in ("max_tokens", "temperature"):
                if name in body:
                    await exchange.send_error(400, f"Unsupported parameter: '{name}'.")
                    return True
            return await super()._chat(body, exchange)

    async with Strict() as fake:
        runtime = OpenAIRuntime(fake.base_url, "", "m")
        agent_id = await runtime.create_agent(AgentSpec("tag", "n", ""), 1.0)
        turn = Turn("t", "", "", (Message(Role.USER, "SAY:fine"),), max_tokens=77)
        said = await Stage.collect(runtime.send(agent_id, turn, 5.0))
        assert said.text == "fine"
        assert fake.requests[-1]["max_completion_tokens"] == 77
        assert runtime.refused == {"max_tokens", "temperature"}
        # What it learnt it does not try again.
        before = fake.stats["chat"]
        await Stage.collect(runtime.send(agent_id, turn, 5.0))
        assert fake.stats["chat"] == before + 1
        await runtime.close()


async def test_openai_puts_everything_into_one_leading_system_message() -> None:
    async with staged("openai") as stage:
        assert stage.model is not None
        turn = replace(
            stage.turn("Hello?"),
            settings={"top_p": 0.5, "api_key": "nope"},
            messages=(Message(Role.USER, f"{stage.mark} a"), Message(Role.ASSISTANT, "b"), Message(Role.USER, "SAY:c")),
        )
        await stage.collect(stage.runtime.send(stage.agent_id, turn, LIMIT_S))
        (asked,) = await stage.model.requests(stage.mark)
        assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]
        assert "<situation>\nI am at the Lantern.\n</situation>" in asked["messages"][0]["content"]
        assert (asked["top_p"], asked["max_tokens"], asked["model"]) == (0.5, 150, "earshot-fake")
        assert "api_key" not in asked


async def test_local_agents_come_back_from_their_shelf() -> None:
    class Kept(NoShelf):
        def load(self, runtime: str) -> Any:
            return kept

    first = LocalAgents("openai", NoShelf())
    agent_id = first.create(AgentSpec("earshot:t:w:n", "N", "", (Block("a", "b", 9),)))
    kept = [(agent_id, first.get(agent_id))]
    assert LocalAgents("openai", Kept()).read(agent_id) == {"a": "b"}
    assert first.create(AgentSpec("earshot:t:w:n", "N", "")) == agent_id


# -- letta -------------------------------------------------------------------------------------------------------------


@pytest.mark.letta
async def test_letta_deletes_the_blocks_that_came_with_the_agent_and_no_others() -> None:
    async with staged("letta") as stage:
        assert isinstance(stage.runtime, LettaRuntime)
        client, _ = await stage.runtime.open()
        shared = await client.blocks.create(label="shared", value="everybody's")
        await client.agents.blocks.attach(shared.id, agent_id=stage.agent_id)
        ours = [block.id async for block in client.blocks.list(tags=[stage.tag])]
        assert len(ours) == 2
        # Its agent went, its blocks did not: the next delete finishes the job.
        await client.agents.delete(stage.agent_id)
        await stage.runtime.delete_agent(stage.agent_id, stage.tag, LIMIT_S)
        assert [block.id async for block in client.blocks.list(tags=[stage.tag])] == []
        assert (await client.blocks.retrieve(shared.id)).value == "everybody's"
        await client.blocks.delete(shared.id)


@pytest.mark.letta
async def test_letta_repeats_a_write_that_lost_a_race() -> None:
    async with staged("letta") as stage:
        outcomes = await asyncio.gather(
            *(stage.runtime.write_block(stage.agent_id, Block("situation", f"v{n}", 99), LIMIT_S) for n in range(5)),
            return_exceptions=True,
        )
        assert outcomes.count(None) >= 4
        texts = await stage.runtime.read_blocks(stage.agent_id, LIMIT_S)
        assert texts["situation"] in {f"v{n}" for n in range(5)}


@pytest.mark.letta
async def test_letta_that_keeps_fewer_calls_than_it_streamed_is_answered_all_the_same() -> None:
    async with staged("letta") as stage:
        assert isinstance(stage.runtime, LettaRuntime)
        client, _ = await stage.runtime.open()
        # Without parallel calls the server stores only the first of two.
        made = await client.agents.create(
            name="plain", agent_type="letta_v1_agent", model="openai-proxy/gpt-4o-mini", include_base_tools=False,
            embedding="openai/text-embedding-3-small", memory_blocks=[], tags=[stage.tag],
        )  # fmt: skip
        stage.agent_id = made.id
        turn = stage.turn('CALL:follow {"target": "Ada"} CALL:emote {"type": "wave"}', tools=[FOLLOW, WAVE])
        said = await stage.collect(stage.runtime.send(made.id, turn, LIMIT_S))
        assert len(said.calls) == 2
        results = [ToolResult(call, "accepted") for call in said.calls]
        more = await stage.collect(stage.runtime.answer(made.id, turn, results, LIMIT_S))
        assert more.text
        assert (await stage.ask("SAY:Nothing waits.", tools=[FOLLOW])).text == "Nothing waits."


@pytest.mark.letta
async def test_letta_agents_have_no_tools_of_their_own_and_read_only_blocks() -> None:
    async with staged("letta") as stage:
        assert isinstance(stage.runtime, LettaRuntime)
        client, _ = await stage.runtime.open()
        agent = await client.agents.retrieve(stage.agent_id, include=["agent.blocks", "agent.tools", "agent.tags"])
        assert list(agent.tools) == []
        assert all(block.read_only for block in agent.blocks)
        assert agent.tags == [stage.tag]
        assert agent.name == "Mara of the Lantern"
        assert agent.model_settings["max_output_tokens"] == 150


@pytest.mark.letta
def test_the_client_for_scripts_on_a_real_server() -> None:
    config = LLMConfig(model_endpoint=os.environ["EARSHOT_FAKE_MODEL_URL"], context_window=16_000)
    with LettaRobloxClient(os.environ["LETTA_BASE_URL"]) as client:
        agent = client.create_agent(memory=ChatMemory(human="Ada, a baker.", persona="I sell."), llm_config=config)
        client.update_memory(agent.id, {"human": "Ada owes me two coins."})
        assert client.get_memory(agent.id) == {"human": "Ada owes me two coins.", "persona": "I sell."}
        assert client.send_message(agent.id, "RECITE:human", speaker="Ada") == "Ada owes me two coins."
    with (
        LettaRobloxClient(os.environ["LETTA_BASE_URL"]) as client,
        pytest.raises(ClientError, match="memory could not be read"),
    ):
        client.get_memory(agent.id)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8283", "ftp://x", "http://"])
def test_letta_needs_a_whole_url(url: str) -> None:
    with pytest.raises(Rejected, match="protocol"):
        LettaRuntime(url)


@pytest.mark.parametrize(
    ("name", "fitting"),
    [("Old Tom's <cat>", "Old Tom's cat"), ("", "npc"), ("///", "npc"), ("Zoë-1_x", "Zoë-1_x"), ("a" * 99, "a" * 60)],
)
def test_letta_names(name: str, fitting: str) -> None:
    assert fit_name(name) == fitting


def test_letta_model_settings_by_provider() -> None:
    openai = model_settings("openai-proxy/x", {"max_tokens": 99, "temperature": "hot"}, 150, 0.7)
    assert openai["provider_type"] == "openai"
    assert (openai["max_output_tokens"], openai["temperature"], openai["strict"]) == (99, 0.7, False)
    assert "strict" not in model_settings("anthropic/claude", {}, 150, 0.7)
    assert model_settings("together/x", {}, 150, 0.7) == {}
