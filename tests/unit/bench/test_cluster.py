"""Points of the cluster bench, the comparison of answers, and its goals."""

from __future__ import annotations

import numpy as np

from bench import cluster
from services.cluster.proximity import components_in_python


def test_equal_arguments_give_equal_points() -> None:
    first, again, other = (cluster.scattered(80, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.places, again.places)
    assert not np.array_equal(first.places, other.places)
    assert first.offsets.tolist() == [0, 80, 160, 240]


def test_worlds_are_as_dense_as_a_village() -> None:
    small, large = cluster.scattered(80, 1, 0), cluster.scattered(8000, 1, 0)
    assert 90 < small.places[:, [0, 2]].max() <= 100
    assert 990 < large.places[:, [0, 2]].max() <= 1000


def test_labels_are_compared_by_who_is_together_within_a_world() -> None:
    offsets = np.array([0, 3, 6])
    ours = np.array([0, 0, 2, 0, 1, 1])
    same = np.array([7, 7, 1, 4, 7, 7])
    other = np.array([7, 7, 7, 4, 7, 7])
    assert np.array_equal(cluster.first_of_each(ours, offsets), cluster.first_of_each(same, offsets))
    assert not np.array_equal(cluster.first_of_each(ours, offsets), cluster.first_of_each(other, offsets))
    assert cluster.first_of_each(ours, offsets).tolist() == [0, 0, 2, 3, 4, 4]


def test_a_batch_has_what_the_methods_need() -> None:
    points = cluster.scattered(20, 4, 5)
    labels = components_in_python(points.batch)
    assert len(labels) == 80
    first, second = points.places[:2]
    together = np.linalg.norm(first - second) <= cluster.JOIN
    assert not together or labels[0] == labels[1]


def test_goals_and_ratios_of_the_same_round() -> None:
    small = {cluster.OURS: [5.0, 10.0, 5.0], cluster.SINGLE: [9.0] * 3, cluster.SCIPY: [100.0, 200.0, 100.0],
             cluster.ONE_TREE: [30.0] * 3, cluster.DBSCAN: [600.0] * 3}  # fmt: skip
    large = {size: {cluster.OURS: [size / 1e4], cluster.SCIPY: [size / 2e3]} for size in cluster.SIZES}
    found = [result.record() for result in cluster.results(small, large)]
    assert [record["ok"] for record in found if record["goal"] is not None] == [True] * 6
    assert found[1]["value"] == 20
    large[100_000][cluster.OURS] = [40.0]
    missed = [result.name for result in cluster.results(small, large) if result.ok is False]
    assert missed == ["100,000 points", "  times scipy", "cost from 1,000 to 100,000 by n log n"]
