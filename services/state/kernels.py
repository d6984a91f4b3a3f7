"""The numbers of a revision, compiled: merging rows, what may be said of them, who must be told.

Numeric functions over flat arrays of one world. Importing this module imports numba (half a second) and
compiles, or loads what an earlier start compiled, so only `compiled.py` does it and never on the request
path. Each does exactly what the numpy of its noun does (`columns`, `place` and `situation`, `change`),
arithmetic and rounding included, in one call instead of dozens: tests hold the two equal. `rows_*` name
the source row of each result row, -1 for none.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from services.state.bands import (
    ALARM,
    AT,
    AT_ENTER,
    AT_LEAVE,
    FAR,
    HEALTH_BAND,
    NEAR,
    NEAR_ENTER,
    NEAR_LEAVE,
    NPC,
    PLACE_BAND,
    PLAYER,
    UNKNOWN,
)
from services.state.causes import ALARMED, EVENTS, GROUP, HIGH, MEDIUM, PLACE, STATUS, TENS

# The disk cache is on when a directory was found for it (see compiled.py): numba refuses to start otherwise.
_CACHE = bool(numba.config.CACHE_DIR)  # type: ignore[attr-defined]  # made at run time

MOVED, HURT = 1, 2


def _of(kind: Any, dimensions: int = 1) -> Any:
    """The type of an input array: contiguous, perhaps read-only (a view of a message or of a stored blob)."""
    return numba.types.Array(kind, dimensions, "C", readonly=True)


_F4, _F8, _I1, _I4, _I8, _U1, _U2 = (
    numba.float32, numba.float64, numba.int8, numba.int32, numba.int64, numba.uint8, numba.uint16,
)  # fmt: skip


@numba.njit(
    numba.int64(
        _of(_F4, 2), _of(_F4, 2), _of(_F8), _of(_F4, 2), _of(_F4, 2), _of(_F8), _of(_I4), _of(_I4), _F4,
        _F4[:, ::1], _F4[:, ::1], _F8[::1], numba.bool_[::1], numba.bool_[::1],
    ),
    cache=_CACHE,
)  # fmt: skip
def merge(  # type: ignore[no-untyped-def]  # compiled: the signature is above
    old_xyz, old_vitals, old_seen, sent_xyz, sent_vitals, sent_seen, rows_old, rows_sent, near,
    xyz, vitals, seen, moved, hurt,
):  # fmt: skip
    """Fill positions, vitals, last_seen and the masks `moved` and `hurt`; answer MOVED | HURT, each if any.

    near: the square of the distance below which movement is none.
    """
    unknown = np.float32(np.nan)
    flags = 0
    for row in range(rows_old.shape[0]):
        o = rows_old[row]
        s = rows_sent[row]
        square = np.float32(0.0)
        for axis in range(3):
            before = old_xyz[axis, o] if o >= 0 else unknown
            now = sent_xyz[axis, s] if s >= 0 else unknown
            step = now - before
            square += step * step
        x = sent_xyz[0, s] if s >= 0 else unknown
        moves = x == x and not square < near  # NaN: no old position is far away
        moved[row] = moves
        for axis in range(3):
            if moves:
                xyz[axis, row] = sent_xyz[axis, s]
            else:
                xyz[axis, row] = old_xyz[axis, o] if o >= 0 else unknown
        hurts = False
        for field in range(2):
            before = old_vitals[field, o] if o >= 0 else unknown
            now = sent_vitals[field, s] if s >= 0 else unknown
            if now == now and now != before:
                hurts = True
                before = now
            vitals[field, row] = before
        hurt[row] = hurts
        last = sent_seen[s] if s >= 0 else np.nan
        if last != last and o >= 0:
            last = old_seen[o]
        seen[row] = last
        if moves:
            flags |= MOVED
        if hurts:
            flags |= HURT
    return flags


@numba.njit(
    numba.bool_(_of(_F4, 2), _of(_F4, 2), _of(_F8), _F8, _F8),
    cache=_CACHE,
)
def sound(xyz, vitals, last_seen, clock, stale_after):  # type: ignore[no-untyped-def]  # compiled
    """Whether `snapshot.sift` has nothing to refuse in these: no infinity, no half position, nobody stale.

    clock: a last_seen at or beyond it is nonsense.
    """
    newest = -np.inf
    oldest = np.inf
    for row in range(last_seen.shape[0]):
        known = 0
        for axis in range(3):
            if math.isinf(xyz[axis, row]):
                return False
            known += xyz[axis, row] == xyz[axis, row]
        if known != 0 and known != 3:
            return False
        if math.isinf(vitals[0, row]) or math.isinf(vitals[1, row]):
            return False
        if last_seen[row] < clock:
            newest = max(newest, last_seen[row])
        if last_seen[row] == last_seen[row]:
            oldest = min(oldest, last_seen[row])
    return not oldest < newest - stale_after


@numba.njit
def _percent(health, most):  # type: ignore[no-untyped-def]  # compiled: see situation.percent
    share = health / (most if most > 0.0 else 100.0) * 100.0
    return share if share != share else min(max(share, 0.0), 100.0)


@numba.njit
def _band(distance, before):  # type: ignore[no-untyped-def]  # compiled: see place._bands
    if distance <= AT_ENTER or (distance <= AT_LEAVE and before == AT):
        return AT
    if distance <= NEAR_ENTER or (distance <= NEAR_LEAVE and 0 < before < FAR):
        return NEAR
    return FAR


@numba.njit
def _stand(x, y, z, positions, was, was_band):  # type: ignore[no-untyped-def]  # compiled: see place._measured
    nearest = 0
    least = np.inf
    away = np.inf
    for p in range(positions.shape[0]):
        dx = x - positions[p, 0]
        dy = y - positions[p, 1]
        dz = z - positions[p, 2]
        distance = math.sqrt(dx * dx + dy * dy + dz * dz)
        if distance < least:
            nearest = p
            least = distance
        if p == was:
            away = distance
    if was >= 0 and away - least < PLACE_BAND:
        return was, _band(away, was_band)
    return nearest, _band(least, 0)


@numba.njit(
    numba.int64(
        _of(_F4, 2), _of(_F4, 2), _of(_U1), _of(_I4), _of(numba.bool_), _of(numba.bool_), _of(_F8, 2), numba.bool_,
        _of(_I1), _of(_F4), _of(_I4), _of(_I1), _I1[::1], _F4[::1], _I4[::1], _I1[::1], _U2[::1],
    ),
    cache=_CACHE,
)  # fmt: skip
def situate(  # type: ignore[no-untyped-def]  # compiled: the signature is above
    xyz, vitals, kinds, rows_old, moved, hurt, positions, surveyed,
    old_tens, old_alarm, old_place, old_band, tens, alarm, place, band, cause,
):  # fmt: skip
    """Fill health in tens, alarms, places and bands, add the causes to `cause`, and answer all of them.

    surveyed: the places are those of last time; else everybody is measured anew.
    """
    told = 0
    for row in range(rows_old.shape[0]):
        o = rows_old[row]
        shown = np.int64(old_tens[o]) if o >= 0 else np.int64(UNKNOWN)
        last = np.float64(old_alarm[o]) if o >= 0 else np.nan
        why = 0
        tens[row] = shown
        alarm[row] = last
        if hurt[row] or o < 0:
            exact = _percent(np.float64(vitals[0, row]), np.float64(vitals[1, row]))
            if exact == exact:
                if not (shown > 0 and exact > 0.0 and abs(exact - shown) <= HEALTH_BAND):
                    tens[row] = max(10, int(np.rint(exact / 10.0)) * 10) if exact > 0.0 else 0
                    if tens[row] != shown:
                        why |= TENS
                alarmed = exact <= 0.0 < shown or last - exact >= ALARM
                if alarmed:
                    why |= ALARMED
                if alarmed or not last >= exact:
                    alarm[row] = exact
        was = np.int64(old_place[o]) if o >= 0 and surveyed else np.int64(UNKNOWN)
        was_band = np.int64(old_band[o]) if o >= 0 and surveyed else np.int64(0)
        now, now_band = was, was_band
        measured = moved[row] if surveyed else xyz[0, row] == xyz[0, row]
        if measured and kinds[row] == NPC and positions.shape[0] > 0:
            now, now_band = _stand(
                np.float64(xyz[0, row]), np.float64(xyz[1, row]), np.float64(xyz[2, row]), positions, was, was_band
            )
        place[row] = now
        band[row] = now_band
        if o >= 0:
            if now != old_place[o] or now_band != old_band[o]:
                why |= PLACE
        elif now != UNKNOWN or now_band != 0:
            why |= PLACE
        cause[row] |= why
        told |= why
    return told


@numba.njit(
    numba.int64(
        _of(_U2), _of(_U1), _of(_I4), _of(_I4), numba.int64, numba.int64,
        _of(_I8), _of(_I8), _of(_I8), _I8[::1], _I8[::1], _I8[::1], _I4[::1], _I1[::1], numba.bool_[::1],
    ),
    cache=_CACHE,
)  # fmt: skip
def mark(  # type: ignore[no-untyped-def]  # compiled: the signature is above
    cause, kinds, of, rows_old, lineages, revision,
    old_status, old_group, old_events, status, group, events, rows, lanes, heard,
):  # fmt: skip
    """Fill the revisions at which each text could last have changed; list the NPCs to tell, and count them.

    rows: the told ones; lanes: 1 (high) to 3; heard: a player is in the row's lineage.
    """
    audible = np.zeros(lineages + 1, np.bool_)
    for row in range(of.shape[0]):
        if kinds[row] == PLAYER and of[row] >= 0:
            audible[of[row]] = True
    told = 0
    for row in range(of.shape[0]):
        why = cause[row]
        o = rows_old[row]
        new = o < 0
        status[row] = revision if new or why & STATUS else old_status[o]
        group[row] = revision if new or why & GROUP else old_group[o]
        events[row] = revision if new or why & EVENTS else old_events[o]
        if why and kinds[row] == NPC:
            rows[told] = row
            lanes[told] = 1 if why & HIGH else 2 if why & MEDIUM else 3
            heard[told] = of[row] >= 0 and audible[of[row]]
            told += 1
    return told


@numba.njit(
    numba.void(
        _of(_I4), _of(_I4), _of(_I4), _of(_I4), _of(_I8), _of(_I8), numba.int64, numba.int64, _I8[::1], _I8[::1],
    ),
    cache=_CACHE,
)  # fmt: skip
def carry(  # type: ignore[no-untyped-def]  # compiled: the signature is above
    old_of, rows_old, became, of, old_revision, old_ms, revision, at_ms, since_revision, since_ms
):
    """Fill since when each row is in its lineage. became: old lineage -> its number now, -2 when it ended."""
    for row in range(of.shape[0]):
        o = rows_old[row]
        was = became[old_of[o]] if o >= 0 and old_of[o] >= 0 else -2
        stayed = was >= 0 and was == of[row]
        since_revision[row] = old_revision[o] if stayed else revision
        since_ms[row] = old_ms[o] if stayed else at_ms
