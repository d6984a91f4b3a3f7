"""The runtime `openai` against what servers really send: OpenAI, Ollama, vLLM, llama.cpp, over HTTP on loopback.

The shapes follow the servers' documentation and reports of their users; no server was recorded here.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.sync.runtimes.chat_stream import Thoughts
from services.sync.runtimes.openai import OpenAIRuntime
from services.sync.runtimes.port import (
    AgentSpec,
    Delta,
    End,
    Garbled,
    Limit,
    Limits,
    Message,
    RateLimited,
    Rejected,
    Role,
    RuntimeFault,
    ServerFault,
    TextDelta,
    ToolCall,
    ToolSpec,
    Turn,
    UsageDelta,
)
from services.sync.runtimes.stainless import duration
from tests.fakes.recorded import Recorded, Written

FOLLOW = ToolSpec("follow", "Follow somebody.", {"type": "object", "properties": {"target": {"type": "string"}}})
DONE = "[DONE]"


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    } | fields


def usage(prompt: int, completion: int, **fields: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return chunk({}) | {"choices": [], "usage": counts} | fields


def call(name: str, arguments: Any, *, call_id: str | None = "call_1", index: int | None = 0) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    made |= {"id": call_id} if call_id else {}
    return made | ({"index": index} if index is not None else {})


async def ask(*answers: Written, lines: int = 1, again: int = 0) -> tuple[list[Delta], Recorded, OpenAIRuntime]:
    """The deltas of one turn (and of `again` more), what was asked, and the runtime."""
    async with Recorded(*answers) as server:
        runtime = OpenAIRuntime(f"{server.url}/v1", "", "m")
        agent = await runtime.create_agent(AgentSpec("tag", "Mara", ""), 1.0)
        said = tuple(Message(Role.USER, f"line {number}") for number in range(lines))
        turn = Turn("t", "You play.", "Answer.", said, tools=(FOLLOW,))
        deltas: list[Delta] = []
        try:
            for _ in range(1 + again):
                deltas = [delta async for delta in runtime.send(agent, turn, 10.0)]
        finally:
            await runtime.close()
        return deltas, server, runtime


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def calls_of(deltas: list[Delta]) -> list[tuple[str, str]]:
    return [(delta.name, delta.arguments) for delta in deltas if isinstance(delta, ToolCall)]


# -- tool calls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "chunks", "expected"),
    [
        (
            "OpenAI: in pieces, by index",
            [
                chunk({"role": "assistant", "content": None, "tool_calls": [call("follow", "", index=0)]}),
                chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"target":'}}]}),
                chunk({"tool_calls": [call("emote", "", call_id="call_2", index=1)]}),
                chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "Ada"}'}}]}),
                chunk({"tool_calls": [{"index": 1, "function": {"arguments": '{"type": "wave"}'}}]}),
                chunk({}, "tool_calls"),
            ],
            [("follow", '{"target": "Ada"}'), ("emote", '{"type": "wave"}')],
        ),
        (
            "Ollama: whole, every one under index 0, finished with stop",
            [
                chunk({"role": "assistant", "content": "", "tool_calls": [call("follow", '{"target":"Ada"}')]}),
                chunk({"role": "assistant", "content": "", "tool_calls": [call("emote", "{}", call_id="call_2")]}),
                chunk({"role": "assistant", "content": ""}, "stop"),
            ],
            [("follow", '{"target":"Ada"}'), ("emote", "{}")],
        ),
        (
            "Ollama before 0.5: no index at all, both in one chunk",
            [
                chunk(
                    {
                        "role": "assistant",
                        "content": "",
                        "tool_calls": [
                            call("follow", '{"target":"Ada"}', index=None),
                            call("emote", "{}", call_id="call_2", index=None),
                        ],
                    },
                    "stop",
                )
            ],
            [("follow", '{"target":"Ada"}'), ("emote", "{}")],
        ),
        (
            "a proxy before Ollama: arguments as an object, no ids",
            [
                chunk({"tool_calls": [call("follow", {"target": "Ada"}, call_id=None)]}),
                chunk({"tool_calls": [call("emote", {"type": "wave"}, call_id=None)]}, "stop"),
            ],
            [("follow", '{"target": "Ada"}'), ("emote", '{"type": "wave"}')],
        ),
        (
            "vLLM: the name first, then arguments, a null content beside them",
            [
                chunk({"role": "assistant", "content": ""}),
                chunk({"content": None, "tool_calls": [{"index": 0, "id": "chatcmpl-tool-1", "type": "function",
                                                        "function": {"name": "follow"}}]}),
                chunk({"content": None, "tool_calls": [{"index": 0, "function": {"arguments": '{"target": '}}]}),
                chunk({"content": None, "tool_calls": [{"index": 0, "function": {"arguments": '"Ada"}'}}]}),
                chunk({"content": ""}, "tool_calls"),
            ],
            [("follow", '{"target": "Ada"}')],
        ),
    ],
)  # fmt: skip
async def test_tool_calls_come_whole_from_every_server(what: str, chunks: list[Any], expected: list[Any]) -> None:
    deltas, _, _ = await ask(Written([*chunks, DONE]))
    assert calls_of(deltas) == expected, what
    assert len({delta.call_id for delta in deltas if isinstance(delta, ToolCall)}) == len(expected)
    assert isinstance(deltas[-1], End)
    assert deltas[-1].tools


# -- thoughts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "chunks"),
    [
        (
            "vLLM with a reasoning parser, llama.cpp with --reasoning-format",
            [
                chunk({"role": "assistant", "content": None, "reasoning_content": "She greets me."}),
                chunk({"reasoning_content": " I shall greet her."}),
                chunk({"content": "Well met."}, "stop"),
            ],
        ),
        (
            "Ollama with a thinking model",
            [
                chunk({"role": "assistant", "content": "", "reasoning": "She greets me."}),
                chunk({"content": "Well met."}),
                chunk({"content": ""}, "stop"),
            ],
        ),
        (
            "a server without a parser: marks within the text, cut anywhere",
            [chunk({"content": piece}) for piece in ("<th", "ink>She gre", "ets <b> me.</thi", "nk>\n\nWell", " met.")]
            + [chunk({}, "stop")],
        ),
    ],
)
async def test_what_a_model_thinks_is_not_said(what: str, chunks: list[Any]) -> None:
    deltas, _, _ = await ask(Written([*chunks, DONE]))
    assert text_of(deltas) == "Well met.", what


def test_thoughts_that_never_end_are_not_said_and_a_smaller_sign_is() -> None:
    thoughts = Thoughts()
    assert thoughts.feed("1 < 2, <thin air> and <think>for ever") + thoughts.finish() == "1 < 2, <thin air> and "
    thoughts = Thoughts()
    assert thoughts.feed("a <") == "a "
    assert thoughts.finish() == "<"


# -- usage and limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "chunks"),
    [
        ("OpenAI: in a chunk of its own, without choices", [chunk({"content": "Yes."}, "stop"), usage(9, 2)]),
        (
            "llama.cpp: with timings beside it",
            [chunk({"content": "Yes."}, "stop"), usage(9, 2, timings={"prompt_n": 9})],
        ),
        (
            "vLLM with continuous usage: in every chunk, the last one counts",
            [
                chunk({"content": "Y"}, usage={"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}),
                chunk(
                    {"content": "es."}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
                ),
            ],
        ),
    ],
)
async def test_usage_is_counted_once(what: str, chunks: list[Any]) -> None:
    deltas, server, _ = await ask(Written([*chunks, DONE]))
    assert [delta for delta in deltas if isinstance(delta, UsageDelta)] == [UsageDelta(9, 2)], what
    assert server.requests[0][1]["stream_options"] == {"include_usage": True}


async def test_what_is_left_of_the_allowance_is_read_from_the_headers() -> None:
    headers = {
        "x-ratelimit-limit-requests": "5000", "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-reset-requests": "12ms", "x-ratelimit-limit-tokens": "160000",
        "x-ratelimit-remaining-tokens": "159976", "x-ratelimit-reset-tokens": "6m0s",
    }  # fmt: skip
    deltas, _, _ = await ask(Written([chunk({"content": "Yes."}, "stop"), DONE], headers=headers))
    assert deltas[0] == Limits(Limit(5000, 4999, 0.012), Limit(160000, 159976, 360.0))
    draft = {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "7", "ratelimit-reset": "30"}
    deltas, _, _ = await ask(Written([chunk({"content": "Yes."}, "stop"), DONE], headers=draft))
    assert deltas[0] == Limits(Limit(100, 7, 30.0))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("12", 12.0),
        ("", 0.0),
        ("soon", 0.0),
        ("1x", 0.0),
    ],
)
def test_durations(value: str, seconds: float) -> None:
    assert duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0",
          "x-ratelimit-reset-requests": "60s"}, 1.0),
        ({}, 0.0),
        ({"retry-after": "later"}, 0.0),
    ],
)  # fmt: skip
async def test_a_429_says_for_how_long(headers: dict[str, str], rest: float) -> None:
    body = json.dumps({"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}})
    with pytest.raises(RateLimited) as caught:
        await ask(Written(body, 429, headers))
    assert caught.value.retry_after_s == pytest.approx(rest)
    assert not caught.value.trips


# -- what a server refuses ---------------------------------------------------------------------------------------------

GOOD = Written([chunk({"content": "Well met."}, "stop"), DONE])


@pytest.mark.parametrize(
    ("server", "status", "error", "left_out"),
    [
        ("vLLM without a parser of tools", 400, {
            "object": "error", "type": "BadRequestError", "param": None, "code": 400,
            "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'},
         "tools"),
        ("Ollama, a model without tools", 400, {"error": {
            "message": "registry.ollama.ai/library/gemma:2b does not support tools", "type": "api_error",
            "param": None, "code": None}}, "tools"),
        ("llama.cpp without --jinja", 500, {"error": {
            "code": 500, "message": "tools param requires --jinja flag"}}, "tools"),
        ("an old server", 400, {"error": {"message": "Unrecognized argument: stream_options"}}, "stream_options"),
        ("OpenAI, a reasoning model", 400, {"error": {
            "message": "Unsupported value: 'temperature' does not support 0.7 with this model.",
            "type": "invalid_request_error", "param": "temperature", "code": "unsupported_value"}}, "temperature"),
    ],
)  # fmt: skip
async def test_what_a_server_does_not_take_is_left_out_from_then_on(
    server: str, status: int, error: dict[str, Any], left_out: str
) -> None:
    deltas, recorded, runtime = await ask(Written(json.dumps(error), status), GOOD, again=1)
    assert text_of(deltas) == "Well met.", server
    first, second, third = (body for _, body in recorded.requests)
    assert left_out in first
    assert left_out not in second
    assert left_out not in third
    assert runtime.refused == {left_out}


@pytest.mark.parametrize(
    ("server", "status", "error"),
    [
        ("OpenAI", 400, {"error": {"message": "This model's maximum context length is 8192 tokens.",
                                   "type": "invalid_request_error", "code": "context_length_exceeded"}}),
        ("vLLM", 400, {"object": "error", "type": "BadRequestError", "code": 400,
                       "message": "This model's maximum context length is 2048 tokens. However, you requested 3010."}),
        ("llama.cpp", 400, {"error": {"code": 400, "type": "exceed_context_size_error", "n_ctx": 256,
                                      "message": "the request exceeds the available context size"}}),
        ("llama.cpp, earlier", 500, {"error": {"code": 500, "type": "exceed_context_size_error", "n_ctx": 256,
                                               "message": "the request exceeds the available context size"}}),
    ],
)  # fmt: skip
async def test_a_prompt_that_does_not_fit_is_asked_again_without_its_older_half(
    server: str, status: int, error: dict[str, Any]
) -> None:
    deltas, recorded, _ = await ask(Written(json.dumps(error), status), GOOD, lines=9)
    assert text_of(deltas) == "Well met.", server
    kept = [message["content"] for message in recorded.requests[1][1]["messages"]]
    assert kept == ["You play.\n\nAnswer.", "line 5", "line 6", "line 7", "line 8"]


async def test_a_prompt_of_one_line_that_does_not_fit_is_refused() -> None:
    body = json.dumps({"error": {"message": "context_length_exceeded"}})
    with pytest.raises(Rejected):
        await ask(Written(body, 400))


@pytest.mark.parametrize(
    ("server", "answer", "fault"),
    [
        ("Ollama: the model was not pulled", Written(json.dumps(
            {"error": {"message": 'model "x" not found, try pulling it first', "type": "api_error"}}), 404), Rejected),
        ("llama.cpp: still loading", Written(json.dumps(
            {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}), 503), ServerFault),
        ("llama.cpp: an error within the stream", Written([
            chunk({"content": ""}), {"error": {"code": 500, "message": "compute error", "type": "server_error"}}]),
         ServerFault),
        ("a page of a proxy", Written("<html>Bad gateway</html>", 502), ServerFault),
        ("an answer that is none", Written([DONE]), Garbled),
        ("no JSON", Written(["{not json"]), RuntimeFault),
    ],
)  # fmt: skip
async def test_every_failure_is_a_typed_fault(server: str, answer: Written, fault: type[RuntimeFault]) -> None:
    with pytest.raises(fault) as caught:
        await ask(answer)
    assert "pulling" not in caught.value.message, server  # nothing of the answer is in what is logged


async def test_a_completion_loses_its_thoughts_and_estimates_what_it_cost() -> None:
    message = {"role": "assistant", "content": "<think>Hm.</think>\n\nAda owes Mara a lantern."}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}  # fmt: skip
    async with Recorded(Written(json.dumps(body))) as server:
        runtime = OpenAIRuntime(f"{server.url}/v1", "", "m")
        done = await runtime.complete("Sum up.", "x" * 300, "", 100, 5.0)
        await runtime.close()
    assert done.text == "Ada owes Mara a lantern."
    assert done.prompt_tokens >= 100
    assert done.completion_tokens > 3
