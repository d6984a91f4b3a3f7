"""Where NPCs stand: the nearest known place and a band of distance, both sticky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.state.bands import (
    AT,
    AT_ENTER,
    AT_LEAVE,
    FAR,
    NEAR,
    NEAR_ENTER,
    NEAR_LEAVE,
    NPC,
    PLACE_BAND,
    UNKNOWN,
)
from services.state.columns import Columns, Floats, Floats32, Mask, Plan
from services.state.roster import Roster

Small = npt.NDArray[np.int8]
Places = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Standing:
    """Over N rows: place, a row of the roster's positions or -1; band, AT, NEAR, FAR or 0.

    `roster`: its version.
    """

    place: Places
    band: Small
    roster: int


def nowhere(count: int = 0, roster: int = 0) -> Standing:
    """Nothing measured yet."""
    return Standing(np.full(count, UNKNOWN, np.int32), np.zeros(count, np.int8), roster)


def carried(old: Standing, plan: Plan) -> Standing:
    """The rows of the old columns in the order of the new ones."""
    if plan.same:
        return old
    fresh = nowhere(len(plan.old), old.roster)
    if not len(old.place):
        return fresh
    known = plan.old >= 0

    def moved(values: Any, unknown: Any) -> Any:
        return np.where(known, values[plan.old], unknown)

    return Standing(moved(old.place, fresh.place), moved(old.band, fresh.band), old.roster)


def settle(before: Standing, columns: Columns, moved: Mask, roster: Roster) -> Standing:
    """Measure who moved, and everybody after the roster changed. Players stand nowhere."""
    if before.roster != roster.version:
        before = nowhere(len(columns), roster.version)
        moved = columns.xyz[0] == columns.xyz[0]
    if not len(roster.positions):
        return before
    rows = np.flatnonzero(moved & (columns.kinds == NPC))
    return _measured(before, columns.xyz[:, rows], roster.positions, rows) if len(rows) else before


def _measured(before: Standing, xyz: Floats32, positions: Floats, rows: npt.NDArray[np.intp]) -> Standing:
    away = _distances(xyz, positions)
    every = np.arange(len(rows))
    nearest = away.argmin(axis=1)
    was = before.place[rows]
    kept = (was >= 0) & (away[every, was] - away[every, nearest] < PLACE_BAND)
    chosen = np.where(kept, was, nearest)
    place, band = before.place.copy(), before.band.copy()
    place[rows] = chosen
    band[rows] = _bands(away[every, chosen], np.where(kept, before.band[rows], 0))
    return Standing(place, band, before.roster)


def _bands(distance: Floats, before: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    at: Mask = (distance <= AT_ENTER) | ((distance <= AT_LEAVE) & (before == AT))
    near: Mask = (distance <= NEAR_ENTER) | ((distance <= NEAR_LEAVE) & (before > 0) & (before < FAR))
    return np.where(at, AT, np.where(near, NEAR, FAR)).astype(np.int8)


def _distances(xyz: Floats32, positions: Floats) -> Floats:
    """(3, N) and (L, 3) -> (N, L) studs."""
    away: Floats = np.subtract.outer(xyz[0], positions[:, 0])
    away *= away
    for axis in (1, 2):
        step = np.subtract.outer(xyz[axis], positions[:, axis])
        step *= step
        away += step
    return np.sqrt(away, out=away)
