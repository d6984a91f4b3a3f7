"""The fake model: what it answers, what steers it, and each way it can misbehave, over real loopback sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.fake_model import FakeModel, Fault, block_text, seen, system_text
from tests.fakes.model_script import (
    Line,
    compose,
    embedding,
    example_of,
    latest_line,
    lines_in,
    read_script,
)

SYSTEM = "You are Mira.\n<situation>\n<description>now</description>\n<value>\nat the well\n</value>\n</situation>"
PATROL = {
    "type": "function",
    "function": {
        "name": "patrol",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "string", "enum": ["gate", "well"]}, "speed": {"type": "number"}},
            "required": ["to"],
        },
    },
}

PLAIN: dict[str, Any] = {"verify": False, "trust_env": False}  # no certificates to load: ten times faster

IMPATIENT = httpx.Timeout(5, read=0.05)


def spoken(text: str, speaker: str = "Ada") -> str:
    return json.dumps({"speaker": speaker, "text": text})


def chat(text: str, **rest: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": spoken(text)}]
    return {"model": "earshot-fake", "messages": messages, **rest}


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[FakeModel, httpx.AsyncClient]]:
    async with (
        asyncio.timeout(10),
        FakeModel(**options) as model,
        httpx.AsyncClient(base_url=model.base_url, timeout=5, **PLAIN) as client,
    ):
        yield model, client


async def say(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()["choices"][0]["message"]
    return message


async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    events = []
    async with client.stream("POST", "/chat/completions", json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        async for row in answer.aiter_lines():
            if row:
                events.append(row.removeprefix("data: "))
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def scenario(test: Callable[[FakeModel, httpx.AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with running(**options) as (model, client):
            await test(model, client)

    asyncio.run(run())


# What steers the answer


def test_a_line_is_found_at_every_depth_of_wrapping() -> None:
    wrapped = spoken('say "CALL:patrol" \n SAY:hello')
    line = Line("Ada", 'say "CALL:patrol" \n SAY:hello')
    for _ in range(4):
        assert lines_in(wrapped) == [line]
        assert lines_in(f"The tavern is loud.\n{wrapped}")[-1] == line
        wrapped = json.dumps({"type": "user_message", "message": wrapped, "time": "2026-01-01 10:00:00"})


def test_a_line_in_the_middle_of_prose_is_found_also_when_still_escaped() -> None:
    inner = spoken("SAY:hello")
    assert lines_in(f"[heard] {inner} (2 s ago)") == [Line("Ada", "SAY:hello")]
    assert lines_in("[heard] " + inner.replace('"', '\\"') + " (2 s ago)") == [Line("Ada", "SAY:hello")]


def test_the_latest_line_with_a_speaker_steers() -> None:
    rows = f"{spoken('SAY:first')}\n{spoken('SAY:second', 'Ben')}\nAnswer in character."
    body = {"messages": [{"role": "user", "content": rows}, {"role": "user", "content": "Be brief."}]}
    assert latest_line(body) == Line("Ben", "SAY:second")


def test_a_line_from_before_the_models_last_answer_does_not_steer() -> None:
    messages = [
        {"role": "user", "content": spoken("SAY:old")},
        {"role": "assistant", "content": "old"},
        {"role": "user", "content": [{"type": "text", "text": "go on"}]},
    ]
    assert latest_line({"messages": messages}) == Line("", "go on")


@given(st.text(max_size=60), st.text(min_size=1, max_size=20), st.integers(0, 4))
@settings(max_examples=60)
def test_any_text_survives_its_wrappers(text: str, speaker: str, depth: int) -> None:
    body = chat("")
    content = json.dumps({"speaker": speaker, "text": f"said {text}"})
    for _ in range(depth):
        content = json.dumps({"message": content})
    body["messages"][-1]["content"] = content
    assert latest_line(body) == Line(speaker, f"said {text}")


@given(st.text(alphabet='SAYCLDEFIPR:x!{}"\\ 0159\n', max_size=60))
@settings(max_examples=100)
def test_no_line_breaks_the_script(text: str) -> None:
    body = chat(text)
    reply = compose(body, read_script(text), None)
    assert reply.text is not None or reply.calls


def test_directives_are_read() -> None:
    script = read_script('DELAY:20 DRIP:3 CALL:patrol {"to": "the gate"} CALL!:fly SAY: On my way. FAIL:500')
    assert (script.delay_ms, script.drip_ms, script.say, script.fault) == (20, 3, "On my way. FAIL:500", None)
    assert [(call.name, call.arguments, anyway) for call, anyway in script.calls] == [
        ("patrol", '{"to": "the gate"}', False),
        ("fly", "{}", True),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("FAIL:429", Fault("status", status=429, count=None)),
        ("please FAIL:503x2 now", Fault("status", status=503, count=2)),
        ("FAIL:200", Fault("status", status=500, count=None)),
        ("HANG:", Fault("hang", count=None)),
        ("HANG:x1", Fault("hang", count=1)),
        ("RESET:", Fault("reset", count=None)),
        ("HUGE:300", Fault("huge", size=300, count=None)),
        ("HUGE:", Fault("huge", size=10_000_000, count=None)),
        ("GARBAGE: SHAPE:", Fault("garbage", count=None)),
        ("SAY:DROP:", None),
        ("unFAIL:500", None),
    ],
)
def test_fault_directives_are_read(text: str, fault: Fault | None) -> None:
    assert read_script(text).fault == fault


def test_arguments_that_are_still_escaped_are_understood() -> None:
    (call, _), *rest = read_script(r"CALL:patrol {\"to\": \"gate\"}").calls
    assert (call.arguments, rest) == ('{"to": "gate"}', [])
    assert read_script("CALL:patrol {to gate}").calls == ()


def test_example_of_fits_its_schema() -> None:
    schema = {
        "type": "object",
        "required": ["where", "how", "often", "tags", "really", "nothing", "either"],
        "properties": {
            "where": {"type": "string"},
            "how": {"enum": ["slow", "fast"]},
            "often": {"type": "integer", "minimum": 2},
            "tags": {"type": "array", "minItems": 2, "items": {"type": "string"}},
            "really": {"type": "boolean"},
            "nothing": {"type": "null"},
            "either": {"type": ["number", "null"]},
            "optional": {"type": "string"},
        },
    }
    assert example_of(schema) == {
        "where": "here",
        "how": "slow",
        "often": 2,
        "tags": ["here", "here"],
        "really": False,
        "nothing": None,
        "either": 0,
    }


@given(st.text(max_size=40), st.integers(1, 64))
@settings(max_examples=60)
def test_embeddings_are_unit_vectors(text: str, dimensions: int) -> None:
    vector = embedding(text, dimensions)
    assert len(vector) == dimensions
    assert sum(x * x for x in vector) == pytest.approx(1.0)


def test_embeddings_of_texts_that_share_words_are_near() -> None:
    def near(a: str, b: str) -> float:
        return sum(x * y for x, y in zip(embedding(a, 256), embedding(b, 256), strict=True))

    assert near("the gate is closed", "is the gate closed") == pytest.approx(1.0)
    assert near("the gate is closed", "the gate is open") > near("the gate is closed", "wolves eat sheep") + 0.3


# What it answers


def test_the_default_answer_names_the_speaker_the_words_and_the_prompt() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        body = chat("Where is the smith?")
        answer = await say(client, body)
        assert answer == {"role": "assistant", "content": f'Ada, I heard "Where is the smith?". I know {seen(body)}.'}
        assert await say(client, body) == answer
        body["messages"][0]["content"] = SYSTEM.replace("well", "gate")
        assert (await say(client, body))["content"] != answer["content"]

    scenario(test)


def test_requests_are_kept_whole_and_served_by_last() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        for text in ("one", "two", "three"):
            await say(client, chat(text, temperature=0.5))
        assert list(model.requests) == [chat(t, temperature=0.5) for t in ("one", "two", "three")]
        assert (await client.get("/last")).json() == [chat("three", temperature=0.5)]
        assert (await client.get(f"{model.url}/last?n=2")).json() == list(model.requests)[-2:]
        assert (await client.get("/last?n=0")).json() == []
        assert block_text(model.requests[-1], "situation") == "at the well"
        assert system_text(model.requests[-1]) == SYSTEM
        assert (await client.get("/stats")).json() == model.stats
        assert model.stats["chat"] == 3

    scenario(test)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("SAY: Good day, traveller.", "Good day, traveller."),
        ("PASS", "PASS"),
        ("PASS:", "PASS"),
        ("RECITE:situation", "at the well"),
        ("RECITE:persona", "I see no persona."),
        ("CALL:patrol", "I have no tool patrol."),
    ],
)
def test_text_directives(text: str, answer: str) -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        assert await say(client, chat(text)) == {"role": "assistant", "content": answer}

    scenario(test)


def test_tool_calls_in_one_answer_and_streamed_in_pieces() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        body = chat('CALL:patrol {"to": "gate"} CALL!:fly SAY:Going.', tools=[PATROL])
        message = await say(client, body)
        assert message["content"] == "Going."
        functions = [call["function"] for call in message["tool_calls"]]
        assert functions == [
            {"name": "patrol", "arguments": '{"to": "gate"}'},
            {"name": "fly", "arguments": "{}"},
        ]
        chunks = await stream(client, body)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("content", "") for delta in deltas) == "Going."
        arguments = {0: "", 1: ""}
        for delta in deltas:
            for part in delta.get("tool_calls", []):
                arguments[part["index"]] += part["function"]["arguments"]
        assert arguments == {0: '{"to": "gate"}', 1: "{}"}
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    scenario(test)


def test_a_tool_result_is_answered_with_a_closing_sentence() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        body = chat('FAIL:500 CALL:patrol {"to": "gate"}', tools=[PATROL])
        call = {"id": "c1", "type": "function", "function": {"name": "patrol", "arguments": "{}"}}
        result = json.dumps({"status": "OK", "message": "arrived at the gate"})
        body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": result},
        ]
        assert (await say(client, body))["content"] == "That is done: arrived at the gate."

    scenario(test)


def test_a_demanded_tool_and_a_demanded_schema_are_obeyed() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        one = {"type": "function", "function": {"name": "patrol"}}
        for choice in ("required", one):
            message = await say(client, chat("hello", tools=[PATROL], tool_choice=choice))
            assert message["tool_calls"][0]["function"] == {"name": "patrol", "arguments": '{"to": "gate"}'}
        schema = {"type": "object", "required": ["gist"], "properties": {"gist": {"type": "string"}}}
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        assert (await say(client, chat("hello", response_format=form)))["content"] == '{"gist": "here"}'

    scenario(test)


def test_streams_join_to_the_same_text_with_usage_when_asked() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        body = chat("SAY:One  two three. Four!")
        chunks = await stream(client, {**body, "stream_options": {"include_usage": True}})
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
        assert text == "One  two three. Four!"
        whole = (await client.post("/chat/completions", json=body)).json()
        assert chunks[-1]["usage"] == whole["usage"]
        assert whole["usage"]["completion_tokens"] == len(text) // 4
        assert all("usage" not in chunk for chunk in await stream(client, body))

    scenario(test, chunk_ms=1)


def test_the_openai_client_understands_all_of_it() -> None:
    async def run() -> None:
        async with (
            FakeModel() as model,
            openai.AsyncOpenAI(base_url=model.base_url, api_key="unused", max_retries=0) as client,
        ):
            body = chat('CALL:patrol {"to": "gate"}', tools=[PATROL])
            answer = await client.chat.completions.create(
                model="earshot-fake", messages=body["messages"], tools=body["tools"]
            )
            assert answer.choices[0].finish_reason == "tool_calls"
            vectors = await client.embeddings.create(model="e", input=["a b", "c"], dimensions=8)
            assert vectors.data[0].embedding == pytest.approx(embedding("a b", 8), abs=1e-6)
            assert (await client.models.list()).data[0].id == "earshot-fake"
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(model="m", messages=chat("FAIL:429")["messages"])
            assert refused.value.response.headers["retry-after"] == "1"

    asyncio.run(run())


def test_embeddings_as_numbers_and_as_base64() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        plain = (await client.post("/embeddings", json={"input": "a wolf"})).json()
        assert len(plain["data"][0]["embedding"]) == 1536
        form = {"input": ["a wolf", "x"], "dimensions": 4, "encoding_format": "base64"}
        packed = (await client.post("/embeddings", json=form)).json()
        vector = struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"]))
        assert vector == pytest.approx(embedding("a wolf", 4), abs=1e-6)
        assert [item["index"] for item in packed["data"]] == [0, 1]
        assert (await client.post("/embeddings", json={"input": "a", "dimensions": 0})).status_code == 400

    scenario(test)


def test_a_reply_can_be_replaced_or_computed() -> None:
    async def fixed(model: FakeModel, client: httpx.AsyncClient) -> None:
        assert (await say(client, chat("hello")))["content"] == "Aye."
        assert (await say(client, chat("SAY:no")))["content"] == "no"
        model.control(reply=None)
        assert "I heard" in (await say(client, chat("hello")))["content"]

    async def computed(model: FakeModel, client: httpx.AsyncClient) -> None:
        assert (await say(client, chat("hello")))["content"] == "2 messages"

    scenario(fixed, reply="Aye.")
    scenario(computed, reply=lambda body: f"{len(body['messages'])} messages")


# How it misbehaves


@pytest.mark.parametrize(("status", "retry"), [(500, None), (429, "1"), (409, None), (503, "1")])
def test_a_counted_status_runs_out_and_the_connection_stays(status: int, retry: str | None) -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        body = chat(f"FAIL:{status}x2 SAY:better")
        for _ in range(2):
            answer = await client.post("/chat/completions", json=body)
            assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)
            assert answer.json()["error"]["code"] == str(status)
        assert (await say(client, body))["content"] == "better"
        assert model.stats["faults"] == 2

    scenario(test)


def test_control_arms_faults_in_order_and_only_where_they_match() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        faults = [
            {"mode": "status", "status": 429, "retry_after": "7", "count": 1, "match": "Mira"},
            {"mode": "status", "status": 503, "retry_after": "", "count": None},
        ]
        settings = await client.post("/control", json={"faults": faults})
        assert settings.json()["faults"][0]["retry_after"] == "7"
        stranger = chat("hello")
        stranger["messages"][0]["content"] = "You are Tom."
        answers = [await client.post("/chat/completions", json=b) for b in (stranger, chat("a"), chat("b"))]
        assert [(a.status_code, a.headers.get("retry-after")) for a in answers] == [
            (503, None),
            (429, "7"),
            (503, None),
        ]
        await client.post("/control", json={"faults": []})
        assert (await say(client, chat("SAY:well")))["content"] == "well"

    scenario(test)


@pytest.mark.parametrize("text", ["HANG:x1 SAY:back", "DELAY:60000", "DRIP:60000"])
def test_a_client_that_gives_up_is_noticed(text: str) -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/chat/completions", json=chat(text), timeout=IMPATIENT)
        while model.stats["disconnects"] == 0:  # bounded by the scenario's time-out
            await client.get("/stats")
        assert model.stats["inflight"] == 0
        assert (await say(client, chat("SAY:next")))["content"] == "next"

    scenario(test)


def test_a_counted_hang_answers_the_second_time() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/chat/completions", json=chat("HANG:x1 SAY:back"), timeout=IMPATIENT)
        assert (await say(client, chat("HANG:x1 SAY:back")))["content"] == "back"

    scenario(test)


def test_a_dropped_connection() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await client.post("/chat/completions", json=chat("DROP:"))
        assert (await say(client, chat("SAY:next")))["content"] == "next"

    scenario(test)


def test_a_reset_comes_after_half_of_the_stream() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        model.control(faults=[Fault("reset")], reply="word " * 40)
        pieces: list[str] = []

        async def read() -> None:
            async with client.stream("POST", "/chat/completions", json=chat("hello", stream=True)) as answer:
                async for piece in answer.aiter_text():
                    pieces.append(piece)

        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await read()
        text = "".join(pieces)
        assert 10 < text.count('" word"') < 30
        assert "[DONE]" not in text

    scenario(test)


def test_wrong_json_and_wrong_shape() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        garbage = await client.post("/chat/completions", json=chat("GARBAGE:"))
        assert garbage.status_code == 200
        with pytest.raises(ValueError, match="Unterminated"):
            garbage.json()
        shape = await client.post("/chat/completions", json=chat("SHAPE:"))
        assert shape.json()["choices"] == "none"

    scenario(test)


def test_a_huge_answer_whole_and_streamed() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        assert len((await say(client, chat("HUGE:")))["content"]) == 10_000_000
        chunks = await stream(client, chat("HUGE:300000"))
        assert sum(len(c["choices"][0]["delta"].get("content", "")) for c in chunks) == 300_000

    scenario(test)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_slow_drip_arrives_in_many_pieces(streaming: bool) -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        body = chat("DRIP:2 SAY:a b c d e f", stream=streaming)
        async with client.stream("POST", "/chat/completions", json=body) as answer:
            pieces = [piece async for piece in answer.aiter_raw()]
        assert len(pieces) >= 5

    scenario(test)


def test_armed_delay_and_drip_still_answer() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        model.control(faults=[Fault("delay", ms=1), Fault("drip", ms=1)])
        for _ in range(3):
            assert (await say(client, chat("SAY:there")))["content"] == "there"
        assert model.stats["faults"] == 2

    scenario(test)


def test_the_port_refuses_and_comes_back() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        await say(client, chat("hello"))
        async with model.refusing(), httpx.AsyncClient(**PLAIN) as stranger:
            with pytest.raises(httpx.ConnectError):
                await stranger.get(f"{model.url}/stats")
        async with httpx.AsyncClient(base_url=model.base_url, **PLAIN) as stranger:
            assert (await say(stranger, chat("SAY:back")))["content"] == "back"

    scenario(test)


def test_the_port_refuses_for_a_while_on_request() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        refused = 0
        async with httpx.AsyncClient(base_url=model.base_url, **PLAIN) as other:
            assert (await client.post("/control", json={"refuse_ms": 300})).status_code == 200
            while True:  # bounded by the scenario's time-out
                try:
                    answer = await other.get("/stats")
                except httpx.TransportError:
                    refused += 1
                else:
                    if refused:
                        break
        assert answer.status_code == 200

    scenario(test)


def test_leaving_while_requests_hang_ends_them() -> None:
    async def run() -> None:
        async with asyncio.timeout(5), httpx.AsyncClient(**PLAIN) as client, asyncio.TaskGroup() as group:

            async def hang(url: str) -> None:
                with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                    await client.post(f"{url}/chat/completions", json=chat("HANG:"), timeout=5)

            async with FakeModel() as model:
                for _ in range(3):
                    group.create_task(hang(model.base_url))
                while model.stats["inflight"] < 3:
                    await client.get(f"{model.url}/stats")

    asyncio.run(run())


# Bad input


def test_reset_forgets_everything() -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        model.control(faults=[Fault("status", match="never")])
        await client.post("/chat/completions", json=chat("FAIL:500x1"))
        await client.post("/control", json={"reset": True})
        assert not model.requests
        assert not any(model.stats.values())
        assert model.control()["faults"] == []
        assert (await client.post("/chat/completions", json=chat("FAIL:500x1"))).status_code == 500

    scenario(test)


@pytest.mark.parametrize(
    "changes",
    [
        {"delay": 5},
        {"delay_ms": -1},
        {"delay_ms": "5"},
        {"chunk_ms": True},
        {"reply": 5},
        {"refuse_ms": -1},
        {"faults": [{"mode": "explode"}]},
        {"faults": [{"mode": "status", "statuz": 500}]},
        {"faults": [{"mode": "status", "status": "500"}]},
        {"faults": [{"mode": "status", "count": "many"}]},
        {"faults": ["status"]},
        {"faults": 5},
    ],
)
def test_wrong_control_changes_nothing(changes: dict[str, Any]) -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        before = model.control()
        answer = await client.post("/control", json={"reset": False, **changes})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
        assert model.control() == before

    scenario(test)


CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]}


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        ["hello"],
        [{"role": "npc", "content": "x"}],
        [{"role": "user", "content": "x", "name": "two words"}],
        [{"role": "tool", "tool_call_id": "c1", "content": "x"}],
        [CALLED, {"role": "user", "content": "x"}],
        [CALLED, {"role": "tool", "tool_call_id": "c2", "content": "x"}],
        [CALLED],
    ],
)
def test_messages_that_the_real_api_refuses(messages: Any) -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        answer = await client.post("/chat/completions", json={"model": "m", "messages": messages})
        assert answer.status_code == 400
        assert not model.requests

    scenario(test)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"HELLO\r\n\r\n", 400),
        (b"GET /v1/nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\n\r\n", 404),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 1\r\n\r\n{", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n[]", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n", 411),
        (b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    ],
)
def test_bad_http_is_answered_and_the_next_client_served(raw: bytes, status: int) -> None:
    async def test(model: FakeModel, client: httpx.AsyncClient) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(model.url.rpartition(":")[2]))
        writer.write(raw)
        assert (await reader.readline()).startswith(b"HTTP/1.1 %d " % status)
        writer.close()
        assert (await client.get("/stats")).status_code == 200

    scenario(test)


def test_as_a_process_it_prints_its_url_and_ends_on_sigterm() -> None:
    async def run() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.fakes.fake_model", "--port", "0", "--delay-ms", "1"),
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(10), httpx.AsyncClient(**PLAIN) as client:
            url = (await process.stdout.readline()).decode().strip()
            assert len((await client.get(f"{url}/v1/models")).json()["data"]) == 3
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            assert await process.stdout.read() == b""

    asyncio.run(run())
