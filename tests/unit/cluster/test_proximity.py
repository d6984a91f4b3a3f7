"""Components: every method equals the definition, on random worlds and on awkward ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.cluster.compiled import CompiledMethod
from services.cluster.proximity import Batch, MalformedBatch, components_in_python

NAN = float("nan")


@pytest.fixture(scope="module")
def compiled() -> CompiledMethod:
    method = CompiledMethod()
    method.warm_up()  # the user's cache directory: compiled by the first run on a machine only
    return method


World = tuple[list[tuple[float, float, float, int]], list[tuple[int, int]], float, float, float]


def batch_of(worlds: list[World]) -> Batch:
    rows = [row for world in worlds for row in world[0]]
    links = [link for world in worlds for link in world[1]]
    columns = np.array([row[:3] for row in rows], np.float64).reshape(-1, 3)
    return Batch(
        offsets=np.cumsum([0] + [len(world[0]) for world in worlds], dtype=np.int64),
        x=np.ascontiguousarray(columns[:, 0]),
        y=np.ascontiguousarray(columns[:, 1]),
        z=np.ascontiguousarray(columns[:, 2]),
        before=np.array([row[3] for row in rows], np.int32),
        link_offsets=np.cumsum([0] + [len(world[1]) for world in worlds], dtype=np.int64),
        link_a=np.array([a for a, _ in links], np.int32),
        link_b=np.array([b for _, b in links], np.int32),
        join=np.array([world[2] for world in worlds], np.float64),
        leave=np.array([world[3] for world in worlds], np.float64),
        weight=np.array([world[4] for world in worlds], np.float64),
    )


def by_definition(world: World) -> list[int]:
    """Flood fill over every pair: the requirement written down, in no hurry."""
    rows, links, join, leave, weight = world
    linked = {(a, b) for a, b in links} | {(b, a) for a, b in links}
    for i, (xi, yi, zi, li) in enumerate(rows):
        for j, (xj, yj, zj, lj) in enumerate(rows):
            dx, dz, dy = xi - xj, zi - zj, yi * weight - yj * weight
            reach = leave if li == lj >= 0 else join
            if dx * dx + dz * dz + dy * dy <= reach * reach:
                linked.add((i, j))
    label = list(range(len(rows)))
    for start in range(len(rows)):
        if label[start] != start:
            continue
        frontier = [start]
        while frontier:
            i = frontier.pop()
            for j in range(len(rows)):
                if label[j] > start and (i, j) in linked:
                    label[j] = start
                    frontier.append(j)
    return label


# Few distinct values make exact boundary distances (10, 12, cell edges) likely; wide floats cover the rest.
near = st.sampled_from([0.0, 2.5, 5.0, 9.999999999999998, 10.0, 10.000000000000002, 12.0, 20.0, 22.0, -1e-17, NAN])
wide = st.floats(-60, 60)
absurd = st.floats(allow_nan=True, allow_infinity=False)
coordinate = st.one_of(near, wide, wide, wide)


@st.composite
def worlds(draw: st.DrawFn, coordinates: st.SearchStrategy[float] = coordinate, most: int = 24) -> World:
    count = draw(st.integers(0, most))
    row = st.tuples(coordinates, coordinates, coordinates, st.integers(-1, 3))
    rows = draw(st.lists(row, min_size=count, max_size=count))
    index = st.integers(0, max(0, count - 1))
    links = draw(st.lists(st.tuples(index, index), max_size=3)) if count else []
    join = draw(st.sampled_from([10.0, 10.0, 3.3]))
    return (
        rows,
        links,
        join,
        join * draw(st.sampled_from([1.0, 1.2])),
        draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    )


def all_methods(compiled: CompiledMethod, batch: Batch) -> list[list[int]]:
    from services.cluster import kernels

    kernel: Any = kernels.components

    answers = [components_in_python(batch).tolist(), compiled(batch).tolist()]
    for limit in (0, 1 << 30):  # grid only, brute force only
        label = np.empty(len(batch.x), np.int32)
        kernel(*batch.columns, limit, label)
        answers.append(label.tolist())
    return answers


@settings(max_examples=80, deadline=None)
@given(st.lists(worlds(), max_size=4))
def test_every_method_equals_the_definition(compiled: CompiledMethod, some: list[World]) -> None:
    expected = [label for world in some for label in by_definition(world)]
    for answer in all_methods(compiled, batch_of(some)):
        assert answer == expected


HUGE = 1.2e308


@settings(max_examples=40, deadline=None)
@given(worlds(absurd, 12))
@example(([(0.0, HUGE, HUGE, 0), (0.0, HUGE, HUGE, 0)], [], 10.0, 10.0, 0.5))  # their sum is no number
def test_absurd_coordinates_change_nothing(compiled: CompiledMethod, world: World) -> None:
    expected = by_definition(world)
    for answer in all_methods(compiled, batch_of([world])):
        assert answer == expected


@pytest.mark.parametrize(("count", "side"), [(300, 30.0), (300, 200.0), (500, 900.0), (200, 1e7)])
def test_methods_agree_on_larger_worlds(compiled: CompiledMethod, count: int, side: float) -> None:
    rng = np.random.default_rng(count)
    rows = [
        (float(x), float(y), float(z), int(lineage))
        for (x, y, z), lineage in zip(rng.uniform(0, side, (count, 3)), rng.integers(-1, 30, count), strict=True)
    ]
    world: World = (rows, [(0, count - 1)], 10.0, 12.0, 0.3)
    first, *others = all_methods(compiled, batch_of([world]))
    assert len(set(first)) > 1 or side < 100
    assert all(other == first for other in others)


def test_dense_crowd_is_one_component(compiled: CompiledMethod) -> None:
    rng = np.random.default_rng(7)
    rows = [(float(x), 0.0, float(z), -1) for x, z in rng.uniform(0, 9, (20_000, 2))]
    assert set(compiled(batch_of([(rows, [], 10.0, 12.0, 1.0)])).tolist()) == {0}


def test_without_position_only_links_count(compiled: CompiledMethod) -> None:
    rows = [(NAN, NAN, NAN, 0), (NAN, NAN, NAN, 0), (0.0, 0.0, 0.0, 0), (0.0, NAN, 0.0, 0)]
    for answer in all_methods(compiled, batch_of([(rows, [(0, 2)], 10.0, 12.0, 1.0)])):
        assert answer == [0, 1, 0, 3]


def test_floors_merge_when_height_does_not_count(compiled: CompiledMethod) -> None:
    rows = [(0.0, 0.0, 0.0, -1), (0.0, 40.0, 0.0, -1)]
    flat, tall = batch_of([(rows, [], 10.0, 12.0, 0.0)]), batch_of([(rows, [], 10.0, 12.0, 1.0)])
    assert all(answer == [0, 0] for answer in all_methods(compiled, flat))
    assert all(answer == [0, 1] for answer in all_methods(compiled, tall))


def test_answers_before_and_after_warm_up_are_the_same(tmp_path: Path) -> None:
    method = CompiledMethod()
    world: World = ([(0.0, 0.0, 0.0, -1), (9.0, 0.0, 0.0, -1), (30.0, 0.0, 0.0, -1)], [], 10.0, 12.0, 1.0)
    cold = method(batch_of([world])).tolist()
    assert not method.ready
    method.warm_up(tmp_path)
    assert method.ready
    assert method(batch_of([world])).tolist() == cold == [0, 0, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"y": np.zeros(1)},
        {"leave": np.zeros(0)},
        {"offsets": np.array([0, 1], np.int64)},
        {"offsets": np.array([0], np.int64)},
        {"link_a": np.array([0], np.int32)},
        {"join": np.array([13.0])},
        {"join": np.array([0.0])},
        {"join": np.array([math.nan])},
        {"weight": np.array([-1.0])},
        {"leave": np.array([math.inf])},
    ],
)
def test_columns_that_disagree_are_refused(change: dict[str, Any]) -> None:
    good = batch_of([([(0.0, 0.0, 0.0, -1), (1.0, 0.0, 0.0, -1)], [], 10.0, 12.0, 1.0)])
    columns = {name: getattr(good, name) for name in Batch.__slots__} | change
    with pytest.raises(MalformedBatch):
        Batch(**columns)


@pytest.mark.parametrize("link", [(0, 2), (-1, 0)])
def test_links_stay_in_their_world(link: tuple[int, int]) -> None:
    rows = [(0.0, 0.0, 0.0, -1), (50.0, 0.0, 0.0, -1)]
    with pytest.raises(MalformedBatch):
        batch_of([(rows, [link], 10.0, 12.0, 1.0), (rows, [], 10.0, 12.0, 1.0)])
