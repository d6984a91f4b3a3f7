"""One answer for many worlds: proximity first, then each world's lineages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from services.cluster.lineage import Ended, Evolution, Lineage, evolve
from services.cluster.proximity import Batch, Method


@dataclass(frozen=True, slots=True)
class Past:
    """Lineages of one world before the revision that comes (see `lineage.evolve`); rows of the living ones
    are `Batch.before`.
    """

    revision: int
    alive: Sequence[Lineage]
    ended: Iterable[Ended]


def assign(batch: Batch, pasts: Sequence[Past], method: Method) -> list[Evolution]:
    """Evolve every world of the batch. Deterministic: equal arguments give equal answers."""
    labels, before = method(batch).tolist(), batch.before.tolist()
    offsets = batch.offsets.tolist()
    return [
        evolve(
            labels[offsets[w] : offsets[w + 1]], before[offsets[w] : offsets[w + 1]], past.alive, past.ended,
            past.revision, name_of(past.revision),
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
    return np.array(list(accumulate(sizes, initial=0)), np.int64)
