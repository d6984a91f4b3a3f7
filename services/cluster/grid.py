"""The pure-Python method:

a grid of cells in a dict. Used until compiled code is ready, or where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, isfinite

# The same guards as the compiled grid: see kernels.py.
CELL_SLACK = 1.001
MAX_CELL = float(2**40)
FORWARD = ((0, 1), (1, -1), (1, 0), (1, 1))  # half of the eight neighbours: the other half look at us


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = i = parent[parent[i]]
    return i


def _unite(parent: list[int], a: int, b: int) -> None:
    a, b = _root(parent, a), _root(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


def world_components(
    x: list[float],
    y: list[float],
    z: list[float],
    before: list[int],
    links: Iterable[tuple[int, int]],
    join: float,
    leave: float,
    weight: float,
) -> list[int]:
    """Label each row of one world with the smallest row of its component.

    Arguments as in `proximity.Batch`.
    """
    parent = list(range(len(x)))
    for a, b in links:
        _unite(parent, a, b)
    scaled = [value * weight for value in y]
    join2, leave2 = join * join, leave * leave
    side = (leave if any(lineage >= 0 for lineage in before) else join) * CELL_SLACK
    cells = _cells(x, scaled, z, side)

    def compare(i: int, others: list[int]) -> None:
        xi, yi, zi = x[i], scaled[i], z[i]
        for j in others:
            dx, dz, dy = xi - x[j], zi - z[j], yi - scaled[j]
            d2 = dx * dx + dz * dz + dy * dy
            if d2 <= join2 or (d2 <= leave2 and before[i] == before[j] >= 0):
                _unite(parent, i, j)

    for (cx, cz), members in cells.items():
        for k, i in enumerate(members):
            compare(i, members[k + 1 :])
        for dx, dz in FORWARD:
            neighbours = cells.get((cx + dx, cz + dz))
            if neighbours is not None:
                for i in members:
                    compare(i, neighbours)
    return [_root(parent, i) for i in range(len(x))]


def _cells(x: list[float], y: list[float], z: list[float], side: float) -> dict[tuple[int, int], list[int]]:
    cells: dict[tuple[int, int], list[int]] = {}
    for i in range(len(x)):
        if isfinite(x[i]) and isfinite(y[i]) and isfinite(z[i]):
            cell = (_cell(x[i], side), _cell(z[i], side))
            cells.setdefault(cell, []).append(i)
    return cells


def _cell(value: float, side: float) -> int:
    return floor(min(max(value / side, -MAX_CELL), MAX_CELL))
