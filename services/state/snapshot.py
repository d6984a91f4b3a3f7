"""What a game sends at one moment, checked: what can be used is kept, the rest is named, never by value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from services.state import cold, compiled
from services.state.cold import UNKNOWN, Cold
from services.state.columns import Mask, Sent
from services.state.event import Event

MAX_ID = 64
MAX_NAME = 200
MAX_TEXT = 200
MAX_DETAILS = 4096
# A lastSeen farther in the future than this is nonsense that must not make everybody else look stale.
CLOCK_SLACK_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A part of a request that was not applied: where it stood and why, never what it was."""

    path: str
    reason: str


class Snapshot(Struct, frozen=True):
    """One snapshot of a world, sifted.

    epoch and seq are 0 without a session; `kept` are entities whose row was refused: they stay as they were.
    copresent are pairs that the game itself groups, for those without a position; groups is all that it groups.
    """

    epoch: int
    seq: int
    delta: bool
    base_seq: int
    sent: Sent
    left: frozenset[str]
    kept: frozenset[str]
    copresent: tuple[tuple[str, str], ...]
    groups: tuple[tuple[str, ...], ...]
    events: tuple[Event, ...]
    refused: tuple[Refusal, ...]


class Sifted(Struct, frozen=True):
    """Usable rows; the ids whose rows were refused; the ids that the game itself has not seen for long."""

    sent: Sent
    refused_ids: frozenset[str]
    stale_ids: frozenset[str]
    refused: tuple[Refusal, ...]


def sift(
    sent: Sent, stale_after_s: float, now_s: float, path: str = "entities", *, known: tuple[str, ...] = ()
) -> Sifted:
    """Drop rows that cannot be used and blank fields that are too long.

    An entry that was last seen `stale_after_s` before the newest one is gone: the existing game never
    removes any. now_s: unix seconds, only to tell a game's clock from nonsense. known: ids that were found
    usable before.
    """
    refused: list[Refusal] = []
    sent = _bounded(sent, path, refused)
    if (sent.ids is known or _usable(sent.ids)) and _sound(sent, stale_after_s, now_s):
        return Sifted(sent, frozenset(), frozenset(), tuple(refused))
    sent = _without_infinities(sent, path, refused)
    drop = _unusable(sent, path, refused)
    refused_ids = frozenset(sent.ids[row] for row in np.flatnonzero(drop).tolist() if sent.ids[row])
    stale = _stale(sent, stale_after_s, now_s)
    if not np.count_nonzero(stale) and not np.count_nonzero(drop):
        return Sifted(sent, refused_ids, frozenset(), tuple(refused))
    stale_ids = frozenset(sent.ids[row] for row in np.flatnonzero(stale & ~drop).tolist())
    drop |= stale
    sent = take(sent, ~drop)
    return Sifted(sent, refused_ids - set(sent.ids), stale_ids - set(sent.ids), tuple(refused))


def take(sent: Sent, mask: Mask) -> Sent:
    """The rows of a mask."""
    rows = np.flatnonzero(mask).tolist()

    def text(values: Sequence[Any]) -> Sequence[Any]:
        return [values[row] for row in rows] if values else values

    return Sent(
        tuple(sent.ids[row] for row in rows), text(sent.names), sent.kinds[mask], sent.xyz[:, mask],
        sent.vitals[:, mask], text(sent.actions), text(sent.locations), sent.last_seen[mask],
        cold.of(text(sent.looks.rows(len(sent.ids)))), cold.of(text(sent.details.rows(len(sent.ids)))),
    )  # fmt: skip


def _usable(ids: tuple[str, ...]) -> bool:
    """No id is missing, too long or there twice."""
    return not ids or not (len(set(ids)) < len(ids) or "" in ids or max(map(len, ids)) > MAX_ID)


def _sound(sent: Sent, stale_after_s: float, now_s: float) -> bool:
    """Whether compiled code says at once that no number is to be refused and nobody is stale."""
    kernels = compiled.kernels
    return kernels is not None and bool(
        kernels.sound(
            np.ascontiguousarray(sent.xyz), np.ascontiguousarray(sent.vitals), sent.last_seen,
            now_s + CLOCK_SLACK_S, stale_after_s,
        )
    )  # fmt: skip


def _unusable(sent: Sent, path: str, refused: list[Refusal]) -> Mask:
    """Rows with a bad or repeated id or coordinates that are no position."""
    drop = np.zeros(len(sent.ids), np.bool_)
    ids = sent.ids
    if not _usable(ids):
        seen: set[str] = set()
        for row, entity in enumerate(sent.ids):
            reason = "DUPLICATE_ID" if entity in seen else "" if 0 < len(entity) <= MAX_ID else "BAD_ID"
            if reason:
                drop[row] = True
                refused.append(Refusal(f"{path}[{row}].id", reason))
            seen.add(entity)
    finite = np.isfinite(sent.xyz)
    if np.count_nonzero(finite) < finite.size:
        for row in np.flatnonzero(~finite.all(axis=0) & ~np.isnan(sent.xyz).all(axis=0)).tolist():
            axis = "xyz"[int(np.flatnonzero(~finite[:, row])[0])]
            drop[row] = True
            refused.append(Refusal(f"{path}[{row}].position.{axis}", "NOT_FINITE"))
    return drop


def _bounded(sent: Sent, path: str, refused: list[Refusal]) -> Sent:
    """Blank over-long texts and health that is no number, naming each."""
    for name, limit in (("names", MAX_NAME), ("actions", MAX_TEXT), ("locations", MAX_ID)):
        values: Sequence[str] = getattr(sent, name)
        if values and max(map(len, values)) > limit:
            refused += [
                Refusal(f"{path}[{row}].{name[:-1]}", "TOO_LONG") for row, v in enumerate(values) if len(v) > limit
            ]
            blanked: dict[str, Any] = {name: [v if len(v) <= limit else "" for v in values]}
            sent = replace(sent, **blanked)
    for name in ("looks", "details"):
        column: Cold = getattr(sent, name)
        if len(column.text) > len(sent.ids) * MAX_DETAILS:
            rows = column.rows(len(sent.ids))
            refused += [
                Refusal(f"{path}[{row}].{name}", "TOO_LONG") for row, v in enumerate(rows) if len(v) > MAX_DETAILS
            ]
            kept: dict[str, Any] = {name: cold.of(v if len(v) <= MAX_DETAILS else UNKNOWN for v in rows)}
            sent = replace(sent, **kept)
    return sent


def _without_infinities(sent: Sent, path: str, refused: list[Refusal]) -> Sent:
    """Blank health that is no number, naming each."""
    infinite = np.isinf(sent.vitals)
    if not np.count_nonzero(infinite):
        return sent
    for field, row in np.argwhere(infinite).tolist():
        refused.append(Refusal(f"{path}[{row}].{'max_health' if field else 'health'}", "NOT_FINITE"))
    return replace(sent, vitals=np.where(infinite, np.float32(np.nan), sent.vitals))


def _stale(sent: Sent, stale_after_s: float, now_s: float) -> Mask:
    known = sent.last_seen[sent.last_seen < now_s + CLOCK_SLACK_S]
    if not len(known):
        return np.zeros(len(sent.ids), np.bool_)
    stale: Mask = sent.last_seen < known.max() - stale_after_s
    return stale
