"""Lineages: claims, revival, and transitions that explain every change exactly once."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cluster.lineage import Change, Ended, Evolution, Lineage, Transition, evolve
from services.cluster.proximity import Batch, components_in_python

A, B, C = Lineage("a", 1), Lineage("b", 2), Lineage("c", 3)


def label_of(groups: list[set[int]], count: int) -> list[int]:
    label = list(range(count))
    for group in groups:
        for row in group:
            label[row] = min(group)
    return label


def step(
    count: int,
    was: list[tuple[Lineage, set[int]]],
    now: list[set[int]],
    ended: list[Ended] | None = None,
    revision: int = 9,
) -> Evolution:
    before = [-1] * count
    for index, (_, members) in enumerate(was):
        for row in members:
            before[row] = index
    return evolve(
        label_of(now, count),
        before,
        [lineage for lineage, _ in was],
        ended or [],
        revision,
        lambda n: f"new{n}",
    )


def membership(evolution: Evolution) -> dict[str, set[int]]:
    members: dict[str, set[int]] = {lineage.id: set() for lineage in evolution.lineages}
    for row, index in enumerate(evolution.rows):
        if index >= 0:
            members[evolution.lineages[index].id].add(row)
    return members


def told(evolution: Evolution) -> list[tuple[Change, str, set[int], str]]:
    return [(t.change, t.lineage, set(t.members), t.other) for t in evolution.transitions]


def replay(was: dict[str, set[int]], transitions: tuple[Transition, ...]) -> dict[str, set[int]]:
    """What the documentation of Change says a reader may do with transitions."""
    now = {lineage: set(members) for lineage, members in was.items()}
    for t in transitions:
        moved = set(t.members)
        match t.change:
            case Change.LEFT:
                assert moved <= now[t.lineage]
                now[t.lineage] -= moved
            case Change.DISSOLVED:
                assert now.pop(t.lineage) == moved
            case Change.SPLIT:
                assert moved <= now[t.other]
                now[t.other] -= moved
                now[t.lineage] = moved
            case Change.MERGED:
                assert now.pop(t.other) == moved
                now[t.lineage] |= moved
            case Change.FORMED:
                assert t.lineage not in now
                now[t.lineage] = moved
            case Change.JOINED:
                assert not moved & now[t.lineage]
                now[t.lineage] |= moved
    return now


def test_formed() -> None:
    evolution = step(5, [], [{0, 1}, {2, 4}])
    assert told(evolution) == [(Change.FORMED, "new0", {0, 1}, ""), (Change.FORMED, "new1", {2, 4}, "")]
    assert evolution.lineages == (Lineage("new0", 9), Lineage("new1", 9))
    assert evolution.rows == (0, 0, 1, -1, 1)


def test_nothing_changed() -> None:
    assert told(step(4, [(A, {0, 1}), (B, {2, 3})], [{0, 1}, {2, 3}])) == []


def test_joined_and_left() -> None:
    evolution = step(4, [(A, {0, 1, 2})], [{0, 1, 3}])
    assert told(evolution) == [(Change.LEFT, "a", {2}, ""), (Change.JOINED, "a", {3}, "")]


def test_dissolved() -> None:
    assert told(step(2, [(A, {0, 1})], [])) == [(Change.DISSOLVED, "a", {0, 1}, "")]


def test_merged_into_the_larger_share() -> None:
    evolution = step(6, [(A, {0, 1}), (B, {2, 3, 4})], [{0, 1, 2, 3, 4, 5}])
    assert told(evolution) == [(Change.MERGED, "b", {0, 1}, "a"), (Change.JOINED, "b", {5}, "")]


def test_merge_of_equals_keeps_the_older_then_the_lower_id() -> None:
    assert membership(step(4, [(B, {0, 1}), (A, {2, 3})], [{0, 1, 2, 3}])) == {"a": {0, 1, 2, 3}}
    same_age = Lineage("z", 1)
    assert membership(step(4, [(same_age, {0, 1}), (A, {2, 3})], [{0, 1, 2, 3}])) == {"a": {0, 1, 2, 3}}


def test_split_keeps_the_id_with_the_larger_part() -> None:
    evolution = step(6, [(A, {0, 1, 2, 3, 4})], [{0, 1}, {2, 3, 4, 5}])
    assert told(evolution) == [(Change.SPLIT, "new0", {0, 1}, "a"), (Change.JOINED, "a", {5}, "")]


def test_a_newcomer_beside_those_who_split_off_joins() -> None:
    evolution = step(6, [(A, {0, 1, 2, 3, 4})], [{0, 1, 2}, {3, 4, 5}])
    assert told(evolution) == [(Change.SPLIT, "new0", {3, 4}, "a"), (Change.JOINED, "new0", {5}, "")]


def test_one_member_who_walks_over_does_not_merge_two_lineages() -> None:
    evolution = step(5, [(A, {0, 1}), (B, {2, 3, 4})], [{1, 2, 3, 4}])
    assert told(evolution) == [(Change.DISSOLVED, "a", {0, 1}, ""), (Change.JOINED, "b", {1}, "")]


def test_a_claim_is_made_once() -> None:
    """Both halves share two members with a: only one goes on as a, the other is new."""
    evolution = step(4, [(A, {0, 1, 2, 3})], [{0, 1}, {2, 3}])
    assert membership(evolution) == {"a": {0, 1}, "new0": {2, 3}}


def test_revival_of_a_recently_dissolved_lineage() -> None:
    ended = [Ended(C, (0, 1, 2))]
    assert told(step(4, [], [{0, 2, 3}], ended)) == [(Change.FORMED, "c", {0, 2, 3}, "")]
    assert step(4, [], [{0, 2, 3}], ended).lineages == (C,)
    assert told(step(4, [], [{0, 3}], ended)) == [(Change.FORMED, "new0", {0, 3}, "")]


def test_a_living_lineage_goes_before_a_revival() -> None:
    ended = [Ended(A, (0, 1))]
    assert membership(step(4, [(B, {2, 3})], [{0, 1, 2, 3}], ended)) == {"b": {0, 1, 2, 3}}


def test_a_lineage_revives_once() -> None:
    evolution = step(6, [], [{0, 1}, {2, 3}], [Ended(A, (0, 1, 2, 3))])
    assert membership(evolution) == {"a": {0, 1}, "new0": {2, 3}}


partition = st.lists(st.integers(-1, 4), min_size=9, max_size=9)


def groups_of(assignment: list[int]) -> list[set[int]]:
    groups = [{row for row, group in enumerate(assignment) if group == g} for g in range(5)]
    return [group for group in groups if len(group) >= 2]


@settings(max_examples=100, deadline=None)
@given(st.lists(partition, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_transitions_explain_every_change(history: list[list[int]], rng: random.Random) -> None:
    was: list[tuple[Lineage, set[int]]] = []
    ended: list[Ended] = []
    for revision, assignment in enumerate(history, 1):
        rng.shuffle(was)  # claims do not depend on the order in which lineages are told
        groups = groups_of(assignment)
        evolution = evolve(
            label_of(groups, 9),
            [next((i for i, (_, members) in enumerate(was) if row in members), -1) for row in range(9)],
            [lineage for lineage, _ in was],
            ended,
            revision,
            f"{revision}.{{}}".format,
        )
        now = membership(evolution)
        assert sorted(map(sorted, now.values())) == sorted(map(sorted, groups))
        assert replay({lineage.id: members for lineage, members in was}, evolution.transitions) == now
        for t in evolution.transitions:
            assert t.members == tuple(sorted(set(t.members)))
            assert bool(t.other) == (t.change in (Change.SPLIT, Change.MERGED))
        gone = [Ended(lineage, tuple(members)) for lineage, members in was if lineage.id not in now]
        ended = [e for e in ended if e.lineage.id not in now] + gone
        was = [(lineage, now[lineage.id]) for lineage in evolution.lineages]


@settings(max_examples=80, deadline=None)
@given(partition, partition)
def test_claims_are_greedy(first: list[int], second: list[int]) -> None:
    was = [(Lineage(f"l{i}", 5 - i), members) for i, members in enumerate(groups_of(first))]
    now = groups_of(second)
    evolution = step(9, was, now)
    old = dict(was)
    continued = {index: lineage for index, lineage in enumerate(evolution.lineages) if lineage in old}
    members = [{row for row, index in enumerate(evolution.rows) if index == i} for i in range(len(now))]
    for index, cluster in enumerate(members):
        for lineage, former in was:
            common = len(cluster & former)
            if not common or continued.get(index) == lineage:
                continue
            # A pair that is not a claim lost to a better one of its cluster or of its lineage.
            rank = (-common, lineage.born, lineage.id)
            mine = continued.get(index)
            theirs = next((i for i, taken in continued.items() if taken == lineage), None)
            assert (mine is not None and (-len(cluster & old[mine]), mine.born, mine.id) < rank) or (
                theirs is not None and len(members[theirs] & former) >= common
            )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=2, max_size=14),
    st.randoms(use_true_random=False),
)
def test_jitter_below_the_band_never_oscillates(home: list[tuple[float, float]], rng: random.Random) -> None:
    """Each entity within 0.49 studs of home: no distance moves by 2, so who was together stays together."""
    count = len(home)
    lineages: tuple[Lineage, ...] = ()
    rows: tuple[int, ...] = (-1,) * count
    together: set[tuple[int, int]] = set()
    for revision in range(12):
        x = np.array([p[0] + rng.uniform(-0.34, 0.34) for p in home])
        z = np.array([p[1] + rng.uniform(-0.34, 0.34) for p in home])
        none = np.zeros(0, np.int32)
        batch = Batch(
            np.array([0, count]), x, np.zeros(count), z, np.array(rows, np.int32),
            np.zeros(2, np.int64), none, none,
            np.array([10.0]), np.array([12.0]), np.array([1.0]),
        )  # fmt: skip
        label = components_in_python(batch).tolist()
        evolution = evolve(label, rows, lineages, (), revision, f"{revision}.{{}}".format)
        lineages, rows = evolution.lineages, evolution.rows
        now = {(i, j) for i in range(count) for j in range(i) if rows[i] == rows[j] >= 0}
        assert together <= now
        together = now


@pytest.mark.parametrize("distance", [10.5, 11.9])
def test_the_band_holds_only_those_who_were_together(distance: float) -> None:
    none = np.zeros(0, np.int32)

    def label(before: list[int]) -> list[int]:
        batch = Batch(
            np.array([0, 2]), np.array([0.0, distance]), np.zeros(2), np.zeros(2), np.array(before, np.int32),
            np.zeros(2, np.int64), none, none, np.array([10.0]), np.array([12.0]), np.array([1.0]),
        )  # fmt: skip
        return [int(value) for value in components_in_python(batch)]

    assert label([-1, -1]) == [0, 1]
    assert label([0, 0]) == [0, 0]
