"""scipy and scikit-learn over the same points: `python -m bench.peers.clustering`, in the peers' environment.

Reads one JSON order a line: {"points": FILE.npy (n, 3) float64, "offsets": FILE.npy (worlds + 1) int64, "method",
"join", "labels": FILE.npy to write}; answers {"seconds"} of CPU time of the fastest library calls that we know for the
job.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]  # in the peers' environment only
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]  # as above
from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # as above
from sklearn.cluster import DBSCAN  # type: ignore[import-not-found]  # as above

# Worlds laid this far from each other share one tree.
APART = 1e6


def scipy_tree(points: Any, join: float) -> Any:
    """cKDTree's pairs, then connected components."""
    pairs = cKDTree(points).query_pairs(join, output_type="ndarray")
    count = len(points)
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def dbscan(points: Any, join: float) -> Any:
    """DBSCAN in which every point is a core point: the same components."""
    return DBSCAN(eps=join, min_samples=1).fit_predict(points)


def each(method: Callable[[Any, float], Any]) -> Callable[[Any, Any, float], Any]:
    """One call for a world."""

    def call(points: Any, offsets: Any, join: float) -> Any:
        return np.concatenate([method(points[a:b], join) for a, b in itertools.pairwise(offsets.tolist())])

    return call


def laid_apart(points: Any, offsets: Any, join: float) -> Any:
    """All worlds in one tree."""
    moved = points.copy()
    moved[:, 0] += np.repeat(np.arange(len(offsets) - 1) * APART, np.diff(offsets))
    return scipy_tree(moved, join)


METHODS = {"scipy": each(scipy_tree), "scipy, worlds in one tree": laid_apart, "DBSCAN": each(dbscan)}


def main() -> None:
    """Orders on stdin, times on stdout."""
    for line in sys.stdin:
        order = json.loads(line)
        points, offsets = np.load(order["points"]), np.load(order["offsets"])
        method = METHODS[order["method"]]
        started = time.process_time()
        labels = method(points, offsets, order["join"])
        seconds = time.process_time() - started
        np.save(order["labels"], labels)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
