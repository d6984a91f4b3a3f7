"""The compiled methods: brute force for small worlds, a grid for large ones.

Numeric functions over flat arrays. Importing this module imports numba (half a second) and compiles, or
loads what an earlier start compiled, so only `compiled.py` does it and never on the request path.
Arithmetic is IEEE double in the order `dx*dx + dz*dz + dy*dy`, without contraction, so that every method
gives the same answer.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# Where the grid starts to beat comparing every pair (measured on uniform worlds).
BRUTE_FORCE_LIMIT = 64
# A bucket of at most this many entities is searched without first asking whether it is already one piece.
SMALL_BUCKET = 12
# Cells are a little wider than the reach, so that rounding in x / cell never puts a linked pair two cells
# apart; indices are clamped so that absurd coordinates stay integers. The distance test itself is exact.
CELL_SLACK = 1.001
MAX_CELL = float(2**40)

# The disk cache is on when a directory was found for it (see compiled.py): numba refuses to start otherwise.
_CACHE = bool(numba.config.CACHE_DIR)  # type: ignore[attr-defined]  # made at run time
_COMPONENTS = (
    "void(int64[::1], float64[::1], float64[::1], float64[::1], int32[::1], int64[::1], int32[::1], "
    "int32[::1], float64[::1], float64[::1], float64[::1], int64, int32[::1])"
)

# The GIL is kept: a call for a world takes microseconds, and giving it up hands it to a thread that may
# keep it long.
_inner = numba.njit()


@_inner
def _root(parent, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@_inner
def _unite(parent, a, b):  # type: ignore[no-untyped-def]  # compiled
    """Join two pieces under the smaller index; say whether they were apart."""
    a = _root(parent, a)
    b = _root(parent, b)
    if a == b:
        return False
    if a < b:
        parent[b] = a
    else:
        parent[a] = b
    return True


@_inner
def _linked(x, y, z, before, i, j, join2, leave2):  # type: ignore[no-untyped-def]  # compiled
    dx = x[i] - x[j]
    dz = z[i] - z[j]
    dy = y[i] - y[j]
    d2 = dx * dx + dz * dz + dy * dy
    if d2 <= join2:
        return True
    return d2 <= leave2 and before[i] >= 0 and before[i] == before[j]


@_inner
def _brute_force(x, y, z, before, start, end, join2, leave2, parent):  # type: ignore[no-untyped-def]  # compiled
    for i in range(start, end):
        xi = x[i]
        yi = y[i]
        zi = z[i]
        for j in range(i + 1, end):
            dx = xi - x[j]
            dz = zi - z[j]
            dy = yi - y[j]
            d2 = dx * dx + dz * dz + dy * dy
            # NaN (no position) fails both comparisons.
            if d2 <= leave2 and (d2 <= join2 or (before[i] >= 0 and before[i] == before[j])):
                _unite(parent, i, j)


@_inner
def _cell(value, side):  # type: ignore[no-untyped-def]  # compiled
    return np.int64(math.floor(min(max(value / side, -MAX_CELL), MAX_CELL)))


@_inner
def _bucket(ix, iz, low_x, low_z, width, mask):  # type: ignore[no-untyped-def]  # compiled
    """Dense worlds index their cells directly (mask 0); sparse ones hash them, collisions only cost time."""
    if mask == 0:
        return (ix - low_x) * width + (iz - low_z)
    return ((ix * np.int64(73856093)) ^ (iz * np.int64(19349663))) & mask


@_inner
def _grid(x, y, z, before, start, end, join2, leave2, side, parent):  # type: ignore[no-untyped-def]  # compiled
    n = end - start
    cell_x = np.empty(n, np.int64)
    cell_z = np.empty(n, np.int64)
    placed = 0
    low_x = low_z = np.int64(1) << 60
    high_x = high_z = -(np.int64(1) << 60)
    for k in range(n):
        if math.isfinite(x[start + k]) and math.isfinite(y[start + k]) and math.isfinite(z[start + k]):
            cell_x[k] = _cell(x[start + k], side)
            cell_z[k] = _cell(z[start + k], side)
            low_x = min(low_x, cell_x[k])
            high_x = max(high_x, cell_x[k])
            low_z = min(low_z, cell_z[k])
            high_z = max(high_z, cell_z[k])
            placed += 1
        else:
            cell_x[k] = np.int64(1) << 60
    if placed < 2:
        return
    low_x -= 1  # a margin of one cell all round: neighbours need no bounds test
    low_z -= 1
    width = high_z - low_z + 2
    height = high_x - low_x + 2
    mask = np.int64(0)
    buckets = width * height
    if float(width) * float(height) > 4.0 * n + 64.0:
        buckets = np.int64(64)
        while buckets < 2 * n:
            buckets *= 2
        mask = buckets - 1

    first = np.zeros(buckets + 1, np.int32)
    bucket = np.empty(n, np.int64)
    for k in range(n):
        if cell_x[k] != np.int64(1) << 60:
            bucket[k] = _bucket(cell_x[k], cell_z[k], low_x, low_z, width, mask)
            first[bucket[k] + 1] += 1
    for b in range(buckets):
        first[b + 1] += first[b]
    fill = first[:-1].copy()
    order = np.empty(placed, np.int32)
    for k in range(n):
        if cell_x[k] != np.int64(1) << 60:
            order[fill[bucket[k]]] = start + k
            fill[bucket[k]] += 1

    whole = _within_buckets(x, y, z, before, start, n, first, order, buckets, join2, leave2, parent)
    _across_buckets(
        x, y, z, before, start, first, order, cell_x, cell_z, low_x, low_z, width, mask, whole,
        join2, leave2, parent,
    )  # fmt: skip


@_inner
def _within_buckets(  # type: ignore[no-untyped-def]  # compiled
    x, y, z, before, start, n, first, order, buckets, join2, leave2, parent
):
    """Compare inside each bucket; say which buckets are one piece, so that crowds stay cheap."""
    whole = np.zeros(buckets, np.bool_)
    seen = np.full(n, -1, np.int64)
    for b in range(buckets):
        s = first[b]
        e = first[b + 1]
        if e - s == 0:
            continue
        pieces = e - s
        if pieces > SMALL_BUCKET:
            pieces = 0
            for k in range(s, e):
                r = _root(parent, order[k]) - start
                if seen[r] != b:
                    seen[r] = b
                    pieces += 1
        for k in range(s, e):
            if pieces == 1:
                break
            for m in range(k + 1, e):
                if _linked(x, y, z, before, order[k], order[m], join2, leave2) and _unite(parent, order[k], order[m]):
                    pieces -= 1
                    if pieces == 1:
                        break
        whole[b] = pieces == 1
    return whole


@_inner
def _across_buckets(  # type: ignore[no-untyped-def]  # compiled
    x,
    y,
    z,
    before,
    start,
    first,
    order,
    cell_x,
    cell_z,
    low_x,
    low_z,
    width,
    mask,
    whole,
    join2,
    leave2,
    parent,
):
    for k in range(order.shape[0]):
        i = order[k]
        for step in range(4):  # half of the eight neighbours: the other half look at us
            ix = cell_x[i - start] + (0 if step == 0 else 1)
            iz = cell_z[i - start] + (1 if step == 0 else step - 2)
            b = _bucket(ix, iz, low_x, low_z, width, mask)
            s = first[b]
            e = first[b + 1]
            if s == e or (whole[b] and _root(parent, i) == _root(parent, order[s])):
                continue
            for m in range(s, e):
                if _linked(x, y, z, before, i, order[m], join2, leave2):
                    _unite(parent, i, order[m])
                    if whole[b]:
                        break


@numba.njit(_COMPONENTS, cache=_CACHE)
def components(  # type: ignore[no-untyped-def]  # compiled: the signature is _COMPONENTS
    offsets, x, y, z, before, link_offsets, link_a, link_b, join, leave, weight, brute_force_limit, label
):
    """Fill `label`: for each entity the smallest row of its component, counted within its world.

    Shapes: offsets and link_offsets (W+1), join, leave and weight (W), link_a and link_b (rows within their
    world), the rest (N). No bounds are checked here: `proximity.Batch` did.
    """
    scaled = np.empty(y.shape[0], np.float64)
    for i in range(label.shape[0]):
        label[i] = i
    for w in range(join.shape[0]):
        start = offsets[w]
        end = offsets[w + 1]
        for k in range(link_offsets[w], link_offsets[w + 1]):
            _unite(label, start + link_a[k], start + link_b[k])
        reach = join[w]
        for i in range(start, end):
            scaled[i] = y[i] * weight[w]
            if before[i] >= 0:
                reach = leave[w]
        join2 = join[w] * join[w]
        leave2 = leave[w] * leave[w]
        if end - start <= brute_force_limit:
            _brute_force(x, scaled, z, before, start, end, join2, leave2, label)
        else:
            _grid(x, scaled, z, before, start, end, join2, leave2, reach * CELL_SLACK, label)
        for i in range(start, end):
            label[i] = _root(label, i)
    for w in range(join.shape[0]):
        for i in range(offsets[w], offsets[w + 1]):
            label[i] -= offsets[w]
