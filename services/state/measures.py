"""What the room tells of its worlds when somebody asks, and how the game's own groups compare with clusters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from services.common.telemetry import Metrics
from services.state.document import Document
from services.state.world import World
from services.state.worlds import Worlds

# Worlds whose positions are looked at for one answer; the next one goes on behind them.
LOOKED_AT = 256


def describe(metrics: Metrics, worlds: Worlds) -> None:
    """Gauges that are counted at the scrape: they cost no snapshot anything."""
    place = 0

    def unplaced() -> float:
        nonlocal place
        found = list(islice(worlds, place, place + LOOKED_AT))
        place = place + LOOKED_AT if len(found) == LOOKED_AT else 0
        return unplaced_ratio(found)

    metrics.worlds.set_function(lambda: len(worlds))
    metrics.entities.set_function(lambda: sum(len(world.document.columns) for world in worlds))
    metrics.clusters.set_function(lambda: sum(len(world.document.membership.lineages) for world in worlds))
    metrics.unplaced_ratio.set_function(unplaced)


def unplaced_ratio(worlds: Iterable[World]) -> float:
    """Share of cluster members whose position is not known (A5); 0 where there are no members."""
    members = unplaced = 0
    for world in worlds:
        within = world.document.membership.of >= 0
        members += int(within.sum())
        unplaced += int(np.isnan(world.document.columns.xyz[0, within]).sum())
    return unplaced / members if members else 0.0


def agreement(groups: Iterable[Sequence[str]], document: Document) -> tuple[int, int]:
    """(pairs of the game's own groups that are within earshot, pairs that are not); those who are not here do not
    count. Each member is compared with the first of its group.
    """
    index, of = document.columns.index, document.membership.of
    same = other = 0
    for group in groups:
        rows = [row for row in map(index.get, group) if row is not None]
        for row in rows[1:]:
            if of[row] >= 0 and of[row] == of[rows[0]]:
                same += 1
            else:
                other += 1
    return same, other
