"""The peer's cluster service: `python -m bench.peers.fastapi_unary.clusters ADDRESS`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import numpy as np
import peer_pb2  # type: ignore[import-not-found]  # generated into the peers' environment
import peer_pb2_grpc  # type: ignore[import-not-found]  # as above
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]  # in the peers' environment only
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]  # as above
from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # as above


class Servicer(peer_pb2_grpc.ClustersServicer):  # type: ignore[misc]  # generated, untyped
    """See peer.proto."""

    async def Assign(self, request: Any, context: Any) -> Any:
        """Connected components within `join`, or `leave` for those who were together."""
        count = len(request.points)
        if not count:
            return peer_pb2.Labels()
        points = np.array([(p.position.x, p.position.y, p.position.z) for p in request.points])
        before = np.array([point.before for point in request.points])
        pairs = cKDTree(points).query_pairs(request.leave, output_type="ndarray")
        a, b = pairs[:, 0], pairs[:, 1]
        near = ((points[a] - points[b]) ** 2).sum(axis=1) <= request.join**2
        pairs = pairs[near | ((before[a] == before[b]) & (before[a] >= 0))]
        graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        _, labels = connected_components(graph, directed=False)
        alone = np.bincount(labels)[labels] < 2
        return peer_pb2.Labels(labels=np.where(alone, -1, labels).tolist())


async def main(address: str) -> None:
    """Serve for ever."""
    server = grpc.aio.server()
    peer_pb2_grpc.add_ClustersServicer_to_server(Servicer(), server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
