"""Traces: one per snapshot and per message through every room, what caused what; nothing where nothing is sampled."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

import pytest

from services.cli.waterfall import tree, unattributed
from services.common import tracing
from tests.integration.whole import Whole, whole

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET = "zanzibar"


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    tracing.configure("", 0)


async def traces(stack: Whole, name: str = "") -> list[dict[str, Any]]:
    found = (await stack.http.get("/traces", params={"page_size": 500})).json()["traces"]
    return [one for one in found if name in one["name"]]


def names(trace: dict[str, Any]) -> list[str]:
    return [span["name"] for span in trace["spans"]]


def parent_of(trace: dict[str, Any], name: str) -> str:
    by_id = {span["id"]: span for span in trace["spans"]}
    span = next(one for one in trace["spans"] if one["name"] == name)
    return str(by_id[span["parent"]]["name"])


async def test_a_snapshot_is_one_trace_through_edge_state_and_cluster() -> None:
    async with whole(trace_sample=1.0) as stack:
        await stack.snapshot(mara=(0, 0, 0), p1=(3, 0, 0))
        (trace,) = await traces(stack, "/v1/snapshots")
    assert parent_of(trace, "earshot.state.v1.StateService/Ingest") == "hop"
    assert parent_of(trace, "earshot.cluster.v1.ClusterService/Assign") == "cluster"
    assert {"receive", "parse", "state", "commit", "save", "answer"} <= set(names(trace))
    stages = {span["stage"]: span for span in trace["spans"] if span.get("stage")}
    assert stages["cluster"]["attributes"]["earshot.budget_ms"] == 6.0
    left = stages["state"]["attributes"]["earshot.left_ms"]
    assert left == pytest.approx(5.0 - stages["state"]["duration_us"] / 1000, abs=0.2)


async def test_a_message_is_one_trace_through_chat_state_sync_and_the_runtime() -> None:
    async with whole(trace_sample=1.0) as stack:
        await stack.snapshot(mara=(0, 0, 0), p1=(3, 0, 0))
        told = (await stack.say(f"Mara, {SECRET}?")).json()
        assert told["outcome"] == "replied"
        (trace,) = await traces(stack, "/v1/messages")
    assert parent_of(trace, "chat.turn") == "earshot.chat.v1.ChatService/Say"
    assert parent_of(trace, "earshot.sync.v1.SyncService/Converse") == "hop"
    assert parent_of(trace, "earshot.state.v1.StateService/BatchGetNpcContext") == "read"
    model = next(span for span in trace["spans"] if span["name"] == "invoke_agent")
    assert model["attributes"]["gen_ai.operation.name"] == "invoke_agent"
    assert model["attributes"]["gen_ai.provider.name"] == "offline"
    assert tree(trace).span["name"] == "POST /v1/messages"


async def test_spans_hold_no_text_name_or_id() -> None:
    async with whole(trace_sample=1.0) as stack:
        await stack.snapshot("world-77", mara=(0, 0, 0), p1=(3, 0, 0))
        await stack.say(f"Mara, {SECRET}?", world="world-77")
        text = (await stack.http.get("/traces")).text.lower()
    for private in (SECRET, "mara", "p1", "world-77", "soup"):
        assert f'"{private}' not in text
        assert SECRET not in text


async def test_a_write_that_several_snapshots_caused_is_linked_to_them() -> None:
    async with whole(trace_sample=1.0) as stack:
        await stack.snapshot(mara=(0, 0, 0), p1=(300, 0, 0))
        await stack.snapshot(mara=(0, 0, 0), p1=(3, 0, 0))
        snapshots = {one["trace_id"] for one in await traces(stack, "/v1/snapshots")}
        for _ in range(200):
            writes = await traces(stack, "sync.refresh")
            if writes:
                break
            await asyncio.sleep(0.05)
    linked = {link for one in writes for span in one["spans"] for link in span.get("links", [])}
    assert linked
    assert linked <= snapshots


async def test_a_caller_decides_for_its_own_trace_a_few_times_a_second() -> None:
    async with whole(trace_sample=1e-9) as stack:
        body = {"world": "tavern", "entities": []}
        for _ in range(3 * tracing.FOLLOWED_PER_S):
            await stack.http.post("/v1/snapshots", json=body, headers={"traceparent": PARENT})
        followed = [
            span
            for span in tracing.recorded()
            if span.name == "POST /v1/snapshots" and f"{span.trace_id:032x}" == PARENT[3:35]
        ]
    assert len(followed) == tracing.FOLLOWED_PER_S
    assert all(f"{span.parent_id:016x}" == PARENT[36:52] for span in followed)


@pytest.mark.parametrize("parent", ["", "00-0-0-01", PARENT[:-1] + "0", PARENT + "x", "00-" + "0" * 32 + PARENT[35:]])
async def test_what_is_no_sampled_parent_is_followed_by_nobody(parent: str) -> None:
    tracing.configure("test", 1e-9, choose=lambda: 0.5)
    with tracing.received("rpc", parent) as span:
        assert span is None
    assert tracing.traceparent() == ""


def test_a_quiet_server_has_one_trace_of_each_kind_a_second() -> None:
    now = [0.0]
    recorder = tracing.configure("test", 0.01, choose=lambda: 0.5, monotonic=lambda: now[0])
    assert recorder is not None
    assert [recorder.sampled("a", floor=True) for _ in range(3)] == [True, False, False]
    assert recorder.sampled("b", floor=True)
    assert not recorder.sampled("c", floor=False)
    now[0] = tracing.FLOOR_S
    assert recorder.sampled("a", floor=True)


def test_nothing_is_made_where_nothing_is_sampled() -> None:
    tracing.configure("test", 0.01, choose=lambda: 0.5)
    opened = [tracing.span("a", stage="state"), tracing.received("b", ""), tracing.linked("c", ()), tracing.carried("")]
    assert all(one is tracing.NOTHING for one in opened)
    tracing.record("d", 1.0)
    assert tracing.recorded() == ()
    assert tracing.exemplar() is None


async def test_a_task_that_outlives_its_request_does_not_go_on_in_its_trace() -> None:
    tracing.configure("test", 1.0)
    with tracing.entered("request"):
        later = asyncio.Event()

        async def work() -> str:
            await later.wait()
            return tracing.traceparent()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        noted = tracing.traceparent()
    later.set()
    assert await task == ""
    with tracing.carried(noted):
        assert tracing.traceparent()[3:35] == noted[3:35]


async def test_an_error_is_a_spans_status_without_its_text() -> None:
    tracing.configure("test", 1.0)
    with pytest.raises(ValueError, match=SECRET), tracing.entered("request"):
        raise ValueError(SECRET)
    (span,) = tracing.recorded()
    assert span.error == "ValueError"
    assert SECRET not in str(span.attributes)


@pytest.mark.parametrize("name", ["/v1/snapshots", "/v1/messages"])
async def test_at_most_a_tenth_of_the_time_belongs_to_no_stage(name: str) -> None:
    """The median of the best quarter: a pause of the machine is no gap of ours."""
    async with whole(trace_sample=1.0, player_messages_per_10s=1000) as stack:
        crowd = {f"n{number}": (20.0 * number, 0.0, 500.0) for number in range(78)}
        for step in range(30):
            await stack.snapshot(**crowd, mara=(0, 0, 0), p1=(3 + step / 10, 0, 0))
            await stack.say(f"Mara, what about number {step}?")
        found = await traces(stack, name)
    shares = sorted(unattributed(trace) for trace in found)
    assert len(shares) >= 20
    assert statistics.median(shares[: len(shares) // 4]) <= 0.10, shares
