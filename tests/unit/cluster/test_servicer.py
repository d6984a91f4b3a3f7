"""Assign behind its stub: batches of worlds, lineages carried by the caller, malformed requests."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from earshot.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from earshot.type.v1 import type_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cluster.proximity import components_in_python
from services.cluster.servicer import ClusterServicer
from services.common.errors import from_rpc
from services.common.inprocess import InProcessServer
from services.common.interceptors import RoomInterceptor
from services.common.telemetry import Metrics
from tests.fakes import virtual_time


def stub() -> cluster_pb2_grpc.ClusterServiceAsyncStub:
    server: Any = InProcessServer([RoomInterceptor(Metrics())])
    cluster_pb2_grpc.add_ClusterServiceServicer_to_server(ClusterServicer(components_in_python), server)
    channel: Any = server.channel()
    room: cluster_pb2_grpc.ClusterServiceAsyncStub = cluster_pb2_grpc.ClusterServiceStub(channel)
    return room


def points(xs: list[float], revision: int = 1, **fields: object) -> cluster_pb2.WorldPoints:
    zeros = np.zeros(len(xs), "<f4").tobytes()
    return cluster_pb2.WorldPoints(
        revision=revision,
        count=len(xs),
        x=np.array(xs, "<f4").tobytes(),
        y=zeros,
        z=zeros,
        **fields,  # type: ignore[arg-type]  # spelled out by each test
    )


def clusters(answer: cluster_pb2.WorldClusters) -> list[tuple[str, int, list[int]]]:
    """(lineage, formed, members) of each cluster."""
    of = np.frombuffer(answer.of, "<u4").tolist()
    return [
        (lineage, formed, [row for row, number in enumerate(of) if number == index])
        for index, (lineage, formed) in enumerate(zip(answer.lineages, answer.formed, strict=True), 1)
    ]


async def assign(*worlds: cluster_pb2.WorldPoints) -> list[cluster_pb2.WorldClusters]:
    answer = await stub().Assign(cluster_pb2.AssignRequest(worlds=worlds), timeout=1)
    return list(answer.worlds)


async def test_a_lineage_is_carried_from_answer_to_request() -> None:
    (first,) = await assign(points([0, 5, 50, 58, 200], revision=7))
    assert clusters(first) == [("7.0", 7, [0, 1]), ("7.1", 7, [2, 3])]
    assert [t.type for t in first.transitions] == [type_pb2.TRANSITION_TYPE_FORMED] * 2
    (second,) = await assign(
        points(
            [0, 11.5, 50, 62.5, 200],  # the first pair is held by hysteresis, the second parts
            revision=8,
            lineages=first.lineages,
            formed=first.formed,
            previous_of=first.of,
        )
    )
    assert clusters(second) == [("7.0", 7, [0, 1])]
    (dissolved,) = second.transitions
    assert (dissolved.type, dissolved.lineage) == (type_pb2.TRANSITION_TYPE_DISSOLVED, "7.1")
    assert list(dissolved.rows) == [2, 3]


async def test_an_unchanged_world_is_answered_in_a_word() -> None:
    was = {"lineages": ["3.0"], "formed": [3], "previous_of": np.array([0, 1, 1], "<u4").tobytes()}
    (answer,) = await assign(points([0, 50, 55], revision=9, **was))
    assert answer == cluster_pb2.WorldClusters(unchanged=True)


@pytest.mark.parametrize(("age_ms", "lineage"), [(29_999, "3.0"), (30_000, "9.0")])
async def test_revival_ends_after_its_window(age_ms: int, lineage: str) -> None:
    former = cluster_pb2.Lineage(id="3.0", formed_revision=3, dissolved_ms=1_000_000, members=[0, 1])
    (answer,) = await assign(points([0, 1], revision=9, ended=[former], now_ms=1_000_000 + age_ms))
    assert list(answer.lineages) == [lineage]


async def test_links_join_those_without_positions() -> None:
    (answer,) = await assign(points([float("nan"), 0, float("nan")], links=[0, 2]))
    assert [members for _, _, members in clusters(answer)] == [[0, 2]]


async def test_settings_are_per_world() -> None:
    near, far = await assign(points([0, 15], settings=cluster_pb2.Settings(join=20, leave=24)), points([0, 15]))
    assert len(near.lineages) == 1
    assert len(far.lineages) == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.floats(0, 60, width=32), max_size=8), max_size=5))
def test_a_batch_answers_as_each_world_alone(worlds: list[list[float]]) -> None:
    async def run() -> None:
        together = await assign(*(points(xs) for xs in worlds))
        alone = [answer for xs in worlds for answer in await assign(points(xs))]
        assert together == alone

    virtual_time.run(run())


ALIVE: dict[str, Any] = {"lineages": ["1.0"], "formed": [1]}
MALFORMED = {
    "short column": cluster_pb2.WorldPoints(count=2, x=b"1234", y=b"12345678", z=b"12345678"),
    "no columns": cluster_pb2.WorldPoints(count=1),
    "odd links": points([0, 1], links=[0]),
    "link outside": points([0, 1], links=[0, 2]),
    "link far outside": points([0, 1], links=[0, 2**32 - 1]),
    "unknown lineage": points([0, 1], **ALIVE, previous_of=np.array([2, 0], "<u4").tobytes()),
    "age missing": points([0, 1], lineages=["1.0"]),
    "lineages missing": points([0, 1], **ALIVE, previous_of=b"1234"),
    "leave below join": points([0, 1], settings=cluster_pb2.Settings(join=10, leave=5)),
    "not a distance": points([0, 1], settings=cluster_pb2.Settings(join=float("nan"))),
    "negative weight": points([0, 1], settings=cluster_pb2.Settings(vertical_weight=-1)),
}


@pytest.mark.parametrize("world", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_requests_are_refused_and_the_next_is_served(world: cluster_pb2.WorldPoints) -> None:
    room = stub()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await room.Assign(cluster_pb2.AssignRequest(worlds=[points([0, 1]), world]), timeout=1)
    assert from_rpc(failure.value).reason == "MALFORMED_COLUMNS"
    assert len((await room.Assign(cluster_pb2.AssignRequest(worlds=[points([0, 1])]), timeout=1)).worlds) == 1


async def test_too_many_rows_are_refused_before_they_are_read() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await assign(cluster_pb2.WorldPoints(count=2**31))
    assert from_rpc(failure.value).reason == "TOO_LARGE"


async def test_no_worlds_no_answers() -> None:
    assert await assign() == []


@pytest.mark.real_time
async def test_a_large_batch_is_computed_beside_the_loop() -> None:
    worlds = [points([float(100 * i) for i in range(500)] + [1.0]) for _ in range(10)]
    assert [[members for _, _, members in clusters(answer)] for answer in await assign(*worlds)] == [[[0, 500]]] * 10
