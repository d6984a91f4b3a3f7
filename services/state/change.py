"""Which NPCs' texts could have changed from one revision to the next, and how urgent that is.

Only what text can say counts: a step of 0.2 studs, another member's health or a fresher lastSeen rewrites
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from services.state import causes, compiled
from services.state.bands import NPC, PLAYER
from services.state.causes import Causes
from services.state.cold import UNKNOWN
from services.state.columns import Columns, Mask, Plan
from services.state.event import Event
from services.state.membership import Longs, Membership, Transition
from services.state.observation import Observed
from services.state.situation import Situation


class Lane(IntEnum):
    """earshot.type.v1.Lane: the lower the number, the more urgent."""

    HIGH = 1
    MEDIUM = 2
    LOW = 3


class Change(NamedTuple):
    """The text about this NPC could have changed at `revision`; a key with flags, never a payload."""

    npc: str
    revision: int
    lane: Lane
    heard: bool
    combat: bool
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Changes(Collection[Change]):
    """The changes of one revision, made when somebody reads them: most are coalesced before. rows of `ids` with their
    lanes, whether a player hears them, and until when they fight (0: not); `gone` are ids.
    """

    revision: int
    ids: tuple[str, ...] = ()
    rows: Sequence[int] = ()
    lanes: Sequence[int] = ()
    heard: Sequence[bool] = ()
    until: Sequence[int] = ()
    gone: tuple[str, ...] = ()

    def __contains__(self, change: object) -> bool:
        return change in tuple(self)

    def __len__(self) -> int:
        return len(self.rows) + len(self.gone)

    def __iter__(self) -> Iterator[Change]:
        for row, lane, hears, until in zip(self.rows, self.lanes, self.heard, self.until, strict=True):
            yield Change(self.ids[row], self.revision, _LANES[lane], hears, until > 0)
        for npc in self.gone:
            yield Change(npc, self.revision, Lane.LOW, heard=False, combat=False, gone=True)


class Moment(Struct, frozen=True):
    """What texts are made of, at one revision."""

    columns: Columns
    membership: Membership
    observed: Observed


def compare(
    before: Moment,
    after: Moment,
    plan: Plan,
    cause: Causes,
    transitions: Sequence[Transition],
    events: Sequence[Event],
    critical: Iterable[str],
    rewritten: Iterable[str],
) -> Causes:
    """Why each row's text could differ: `cause`, of its situation, and everything else.

    `critical` and `rewritten` are npc ids (C9; a changed profile).
    """
    columns = after.columns
    renamed = _differ(before.columns.names, columns.names, plan)
    renamed += _redescribed(before.columns, columns, plan)
    found: tuple[tuple[int, Sequence[int]], ...] = (
        (causes.NEW, () if plan.same else np.flatnonzero(plan.old < 0).tolist()),
        (causes.ACTED, _differ(effective_actions(before), effective_actions(after), plan)),
        (causes.LOCATED, _differ(before.columns.locations, columns.locations, plan)),
        (causes.RENAMED, renamed),
        (causes.TOUCHED, _touched(columns, after.membership, transitions)),
        (causes.FADED, _faded(before.membership, after.membership, renamed)),
        (causes.EVENTFUL, _eventful(columns, events)),
        (causes.URGENT, _rows(columns, critical)),
        (causes.PROFILE, _rows(columns, rewritten)),
    )
    for bit, rows in found:
        if rows:
            cause[rows] |= np.uint16(bit)
    return cause


class Dates(Struct, frozen=True):
    """Over N rows: the revision at which the text about a row last could have changed."""

    status: Longs
    group: Longs
    events: Longs


def told(
    before: Dates, after: Moment, situation: Situation, plan: Plan, cause: Causes, gone: tuple[str, ...], revision: int
) -> tuple[Dates, Changes]:
    """The dates of the new rows, and one change for every NPC that has a cause or is gone."""
    if plan.same and not np.count_nonzero(cause):
        return before, Changes(revision, gone=gone)
    step = _marked if compiled.kernels is None else _compiled_marked
    dates, (rows, lanes, heard) = step(before, after, plan, cause, revision)
    until = situation.fighting_until[rows]
    told = Changes(revision, after.columns.ids, rows.tolist(), lanes.tolist(), heard.tolist(), until.tolist(), gone)
    return dates, told


Marked = tuple[Dates, tuple[npt.NDArray[Any], npt.NDArray[Any], Mask]]


def _compiled_marked(before: Dates, after: Moment, plan: Plan, cause: Causes, revision: int) -> Marked:
    """As `_marked`, in one call."""
    count = len(cause)
    status, group, events = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    rows, lanes, heard = np.empty(count, np.int32), np.empty(count, np.int8), np.empty(count, np.bool_)
    some = compiled.kernels.mark(
        cause, after.columns.kinds, after.membership.of, plan.old, len(after.membership.lineages), revision,
        before.status, before.group, before.events, status, group, events, rows, lanes, heard,
    )  # fmt: skip
    return Dates(status, group, events), (rows[:some], lanes[:some], heard[:some])


def _marked(before: Dates, after: Moment, plan: Plan, cause: Causes, revision: int) -> Marked:
    """The dates, and the NPCs with a cause: their rows, lanes, and whether a player hears them."""
    rows = np.flatnonzero((cause > 0) & (after.columns.kinds == NPC))
    high, medium = cause[rows] & causes.HIGH > 0, cause[rows] & causes.MEDIUM > 0
    lanes = np.where(high, Lane.HIGH, np.where(medium, Lane.MEDIUM, Lane.LOW))
    dates = Dates(
        _dated(before.status, cause & causes.STATUS > 0, plan, revision),
        _dated(before.group, cause & causes.GROUP > 0, plan, revision),
        _dated(before.events, cause & causes.EVENTS > 0, plan, revision),
    )
    return dates, (rows, lanes, heard_rows(after.columns, after.membership)[rows])


def _dated(old: Longs, mask: Mask, plan: Plan, revision: int) -> Longs:
    carried = old[plan.old] if len(old) else np.zeros(len(mask), np.int64)
    return np.where(mask | (plan.old < 0), revision, carried)


_LANES = {int(lane): lane for lane in Lane}


def heard_rows(columns: Columns, membership: Membership) -> Mask:
    """Rows with a player within earshot."""
    of = membership.of
    players = np.bincount(of[(columns.kinds == PLAYER) & (of >= 0)], minlength=len(membership.lineages) + 1)
    audible: Mask = (players > 0)[of] & (of >= 0)
    return audible


def heard(columns: Columns, membership: Membership, row: int) -> bool:
    """A player is within earshot of the row."""
    lineage = int(membership.of[row])
    return lineage >= 0 and any(columns.kinds[member] == PLAYER for member in membership.members[lineage])


def effective_actions(moment: Moment) -> tuple[str, ...]:
    """What each row does, an expected action before the reported one."""
    return _covered(moment.columns.actions, moment.columns.index, moment.observed)


def _covered(actions: tuple[str, ...], index: Mapping[str, int], observed: Observed) -> tuple[str, ...]:
    covering = [
        (index[npc], expected.status.action)
        for npc, expected in observed.expected.items()
        if npc in index and expected.status.action
    ]
    if not covering:
        return actions
    covered = list(actions)
    for row, action in covering:
        covered[row] = action
    return tuple(covered)


def _differ(before: Sequence[str], after: Sequence[str], plan: Plan) -> list[int]:
    if before is after or (plan.same and before == after):
        return []
    return [
        row
        for row, (old, now) in enumerate(zip(plan.old.tolist(), after, strict=True))
        if old < 0 or before[old] != now
    ]


def _redescribed(before: Columns, after: Columns, plan: Plan) -> list[int]:
    """Rows that look different."""
    if before.looks is after.looks:
        return []
    was, now = before.looks.rows(len(before)), after.looks.rows(len(after))
    return [
        row
        for row, (old, new) in enumerate(zip(plan.old.tolist(), now, strict=True))
        if (was[old] if old >= 0 else UNKNOWN) != new
    ]


def _touched(columns: Columns, after: Membership, transitions: Sequence[Transition]) -> list[int]:
    """Rows of a lineage that had a transition, and those who left one."""
    if not transitions:
        return []
    names = {name for t in transitions for name in (t.lineage, t.other)}
    rows = [columns.index[who] for t in transitions for who in t.members if who in columns.index]
    for lineage, members in zip(after.lineages, after.members, strict=True):
        if lineage in names:
            rows += members
    return rows


def _faded(before: Membership, after: Membership, renamed: Sequence[int]) -> list[int]:
    """Rows in whose lineage a member is called or looks different, or a departure is forgotten."""
    lineages = {lineage for lineage in after.of[renamed].tolist() if lineage >= 0} if renamed else set()
    if before.departed is not after.departed:
        lineages |= {
            index
            for index, lineage in enumerate(after.lineages)
            if before.departed.get(lineage, ()) != after.departed.get(lineage, ())
        }
    return [row for index in lineages for row in after.members[index]]


def _eventful(columns: Columns, events: Sequence[Event]) -> list[int]:
    """Rows of NPCs that witnessed an event; one of nobody concerns everybody."""
    if any(not (event.actor or event.target) for event in events):
        return list(range(len(columns)))
    return _rows(columns, (npc for event in events for npc in event.witnesses))


def _rows(columns: Columns, ids: Iterable[str]) -> list[int]:
    return [columns.index[entity] for entity in ids if entity in columns.index]
