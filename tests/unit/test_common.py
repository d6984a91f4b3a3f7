"""The shared kernel: errors, ownership, logs, settings, the app's life, virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
import structlog
from earshot.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from services.common import errors, logs
from services.common.app import RESTART_MIN_S, App
from services.common.clock import LoopClock
from services.common.ownership import PARTITIONS, EmbeddedOwnership, partition_of
from services.common.settings import Settings
from services.common.telemetry import Metrics
from tests.fakes import virtual_time
from tests.fakes.virtual_time import Deadlock, run

KINDS = [
    errors.BadInput,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.NotFound,
    errors.Conflict,
    errors.TooLarge,
    errors.Overloaded,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Internal,
]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_both_ways_over_the_wire(kind: type[errors.EarshotError]) -> None:
    error = kind("what happened", reason="SPECIAL", retryable=True, retry_after_ms=250)
    status = errors.from_status(errors.to_status(error))
    rpc = grpc.aio.AioRpcError(
        error.code, grpc.aio.Metadata(), grpc.aio.Metadata(*errors.to_trailers(error)), details=error.message
    )
    for back in (status, errors.from_rpc(rpc)):
        assert type(back) is kind
        assert (back.reason, back.message, back.retryable, back.retry_after_ms) == (
            "SPECIAL",
            "what happened",
            True,
            250,
        )


@pytest.mark.parametrize("owner", ["", "10.0.0.7:50052"])
def test_who_is_not_the_owner_names_it_over_both_wires(owner: str) -> None:
    error = errors.NotOwner(owner)
    rpc = grpc.aio.AioRpcError(
        error.code, grpc.aio.Metadata(), grpc.aio.Metadata(*errors.to_trailers(error)), details=error.message
    )
    for back in (errors.from_status(errors.to_status(error)), errors.from_rpc(rpc)):
        assert isinstance(back, errors.NotOwner)
        assert back.owner == owner


def test_a_transport_failure_keeps_its_codes_defaults() -> None:
    rpc = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="x")
    error = errors.from_rpc(rpc)
    assert (type(error), error.reason, error.retryable) == (errors.Unavailable, "UNAVAILABLE", True)
    assert type(errors.from_code(grpc.StatusCode.DATA_LOSS, "", "x")) is errors.Internal


@given(st.text(max_size=40), st.text(max_size=40))
def test_partitions_are_stable_and_in_range(tenant: str, world: str) -> None:
    partition = partition_of(tenant, world)
    assert 0 <= partition < PARTITIONS
    fence = EmbeddedOwnership(7).fence(tenant, world)
    assert (fence.partition, fence.token) == (partition, 7)


def test_logs_drop_what_people_said_and_who_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        logs.get_logger("chat").info(
            "said", text="hello", player_id="5001", path="/k/ek_live_1_secret/letta/v1/x", count=3
        )
        line = json.loads(capsys.readouterr().err.strip().splitlines()[-1])
    finally:
        structlog.reset_defaults()
    assert line["event"] == "said"
    assert (line["text"], line["player_id"], line["count"]) == ("redacted", "redacted", 3)
    assert line["path"] == "/k/redacted/letta/v1/x"


@given(st.text("abcdefABCDEF0123456789", min_size=8, max_size=30))
def test_keys_are_scrubbed_wherever_they_stand(secret: str) -> None:
    scrubbed = logs.scrub(f"GET /k/{secret}/letta/v1/x with ek_live_7_{secret}")
    assert secret not in scrubbed
    assert scrubbed == "GET /k/redacted/letta/v1/x with ek_redacted"


def test_every_setting_reads_its_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_JOIN_STUDS", "7.5")
    monkeypatch.setenv("EARSHOT_SCHEDULE", "documented")
    monkeypatch.setenv("LETTA_BASE_URL", "http://127.0.0.1:8283")
    monkeypatch.setenv("LLM_MAX_TOKENS", "90")
    settings = Settings()
    assert (settings.join_studs, settings.schedule, settings.max_tokens) == (7.5, "documented", 90)
    assert settings.letta_base_url == "http://127.0.0.1:8283"
    assert settings.data_path("state").endswith("state.db")
    assert Settings(data=":memory:").data_path("state") == ":memory:"


class _Cluster(cluster_pb2_grpc.ClusterServiceServicer):
    async def Assign(self, request: cluster_pb2.AssignRequest, context: Any) -> cluster_pb2.AssignResponse:
        return cluster_pb2.AssignResponse(worlds=[cluster_pb2.WorldClusters() for _ in request.worlds])


async def test_the_app_serves_works_and_closes_in_reverse() -> None:
    app = App(Settings(data=":memory:"), {"cluster"}, clock=LoopClock(), inline_stores=True)
    order: list[str] = []
    failures = 0
    third = asyncio.Event()

    async def worker() -> None:
        nonlocal failures
        failures += 1
        order.append(f"worker {failures}")
        if failures < 3:
            raise RuntimeError("a defect")
        third.set()
        await asyncio.Event().wait()

    async def closer(name: str) -> None:
        order.append(name)

    async def broken() -> None:
        raise RuntimeError("a closer that fails must not stop the next")

    async def not_ready() -> None:
        raise errors.Unavailable("still loading")

    app.add(cluster_pb2_grpc.add_ClusterServiceServicer_to_server, _Cluster(), "earshot.cluster.v1.ClusterService")
    app.worker("worker", worker)
    app.on_close("first", lambda: closer("first"))
    app.on_close("broken", broken)
    app.on_close("second", lambda: closer("second"))
    assert await app.check_ready() == {"app": "starting or stopping"}
    async with app:
        stub = cluster_pb2_grpc.ClusterServiceStub(app.channels.to("cluster"))
        request = cluster_pb2.AssignRequest(worlds=[cluster_pb2.WorldPoints()])
        assert len((await stub.Assign(request, timeout=1)).worlds) == 1
        started = asyncio.get_running_loop().time()
        await third.wait()
        # Restarted with back-off: after the shortest time, then after twice that.
        assert asyncio.get_running_loop().time() - started == pytest.approx(3 * RESTART_MIN_S)
        assert await app.check_ready() == {}
        app.ready_check("loading", not_ready)
        assert await app.check_ready() == {"loading": "Unavailable"}
    assert order == ["worker 1", "worker 2", "worker 3", "second", "first"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Assign(request, timeout=1)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_virtual_time_jumps_and_finds_deadlocks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleeper() -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.timeout(7200):
            await asyncio.sleep(3600)
        return loop.time() - started

    assert run(sleeper()) == 3600.0

    async def stuck() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(virtual_time, "REAL_WAIT_S", 0.05)
    with pytest.raises(Deadlock):
        run(stuck())


def test_stages_count_what_is_over_budget() -> None:
    metrics = Metrics()
    metrics.observe_stage("commit", 0.001)
    metrics.observe_stage("commit", 0.003)
    with metrics.stage("decision"):
        pass
    value = metrics.registry.get_sample_value
    assert value("earshot_stage_budget_exceeded_total", {"stage": "commit"}) == 1
    assert value("earshot_stage_duration_seconds_bucket", {"stage": "commit", "le": "0.002"}) == 1
    assert value("earshot_stage_duration_seconds_count", {"stage": "decision"}) == 1
