"""Wires the cluster room into an app."""

from __future__ import annotations

import asyncio
from pathlib import Path

from earshot.cluster.v1 import cluster_pb2_grpc

from services.cluster.compiled import CompiledMethod
from services.cluster.servicer import ClusterServicer
from services.common.app import App
from services.common.logs import get_logger
from services.common.store_file import MEMORY

SERVICE = "earshot.cluster.v1.ClusterService"

_log = get_logger("cluster")


async def bind(app: App) -> None:
    """Serve Assign at once, in pure Python; switch to compiled code when a worker has it ready."""
    method = CompiledMethod()
    data = app.settings.data
    fallback = None if data == MEMORY else Path(data) / "cache"

    async def warm_up() -> None:
        try:
            await asyncio.to_thread(method.warm_up, fallback)
        except ImportError:
            _log.warning("compiled_method_missing")  # slower, not wrong

    app.add(cluster_pb2_grpc.add_ClusterServiceServicer_to_server, ClusterServicer(method), SERVICE)
    app.worker("cluster.warm_up", warm_up)
