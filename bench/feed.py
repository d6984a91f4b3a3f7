"""Snapshots of a scenario's steps, as the edge would give them to state, over one Ingest stream."""

from __future__ import annotations

from typing import Any

from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.demo.frame import Step, encode, full
from services.edge.contract.snapshot import PlainSnapshot, Snapshot
from services.edge.snapshot import SnapshotReader

TENANT = "bench"


class Disturbed(RuntimeError):
    """A snapshot was not applied or a turn failed: the figures would be of something else."""


class Feed:
    """`apply` one step after the other; `close` ends the stream."""

    def __init__(self, state: Any, *, entities_max: int = 500, stale_after_s: float = 60.0) -> None:
        self._reader = SnapshotReader(PlainSnapshot, Snapshot, entities_max=entities_max, stale_after_s=stale_after_s)
        self._stream = state.Ingest()

    async def apply(self, step: Step, world: str) -> state_pb2.SnapshotResult:
        """What state answered. Raises Disturbed when it is not applied."""
        item = self._reader.read(encode(full(step))).item
        item.id, item.budget_ms = 1, 1000
        item.world.CopyFrom(type_pb2.WorldRef(tenant=TENANT, world=world))
        await self._stream.write(state_pb2.IngestRequest(items=[item]))
        (result,) = (await self._stream.read()).results
        if result.status.code or result.outcome != state_pb2.INGEST_OUTCOME_APPLIED:
            raise Disturbed(f"a snapshot was not applied: {result.status.reason or result.outcome}")
        assert isinstance(result, state_pb2.SnapshotResult)
        return result

    def close(self) -> None:
        self._stream.cancel()
