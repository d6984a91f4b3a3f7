"""What text may say about an entity, in steps coarse and sticky enough that it seldom changes.

Health in tens, nearest place in bands, combat that lingers: each keeps its value until reality has clearly
moved on, so that jitter at an edge rewrites nobody's memory. All arrays are over the N rows of a revision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct

from services.state import causes, compiled
from services.state import place as places
from services.state.bands import ALARM, HEALTH_BAND, UNKNOWN
from services.state.causes import Causes
from services.state.columns import Floats32, Mask, Merge, Plan
from services.state.membership import Longs
from services.state.place import Small, Standing
from services.state.roster import Roster

FOREVER = 1 << 62  # fighting_until of those who fight now
# What games call fighting, in lower case.
COMBAT_ACTIONS = frozenset({"combat", "fighting", "fight", "attacking", "attack"})
COMBAT_EVENTS = frozenset({"combat", "attack", "damage", "hit", "killed"})


class Situation(Struct, frozen=True):
    """tens: 0..100 or -1; alarm: percent at the last alarm, NaN unknown; fighting_until: monotonic ms, 0
    not fighting; standing: where (see `place`)."""

    tens: Small
    alarm: Floats32
    fighting_until: Longs
    standing: Standing


def nobody() -> Situation:
    """No entities."""
    return Situation(np.zeros(0, np.int8), np.zeros(0, np.float32), np.zeros(0, np.int64), places.nowhere())


def settle(
    old: Situation,
    merge: Merge,
    roster: Roster,
    fighting: Mask,
    struck: Mask,
    tick: int,
    linger_ms: int,
) -> tuple[Situation, Causes]:
    """The situation of the merged rows, and what it gives texts to say; `fighting` marks those who fight
    now, `struck` those in an event of combat.
    """
    plan = merge.plan
    until = old.fighting_until if plan.same else _carried(old.fighting_until, plan, 0)
    until, combat = _combat(until, fighting, struck, tick, linger_ms)
    cause = combat.astype(np.uint16) * np.uint16(causes.COMBAT)
    step = _settled if compiled.kernels is None else _compiled_settled
    tens, alarm, standing, cause = step(old, merge, roster, cause)
    return Situation(tens, alarm, until, standing), cause


Settled = tuple[Small, Floats32, Standing, Causes]


def _compiled_settled(old: Situation, merge: Merge, roster: Roster, cause: Causes) -> Settled:
    """As `_settled`, in one call."""
    plan, columns, standing = merge.plan, merge.columns, old.standing
    count = len(columns)
    tens, alarm = np.empty(count, np.int8), np.empty(count, np.float32)
    place, band = np.empty(count, np.int32), np.empty(count, np.int8)
    surveyed = standing.roster == roster.version
    told = compiled.kernels.situate(
        columns.xyz, columns.vitals, columns.kinds, plan.old, merge.moved, merge.hurt, roster.positions, surveyed,
        old.tens, old.alarm, standing.place, standing.band, tens, alarm, place, band, cause,
    )  # fmt: skip
    if surveyed and plan.same and not told & causes.PLACE:  # share what did not change
        return tens, alarm, standing, cause
    return tens, alarm, Standing(place, band, roster.version), cause


def _settled(old: Situation, merge: Merge, roster: Roster, cause: Causes) -> Settled:
    """(tens, health at the last alarm, standing, `cause` and the causes in them)."""
    plan, columns = merge.plan, merge.columns
    before = old
    if not plan.same:
        before = Situation(
            _carried(old.tens, plan, UNKNOWN),
            _carried(old.alarm, plan, np.nan),
            old.fighting_until,
            places.carried(old.standing, plan),
        )
    tens, alarm, alarmed = before.tens, before.alarm, np.zeros(len(columns), np.bool_)
    hurt = np.flatnonzero(merge.hurt if plan.same else merge.hurt | (plan.old < 0))
    if len(hurt):
        tens, alarm = _healths(before, columns.vitals, hurt.tolist(), alarmed)
    was = now = before.standing
    if np.count_nonzero(merge.moved) or not plan.same or was.roster != roster.version:
        now = places.settle(was, columns, merge.moved, roster)
    moved = (now.place != was.place) | (now.band != was.band)
    for bit, mask in ((causes.TENS, tens != before.tens), (causes.ALARMED, alarmed), (causes.PLACE, moved)):
        cause = cause | mask.astype(np.uint16) * np.uint16(bit)
    return tens, alarm, now, cause


def _carried(values: Any, plan: Plan, unknown: float) -> Any:
    if not len(values):
        return np.full(len(plan.old), unknown, values.dtype)
    return np.where(plan.old >= 0, values[plan.old], np.array(unknown, values.dtype))


def percent(health: float, most: float) -> float:
    """Health as 0..100, NaN when it is not known; without a maximum 100 is meant."""
    share = health / (most if most > 0 else 100.0) * 100.0
    return share if share != share else min(max(share, 0.0), 100.0)


def _healths(before: Situation, vitals: Floats32, rows: list[int], alarmed: Mask) -> tuple[Small, Floats32]:
    """(sticky tens, health at the last alarm) after the health of `rows` changed; marks `alarmed`."""
    tens, alarm = before.tens.copy(), before.alarm.copy()
    for row, health, most in zip(rows, *vitals[:, rows].tolist(), strict=True):
        exact = percent(health, most)
        if exact != exact:
            continue
        shown, last = int(tens[row]), float(alarm[row])
        if not (shown > 0 and exact > 0 and abs(exact - shown) <= HEALTH_BAND):
            tens[row] = max(10, round(exact / 10) * 10) if exact > 0 else 0  # 0 is dead, nothing else
        alarmed[row] = (exact <= 0 < shown) or last - exact >= ALARM
        if alarmed[row] or not last >= exact:
            alarm[row] = exact
    return tens, alarm


def _combat(before: Longs, fighting: Mask, struck: Mask, tick: int, linger_ms: int) -> tuple[Longs, Mask]:
    """(fighting until, rows that entered or left combat): it lingers after its last sign."""
    if not (np.count_nonzero(fighting) or np.count_nonzero(struck) or np.count_nonzero(before)):
        return before, np.zeros(len(before), np.bool_)
    lingering = np.where(before == FOREVER, tick + linger_ms, np.where(before > tick, before, 0))
    until = np.where(fighting, FOREVER, np.where(struck, tick + linger_ms, lingering))
    changed: Mask = (until > 0) != (before > 0)
    return until, changed
