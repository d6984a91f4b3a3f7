"""Snapshots to whoever serves their world: a stream to each replica of state that is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from earshot.state.v1 import state_pb2, state_pb2_grpc

from services.common.channels import Channels
from services.common.directory import Directory
from services.common.errors import DeadlineExceeded, NotOwner, Unavailable
from services.common.ownership import partition_of
from services.edge.ingest import Ingest

# How long a snapshot waits for a world that changes hands, at most and within its deadline.
PATIENCE_S = 0.8
# Between looks for streams that nobody needs.
LOOK_S = 5.0


class Submits(Protocol):
    """Port of snapshots to state; as `ingest.Ingest`."""

    async def submit(self, item: state_pb2.SnapshotItem, deadline: float) -> state_pb2.SnapshotResult: ...

    async def run(self) -> None: ...


def ingest_to(channels: Channels, monotonic: Callable[[], float]) -> Submits:
    """One stream where state is one process, else one a replica."""
    directory = channels.directory("state")
    if directory is None:
        return Ingest(state_pb2_grpc.StateServiceStub(channels.to("state")), monotonic)
    return Ingests(directory, lambda address: state_pb2_grpc.StateServiceStub(channels.at("state", address)), monotonic)


class Ingests:
    """Streams by address. `run` owns them."""

    def __init__(self, directory: Directory, stub_to: Callable[[str], Any], monotonic: Callable[[], float]) -> None:
        self._directory = directory
        self._stub_to = stub_to
        self._monotonic = monotonic
        self._streams: dict[str, tuple[Ingest, asyncio.Task[None]]] = {}
        self._running = False

    async def submit(self, item: state_pb2.SnapshotItem, deadline: float) -> state_pb2.SnapshotResult:
        """As `Ingest.submit`; who is told that another replica serves the world asks that one, once."""
        partition = partition_of(item.world.tenant, item.world.world)
        address = await self._served(partition, deadline)
        try:
            return await self._submit(address, item, deadline)
        except NotOwner as error:
            after = error.owner if error.owner not in ("", address) else ""
        return await self._submit(after or await self._served(partition, deadline, address), item, deadline)

    async def _submit(self, address: str, item: state_pb2.SnapshotItem, deadline: float) -> state_pb2.SnapshotResult:
        try:
            return await self._stream(address).submit(item, deadline)
        except NotOwner:
            raise
        except (Unavailable, DeadlineExceeded) as error:
            if error.reason == Unavailable.default_reason or self._directory.quiet(address):
                self._directory.doubt()
                raise self._directory.moving(address) from None
            raise

    async def _served(self, partition: int, deadline: float, but: str = "") -> str:
        return await self._directory.served(partition, min(deadline, self._monotonic() + PATIENCE_S), but)

    def _stream(self, address: str) -> Ingest:
        known = self._streams.get(address)
        if known is None:
            if not self._running:
                raise Unavailable("the edge is stopping", reason="STOPPING")
            ingest = Ingest(self._stub_to(address), self._monotonic)
            task = asyncio.create_task(ingest.run(), name="edge.ingest")
            known = self._streams[address] = ingest, task
        return known[0]

    async def run(self) -> None:
        """Own the streams until cancelled; let go of those to replicas that serve nothing any more."""
        self._running = True
        try:
            while True:
                changed = self._directory.watch()
                await asyncio.gather(*self._let_go(), return_exceptions=True)
                # Also now and then: a stream may have been opened to a replica that was named but serves nothing.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await changed.wait()
        finally:
            self._running = False
            tasks = [task for _, task in self._streams.values()]
            self._streams.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _let_go(self) -> list[asyncio.Task[None]]:
        """End streams that nothing can be said on; what still waits there was asked of a replica that has gone."""
        serving = set(self._directory.everybody())
        ending = [self._streams.pop(one)[1] for one in list(self._streams) if one not in serving]
        for task in ending:
            task.cancel()
        return ending
