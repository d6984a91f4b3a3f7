"""Lineages: which new cluster continues which old one, and what happened on the way.

Rows stand for entities. Everything is a pure function of the previous lineages and the new components:
clusters claim old lineages greedily by shared members, then age, then id, each once.
Requirement B3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import NamedTuple

MIN_MEMBERS = 2
NO_LINEAGE = -1


class Lineage(NamedTuple):
    """A cluster's stable identity: `born` is the revision at which it formed (age decides claims)."""

    id: str
    born: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A lineage dissolved a short while ago: it revives when two of its former members reunite."""

    lineage: Lineage
    members: tuple[int, ...]


class Change(IntEnum):
    """What happened to a lineage; applied in this order they lead from the old membership to the new one."""

    LEFT = 1  # members left a lineage that continues, or that merges or dissolves without them
    DISSOLVED = 2  # no cluster continues it; members are those it still had
    SPLIT = 3  # members of `other` continue under this new lineage
    MERGED = 4  # `other` ended in this lineage; members are those it brought along
    FORMED = 5  # new, or revived; members are all its members
    JOINED = 6  # members came to a lineage that continues, or beside those of a split


class Transition(NamedTuple):
    """One change of one lineage; `other` is the second lineage of a split or merge, members are rows,
    ascending.
    """

    change: Change
    lineage: str
    members: tuple[int, ...]
    other: str = ""


@dataclass(frozen=True, slots=True)
class Evolution:
    """The new lineages, the number of the lineage of every row (-1: alone), and the way there."""

    lineages: tuple[Lineage, ...]
    rows: tuple[int, ...]
    transitions: tuple[Transition, ...]
    unchanged: bool = False  # lineages and rows are the previous ones


Name = Callable[[int], str]
"""Ordinal of a new lineage within its revision -> its id."""


def evolve(
    label: Sequence[int],
    before: Sequence[int],
    old: Sequence[Lineage],
    ended: Iterable[Ended],
    revision: int,
    name: Name,
) -> Evolution:
    """Carry lineages from the previous revision to this one.

    label[row] names the row's component by its smallest row, before[row] indexes `old` or is -1. `ended`
    holds what dissolved recently enough to revive. New ids are name(0), name(1), ... in order of the
    clusters' smallest rows.
    """
    clusters = _clusters(label)
    rows = [NO_LINEAGE] * len(label)
    for c, members in enumerate(clusters):
        for row in members:
            rows[row] = c
    if len(clusters) == len(old) and rows == list(before):
        return Evolution(tuple(old), tuple(before), (), unchanged=True)
    shared = _overlaps(rows, before)
    claims = _claim(shared, old)
    revived = _revive(clusters, claims, ended)
    lineages: list[Lineage] = []
    ordinal = 0
    for c in range(len(clusters)):
        if c in claims:
            lineages.append(old[claims[c]])
        elif c in revived:
            lineages.append(revived[c])
        else:
            lineages.append(Lineage(name(ordinal), revision))
            ordinal += 1
    return Evolution(
        tuple(lineages),
        tuple(rows),
        _transitions(clusters, rows, before, old, lineages, claims, revived, shared),
    )


def _clusters(label: Sequence[int]) -> list[list[int]]:
    """Members of every component of two or more, in order of their smallest rows."""
    groups: dict[int, list[int]] = {}
    for row, root in enumerate(label):
        if root in groups:
            groups[root].append(row)
        else:
            groups[root] = [row]
    return [members for members in groups.values() if len(members) >= MIN_MEMBERS]


def _overlaps(rows: Sequence[int], before: Sequence[int]) -> dict[tuple[int, int], int]:
    """(cluster, old lineage) -> number of members they share."""
    pairs = Counter(zip(rows, before, strict=True))
    return {pair: count for pair, count in pairs.items() if pair[0] >= 0 and pair[1] >= 0}


def _claim(shared: dict[tuple[int, int], int], old: Sequence[Lineage]) -> dict[int, int]:
    """Cluster -> old lineage that it continues: by shared members, then age, then id; each once."""
    order = sorted((-count, old[lineage].born, old[lineage].id, c, lineage) for (c, lineage), count in shared.items())
    claims: dict[int, int] = {}
    taken: set[int] = set()
    for _, _, _, c, lineage in order:
        if c not in claims and lineage not in taken:
            claims[c] = lineage
            taken.add(lineage)
    return claims


def _revive(clusters: Sequence[Sequence[int]], claims: dict[int, int], ended: Iterable[Ended]) -> dict[int, Lineage]:
    """Cluster without a claim -> recently dissolved lineage of which two or more members reunite in it."""
    if len(claims) == len(clusters):
        return {}
    former_lineages = list(ended)
    order = []
    for c, members in enumerate(clusters):
        if c in claims:
            continue
        for index, former in enumerate(former_lineages):
            count = len(set(former.members).intersection(members))
            if count >= MIN_MEMBERS:
                order.append((-count, former.lineage.born, former.lineage.id, c, index))
    revived: dict[int, Lineage] = {}
    taken: set[int] = set()
    for _, _, _, c, index in sorted(order):
        if c not in revived and index not in taken:
            revived[c] = former_lineages[index].lineage
            taken.add(index)
    return revived


def _transitions(
    clusters: Sequence[Sequence[int]],
    rows: Sequence[int],
    before: Sequence[int],
    old: Sequence[Lineage],
    lineages: Sequence[Lineage],
    claims: dict[int, int],
    revived: dict[int, Lineage],
    shared: dict[tuple[int, int], int],
) -> tuple[Transition, ...]:
    """Explain every change of membership exactly once (see Change)."""
    former: list[list[int]] = [[] for _ in old]
    for row, lineage in enumerate(before):
        if lineage >= 0:
            former[lineage].append(row)
    continued = {lineage: c for c, lineage in claims.items()}
    merged = _merges(shared, claims, continued, old)
    split = _splits(clusters, shared, claims, revived, continued, old)
    left: list[Transition] = []
    dissolved: list[Transition] = []
    merges: list[Transition] = []
    # Most lineages go on as they were: nothing is to be told of these.
    intact = {c for c, lineage in claims.items() if shared[c, lineage] == len(clusters[c]) == len(former[lineage])}
    for lineage, members in enumerate(former):
        if continued.get(lineage) in intact:
            continue
        keeper = continued.get(lineage, merged.get(lineage))
        if keeper is None:
            dissolved.append(Transition(Change.DISSOLVED, old[lineage].id, tuple(members)))
            continue
        if lineage in merged:
            brought = tuple(row for row in members if rows[row] == keeper)
            merges.append(Transition(Change.MERGED, lineages[keeper].id, brought, old[lineage].id))
        gone = tuple(row for row in members if rows[row] != keeper and split.get(rows[row]) != lineage)
        if gone:
            left.append(Transition(Change.LEFT, old[lineage].id, gone))
    splits: list[Transition] = []
    formed: list[Transition] = []
    joined: list[Transition] = []
    for c, present in enumerate(clusters):
        if c in intact:
            continue
        if c in split:
            parted = tuple(row for row in present if before[row] == split[c])
            splits.append(Transition(Change.SPLIT, lineages[c].id, parted, old[split[c]].id))
        elif c not in claims:
            formed.append(Transition(Change.FORMED, lineages[c].id, tuple(present)))
            continue
        claimed, origin = claims.get(c), split.get(c)
        came = tuple(
            [
                row
                for row in present
                if (was := before[row]) < 0 or (was not in (claimed, origin) and merged.get(was) != c)
            ]
        )
        if came:
            joined.append(Transition(Change.JOINED, lineages[c].id, came))
    return tuple(chain(left, dissolved, splits, merges, formed, joined))


def _merges(
    shared: dict[tuple[int, int], int],
    claims: dict[int, int],
    continued: dict[int, int],
    old: Sequence[Lineage],
) -> dict[int, int]:
    """Old lineage that nobody continues -> the continuing cluster in which two or more of its members are
    now.
    """
    best: dict[int, tuple[int, int, str, int]] = {}
    for (c, lineage), count in shared.items():
        if lineage in continued or c not in claims or count < MIN_MEMBERS:
            continue
        into = old[claims[c]]
        rank = (-count, into.born, into.id, c)
        if lineage not in best or rank < best[lineage]:
            best[lineage] = rank
    return {lineage: rank[3] for lineage, rank in best.items()}


def _splits(
    clusters: Sequence[Sequence[int]],
    shared: dict[tuple[int, int], int],
    claims: dict[int, int],
    revived: dict[int, Lineage],
    continued: dict[int, int],
    old: Sequence[Lineage],
) -> dict[int, int]:
    """New cluster -> the continuing lineage from which two or more of its members parted."""
    best: dict[int, tuple[int, int, str, int]] = {}
    for (c, lineage), count in shared.items():
        if c in claims or c in revived or lineage not in continued or count < MIN_MEMBERS:
            continue
        rank = (-count, old[lineage].born, old[lineage].id, lineage)
        if c not in best or rank < best[c]:
            best[c] = rank
    return {c: rank[3] for c, rank in best.items()}
