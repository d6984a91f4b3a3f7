"""What repeats: the informer, the deletion of agents, the checks of runtimes, the search for drift."""

from __future__ import annotations

import asyncio
import heapq

from services.common.errors import EarshotError
from services.common.logs import get_logger
from services.sync.agents.embodiments import Embodiments
from services.sync.agents.record import tag_of
from services.sync.drift import Drift
from services.sync.reconciler import Reconciler
from services.sync.routing.endpoint import Endpoint
from services.sync.runtimes.port import RuntimeFault
from services.sync.schedule.due import Lane
from services.sync.store import Deletion

BACK_OFF_MIN_S, BACK_OFF_MAX_S = 0.2, 5.0
DELETE_S = 10.0
DELETE_AGAIN_MIN_S, DELETE_AGAIN_MAX_S = 2.0, 300.0
CHECK_S = 2.0
# Between checks of a runtime that is well, and of one whose breaker is open.
CHECK_EVERY_S, CHECK_AGAIN_S = 30.0, 5.0
PRUNE_EVERY_S = 3600.0

_log = get_logger("sync")


class Informer:
    """List, then watch, what is served here; on a gap list again. Nothing of a change is kept but that it happened."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._watching: asyncio.Task[str] | None = None
        self._came = asyncio.Event()

    def list_again(self) -> None:
        """Worlds came whose changes were not followed here."""
        self._came.set()
        if self._watching is not None:
            self._watching.cancel()

    async def run(self) -> None:
        token, delay = "", BACK_OFF_MIN_S
        followed: frozenset[int] = frozenset()
        while True:
            try:
                if not token or self._came.is_set():
                    token, followed = "", await self._served()
                    token = await self._list(followed)
                    continue  # what came during the listing is not in it
                token = await self._followed(token, followed)
                # A stream that ends at once must not spin; the token loses nothing meanwhile.
                await asyncio.sleep(BACK_OFF_MIN_S)
                delay = BACK_OFF_MIN_S
            except EarshotError as error:
                _log.info("state_unreachable", reason=error.reason)
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACK_OFF_MAX_S)

    async def _served(self) -> frozenset[int]:
        """The partitions to follow, empty = all is one; waits while this replica has none."""
        while True:
            self._came.clear()
            here = self._reconciler.agents.store.here
            if here is None:
                return frozenset()
            if here:
                return here
            await self._came.wait()

    async def _list(self, partitions: frozenset[int]) -> str:
        listing = await self._reconciler.reader.list(partitions)
        vanished = self._reconciler.take_list(listing.changes, partitions)
        await self._reconciler.release_vanished(vanished)
        return listing.token

    async def _followed(self, token: str, partitions: frozenset[int]) -> str:
        """As `_watch`, until somebody wants a new listing."""
        watching = self._watching = asyncio.create_task(self._watch(token, partitions), name="sync.watch")
        try:
            await asyncio.wait((watching,))
        finally:
            self._watching = None
            watching.cancel()
        return "" if watching.cancelled() else watching.result()

    async def _watch(self, token: str, partitions: frozenset[int]) -> str:
        """The token to go on from; "" = list again."""
        async for page in self._reconciler.reader.watch(token, partitions):
            if page.gap:
                return ""
            token = page.token or token
            for key in self._reconciler.take(page.changes):
                await self._reconciler.release(key)
        return token


class Deletions:
    """Deletes agents whose mapping was given up, until it is done: each is a row that only success removes."""

    def __init__(self, agents: Embodiments) -> None:
        self._agents = agents
        self._waiting: list[tuple[float, int, Deletion]] = []

    async def run(self) -> None:
        while True:
            wait = max(self._waiting[0][0] - _now(), 0.0) if self._waiting else None
            try:
                async with asyncio.timeout(wait):
                    deletion, tries = await self._agents.deletions.get(), 0
            except TimeoutError:
                _, tries, deletion = heapq.heappop(self._waiting)
            try:
                await self.delete(deletion)
            except (RuntimeFault, EarshotError) as error:
                if not self._agents.store.owns(deletion.key):
                    continue  # its row went to another replica, and with it the job
                _log.info("deletion_failed", runtime=deletion.runtime, error=type(error).__name__, tries=tries)
                again = _now() + min(DELETE_AGAIN_MIN_S * 2 ** min(tries, 10), DELETE_AGAIN_MAX_S)
                heapq.heappush(self._waiting, (again, tries + 1, deletion))

    async def delete(self, deletion: Deletion) -> int:
        """Delete the agent and whatever else carries its tag (a creation that timed out may have landed late).

        Answers how many there were.
        """
        endpoint = self._agents.chain.home(deletion.runtime)
        if endpoint is None:
            raise RuntimeFault("this runtime is not configured now")
        runtime, tag = endpoint.runtime, tag_of(deletion.key)
        doomed = [deletion.agent_id] if deletion.agent_id else []
        if doomed:
            await self._delete_one(endpoint, deletion.agent_id, tag)
        if not self._embodied_again(deletion):
            found = await endpoint.call("find", lambda t: runtime.find_agents(tag, t), lane=Lane.LOW, timeout=DELETE_S)
            for agent_id in found:
                if agent_id not in doomed:
                    await self._delete_one(endpoint, agent_id, tag)
                    doomed.append(agent_id)
        await self._agents.store.deleted(deletion)
        return len(doomed)

    async def _delete_one(self, endpoint: Endpoint, agent_id: str, tag: str) -> None:
        runtime = endpoint.runtime
        await endpoint.call("delete", lambda t: runtime.delete_agent(agent_id, tag, t), lane=Lane.LOW, timeout=DELETE_S)

    def _embodied_again(self, deletion: Deletion) -> bool:
        """The NPC has an agent again, or gets one just now: what carries the tag is not all to be deleted."""
        entry = self._agents.entries.get(deletion.key)
        return entry is not None and any(agent.known for agent in entry.agents.values())


class Checks:
    """Asks runtimes whether they are well: often when one failed, so that it is used again soon after it is back."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._endpoints = reconciler.agents.chain.endpoints

    async def run(self) -> None:
        due = dict.fromkeys(self._endpoints, 0.0)
        pruned = _now()
        while True:
            for name, endpoint in self._endpoints.items():
                was_open = endpoint.breaker() == "open"
                if due[name] <= _now() or was_open:
                    due[name] = _now() + CHECK_EVERY_S
                    health = await endpoint.check(CHECK_S)
                    if not health.ok:
                        _log.info("runtime_unwell", runtime=name, detail=health.detail)
                    elif was_open:
                        self._reconciler.back(endpoint.home)
            if _now() - pruned > PRUNE_EVERY_S:
                pruned = _now()
                await self._reconciler.agents.store.prune(self._reconciler.clock.now_ms())
            await asyncio.sleep(CHECK_AGAIN_S)


class Samples:
    """Reads back one agent after the other, seldom."""

    def __init__(self, drift: Drift, every_s: float) -> None:
        self._drift = drift
        self._every_s = every_s

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._drift.sample()


def _now() -> float:
    return asyncio.get_running_loop().time()
