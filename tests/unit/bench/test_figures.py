"""The benches' statistics, goals and shapes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import growth, median, percentile, slope
from bench.result import Result, report, shown, table

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(VALUES, st.floats(0, 1))
def test_a_percentile_is_the_smallest_value_with_enough_at_or_below(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    below = [value for value in ordered if value < found]
    assert len(below) < max(share * len(ordered), 1)


def test_percentiles_of_a_known_row() -> None:
    row = [float(value) for value in range(1, 101)]
    assert [percentile(row, share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 50, 90, 99, 100]
    assert math.isnan(percentile([], 0.5))


@given(VALUES)
def test_half_lie_on_each_side_of_the_median(values: list[float]) -> None:
    middle = median(values)
    assert sum(value <= middle for value in values) * 2 >= len(values)
    assert sum(value >= middle for value in values) * 2 >= len(values)


def test_the_median_of_nothing_is_no_number() -> None:
    assert math.isnan(median([]))
    assert median([3.0, 1.0]) == 2.0


@given(st.floats(-100, 100), st.floats(-1e4, 1e4))
def test_the_slope_of_a_line_is_its_slope(steepness: float, start: float) -> None:
    points = [(x, start + steepness * x) for x in (0.0, 500.0, 1000.0, 2500.0)]
    assert slope(points) == pytest.approx(steepness, abs=1e-6)


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 3.0)]])
def test_no_slope_without_two_places(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match=r"no points|all x are equal"):
        slope(points)


def test_growth_is_one_for_n_log_n_and_less_below() -> None:
    def cost(n: int) -> float:
        return n * math.log(n)

    assert growth((1000, cost(1000)), (100_000, cost(100_000))) == pytest.approx(1.0)
    assert growth((1000, 1.0), (100_000, 100.0)) < 1
    assert growth((1000, 1.0), (100_000, 10_000.0)) > 1


@pytest.mark.parametrize(
    ("value", "goal", "better", "ok"),
    [
        (10.0, 10.0, "more", True),
        (9.9, 10.0, "more", False),
        (10.0, 10.0, "less", True),
        (10.1, 10.0, "less", False),
        (math.nan, 10.0, "more", False),
        (math.nan, 10.0, "less", False),
        (5.0, None, "more", None),
    ],
)
def test_a_goal_is_reached_from_its_good_side(value: float, goal: float | None, better: str, ok: bool | None) -> None:
    assert Result("x", value, "us", goal, better).ok is ok  # type: ignore[arg-type]  # one of the two words


def test_the_object_of_a_bench() -> None:
    record = Result("rate", 1234.5678, "1/s", 1000, peers={"other": 0.123456}).record()
    assert record == {
        "name": "rate",
        "value": 1235.0,
        "unit": "1/s",
        "goal": 1000,
        "ok": True,
        "peers": {"other": 0.1235},
    }
    whole = report("ingest", "a machine", [record])
    assert json.loads(json.dumps(whole)) == {"bench": "ingest", "machine": "a machine", "results": [record]}


def test_a_missed_goal_stands_out_and_peers_are_beside_it() -> None:
    lines = table(
        [
            Result("fast", 5000.0, "1/s", 3500, peers={"peer": 10.0}).record(),
            Result("slow", 12.0, "ms", 1, "less").record(),
            Result("known", 1.0, "").record(),
        ]
    ).splitlines()
    assert "5,000" in lines[1]
    assert "ok" in lines[1].split()
    assert "peer 10" in lines[1]
    assert "MISSED" in lines[2]
    assert "MISSED" not in lines[3]
    assert "ok" not in lines[3].split()


def test_figures_as_people_read_them() -> None:
    assert [shown(value) for value in (12345.6, 12.3456, 0.00012)] == ["12,346", "12.35", "0.00012"]
