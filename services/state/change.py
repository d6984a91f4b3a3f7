"""Which NPCs' texts could have changed from one revision to the next, and how urgent that is.

Only what text can say counts: a step of 0.2 studs, another member's health or a fresher lastSeen rewrites
nothing (DESIGN section 4, table of lanes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

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


class Change(NamedTuple):
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
    none = np.zeros(len(columns), np.bool_)
    new = none if plan.same else plan.old < 0
    acted = _differ(effective_actions(before), effective_actions(after), plan, none)
    placed = _differ(before.columns.locations, columns.locations, plan, none)
    renamed = _redescribed(before.columns, columns, plan, _differ(before.columns.names, columns.names, plan, none))
    touched = _touched(before.membership, after.membership, plan, transitions, none)
    faded = _faded(before.membership, after.membership, renamed, none)
    eventful = _eventful(columns, after.membership, events, none)
    urgent = _rows(columns, critical, none)
    profile = _rows(columns, rewritten, none)
    high = _either(none, shift.alarmed, shift.combat, urgent)
    active = _either(none, shift.place, acted, placed, new)
    return Marks(
        high=high,
        medium=_either(none, active, touched),
        low=_either(none, shift.tens, renamed, faded, eventful, profile),
        status=_either(none, high, active, shift.tens, renamed, profile),
        group=_either(none, touched, faded, new),
        events=_either(none, eventful, new),
    )


def _either(none: Mask, *masks: Mask) -> Mask:
    """Rows of any mask; `none` itself, which must stay empty, where all are empty."""
    result = none
    for mask in masks:
        if mask is not none:
            result = mask if result is none else result | mask
    return result


def revisions(old: Longs, mask: Mask, plan: Plan, revision: int) -> Longs:
    """The revision at which each row last was marked."""
    if plan.same:
        return np.where(mask, revision, old) if np.count_nonzero(mask) else old
    carried = old[plan.old] if len(old) else np.zeros(len(mask), np.int64)
    return np.where(mask | (plan.old < 0), revision, carried)


def changes(
    marks: Marks, after: Moment, situation: Situation, gone: Iterable[str], revision: int
) -> tuple[Change, ...]:
    """One change for every NPC that was marked or is gone."""
    columns, membership = after.columns, after.membership
    marked = (marks.high | marks.medium | marks.low) & (columns.kinds == NPC)
    told = []
    if np.count_nonzero(marked):
        rows = np.flatnonzero(marked)
        audible = heard_rows(columns, membership)[rows].tolist()
        lanes = np.where(marks.high[rows], Lane.HIGH, np.where(marks.medium[rows], Lane.MEDIUM, Lane.LOW)).tolist()
        fights = (situation.fighting_until[rows] > 0).tolist()
        for row, lane, hears, fight in zip(rows.tolist(), lanes, audible, fights, strict=True):
            told.append(Change(columns.ids[row], revision, _LANES[lane], hears, fight))
    told += [Change(npc, revision, Lane.LOW, heard=False, combat=False, gone=True) for npc in gone]
    return tuple(told)


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


def _differ(before: Sequence[str], after: Sequence[str], plan: Plan, none: Mask) -> Mask:
    if before is after or (plan.same and before == after):
        return none
    return np.fromiter(
        (old < 0 or before[old] != now for old, now in zip(plan.old.tolist(), after, strict=True)),
        np.bool_,
        len(after),
    )


def _redescribed(before: Columns, after: Columns, plan: Plan, renamed: Mask) -> Mask:
    """`renamed`, and rows whose details changed and hold something that text speaks of."""
    if before.details is after.details or not (_spoken(before.details) or _spoken(after.details)):
        return renamed
    mask = renamed.copy()
    for row, (old, now) in enumerate(zip(plan.old.tolist(), after.details, strict=True)):
        was = before.details[old] if old >= 0 else b""
        if was != now and (_spoken((was,)) or _spoken((now,))):
            mask[row] = True
    return mask


def _spoken(details: Iterable[bytes]) -> bool:
    whole = b"".join(details)
    return any(word in whole for word in _SPOKEN_DETAILS)


def _touched(before: Membership, after: Membership, plan: Plan, transitions: Iterable[Transition], none: Mask) -> Mask:
    """Rows of a lineage that had a transition, and those that are now alone."""
    if before is after:
        return none
    names = {name for t in transitions for name in (t.lineage, t.other)}
    lineages = np.array([*(lineage in names for lineage in after.lineages), False])  # last: for index -1
    touched: Mask = lineages[after.of]
    if len(before.of):
        touched |= (plan.old >= 0) & (before.of[plan.old] >= 0) & (after.of < 0)
    return touched


def _faded(before: Membership, after: Membership, renamed: Mask, none: Mask) -> Mask:
    """Rows in whose lineage a member is called or looks different, or a departure is forgotten."""
    lineages: set[int] = set()
    if renamed is not none:
        lineages = {lineage for lineage in after.of[renamed].tolist() if lineage >= 0}
    if before.departed or after.departed:
        lineages |= {
            index
            for index, lineage in enumerate(after.lineages)
            if before.departed.get(lineage, ()) != after.departed.get(lineage, ())
        }
    if not lineages:
        return none
    mask = none.copy()
    for index in lineages:
        mask[list(after.members[index])] = True
    return mask


def _eventful(columns: Columns, membership: Membership, events: Sequence[Event], none: Mask) -> Mask:
    """Rows that take part in an event or stand beside one who does; an event of nobody concerns everybody."""
    if not events:
        return none
    mask = none.copy()
    for event in events:
        rows = [columns.index[who] for who in (event.actor, event.target) if who in columns.index]
        if not event.actor and not event.target:
            mask[:] = True
        for row in rows:
            mask[row] = True
            if membership.of[row] >= 0:
                mask[list(membership.members[int(membership.of[row])])] = True
    return mask


def _rows(columns: Columns, ids: Iterable[str], none: Mask) -> Mask:
    rows = [columns.index[entity] for entity in ids if entity in columns.index]
    if not rows:
        return none
    mask = none.copy()
    mask[rows] = True
    return mask
