"""The few statistics that the benches need. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); NaN of none.

    ordered: ascending. share: 0..1.
    """
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value, the mean of the two middle ones; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of y over x. Raises ValueError when all x are equal or there are none."""
    if not points:
        raise ValueError("no points")
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        raise ValueError("all x are equal")
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def growth(small: tuple[int, float], large: tuple[int, float]) -> float:
    """How a cost grew against n log n: 1 = just so, less = slower. Each argument is (n, cost)."""
    (n, cost), (more, dearer) = small, large
    return (dearer / cost) / (more * math.log(more) / (n * math.log(n)))
