"""Made-up worlds, the generator's arithmetic, goals of the ingest bench, and the 0-hop peer's job."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import crowd, ingest, load, profiling, target
from bench.peers import zero_hop
from services.edge.contract.snapshot import PlainSnapshot, Snapshot
from services.edge.snapshot import SnapshotReader


def read(body: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(body)
    return value


def reader() -> SnapshotReader:
    return SnapshotReader(PlainSnapshot, Snapshot, entities_max=500, stale_after_s=60)


# -- worlds ------------------------------------------------------------------------------------------------------------


def test_equal_arguments_give_equal_bytes() -> None:
    assert crowd.frames(7, 3) == crowd.frames(7, 3)
    assert crowd.frames(7, 3) == crowd.frames(7)[:3]
    assert crowd.frames(7, 1) != crowd.frames(8, 1)


def test_a_world_is_what_the_bench_says() -> None:
    bodies = crowd.frames(3)
    assert len(bodies) == crowd.FRAMES
    for body in bodies:
        assert 36_000 < len(body) < 46_000
        snapshot = read(body)
        assert snapshot["world"] == crowd.world_name(3)
        kinds = [entity["kind"] for entity in snapshot["entities"]]
        assert (kinds.count("npc"), kinds.count("player")) == (50, 30)


def test_frames_follow_each_other_as_a_games_would() -> None:
    def places(body: bytes) -> dict[str, tuple[float, float]]:
        return {one["id"]: (one["position"]["x"], one["position"]["z"]) for one in read(body)["entities"]}

    for before, after in itertools.pairwise(map(places, crowd.frames(5))):
        assert before.keys() == after.keys()
        moves = [max(abs(before[one][0] - after[one][0]), abs(before[one][1] - after[one][1])) for one in before]
        assert max(moves) <= crowd.WALK * crowd.STEP_S
        assert any(move > 0.1 for move in moves)
        assert any(move <= 0.1 for move in moves)


def test_the_edge_takes_every_frame_whole() -> None:
    for body in crowd.frames(1, 3):
        reading = reader().read(body)
        assert len(reading.item.entities.ids) == crowd.NPCS + crowd.PLAYERS
        assert not reading.refused


def test_a_retold_body_is_another_world_with_players_of_its_own() -> None:
    first, other = read(crowd.frames(0, 1)[0]), read(crowd.retold(crowd.frames(0, 1)[0], 421))
    assert other["world"] == crowd.world_name(421)
    for before, after in zip(first["entities"], other["entities"], strict=True):
        assert (before["id"] == after["id"]) == (before["kind"] == "npc")
        assert before["position"] == after["position"]


@given(st.integers(2, 9))
def test_back_and_forth_never_jumps(count: int) -> None:
    order = list(itertools.islice(crowd.back_and_forth(count), 5 * count))
    assert set(order) == set(range(count))
    assert all(abs(a - b) == 1 for a, b in itertools.pairwise(order))


def test_one_frame_is_sent_again_and_again() -> None:
    assert list(itertools.islice(crowd.back_and_forth(1), 3)) == [0, 0, 0]


# -- the load ----------------------------------------------------------------------------------------------------------


def test_a_request_is_http() -> None:
    head, _, body = crowd.request(b'{"a":1}', "/v1/snapshots", 8080).partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert head.startswith(b"POST /v1/snapshots HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n")
    assert b"content-length: 7" in head


def test_a_connection_sends_its_worlds_in_turn_each_with_its_next_frame() -> None:
    sent = list(itertools.islice(load._rotated([[b"a0", b"a1"], [b"b0", b"b1"]]), 6))
    assert sent == [b"a0", b"b0", b"a1", b"b1", b"a0", b"b0"]


def test_the_length_of_an_answer() -> None:
    assert load._content_length(b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\nx: y") == 42
    with pytest.raises(ConnectionError):
        load._content_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked")


# -- goals -------------------------------------------------------------------------------------------------------------


def outcome(rate: float, p50: float, p99: float) -> load.Outcome:
    return load.Outcome(1000, 1000, 0, rate, p50, p50, p99, p99, 100)


def measure(rate: float, cpu_us: float, p50: float = 0.5, p99: float = 10.0) -> ingest.Measure:
    return ingest.Measure(outcome(rate, 5.0, p99), outcome(1 / p50, p50, p50), (cpu_us / 2, cpu_us / 2))


def test_a_ratio_is_taken_within_a_round() -> None:
    # The machine was half as fast in the second and third rounds: medians apart would say 0.5 or 2.
    measures = ingest.Measures(
        {
            ingest.ZERO: [measure(6000, 100), measure(3000, 100), measure(3000, 100)],
            ingest.ONE: [measure(3600, 200), measure(1800, 200), measure(1800, 200)],
        }
    )
    assert measures.ratio(ingest.ONE, ingest.ZERO) == pytest.approx(0.6)
    assert measures.rate(ingest.ONE) == 1800


def test_every_goal_is_judged() -> None:
    fast = ingest.Measures(
        {
            ingest.ZERO: [measure(6000, 150)],
            ingest.ONE: [measure(3600, 300)],
            ingest.TWO: [measure(4600, 400)],
            ingest.FASTAPI: [measure(400, 3000, 5.0, 100.0)],
        }
    )
    found = {result.name: result for result in ingest.results(fast)}
    assert all(result.ok is not False for result in found.values())
    assert found[f"{ingest.ONE}: share of the 0-hop edge, by CPU"].value == 0.5
    assert found[f"{ingest.ONE}: p99, c=32"].peers[ingest.FASTAPI] == 100.0
    fast.of[ingest.ONE] = [measure(1000, 900, 2.0, 40.0)]
    missed = [result.name for result in ingest.results(fast) if result.ok is False]
    assert missed == [
        f"{ingest.ONE}: {what}"
        for what in ("c=32", "share of the 0-hop edge", "times the FastAPI peer", "p50, c=1", "p99, c=32")
    ]


def test_memory_of_a_world_is_the_slope_and_the_base_is_not_counted_twice() -> None:
    kib, mib = 1024, 2**20
    each, full = ingest.memory_results("x", [(worlds, 200 * mib + worlds * 60 * kib) for worlds in (500, 1000, 2500)])
    assert each.value == pytest.approx(60)
    assert each.ok
    assert full.value == pytest.approx(200 + 10_000 * 60 / 1024)
    assert full.ok
    assert not any(one.ok for one in ingest.memory_results("x", [(500, 0), (1000, 500 * 200 * kib)]))


def test_clusters_are_compared_without_their_order_or_names() -> None:
    def answer(*groups: list[str]) -> bytes:
        return json.dumps(
            {
                "clusters": [
                    {"id": str(i), "members": members, "positions": [{"id": one, "x": 0.0} for one in members]}
                    for i, members in enumerate(groups)
                ]
            }
        ).encode()

    assert ingest.clusters_of(answer(["a", "b"], ["c", "d"])) == ingest.clusters_of(answer(["d", "c"], ["b", "a"]))
    assert ingest.clusters_of(answer(["a", "b"], ["c", "d"])) != ingest.clusters_of(answer(["a", "b", "c", "d"]))


# -- the 0-hop peer ----------------------------------------------------------------------------------------------------


def test_the_0_hop_peer_encodes_the_columns_that_the_edge_does() -> None:
    for body in crowd.frames(2, 3):
        theirs = zero_hop.columns(zero_hop._decode(body).entities)
        ours = reader().read(body).item.entities
        for cold in ("looks", "details"):
            assert json.loads(getattr(theirs, cold)) == json.loads(getattr(ours, cold))
            theirs.ClearField(cold)
            ours.ClearField(cold)
        assert theirs == ours


def test_the_0_hop_peer_says_how_much_it_encoded() -> None:
    answer = read(zero_hop.answer(crowd.frames(2, 1)[0]))
    assert (answer["world"], answer["entities"]) == (crowd.world_name(2), 80)
    assert answer["bytes"] > 10_000


# -- the profile -------------------------------------------------------------------------------------------------------


def test_samples_become_microseconds_by_room_function_and_line() -> None:
    root = str(target.ROOT)
    samples = {
        "samples": 10,
        "lines": [
            [f"{root}/services/state/intake.py", "f", 7, 5],
            [f"{root}/services/state/change.py", "g", 9, 1],
            ["/x/lib/python3.11/asyncio/events.py", "run", 3, 4],
        ],
        "under": [
            [f"{root}/services/cli/commands.py", "main", 10],
            [f"{root}/services/state/intake.py", "f", 6],
            ["/x/site-packages/uvicorn/server.py", "serve", 10],
        ],
    }
    found = {result.name: result.value for result in profiling.results("[x]", samples, 500.0)}
    assert found["[x] own time of services/state"] == pytest.approx(300)
    assert found["[x] own time of python"] == pytest.approx(200)
    assert found["[x] at services/state/intake.py:7 f"] == pytest.approx(250)
    assert [name for name in found if name.startswith("[x] in ")] == ["[x] in services/state/intake.py f"]
