"""On demand: ensure-fresh, sync-now, invalidate, resync; what agents hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.common.errors import EarshotError, NotFound, Unavailable
from services.sync.agents.entry import Entry
from services.sync.context import Key
from services.sync.reconciler import Outcome, Reconciler
from services.sync.runtimes.port import RuntimeFault
from services.sync.schedule.due import Lane
from services.sync.speech.turn import BlockState


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


class Refresher:
    """Runs the same reconciliation as the schedule does, now."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

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
