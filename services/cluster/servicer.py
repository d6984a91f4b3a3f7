"""ClusterService: translates requests into batches and evolutions into answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from earshot.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from earshot.type.v1 import type_pb2

from services.cluster.assignment import Past, assign, layout
from services.cluster.lineage import Change, Ended, Evolution, Lineage
from services.cluster.proximity import Batch, Floats, MalformedBatch, Method, Rows
from services.common.errors import BadInput, TooLarge

# Defaults of the contract for settings left 0.
JOIN, LEAVE, WEIGHT, REVIVAL_MS = 10.0, 12.0, 1.0, 30_000
MAX_ROWS = 1 << 20
MAX_WORLDS = 1 << 14
# Above this a call is computed beside the loop, so that other calls are not held up (compiled code frees
# the GIL).
BESIDE_THE_LOOP = 4_000

_TYPES = {
    Change.FORMED: type_pb2.TRANSITION_TYPE_FORMED,
    Change.JOINED: type_pb2.TRANSITION_TYPE_JOINED,
    Change.LEFT: type_pb2.TRANSITION_TYPE_LEFT,
    Change.MERGED: type_pb2.TRANSITION_TYPE_MERGED,
    Change.SPLIT: type_pb2.TRANSITION_TYPE_SPLIT,
    Change.DISSOLVED: type_pb2.TRANSITION_TYPE_DISSOLVED,
}


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """Stateless: one method, one pure function behind it."""

    def __init__(self, method: Method) -> None:
        self._method = method

    async def Assign(self, request: cluster_pb2.AssignRequest, context: Any) -> cluster_pb2.AssignResponse:
        worlds = request.worlds
        rows = sum(world.count for world in worlds)
        if rows > MAX_ROWS or len(worlds) > MAX_WORLDS:
            raise TooLarge("too many worlds or entities for one call")
        pasts = [_past(world, index) for index, world in enumerate(worlds)]
        try:
            batch = _batch(worlds, pasts)
        except MalformedBatch as error:
            raise BadInput(str(error), reason="MALFORMED_COLUMNS") from error
        if rows > BESIDE_THE_LOOP:
            evolutions = await asyncio.to_thread(assign, batch, pasts, self._method)
        else:
            evolutions = assign(batch, pasts, self._method)
        return cluster_pb2.AssignResponse(worlds=[_answer(evolution) for evolution in evolutions])


def _past(world: cluster_pb2.WorldPoints, index: int) -> Past:
    """Previous lineages, and those of them that ended too long ago left out."""
    since = world.now_ms - (world.settings.revival_ms or REVIVAL_MS)
    ended = [
        Ended(Lineage(entry.id, entry.formed_revision), tuple(entry.members))
        for entry in world.ended
        if entry.dissolved_ms > since
    ]
    if len(world.lineages) != len(world.formed):
        raise BadInput(f"worlds[{index}].formed must hold one value per lineage", reason="MALFORMED_COLUMNS")
    alive = list(map(Lineage, world.lineages, world.formed))
    if not world.previous_of:
        return Past(world.revision, np.full(world.count, -1, np.int32), alive, ended)
    previous_of = _column(world.previous_of, "<u4", world.count, f"worlds[{index}].previous_of")
    if previous_of.size and int(previous_of.max()) > len(alive):
        raise BadInput(f"worlds[{index}].previous_of names no lineage", reason="MALFORMED_COLUMNS")
    before: Rows = previous_of.astype(np.int32) - 1
    return Past(world.revision, before, alive, ended)


def _batch(worlds: Sequence[cluster_pb2.WorldPoints], pasts: Sequence[Past]) -> Batch:
    links = [np.fromiter(world.links, np.int64) for world in worlds]
    pairs = np.concatenate(links) if links else np.zeros(0, np.int64)
    if any(len(link) % 2 for link in links):
        raise MalformedBatch("a link lacks an end")
    settings = [_settings(world.settings) for world in worlds]
    join, leave, weight = np.array(settings, np.float64).reshape(-1, 3).T
    return Batch(
        offsets=layout([world.count for world in worlds]),
        x=_positions([world.x for world in worlds], worlds, "x"),
        y=_positions([world.y for world in worlds], worlds, "y"),
        z=_positions([world.z for world in worlds], worlds, "z"),
        before=np.concatenate([past.before for past in pasts]) if pasts else np.zeros(0, np.int32),
        link_offsets=layout([len(link) // 2 for link in links]),
        link_a=np.minimum(pairs[0::2], 2**31 - 1).astype(np.int32),
        link_b=np.minimum(pairs[1::2], 2**31 - 1).astype(np.int32),
        join=np.ascontiguousarray(join),
        leave=np.ascontiguousarray(leave),
        weight=np.ascontiguousarray(weight),
    )


def _settings(settings: cluster_pb2.Settings) -> tuple[float, float, float]:
    return settings.join or JOIN, settings.leave or LEAVE, settings.vertical_weight or WEIGHT


def _positions(parts: Sequence[bytes], worlds: Sequence[cluster_pb2.WorldPoints], axis: str) -> Floats:
    columns = [
        _column(part, "<f4", world.count, f"worlds[{w}].{axis}")
        for w, (part, world) in enumerate(zip(parts, worlds, strict=True))
    ]
    return np.concatenate(columns).astype(np.float64) if columns else np.zeros(0, np.float64)


def _column(data: bytes, kind: str, count: int, path: str) -> Any:
    if len(data) != 4 * count:
        raise BadInput(f"{path} must hold {count} values", reason="MALFORMED_COLUMNS")
    return np.frombuffer(data, kind)


def _answer(evolution: Evolution) -> cluster_pb2.WorldClusters:
    if evolution.unchanged:
        return cluster_pb2.WorldClusters(unchanged=True)
    return cluster_pb2.WorldClusters(
        lineages=[lineage.id for lineage in evolution.lineages],
        formed=[lineage.born for lineage in evolution.lineages],
        of=(np.array(evolution.rows, "<i4") + 1).tobytes(),
        transitions=[
            cluster_pb2.Transition(
                type=_TYPES[change.change],
                lineage=change.lineage,
                rows=change.members,
                other_lineage=change.other,
            )
            for change in evolution.transitions
        ],
    )
