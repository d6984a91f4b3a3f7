"""The client for scripts: whole updates or none, what it made is cleaned up, clear errors."""

from __future__ import annotations

import contextlib

import pytest

from services.sync.runtimes.client import (
    BLOCK_MAX,
    ChatMemory,
    ClientError,
    LettaRobloxClient,
    LLMConfig,
    MemoryUpdateFailed,
    checked_url,
)
from services.sync.runtimes.port import ServerFault, TimedOut
from tests.unit.sync.fake_runtime import FakeRuntime, Plan

MEMORY = ChatMemory(human="Ada, a baker.", persona="I sell apples.")


def test_an_agent_from_beginning_to_end() -> None:
    runtime = FakeRuntime()
    with LettaRobloxClient(runtime=runtime) as client:
        agent = client.create_agent(memory=MEMORY, llm_config=LLMConfig(context_window=9000))
        assert agent.name.startswith("npc-")
        spec = runtime.agents[agent.id].spec
        assert (spec.model, spec.settings["context_window"]) == ("openai/gpt-4o-mini", 9000)
        assert client.get_memory(agent.id) == {"human": "Ada, a baker.", "persona": "I sell apples."}
        assert client.send_message(agent.id, "Hello!", speaker="Ada") == "Hello there. I am well."
        assert runtime.asked[0].turn.messages[0].text == '{"speaker": "Ada", "text": "Hello!"}'
        client.update_memory(agent.id, {"human": "Ada owes me.", "persona": "I sell pears."})
        assert client.get_memory(agent.id) == {"human": "Ada owes me.", "persona": "I sell pears."}
        client.create_agent("second", MEMORY)
    assert runtime.agents == {}


def script_that_fails(runtime: FakeRuntime) -> None:
    with contextlib.suppress(ZeroDivisionError), LettaRobloxClient(runtime=runtime) as client:
        client.create_agent(memory=MEMORY)
        raise ZeroDivisionError


def test_it_cleans_up_after_a_failure_too() -> None:
    runtime = FakeRuntime()
    script_that_fails(runtime)
    assert runtime.count("create") == 1
    assert runtime.agents == {}
    runtime.plan("delete", Plan(fault=ServerFault("500")))
    client = LettaRobloxClient(runtime=runtime)
    client.create_agent()
    client.create_agent()
    with pytest.raises(ClientError, match="could not be deleted"):
        client.close()
    assert len(runtime.agents) == 1


@pytest.mark.parametrize("fault", [ServerFault("500"), TimedOut("late")])
def test_an_update_is_whole_or_undone(fault: Exception) -> None:
    runtime = FakeRuntime()
    with LettaRobloxClient(runtime=runtime) as client:
        agent = client.create_agent(memory=MEMORY)
        runtime.plan("write", Plan(), Plan(fault=fault))  # type: ignore[arg-type]  # both are faults
        with pytest.raises(MemoryUpdateFailed) as caught:
            client.update_memory(agent.id, {"human": "new", "persona": "new"})
        assert caught.value.label == "persona"
        assert "human" in caught.value.restored
        assert caught.value.lost == []
        assert client.get_memory(agent.id) == {"human": "Ada, a baker.", "persona": "I sell apples."}
        runtime.plan("write", Plan(), Plan(fault=ServerFault("500")), Plan(fault=ServerFault("500")))
        with pytest.raises(MemoryUpdateFailed, match="could not restore human"):
            client.update_memory(agent.id, {"human": "new", "persona": "new"})


@pytest.mark.parametrize(
    ("memory", "why"),
    [
        ({"nobody": "x"}, "no memory block 'nobody'"),
        ({"human": 7}, "must be text"),
        ({"human": "x" * (BLOCK_MAX + 1)}, "longer"),
    ],
)
def test_every_key_is_checked_before_anything_is_written(memory: dict[str, str], why: str) -> None:
    runtime = FakeRuntime()
    with LettaRobloxClient(runtime=runtime) as client:
        agent = client.create_agent(memory=MEMORY)
        with pytest.raises(ClientError, match=why):
            client.update_memory(agent.id, {"persona": "new", **memory})
        assert runtime.writes == []


def test_failures_are_said() -> None:
    runtime = FakeRuntime()
    with LettaRobloxClient(runtime=runtime) as client:
        with pytest.raises(ClientError, match="memory could not be read: no such agent") as caught:
            client.get_memory("agent-none")
        assert not caught.value.retryable
        runtime.down = True
        with pytest.raises(ClientError, match="agent could not be made") as caught:
            client.create_agent()
        assert caught.value.retryable
        runtime.down = False


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:8283", "protocol"),
        ("127.0.0.1:8283", "port|protocol"),
        ("http://letta", "port"),
        ("http://letta:x", "valid port"),
        ("ftp://letta:1", "protocol"),
        ("http://", "protocol"),
    ],
)
def test_a_url_without_protocol_or_port_is_refused(url: str, why: str) -> None:
    with pytest.raises(ClientError, match=why):
        LettaRobloxClient(url)


def test_urls_and_models_that_work() -> None:
    assert checked_url("http://127.0.0.1:8333")
    assert checked_url("https://api.letta.com")
    assert LLMConfig().handle == "openai/gpt-4o-mini"
    assert LLMConfig(model_endpoint="http://127.0.0.1:9009/v1").handle == "openai-proxy/gpt-4o-mini"
    assert LLMConfig(model="letta/letta-free").handle == "letta/letta-free"
    assert LLMConfig(model="claude", model_endpoint_type="anthropic").handle == "anthropic/claude"
