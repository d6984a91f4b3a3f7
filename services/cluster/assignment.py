"""One answer for many worlds: proximity first, then each world's lineages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.cluster.lineage import Ended, Evolution, Lineage, evolve
from services.cluster.proximity import Batch, Method, Rows


@dataclass(frozen=True, slots=True)
class Past:
    """What one world was like at the previous revision, and the revision that comes (see `lineage.evolve`)."""

    revision: int
    before: Rows
    alive: Sequence[Lineage]
    ended: Sequence[Ended]


def assign(batch: Batch, pasts: Sequence[Past], method: Method) -> list[Evolution]:
    """Evolve every world of the batch. Deterministic: equal arguments give equal answers."""
    labels = method(batch).tolist()
    offsets = batch.offsets.tolist()
    return [
        evolve(
            labels[offsets[w] : offsets[w + 1]], past.before.tolist(), past.alive, past.ended, past.revision,
            name_of(past.revision),
        )
        for w, past in enumerate(pasts)
    ]  # fmt: skip


def name_of(revision: int) -> Callable[[int], str]:
    """Ids of lineages that form at a revision:

    unique in the world, because no revision is ever used twice.
    """
    return f"{revision}.{{}}".format


def layout(sizes: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Offsets of parts laid end to end: sizes (W) -> offsets (W+1)."""
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets
