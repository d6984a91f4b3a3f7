"""Anti-entropy: agents are read back by sample and compared with what was last confirmed; what drifted is repaired.

A drifted block is written as it should be now, not as it was confirmed: of that text only the digest is known, and an
older text is never sent after a newer one (C6). A block that holds what was confirmed costs no write, whatever waits
for its turn.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection

from services.common.errors import EarshotError
from services.common.logs import get_logger
from services.sync.agents.embodiment import Embodiment
from services.sync.agents.entry import Entry
from services.sync.reconciler import Reconciler
from services.sync.runtimes.port import Missing, RuntimeFault
from services.sync.schedule.due import Lane

# For reading an agent's blocks; for all of its repair.
READ_S, REPAIR_S = 5.0, 15.0

_log = get_logger("sync")


class Drift:
    """Looks at one agent at a time, of those that a player hears and whose blocks somebody else keeps."""

    def __init__(self, reconciler: Reconciler, rng: random.Random) -> None:
        self._reconciler = reconciler
        self._rng = rng

    async def sample(self) -> None:
        """Read back one agent by chance. A runtime or a state that fails is none of its business."""
        compared = [entry for entry in self._reconciler.agents.entries.values() if _comparable(entry)]
        if not compared:
            return
        try:
            await self.check(self._rng.choice(compared))
        except (RuntimeFault, EarshotError) as error:
            _log.info("drift_unchecked", error=type(error).__name__)

    async def check(self, entry: Entry) -> list[str]:
        """The labels that had drifted; they are repaired. Raises RuntimeFault, EarshotError."""
        agent = entry.agent
        if agent is None:
            return []
        agent_id, labels = agent.agent_id, list(agent.record.blocks)
        try:
            drifted = await agent.read_back(lane=Lane.LOW, timeout=READ_S, labels=labels)
        except Missing:
            if agent.busy or agent.agent_id != agent_id:
                return []  # a turn finds out by itself
            agent.forget_agent()
            self._count(labels)
            self._again(entry)
            return labels
        if not drifted:
            return []
        self._count(drifted)
        try:
            await self._repair(entry, agent, drifted)
        except (RuntimeFault, EarshotError):
            # What it was found to hold is what it holds now, as far as one knows: no later sample would see a drift.
            self._again(entry)
            raise
        return drifted

    async def _repair(self, entry: Entry, agent: Embodiment, labels: Collection[str]) -> None:
        reconciler = self._reconciler
        context = await reconciler.current(entry, 0, REPAIR_S)
        if context.closed:
            return
        desired = reconciler.agents.render(entry, context, agent)
        written = await reconciler.agents.bring(
            entry, agent, context, desired.only(labels), lane=Lane.LOW, timeout=REPAIR_S
        )
        if written.fault is not None:
            raise written.fault
        missing = {block.label for block in agent.record.missing(desired)}
        if not missing and entry.agent is agent:
            reconciler.confirm(entry, context, desired)
        elif missing & set(labels):
            self._again(entry)  # something newer was sent meanwhile, and nobody knows whether it came

    def _count(self, labels: Collection[str]) -> None:
        self._reconciler.metrics.block_writes.labels(Lane.LOW.name.lower(), "drift").inc(len(labels))

    def _again(self, entry: Entry) -> None:
        """Leave it to the reconciler, which tries until it is done."""
        entry.forced(Lane.LOW, asyncio.get_running_loop().time())
        self._reconciler.schedule(entry)


def _comparable(entry: Entry) -> bool:
    """Whether what it holds is known: nothing of it is being written, and no late write may still land."""
    agent = entry.agent
    return (
        entry.heard
        and not (entry.working or entry.closed)
        and agent is not None
        and bool(agent.agent_id)
        and agent.endpoint.capabilities.remote
        and not (agent.writing or agent.suspects())
    )
