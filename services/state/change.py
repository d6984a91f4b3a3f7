"""Which NPCs' texts could have changed from one revision to the next, and how urgent that is.

Only what text can say counts: a step of 0.2 studs, another member's health or a fresher lastSeen rewrites
nothing (DESIGN section 4, table of lanes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from services.state.columns import NPC, PLAYER, Columns, Mask, Plan
from services.state.event import Event
from services.state.membership import Longs, Membership, Transition
from services.state.observation import Observed
from services.state.situation import Shift, Situation

_SPOKEN_DETAILS = (b'"appearance"', b'"description"')


class Lane(IntEnum):
    """earshot.type.v1.Lane: the lower the number, the more urgent."""

    HIGH = 1
    MEDIUM = 2
    LOW = 3


@dataclass(frozen=True, slots=True)
class Change:
    """The text about this NPC could have changed at `revision`; a key with flags, never a payload."""

    npc: str
    revision: int
    lane: Lane
    heard: bool
    combat: bool
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """What texts are made of, at one revision."""

    columns: Columns
    membership: Membership
    observed: Observed


@dataclass(frozen=True, slots=True)
class Marks:
    """Masks over the N new rows: by urgency, and by what the text is about."""

    high: Mask
    medium: Mask
    low: Mask
    status: Mask
    group: Mask
    events: Mask


def compare(
    before: Moment,
    after: Moment,
    plan: Plan,
    shift: Shift,
    transitions: Iterable[Transition],
    events: Sequence[Event],
    critical: Iterable[str],
    rewritten: Iterable[str],
) -> Marks:
    """Mark every row whose text could differ.

    `critical` and `rewritten` are npc ids (C9; a changed profile).
    """
    columns = after.columns
    new: Mask = plan.old < 0
    acted = _differ(effective_actions(before), effective_actions(after), plan) | _differ(
        before.columns.locations, columns.locations, plan
    )
    renamed = _differ(before.columns.names, columns.names, plan) | _redescribed(before.columns, columns, plan)
    touched = _touched(before.membership, after.membership, plan, transitions)
    faded = _faded(before.membership, after.membership, renamed)
    eventful = _eventful(columns, after.membership, events)
    urgent = _rows(columns, critical)
    profile = _rows(columns, rewritten)
    return Marks(
        high=shift.alarmed | shift.combat | urgent,
        medium=shift.place | acted | touched | new,
        low=shift.tens | renamed | faded | eventful | profile,
        status=shift.alarmed | shift.combat | shift.place | shift.tens | acted | renamed | new | urgent | profile,
        group=touched | faded | new,
        events=eventful | new,
    )


def revisions(old: Longs, mask: Mask, plan: Plan, revision: int) -> Longs:
    """The revision at which each row last was marked."""
    if plan.same:
        return np.where(mask, revision, old) if mask.any() else old
    carried = old[plan.old] if len(old) else np.zeros(len(mask), np.int64)
    return np.where(mask | (plan.old < 0), revision, carried)


def changes(
    marks: Marks, after: Moment, situation: Situation, gone: Iterable[str], revision: int
) -> tuple[Change, ...]:
    """One change for every NPC that was marked or is gone."""
    columns, membership = after.columns, after.membership
    rows = np.flatnonzero((marks.high | marks.medium | marks.low) & (columns.kinds == NPC)).tolist()
    told = []
    for row in rows:
        lane = Lane.HIGH if marks.high[row] else Lane.MEDIUM if marks.medium[row] else Lane.LOW
        told.append(
            Change(
                columns.ids[row], revision, lane, heard(columns, membership, row), bool(situation.fighting_until[row])
            )
        )
    told += [Change(npc, revision, Lane.LOW, heard=False, combat=False, gone=True) for npc in gone]
    return tuple(told)


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


def _differ(before: Sequence[str | bytes], after: Sequence[str | bytes], plan: Plan) -> Mask:
    if before is after:
        return np.zeros(len(after), np.bool_)
    return np.fromiter(
        (old < 0 or before[old] != now for old, now in zip(plan.old.tolist(), after, strict=True)),
        np.bool_,
        len(after),
    )


def _redescribed(before: Columns, after: Columns, plan: Plan) -> Mask:
    """Rows whose details changed and hold something that text speaks of."""
    mask = np.zeros(len(after), np.bool_)
    if before.details is after.details:
        return mask
    for row, (old, now) in enumerate(zip(plan.old.tolist(), after.details, strict=True)):
        was = before.details[old] if old >= 0 else b""
        if was != now and any(word in was or word in now for word in _SPOKEN_DETAILS):
            mask[row] = True
    return mask


def _touched(before: Membership, after: Membership, plan: Plan, transitions: Iterable[Transition]) -> Mask:
    """Rows of a lineage that had a transition, and those that are now alone."""
    if before is after:
        return np.zeros(len(after.of), np.bool_)
    names = {name for t in transitions for name in (t.lineage, t.other)}
    lineages = np.array([*(lineage in names for lineage in after.lineages), False])  # last: for index -1
    touched: Mask = lineages[after.of]
    if len(before.of):
        touched |= (plan.old >= 0) & (before.of[plan.old] >= 0) & (after.of < 0)
    return touched


def _faded(before: Membership, after: Membership, renamed: Mask) -> Mask:
    """Rows in whose lineage a member is called or looks different, or a departure is forgotten."""
    mask = np.zeros(len(after.of), np.bool_)
    lineages = {int(after.of[row]) for row in np.flatnonzero(renamed).tolist() if after.of[row] >= 0}
    if before.departed or after.departed:
        lineages |= {
            index
            for index, lineage in enumerate(after.lineages)
            if before.departed.get(lineage, ()) != after.departed.get(lineage, ())
        }
    for index in lineages:
        mask[list(after.members[index])] = True
    return mask


def _eventful(columns: Columns, membership: Membership, events: Sequence[Event]) -> Mask:
    """Rows that take part in an event or stand beside one who does; an event of nobody concerns everybody."""
    mask = np.zeros(len(columns), np.bool_)
    for event in events:
        rows = [columns.index[who] for who in (event.actor, event.target) if who in columns.index]
        if not event.actor and not event.target:
            mask[:] = True
        for row in rows:
            mask[row] = True
            if membership.of[row] >= 0:
                mask[list(membership.members[int(membership.of[row])])] = True
    return mask


def _rows(columns: Columns, ids: Iterable[str]) -> Mask:
    mask = np.zeros(len(columns), np.bool_)
    for entity in ids:
        if entity in columns.index:
            mask[columns.index[entity]] = True
    return mask
