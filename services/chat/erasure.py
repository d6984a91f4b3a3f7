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

from services.chat.erasure_store import Erasure, ErasureStore, Receipt
from services.chat.inputs import PlayerErased
from services.chat.store import ChatStore
from services.chat.worlds import Worlds
from services.common.clock import Clock
from services.common.errors import EarshotError, from_rpc
from services.common.logs import get_logger
from services.common.ownership import partition_of

CALL_S = 30.0
# A job is tried again after this, for as long as a room or runtime does not answer: who asked was promised it.
RETRY_S = 5.0

_log = get_logger("chat")


@dataclass(slots=True)
class Eraser:
    """Begins jobs and runs them, one after the other; those that were open are taken up at start."""

    store: ChatStore
    erasures: ErasureStore
    worlds: Worlds
    state: Any
    sync: Any
    clock: Clock
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self, tenant: str, player: str, job_id: str = "") -> str:
        """Start a job, or the parts of one that are about worlds here; answers its id.

        The same player's pending one is answered instead of a second, where no id is given.
        """
        if not job_id:
            for job in self.erasures.jobs("pending"):
                if (job.tenant, job.player) == (tenant, player):
                    return job.id
        job_id = job_id or f"e-{uuid.uuid4().hex}"
        for part in self.erasures.parts(tenant):
            await self.erasures.put(Erasure(tenant, job_id, player, "pending", (), part), self.clock.now_ms())
        self._wake.set()
        return job_id

    def look(self) -> None:
        """Jobs may have come from another owner."""
        self._wake.set()

    async def run(self) -> None:
        """Work through open jobs for ever; one that has to wait holds nobody up."""
        while True:
            self._wake.clear()
            late = [job for job in self.erasures.jobs("purging") if not await self._purge(job)]
            late += [job for job in self.erasures.jobs("pending") if not await self._finished(job)]
            try:
                async with asyncio.timeout(RETRY_S if late else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _finished(self, job: Erasure) -> bool:
        try:
            receipts = await self._erase(job)
        except EarshotError as error:
            _log.warning("erasure_delayed", reason=error.reason)
            return False
        # The job's own row must not keep the id that it erased.
        forgotten = replace(job, state="purging", player="", receipts=receipts)
        try:
            await self.erasures.put(forgotten, self.clock.now_ms())
        except EarshotError as error:
            # Its worlds went to another replica, or the store is away: there, or later.
            _log.warning("erasure_delayed", reason=error.reason)
            return False
        return await self._purge(forgotten)

    async def _purge(self, job: Erasure) -> bool:
        """The store's files may still hold what was deleted; only when they do not is the job done."""
        try:
            await self.store.purge()
            await self.erasures.put(replace(job, state="done"), self.clock.now_ms())
        except EarshotError as error:
            _log.warning("erasure_delayed", reason=error.reason)
            return False
        return True

    async def _erase(self, job: Erasure) -> tuple[Receipt, ...]:
        """Out of every prompt, then out of state and agents, out of the log last.

        Only the log says which agents heard the player: it is kept until they have forgotten, whatever fails between.
        """
        worlds = [
            world
            for world in self.store.worlds(job.tenant)
            if job.part in (-1, partition_of(*world))
            if self.worlds.loaded(world) is not None or self.erasures.mentions(world, job.player)
        ]
        npcs = [
            state_pb2.NpcKey(world=type_pb2.WorldRef(tenant=world[0], world=world[1]), npc_id=npc)
            for world in worlds
            for npc in sorted(self.erasures.hearers(world, job.player))
        ]
        for world in worlds:
            await self._silence(world, job.player)
        try:
            # State first: agents that are made anew are told what it knows then.
            known = await self.state.ErasePlayer(
                state_pb2.ErasePlayerRequest(tenant=job.tenant, player_id=job.player, request_id=job.id),
                timeout=CALL_S,
            )
            told = await self.sync.ErasePlayer(
                sync_pb2.ErasePlayerRequest(tenant=job.tenant, player_id=job.player, request_id=job.id, npcs=npcs),
                timeout=CALL_S,
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        # Recall knows more worlds and names than the logs that are kept.
        names = await self.store.look(lambda reader: reader.names(job.tenant, job.player))
        names |= {name for world in worlds for name in self.erasures.names(world, job.player)}
        removed = 0
        for world in worlds:
            removed += await self._erase_world(world, job.player)
        recalled = await self.erasures.erase_recall(job.tenant, job.player, tuple(names))
        others = [Receipt(one.store, int(one.removed), one.not_erasable) for one in (*told.receipts, *known.receipts)]
        return (Receipt("chat", removed), Receipt("chat.recall", recalled), *others)

    async def _silence(self, world: tuple[str, str], player: str) -> None:
        """Out of the state and of what turns are told."""
        names = self.erasures.names(world, player)
        actor = await self.worlds.get(world)
        await actor.feed(PlayerErased(0, player))
        actor.forget(player, tuple(names))

    async def _erase_world(self, world: tuple[str, str], player: str) -> int:
        """Out of the state once more (its checkpoint replaces the inputs), then out of the log."""
        names = self.erasures.names(world, player)
        await self._silence(world, player)
        return await self.erasures.erase(world, player, tuple(names))
