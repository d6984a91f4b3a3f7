"""Who shares a lineage with whom at a revision, since when, and who was there a moment ago.

The cluster room decides; this noun asks it the right question and keeps the answer beside the positions
(B2, B3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field
from msgspec.structs import replace

from services.state import compiled
from services.state.columns import Columns, Floats32, Plan, Rows

Longs = npt.NDArray[np.int64]
Pair = tuple[str, str]

DEPARTED_KEPT = 5
DEPARTED_MS = 60_000
ENDED_KEPT = 64


class Change(IntEnum):
    """earshot.type.v1.TransitionType."""

    FORMED = 1
    JOINED = 2
    LEFT = 3
    MERGED = 4
    SPLIT = 5
    DISSOLVED = 6


class Move(NamedTuple):
    """A transition as the cluster room answers it; rows of the question."""

    change: Change
    lineage: str
    rows: tuple[int, ...]
    other: str


class Assignment(Struct, frozen=True):
    """The cluster room's whole answer for one world: lineages, and which of them each row of the question
    is in, or -1.
    """

    lineages: tuple[str, ...]
    formed: tuple[int, ...]
    of: Rows
    moves: tuple[Move, ...]


class Transition(NamedTuple):
    """What happened to a lineage at a revision, by entity ids; `at_ms` is the wall clock's."""

    change: Change
    lineage: str
    members: tuple[str, ...]
    other: str
    revision: int
    at_ms: int


class Departed(Struct, frozen=True):
    """Someone who left a lineage a moment ago; `tick` is monotonic milliseconds."""

    id: str
    name: str
    kind: int
    left_ms: int
    tick: int


class Ended(Struct, frozen=True):
    """A lineage dissolved lately: it may revive."""

    lineage: str
    formed: int
    members: tuple[str, ...]
    tick: int
    at_ms: int


class Membership(Struct, frozen=True):
    """`of` (N) indexes `lineages` or is -1; since_* (N) tell when the row joined its lineage; members are
    rows.
    """

    lineages: tuple[str, ...]
    formed: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    of: Rows
    since_revision: Longs
    since_ms: Longs
    departed: Mapping[str, tuple[Departed, ...]] = field(default_factory=dict)
    ended: tuple[Ended, ...] = ()


class Points(Struct, frozen=True):
    """The question to the cluster room:

    N rows, then those that are gone and had a lineage (without a position).
    """

    revision: int
    tick: int
    xyz: Floats32
    previous_of: npt.NDArray[np.uint32]
    lineages: tuple[str, ...]
    formed: tuple[int, ...]
    ended: tuple[tuple[str, int, int, tuple[int, ...]], ...]  # id, formed, tick, rows still here
    links: tuple[tuple[int, int], ...]


def nobody() -> Membership:
    """No entities, no lineages."""
    none = np.zeros(0, np.int64)
    return Membership((), (), (), np.zeros(0, np.int32), none, none)


def ghosts(old: Membership, plan: Plan) -> tuple[int, ...]:
    """Old rows that are gone and leave a lineage."""
    return tuple(row for row in plan.gone if old.of[row] >= 0)


def question(
    old: Membership,
    columns: Columns,
    plan: Plan,
    links: tuple[tuple[int, int], ...],
    revision: int,
    tick: int,
) -> Points:
    """What to ask the cluster room before `revision` is committed."""
    gone = ghosts(old, plan)
    if plan.same:
        of = old.of
    else:
        of = np.where(plan.old >= 0, old.of[plan.old], -1) if len(old.of) else np.full(len(plan.old), -1)
        of = np.concatenate((of, old.of[list(gone)])) if gone else of
    xyz = columns.xyz
    if gone:
        xyz = np.concatenate((xyz, np.full((3, len(gone)), np.nan, np.float32)), axis=1)
    return Points(
        revision=revision,
        tick=tick,
        xyz=xyz,
        previous_of=(of + 1).astype(np.uint32),
        lineages=old.lineages,
        formed=old.formed,
        ended=_still_here(old.ended, columns.index),
        links=links,
    )


def _still_here(ended: Iterable[Ended], index: Mapping[str, int]) -> tuple[tuple[str, int, int, tuple[int, ...]], ...]:
    """Lineages that could revive (two of their members are here), with the rows of their members."""
    found = []
    for former in ended:
        rows = [row for row in map(index.get, former.members) if row is not None]
        if len(rows) > 1:
            found.append((former.lineage, former.formed, former.tick, tuple(rows)))
    return tuple(found)


def linked_rows(columns: Columns, links: Iterable[Pair]) -> tuple[tuple[int, int], ...]:
    """Links that count: both ends are here, and one of them has no position."""
    rows = []
    for a, b in links:
        i, j = columns.index.get(a), columns.index.get(b)
        if i is not None and j is not None and np.isnan(columns.xyz[0, [i, j]]).any():
            rows.append((i, j))
    return tuple(rows)


