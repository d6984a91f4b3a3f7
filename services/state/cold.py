"""What a game says about its entities and no rule reads: one JSON array a column, kept as it came.

Nothing is parsed or split until somebody asks, so a snapshot that repeats a column costs one comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]

UNKNOWN = b"{}"
_decode = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True, eq=False)
class Cold:
    """A JSON array of objects, b"" when nothing is known. order: each row's place in it; None: as they stand."""

    text: bytes = b""
    order: Rows | None = None

    def same(self, other: Cold) -> bool:
        """Whether both say the same; false where only a look at every row could tell."""
        return self.text == other.text and (
            self.order is other.order
            or (self.order is not None and other.order is not None and np.array_equal(self.order, other.order))
        )

    def rows(self, count: int) -> list[bytes]:
        """Every row's object, b"{}" for nothing. A text that is no array of so many values says nothing."""
        if not self.text:
            return [UNKNOWN] * count
        try:
            found = [bytes(one) for one in _decode(self.text)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [UNKNOWN] * count
        if len(found) != count:
            return [UNKNOWN] * count
        return found if self.order is None else [found[place] for place in self.order.tolist()]

    def in_order(self, count: int) -> bytes:
        """The array with its rows as they stand."""
        return self.text if self.order is None else of(self.rows(count)).text


NOTHING = Cold()


def of(rows: Iterable[bytes]) -> Cold:
    """A column of these objects."""
    kept = [row or UNKNOWN for row in rows]
    return Cold(b"[" + b",".join(kept) + b"]") if any(row != UNKNOWN for row in kept) else NOTHING


def gathered(cold: Cold, count: int, rows: Rows) -> Cold:
    """The column in the order of `rows`; -1 becomes nothing."""
    if not cold.text:
        return NOTHING
    values = cold.rows(count)
    return of(UNKNOWN if row < 0 else values[row] for row in rows.tolist())


def merged(before: Cold, now: Cold, count: int) -> Cold:
    """Two columns of the same `count` rows: what is new, and where it says nothing what was there."""
    if not before.text:
        return now
    if not now.text:
        return before
    if UNKNOWN not in now.text:
        return before if before.same(now) else now
    old, new = before.rows(count), now.rows(count)
    return of(fresh if fresh != UNKNOWN else was for was, fresh in zip(old, new, strict=True))
