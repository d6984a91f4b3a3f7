"""The entities of a world as columns, and how rows that the game sends are merged into them.

Rows are sorted by id, so the same set of entities gives the same columns however it was sent. Numeric
columns are arrays, unknown is NaN; text columns are tuples, unknown is "". Nothing here changes in place: a
revision shares every column that did not change with the one before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from services.state import cold, compiled
from services.state.bands import PLAYER
from services.state.cold import NOTHING, Cold

Floats32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Text = TypeVar("Text", str, bytes)


class Columns(Struct, frozen=True):
    """N entities: xyz (3, N) studs, vitals (2, N) health and maximum, last_seen (N) unix seconds of the
    game.
    """

    ids: tuple[str, ...]
    index: Mapping[str, int]
    names: tuple[str, ...]
    kinds: Bytes
    xyz: Floats32
    vitals: Floats32
    actions: tuple[str, ...]
    locations: tuple[str, ...]
    last_seen: Floats
    looks: Cold = NOTHING  # what text speaks of
    details: Cold = NOTHING

    def __len__(self) -> int:
        return len(self.ids)


class Sent(Struct, frozen=True):
    """Rows as the game sent them: any order, unique ids; an empty text column and NaN mean not known."""

    ids: tuple[str, ...]
    names: Sequence[str]
    kinds: Bytes
    xyz: Floats32
    vitals: Floats32
    actions: Sequence[str]
    locations: Sequence[str]
    last_seen: Floats
    looks: Cold = NOTHING
    details: Cold = NOTHING


class Plan(Struct, frozen=True):
    """Where each row of the result comes from: its row in the old columns and among the sent ones, or -1."""

    ids: tuple[str, ...]
    index: Mapping[str, int]
    sent_ids: tuple[str, ...]
    old: Rows
    sent: Rows
    gone: tuple[int, ...]
    same: bool  # the set of entities is the old one
    straight: bool  # sent rows are the result's rows, in order
    complete: bool  # every row of the result was sent
    kept: bool = False  # this is a steady plan already
    picks: Callable[[Sequence[Any]], tuple[Any, ...]] | None = None  # of a complete plan: a sent column's rows in order

    def steady(self) -> Plan:
        """The plan of the next snapshot that names the same entities in the same order; only of a complete
        plan.
        """
        if self.same and self.kept:
            return self
        order = np.argsort(self.sent).tolist()
        return replace(
            self,
            sent_ids=tuple([self.ids[row] for row in order]),  # the same strings once, not twice
            old=np.arange(len(self.ids), dtype=np.int32),
            gone=(),
            same=True,
            kept=True,
            picks=itemgetter(*self.sent.tolist()) if len(self.sent) > 1 else None,  # of one it gives no tuple
        )


class Merge(Struct, frozen=True):
    """The merged columns and which rows changed how (masks over the new rows)."""

    columns: Columns
    plan: Plan
    moved: Mask
    hurt: Mask  # health or its maximum changed


def empty() -> Columns:
    """No entities."""
    none = np.zeros(0, np.uint8)
    return Columns((), {}, (), none, np.zeros((3, 0), np.float32), np.zeros((2, 0), np.float32), (), (), np.zeros(0))


def nothing() -> Sent:
    """No rows."""
    return Sent(
        (),
        (),
        np.zeros(0, np.uint8),
        np.zeros((3, 0), np.float32),
        np.zeros((2, 0), np.float32),
        (),
        (),
        np.zeros(0),
    )


def plan(old: Columns, sent: tuple[str, ...], *, full: bool, left: Collection[str], kept: Collection[str]) -> Plan:
    """Which entities there are: a full snapshot keeps those it names and `kept`, a delta all but `left`."""
    if full:
        wanted = set(sent)
        wanted.update(entity for entity in kept if entity in old.index)
    else:
        wanted = set(old.index).union(sent).difference(left)
    sent_row = {entity: row for row, entity in enumerate(sent)}
    same = len(wanted) == len(old.ids) and wanted.issuperset(old.ids)
    if same:
        ids, index = old.ids, old.index
        old_rows = np.arange(len(ids), dtype=np.int32)
        gone: tuple[int, ...] = ()
    else:
        ids = tuple(sorted(wanted))
        index = {entity: row for row, entity in enumerate(ids)}
        old_rows = np.array([old.index.get(entity, -1) for entity in ids], np.int32)
        gone = tuple(row for row, entity in enumerate(old.ids) if entity not in wanted)
    sent_rows = np.array([sent_row.get(entity, -1) for entity in ids], np.int32)
    complete = len(sent) == len(ids)
    return Plan(ids, index, sent, old_rows, sent_rows, gone, same, complete and sent == ids, complete)


def merge(old: Columns, sent: Sent, how: Plan, threshold: float) -> Merge:
    """Merge sent rows into the old columns.

    What was not sent stays; movement below `threshold` studs is none (A2).
    """
    xyz, vitals, last_seen, moved, hurt = (
        _numbers(old, sent, how, threshold)
        if compiled.kernels is None
        else _compiled_numbers(compiled.kernels, old, sent, how, threshold)
    )
    columns = Columns(
        ids=how.ids,
        index=how.index,
        names=_text(old.names, sent.names, how, ""),
        kinds=_kinds(old.kinds if how.same else _gather(old.kinds, how.old), _sent(sent.kinds, how)),
        xyz=xyz,
        vitals=vitals,
        actions=_interned(old.actions, _text(old.actions, sent.actions, how, "")),
        locations=_interned(old.locations, _text(old.locations, sent.locations, how, "")),
        last_seen=last_seen,
        looks=_cold(old.looks, sent.looks, len(old), how),
        details=_cold(old.details, sent.details, len(old), how),
    )
    return Merge(columns, how, moved, hurt)


Numbers = tuple[Floats32, Floats32, Floats, Mask, Mask]


def _compiled_numbers(kernels: Any, old: Columns, sent: Sent, how: Plan, threshold: float) -> Numbers:
    """As `_numbers`, in one call."""
    count = len(how.ids)
    xyz, vitals, seen = np.empty((3, count), np.float32), np.empty((2, count), np.float32), np.empty(count)
    moved, hurt = np.empty(count, np.bool_), np.empty(count, np.bool_)
    any_of = kernels.merge(
        old.xyz, old.vitals, old.last_seen, np.ascontiguousarray(sent.xyz), np.ascontiguousarray(sent.vitals),
        sent.last_seen, how.old, how.sent, np.float32(threshold * threshold), xyz, vitals, seen, moved, hurt,
    )  # fmt: skip
    if how.same:  # share what did not change
        xyz = xyz if any_of & kernels.MOVED else old.xyz
        vitals = vitals if any_of & kernels.HURT else old.vitals
    return xyz, vitals, seen, moved, hurt


def _numbers(old: Columns, sent: Sent, how: Plan, threshold: float) -> Numbers:
    """(xyz, vitals, last_seen, moved, hurt) of the result."""
    before = old.xyz if how.same else _gather(old.xyz, how.old)
    now = _sent(sent.xyz, how)
    step = now - before
    step *= step
    near = step[0] + step[1] + step[2] < threshold * threshold  # false for NaN: no old position is far away
    moved: Mask = (now[0] == now[0]) & ~near
    xyz = np.where(moved, now, before) if np.count_nonzero(moved) else before

    vitals_before = old.vitals if how.same else _gather(old.vitals, how.old)
    vitals_now = _sent(sent.vitals, how)
    changed = (vitals_now != vitals_before) & (vitals_now == vitals_now)
    hurt: Mask = changed[0] | changed[1]
    vitals = np.where(changed, vitals_now, vitals_before) if np.count_nonzero(hurt) else vitals_before

    seen_now = _sent(sent.last_seen, how)
    known = seen_now == seen_now
    if np.count_nonzero(known) < len(known):
        seen_now = np.where(known, seen_now, old.last_seen if how.same else _gather(old.last_seen, how.old))
    return xyz, vitals, seen_now, moved, hurt


def _kinds(before: Bytes, now: Bytes) -> Bytes:
    """What was sent, else what was known, else a player: an NPC that nobody described has nothing to say."""
    if now.tobytes() == before.tobytes():
        return before
    kinds = np.where(now > 0, now, before)
    return np.where(kinds > 0, kinds, np.uint8(PLAYER))


def _cold(before: Cold, now: Cold, count: int, how: Plan) -> Cold:
    """The merged column; the old object itself when nothing in it changed."""
    old = before if how.same else cold.gathered(before, count, how.old)
    if not now.text:
        return old
    if how.straight:
        new = now
    elif how.complete and now.order is None:
        new = Cold(now.text, how.sent)
    else:
        new = cold.gathered(now, len(how.sent_ids), how.sent)
    return cold.merged(old, new, len(how.ids))


N = TypeVar("N", Floats32, Floats, Bytes)


def _sent(values: N, how: Plan) -> N:
    """Sent rows in the order of the result."""
    if how.straight:
        return values
    if how.complete:
        return values.take(how.sent, axis=-1)
    return _gather(values, how.sent)


def _gather(values: N, rows: Rows) -> N:
    """Columns of `values` in the order of `rows`; -1 becomes unknown."""
    unknown = 0 if values.dtype == np.uint8 else np.nan
    if values.shape[-1] == 0:
        return np.full((*values.shape[:-1], len(rows)), unknown, values.dtype)
    taken: N = values.take(rows, axis=-1)
    missing = rows < 0
    if np.count_nonzero(missing):
        taken[..., missing] = unknown
    return taken


def _text(old: tuple[Text, ...], sent: Sequence[Text], how: Plan, unknown: Text) -> tuple[Text, ...]:
    """The merged text column; the old object itself when nothing in it changed."""
    if not sent or not any(sent):
        return old if how.same else _picked(old, how.old, unknown)
    now = tuple(sent) if how.straight else how.picks(sent) if how.picks else _picked(sent, how.sent, unknown)
    if how.same and now == old:
        return old
    if all(now):
        return now
    before = old if how.same else _picked(old, how.old, unknown)
    merged = tuple([new or was for new, was in zip(now, before, strict=True)])
    return old if how.same and merged == old else merged


def _interned(old: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    """Few different words stand in these columns: keep each once."""
    return old if now is old else tuple(map(sys.intern, now))


def _picked(values: Sequence[Text], rows: Rows, unknown: Text) -> tuple[Text, ...]:
    return tuple([unknown if row < 0 else values[row] for row in rows.tolist()])


def row(sent: Sent, at: int) -> Sent:
    """One row alone."""

    def text(values: Sequence[Text]) -> Sequence[Text]:
        return values[at : at + 1]

    return Sent(
        sent.ids[at : at + 1], text(sent.names), sent.kinds[at : at + 1], sent.xyz[:, at : at + 1],
        sent.vitals[:, at : at + 1], text(sent.actions), text(sent.locations), sent.last_seen[at : at + 1],
        cold.of(sent.looks.rows(len(sent.ids))[at : at + 1]), cold.of(sent.details.rows(len(sent.ids))[at : at + 1]),
    )  # fmt: skip


def joined(first: Sent, others: Iterable[Sent]) -> Sent:
    """Rows one after another; the ids must differ."""
    parts = [first, *others]
    if len(parts) == 1:
        return first

    def text(name: str, unknown: Text) -> Sequence[Text]:
        columns = [(getattr(part, name), len(part.ids)) for part in parts]
        if not any(values for values, _ in columns):
            return ()
        return [value for values, count in columns for value in (values or [unknown] * count)]

    return Sent(
        tuple(entity for part in parts for entity in part.ids),
        text("names", ""),
        np.concatenate([part.kinds for part in parts]),
        np.concatenate([part.xyz for part in parts], axis=1),
        np.concatenate([part.vitals for part in parts], axis=1),
        text("actions", ""),
        text("locations", ""),
        np.concatenate([part.last_seen for part in parts]),
        cold.of(row for part in parts for row in part.looks.rows(len(part.ids))),
        cold.of(row for part in parts for row in part.details.rows(len(part.ids))),
    )