def settle(
    old: Membership,
    before: Columns,
    columns: Columns,
    plan: Plan,
    answer: Assignment,
    *,
    revision: int,
    at_ms: int,
    tick: int,
    revival_ms: int,
) -> tuple[Membership, tuple[Transition, ...]]:
    """The membership at `revision` from the cluster room's answer, and its transitions by id."""
    if not answer.moves and plan.same:
        return _aged(old, tick, revival_ms), ()
    ids = columns.ids + tuple(before.ids[row] for row in ghosts(old, plan))
    transitions = tuple(
        [
            Transition(change, lineage, tuple([ids[row] for row in rows]), other, revision, at_ms)
            for change, lineage, rows, other in answer.moves
        ]
    )
    lineages = answer.lineages
    of = answer.of[: len(columns)]  # without those who are gone
    since_revision, since_ms = _since(old, plan, lineages, of, revision, at_ms)
    membership = Membership(
        lineages=lineages,
        formed=answer.formed,
        members=members_of(of, len(lineages)),
        of=of,
        since_revision=since_revision,
        since_ms=since_ms,
        departed=_departed(old, before, columns, lineages, of, transitions, at_ms, tick),
        ended=_ended(old, lineages, transitions, at_ms, tick, revival_ms),
    )
    return membership, transitions


def members_of(of: Rows, lineages: int) -> tuple[tuple[int, ...], ...]:
    """Rows of each lineage, ascending."""
    order = np.argsort(of, kind="stable").tolist()
    ends = np.searchsorted(of[order], np.arange(-1, lineages), side="right").tolist()  # of nobody's, and each lineage's
    return tuple([tuple(order[start:end]) for start, end in pairwise(ends)])


def _aged(old: Membership, tick: int, revival_ms: int) -> Membership:
    """The same membership, without departures and endings that are long past."""
    if all(tick - gone[0].tick < DEPARTED_MS for gone in old.departed.values()) and all(
        tick - e.tick < revival_ms for e in old.ended
    ):
        return old
    recent = {
        lineage: tuple(who for who in gone if tick - who.tick < DEPARTED_MS) for lineage, gone in old.departed.items()
    }
    return replace(
        old,
        departed={lineage: gone for lineage, gone in recent.items() if gone},
        ended=tuple(e for e in old.ended if tick - e.tick < revival_ms),
    )


def _since(
    old: Membership, plan: Plan, lineages: Sequence[str], of: Rows, revision: int, at_ms: int
) -> tuple[Longs, Longs]:
    """(revision, time) at which each row joined its lineage: as before where it is the one it had."""
    if not len(old.of):
        return np.full(len(of), revision), np.full(len(of), at_ms)
    now = {lineage: index for index, lineage in enumerate(lineages)}
    became = np.array([*(now.get(lineage, -2) for lineage in old.lineages), -2], np.int32)  # last: for index -1
    if compiled.kernels is not None:
        since = np.empty(len(of), np.int64), np.empty(len(of), np.int64)
        compiled.kernels.carry(old.of, plan.old, became, of, old.since_revision, old.since_ms, revision, at_ms, *since)
        return since
    stayed = (became[old.of[plan.old]] == of) & (plan.old >= 0)
    sources = np.where(stayed, plan.old, 0)
    return np.where(stayed, old.since_revision[sources], revision), np.where(stayed, old.since_ms[sources], at_ms)


def _departed(
    old: Membership,
    before: Columns,
    columns: Columns,
    lineages: Sequence[str],
    of: Rows,
    transitions: Iterable[Transition],
    at_ms: int,
    tick: int,
) -> Mapping[str, tuple[Departed, ...]]:
    """Who left each living lineage lately, newest last, without those who came back."""
    left: dict[str, list[Departed]] = {}
    for t in transitions:
        lineage = t.lineage if t.change is Change.LEFT else t.other if t.change is Change.SPLIT else ""
        if not lineage:
            continue
        for entity in t.members:
            if entity in before.index:
                row = before.index[entity]
                who = Departed(entity, before.names[row], int(before.kinds[row]), at_ms, tick)
                left.setdefault(lineage, []).append(who)
    if not left and not old.departed:
        return {}
    departed: dict[str, tuple[Departed, ...]] = {}
    for index, lineage in enumerate(lineages):
        gone = [*old.departed.get(lineage, ()), *left.get(lineage, ())]
        recent = [
            who
            for who in gone
            if tick - who.tick < DEPARTED_MS and not (who.id in columns.index and of[columns.index[who.id]] == index)
        ]
        if recent:
            departed[lineage] = tuple(recent[-DEPARTED_KEPT:])
    return departed


def _ended(
    old: Membership,
    lineages: Sequence[str],
    transitions: Iterable[Transition],
    at_ms: int,
    tick: int,
    revival_ms: int,
) -> tuple[Ended, ...]:
    """Lineages that may still revive."""
    kept = [e for e in old.ended if tick - e.tick < revival_ms and e.lineage not in lineages]
    formed = dict(zip(old.lineages, old.formed, strict=True))
    kept += [
        Ended(t.lineage, formed[t.lineage], t.members, tick, at_ms) for t in transitions if t.change is Change.DISSOLVED
    ]
    return tuple(kept[-ENDED_KEPT:])
