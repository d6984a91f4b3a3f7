"""The durable job that erases a player from every room and runtime, with a receipt per store."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from earshot.state.v1 import state_pb2
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.chat.inputs import PlayerErased
from services.chat.store import ChatStore, Erasure, Receipt
from services.chat.worlds import Worlds
from services.common.clock import Clock
from services.common.errors import EarshotError, from_rpc
from services.common.logs import get_logger

CALL_S = 30.0
# A job is tried again after this, while a room or runtime does not answer; then it is reported failed.
RETRY_S = 5.0
ATTEMPTS = 12

_log = get_logger("chat")


@dataclass(slots=True)
class Eraser:
    """Begins jobs and runs them, one after the other; those that were open are taken up at start."""

    store: ChatStore
    worlds: Worlds
    state: Any
    sync: Any
    clock: Clock
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self, tenant: str, player: str) -> Erasure:
        """Start a job; the same player's pending one is answered instead of a second."""
        for job in self.store.erasures("pending"):
            if (job.tenant, job.player) == (tenant, player):
                return job
        job = Erasure(tenant, f"e-{uuid.uuid4().hex}", player, "pending", ())
        await self.store.put_erasure(job, self.clock.now_ms())
        self._wake.set()
        return job

    async def run(self) -> None:
        """Work through pending jobs for ever."""
        while True:
            self._wake.clear()
            for job in self.store.erasures("purging"):
                await self._purge(job)
            for job in self.store.erasures("pending"):
                await self._finish(job)
            await self._wake.wait()

    async def _finish(self, job: Erasure) -> None:
        for attempt in range(ATTEMPTS):
            try:
                receipts = await self._erase(job)
            except EarshotError as error:
                _log.warning("erasure_delayed", attempt=attempt, reason=error.reason)
                await asyncio.sleep(RETRY_S)
                continue
            # The job's own row must not keep the id that it erased.
            forgotten = replace(job, state="purging", player="", receipts=receipts)
            await self.store.put_erasure(forgotten, self.clock.now_ms())
            await self._purge(forgotten)
            return
        _log.error("erasure_failed")
        await self.store.put_erasure(replace(job, state="failed"), self.clock.now_ms())

    async def _purge(self, job: Erasure) -> None:
        """The store's write-ahead log may still hold what was deleted; only then is the job done."""
        await self.store.purge_log()
        await self.store.put_erasure(replace(job, state="done"), self.clock.now_ms())

    async def _erase(self, job: Erasure) -> tuple[Receipt, ...]:
        """The log says which agents heard the player: read it first, then let every store forget."""
        worlds = [
            world
            for world in self.store.worlds(job.tenant)
            if self.worlds.loaded(world) is not None or self.store.mentions(world, job.player)
        ]
        npcs = [
            state_pb2.NpcKey(world=type_pb2.WorldRef(tenant=world[0], world=world[1]), npc_id=npc)
            for world in worlds
            for npc in sorted(self.store.hearers(world, job.player))
        ]
        removed = 0
        for world in worlds:
            removed += await self._erase_world(world, job.player)
        try:
            told = await self.sync.ErasePlayer(
                sync_pb2.ErasePlayerRequest(tenant=job.tenant, player_id=job.player, request_id=job.id, npcs=npcs),
                timeout=CALL_S,
            )
            known = await self.state.ErasePlayer(
                state_pb2.ErasePlayerRequest(tenant=job.tenant, player_id=job.player, request_id=job.id),
                timeout=CALL_S,
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        others = [Receipt(one.store, int(one.removed), one.not_erasable) for one in (*told.receipts, *known.receipts)]
        return (Receipt("chat", removed), *others)

    async def _erase_world(self, world: tuple[str, str], player: str) -> int:
        """Out of the state first (its checkpoint replaces the inputs), then out of the log."""
        names = self.store.names(world, player)
        actor = await self.worlds.get(world)
        await actor.feed(PlayerErased(0, player))
        actor.forget(player, tuple(names))
        return await self.store.erase(world, player, tuple(names))
