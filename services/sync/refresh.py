"""On demand: ensure-fresh, sync-now, invalidate, resync; what agents hold; erasure of a player."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.common.errors import EarshotError, NotFound, Unavailable
from services.sync.context import Key
from services.sync.entry import Entry
from services.sync.reconciler import Outcome, Reconciler
from services.sync.runtimes.port import RuntimeFault
from services.sync.schedule import Lane
from services.sync.turn import BlockState
from services.sync.worker import Deletions

FORGET_S = 5.0
LETTA_KEEPS = "what the runtime keeps of its own: run and step records, traces, its model provider's logs"
MODEL_KEEPS = "what the model's provider logs of its own"


class Freshness(Enum):
    """What became of one refresh."""

    CONFIRMED = "confirmed"
    PENDING = "pending"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """One NPC's answer; blocks are as of `revision`."""

    key: Key
    outcome: Freshness
    revision: int = 0
    blocks: tuple[BlockState, ...] = ()
    error: EarshotError | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one store removed, and what cannot be erased from here."""

    store: str
    removed: int
    not_erasable: str = ""


class Refresher:
    """Runs the same reconciliation as the schedule does, now."""

    def __init__(self, reconciler: Reconciler, deletions: Deletions) -> None:
        self._reconciler = reconciler
        self._deletions = deletions

    def embodied(self, tenant: str, world: str) -> list[Key]:
        """NPCs of the world that have an agent."""
        return [
            key
            for key, entry in self._reconciler.agents.entries.items()
            if (key.tenant, key.world) == (tenant, world) and entry.embodied
        ]

    async def refresh(
        self, keys: Sequence[Key], *, min_revision: int, force: bool, invalidate: bool, wait: bool, timeout: float
    ) -> list[Refreshed]:
        """In the order of the keys; one that fails fails alone."""
        if wait:
            deadline = _now() + timeout
            work = (self._now(key, min_revision, force, invalidate, max(deadline - _now(), 0.001)) for key in keys)
            return list(await asyncio.gather(*work))
        return [self._soon(key, min_revision, force, invalidate) for key in keys]

    async def _now(self, key: Key, min_revision: int, force: bool, invalidate: bool, timeout: float) -> Refreshed:
        entry = self._reconciler.agents.entry(key)
        entry.rewrite, entry.distrust = entry.rewrite or force, entry.distrust or invalidate
        work = self._reconciler.reconcile(
            entry, lane=Lane.HIGH, timeout=timeout, min_revision=min_revision, create=True
        )
        try:
            outcome = await self._reconciler.crew.unhurried(work, "sync.refresh_now")
        except RuntimeFault as fault:
            entry.last_error = type(fault).__name__
            entry.forced(Lane.HIGH, _now())
            self._reconciler.schedule(entry)
            error = Unavailable("the runtime did not take the blocks", reason="RUNTIME_FAILED")
            return Refreshed(key, Freshness.PENDING, entry.confirmed_revision, states(entry), error)
        except EarshotError as error:
            self._drop_unknown(entry, error)
            return Refreshed(key, Freshness.REFUSED, error=error)
        self._reconciler.schedule(entry)
        if outcome is None:
            return Refreshed(key, Freshness.REFUSED, error=NotFound("the world is closed", reason="WORLD_CLOSED"))
        return Refreshed(key, Freshness.CONFIRMED, outcome.desired.revision, states(entry, outcome))

    def _drop_unknown(self, entry: Entry, error: EarshotError) -> None:
        if isinstance(error, NotFound) and not entry.agents:
            self._reconciler.agents.entries.pop(entry.key, None)

    def _soon(self, key: Key, min_revision: int, force: bool, invalidate: bool) -> Refreshed:
        entry = self._reconciler.agents.entries.get(key)
        if entry is None or not entry.embodied:
            # Its agent is made, with the blocks of then, when somebody hears it.
            return Refreshed(key, Freshness.PENDING)
        behind = entry.dirty is not None or entry.confirmed_revision < max(min_revision, entry.desired_revision)
        if not (force or invalidate or behind):
            return Refreshed(key, Freshness.CONFIRMED, entry.confirmed_revision, states(entry))
        entry.rewrite, entry.distrust = entry.rewrite or force, entry.distrust or invalidate
        entry.forced(Lane.HIGH if force or invalidate else Lane.MEDIUM, _now())
        self._reconciler.schedule(entry)
        return Refreshed(key, Freshness.PENDING, entry.confirmed_revision, states(entry))

    # -- erasure ---------------------------------------------------------------------------------------------------

    async def erase(self, tenant: str, player_id: str, keys: Sequence[Key], timeout: float) -> list[Receipt]:
        """Delete the agents that heard the player and everything noted of them; agents are made anew when heard.

        Idempotent. Raises Unavailable while a runtime cannot delete: the deletion goes on, ask again.
        """
        notes = await self._erase_notes(tenant, player_id, set(keys))
        try:
            async with asyncio.timeout(timeout / 2):
                for key in dict.fromkeys(keys):
                    await self._erase_agents(key)
        except (RuntimeFault, TimeoutError) as error:
            raise Unavailable("an agent could not forget its messages yet", reason="ERASURE_PENDING") from error
        # Those of an earlier attempt too: what is not deleted is not erased.
        deletions = [one for one in self._reconciler.agents.store.load_deletions() if one.key in set(keys)]
        removed: dict[str, int] = {}
        try:
            async with asyncio.timeout(timeout):
                for deletion in deletions:
                    count = await self._deletions.delete(deletion)
                    removed[deletion.runtime] = removed.get(deletion.runtime, 0) + count
        except (RuntimeFault, EarshotError, TimeoutError) as error:
            for deletion in deletions:
                self._reconciler.agents.deletions.put_nowait(deletion)  # deleting what is deleted does nothing
            raise Unavailable("a runtime could not delete its agents yet", reason="ERASURE_PENDING") from error
        await self._reconciler.agents.store.purge()
        self._make_anew(keys)
        return [Receipt("sync.notes", notes), *(self._receipt(name, removed.get(name, 0)) for name in self._names())]

    def _names(self) -> list[str]:
        return sorted(self._reconciler.agents.chain.endpoints)

    def _receipt(self, name: str, removed: int) -> Receipt:
        capabilities = self._reconciler.agents.chain.endpoints[name].capabilities
        keeps = (LETTA_KEEPS if capabilities.stateful else MODEL_KEEPS) if removed and capabilities.model else ""
        return Receipt(f"sync.agents.{name}", removed, keeps)

    async def _erase_notes(self, tenant: str, player_id: str, keys: set[Key]) -> int:
        removed = 0
        for key, entry in list(self._reconciler.agents.entries.items()):
            if key.tenant != tenant or not entry.notes:
                continue
            kept = [] if key in keys else [note for note in entry.notes if note.subject_id != player_id]
            if len(kept) != len(entry.notes):
                removed += len(entry.notes) - len(kept)
                entry.notes = kept
                await self._reconciler.agents.store.keep_notes(key, kept)
        return removed

    async def _erase_agents(self, key: Key) -> None:
        entry = self._reconciler.agents.entries.get(key)
        if entry is not None:
            for agent in entry.agents.values():
                if agent.record.adopted:
                    await agent.forget_messages(timeout=FORGET_S)  # not ours to delete
            entry.confirmed_revision = 0
            await self._reconciler.agents.give_up(entry)

    def _make_anew(self, keys: Sequence[Key]) -> None:
        worlds = {(key.tenant, key.world) for key in keys}
        for key, entry in self._reconciler.agents.entries.items():
            # Others of these worlds may name the player in a block: state has forgotten, so must they.
            if (key.tenant, key.world) in worlds and (entry.embodied or entry.heard):
                entry.forced(Lane.HIGH, _now())
                self._reconciler.schedule(entry)


def states(entry: Entry, outcome: Outcome | None = None) -> tuple[BlockState, ...]:
    """Blocks of the entry's preferred agent, as confirmed."""
    agent = outcome.agent if outcome is not None else entry.agent
    if agent is None:
        return ()
    written = outcome.written if outcome is not None else ()
    return tuple(
        BlockState(label, 0 if held.writing else held.revision, held.digest, label in written)
        for label, held in sorted(agent.record.blocks.items())
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
