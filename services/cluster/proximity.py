"""Who is linked to whom: connected components of the earshot graph, for many worlds in one call.

Two entities of a world are linked when their distance is at most `join`, or at most `leave` when they
shared a lineage at the previous revision, or when a link pairs them. Distance is sqrt(dx^2 + dz^2 + (weight
* dy)^2) in studs. An entity without a position (NaN) takes part only through links. Requirement B1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.cluster.grid import world_components

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]

MAX_ENTITIES = 1 << 30  # rows are int32


class MalformedBatch(ValueError):
    """The columns of a batch do not fit together."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Worlds laid end to end: world w owns rows offsets[w] to offsets[w+1] and links link_offsets[w] to
    [w+1].

    `before` numbers the lineage a row belonged to at the previous revision, within its world, -1 for none;
    `link_a` and `link_b` are rows counted within their world. Raises MalformedBatch when columns disagree.
    """

    offsets: Offsets
    x: Floats
    y: Floats
    z: Floats
    before: Rows
    link_offsets: Offsets
    link_a: Rows
    link_b: Rows
    join: Floats
    leave: Floats
    weight: Floats

    def __post_init__(self) -> None:
        rows, worlds = len(self.x), len(self.join)
        if not (len(self.y) == len(self.z) == len(self.before) == rows <= MAX_ENTITIES):
            raise MalformedBatch("x, y, z and the previous lineages differ in length")
        if not (len(self.leave) == len(self.weight) == worlds):
            raise MalformedBatch("a world lacks its distances")
        if len(self.link_a) != len(self.link_b):
            raise MalformedBatch("a link lacks an end")
        _check_offsets(self.offsets, worlds, rows)
        _check_offsets(self.link_offsets, worlds, len(self.link_a))
        if len(self.link_a):
            size = np.repeat(np.diff(self.offsets), np.diff(self.link_offsets))
            if (
                min(self.link_a.min(), self.link_b.min()) < 0
                or (self.link_a >= size).any()
                or (self.link_b >= size).any()
            ):
                raise MalformedBatch("a link names a row outside its world")
        for join, leave, weight in zip(self.join.tolist(), self.leave.tolist(), self.weight.tolist(), strict=True):
            if not (0.0 < join <= leave < 1e9 and 0.0 <= weight < 1e9):
                raise MalformedBatch("distances must satisfy 0 < join <= leave and weight >= 0")

    @property
    def columns(self) -> tuple[Any, ...]:
        """Every column, in the order in which the kernels take them."""
        return (
            self.offsets,
            self.x,
            self.y,
            self.z,
            self.before,
            self.link_offsets,
            self.link_a,
            self.link_b,
            self.join,
            self.leave,
            self.weight,
        )


def _check_offsets(offsets: Offsets, worlds: int, total: int) -> None:
    if len(offsets) != worlds + 1 or offsets[0] != 0 or offsets[-1] != total:
        raise MalformedBatch("offsets do not cover the rows")
    if worlds > 1 and (np.diff(offsets) < 0).any():
        raise MalformedBatch("offsets decrease")


Method = Callable[[Batch], Rows]
"""Batch -> label of each row: the smallest row, within its world, of its component."""


def components_in_python(batch: Batch) -> Rows:
    """The method for a process without compiled code (yet):

    a dict grid per world, about 150 us for 80 entities.
    """
    label: list[int] = []
    offsets, links = batch.offsets.tolist(), batch.link_offsets.tolist()
    for w, (join, leave, weight) in enumerate(
        zip(batch.join.tolist(), batch.leave.tolist(), batch.weight.tolist(), strict=True)
    ):
        rows, pairs = slice(offsets[w], offsets[w + 1]), slice(links[w], links[w + 1])
        label += world_components(
            batch.x[rows].tolist(),
            batch.y[rows].tolist(),
            batch.z[rows].tolist(),
            batch.before[rows].tolist(),
            zip(batch.link_a[pairs].tolist(), batch.link_b[pairs].tolist(), strict=True),
            join,
            leave,
            weight,
        )
    return np.array(label, dtype=np.int32)
