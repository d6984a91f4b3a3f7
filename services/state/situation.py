"""What text may say about an entity, in steps coarse and sticky enough that it seldom changes.

Health in tens, nearest place in bands, combat that lingers: each keeps its value until reality has clearly
moved on, so that jitter at an edge rewrites nobody's memory. All arrays are over the N rows of a revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.state.columns import NPC, Columns, Floats, Floats32, Mask, Merge, Plan
from services.state.membership import Longs
from services.state.roster import Roster

Small = npt.NDArray[np.int8]
Places = npt.NDArray[np.int32]

UNKNOWN = -1
# Health shown in tens keeps its value until the exact one is farther than this from it, in percent.
HEALTH_BAND = 7.0
# A fall of this much of the maximum since the last alarm is one (C4), in percent.
ALARM = 10.0
# Bands of the nearest place: enter at most, leave beyond, in studs.
AT, NEAR, FAR = 1, 2, 3
AT_ENTER, AT_LEAVE = 5.0, 6.0
NEAR_ENTER, NEAR_LEAVE = 30.0, 33.0
# Another place must be nearer by this to become the nearest.
PLACE_BAND = 3.0
FOREVER = 1 << 62  # fighting_until of those who fight now
# What games call fighting, in lower case.
COMBAT_ACTIONS = frozenset({"combat", "fighting", "fight", "attacking", "attack"})
COMBAT_EVENTS = frozenset({"combat", "attack", "damage", "hit", "killed"})


@dataclass(frozen=True, slots=True)
class Situation:
    """tens: 0..100 or -1; alarm: percent at the last alarm, NaN unknown; fighting_until: monotonic ms, 0
    not fighting; place: row of the roster's positions or -1; band: AT, NEAR, FAR or 0. `roster` is the
    version that places mean."""

    tens: Small
    alarm: Floats32
    fighting_until: Longs
    place: Places
    band: Small
    roster: int


@dataclass(frozen=True, slots=True)
class Shift:
    """Which rows changed how (masks over N); `alarmed` is death or a fall of a tenth of the maximum."""

    tens: Mask
    alarmed: Mask
    combat: Mask
    place: Mask


def nobody() -> Situation:
    """No entities."""
    return Situation(
        np.zeros(0, np.int8),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        np.zeros(0, np.int32),
        np.zeros(0, np.int8),
        0,
    )


def settle(
    old: Situation,
    merge: Merge,
    roster: Roster,
    fighting: Mask,
    struck: Mask,
    tick: int,
    linger_ms: int,
) -> tuple[Situation, Shift]:
    """The situation of the merged rows; `fighting` marks those who fight now, `struck` those in an event of
    combat.
    """
    plan, columns = merge.plan, merge.columns
    if plan.same:
        before = old
    else:
        before = Situation(
            _carried(old.tens, plan, UNKNOWN),
            _carried(old.alarm, plan, np.nan),
            _carried(old.fighting_until, plan, 0),
            _carried(old.place, plan, UNKNOWN),
            _carried(old.band, plan, 0),
            old.roster,
        )
    tens, alarm, alarmed = before.tens, before.alarm, np.zeros(len(columns), np.bool_)
    hurt = np.flatnonzero(merge.hurt if plan.same else merge.hurt | (plan.old < 0))
    if len(hurt):
        tens, alarm = _healths(before, columns.vitals, hurt.tolist(), alarmed)
    until, combat = _combat(before.fighting_until, fighting, struck, tick, linger_ms)
    place, band = before.place, before.band
    if np.count_nonzero(merge.moved) or not plan.same or old.roster != roster.version:
        place, band = _places(before, columns, roster)
    return (
        Situation(tens, alarm, until, place, band, roster.version),
        Shift(tens != before.tens, alarmed, combat, (place != before.place) | (band != before.band)),
    )


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


def _distances(xyz: Floats32, places: Floats) -> Floats:
    """(3, N) and (L, 3) -> (N, L) studs."""
    away: Floats = np.subtract.outer(xyz[0], places[:, 0])
    away *= away
    for axis in (1, 2):
        step = np.subtract.outer(xyz[axis], places[:, axis])
        step *= step
        away += step
    return np.sqrt(away, out=away)


def _places(before: Situation, columns: Columns, roster: Roster) -> tuple[Places, Small]:
    """Nearest place of every NPC with a position, and its band, both sticky."""
    place = np.full(len(columns), UNKNOWN, np.int32)
    band = np.zeros(len(columns), np.int8)
    if not len(roster.positions):
        return place, band
    rows = np.flatnonzero((columns.kinds == NPC) & (columns.xyz[0] == columns.xyz[0]))
    if not len(rows):
        return place, band
    away = _distances(columns.xyz[:, rows], roster.positions)
    nearest = away.argmin(axis=1)
    every = np.arange(len(rows))
    distance = away[every, nearest]
    was = before.place[rows] if before.roster == roster.version else np.full(len(rows), UNKNOWN)
    kept = (was >= 0) & (away[every, was] - distance < PLACE_BAND)
    chosen = np.where(kept, was, nearest)
    distance = away[every, chosen]
    band_was = np.where(kept, before.band[rows], 0)
    at = (distance <= AT_ENTER) | ((distance <= AT_LEAVE) & (band_was == AT))
    near = (distance <= NEAR_ENTER) | ((distance <= NEAR_LEAVE) & (band_was > 0) & (band_was < FAR))
    place[rows] = chosen
    band[rows] = np.where(at, AT, np.where(near, NEAR, FAR))
    return place, band
