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
from services.cluster.proximity import Batch, MalformedBatch, Method, Rows
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
    ended = (  # read only if a cluster needs a lineage
        Ended(Lineage(entry.id, entry.formed_revision), tuple(entry.members))
        for entry in world.ended
        if entry.dissolved_ms > since
    )
    if len(world.lineages) != len(world.formed):
        raise BadInput(f"worlds[{index}].formed must hold one value per lineage", reason="MALFORMED_COLUMNS")
    alive = list(map(Lineage, world.lineages, world.formed))
    return Past(world.revision, alive, ended)


def _batch(worlds: Sequence[cluster_pb2.WorldPoints], pasts: Sequence[Past]) -> Batch:
    counts = [world.count for world in worlds]
    linked = [len(world.links) for world in worlds]
    if any(ends % 2 for ends in linked):
        raise MalformedBatch("a link lacks an end")
    pairs = np.array([row for world in worlds for row in world.links] if any(linked) else (), np.int64)
    settings = [_settings(world.settings) for world in worlds]
    join, leave, weight = np.array(settings, np.float64).reshape(-1, 3).T
    return Batch(
        offsets=layout(counts),
        x=_column([world.x for world in worlds], "<f4", counts, "x").astype(np.float64),
        y=_column([world.y for world in worlds], "<f4", counts, "y").astype(np.float64),
        z=_column([world.z for world in worlds], "<f4", counts, "z").astype(np.float64),
        before=_before(worlds, pasts, counts),
        link_offsets=layout([ends // 2 for ends in linked]),
        link_a=np.minimum(pairs[0::2], 2**31 - 1).astype(np.int32),
        link_b=np.minimum(pairs[1::2], 2**31 - 1).astype(np.int32),
        join=np.ascontiguousarray(join),
        leave=np.ascontiguousarray(leave),
        weight=np.ascontiguousarray(weight),
    )


def _settings(settings: cluster_pb2.Settings) -> tuple[float, float, float]:
    return settings.join or JOIN, settings.leave or LEAVE, settings.vertical_weight or WEIGHT


def _before(worlds: Sequence[cluster_pb2.WorldPoints], pasts: Sequence[Past], counts: Sequence[int]) -> Rows:
    columns = [world.previous_of or bytes(4 * world.count) for world in worlds]
    numbers = _column(columns, "<u4", counts, "previous_of")
    known = np.repeat(np.array([len(past.alive) for past in pasts], np.int64), counts)
    if np.count_nonzero(numbers > known):
        world = int(np.repeat(np.arange(len(counts)), counts)[numbers > known][0])
        raise BadInput(f"worlds[{world}].previous_of names no lineage", reason="MALFORMED_COLUMNS")
    before: Rows = numbers.astype(np.int32) - np.int32(1)
    return before


def _column(parts: Sequence[bytes], kind: str, counts: Sequence[int], name: str) -> Any:
    """The column of every world, end to end."""
    for index, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if len(part) != 4 * count:
            raise BadInput(f"worlds[{index}].{name} must hold {count} values", reason="MALFORMED_COLUMNS")
    return np.frombuffer(b"".join(parts), kind)


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
