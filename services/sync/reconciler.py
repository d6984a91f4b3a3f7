"""Level-triggered: desired = blocks rendered from state at a revision, observed = what the agent was confirmed to hold;
this writes the difference, when the schedule says so. Work items are keys, so an older value cannot override a newer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from services.common import tracing
from services.common.clock import Clock
from services.common.errors import EarshotError, Internal, NotFound
from services.common.leisure import leisure
from services.common.logs import get_logger
from services.common.ownership import partition_of
from services.common.settings import Settings
from services.common.telemetry import Metrics
from services.sync.agents.embodiment import Embodiment
from services.sync.agents.embodiments import Embodiments
from services.sync.agents.entry import Entry
from services.sync.blocks.desired import LEISURELY, URGENT, Desired
from services.sync.blocks.situation import vitals
from services.sync.context import Context, Key
from services.sync.crew import Crew
from services.sync.reader import Change, StateReader
from services.sync.routing.endpoint import Tripped
from services.sync.runtimes.port import Missing, RuntimeFault
from services.sync.schedule.due import Lane, due_at, schedules
from services.sync.schedule.lanes import Lanes
from services.sync.schedule.urgency import urgency
from services.sync.storms import Storms
from services.sync.summary import Summaries

# Time for one reconciliation in the background; for the writes in it.
WORK_S, WRITE_S = 15.0, 5.0
# Slots beyond its own that only the high lane may take.
RESERVE = 2
# While requests keep the loop busy, what is due waits so long: turns write what they need by themselves.
PUT_OFF_S = 1.0
RETRY_MIN_S, RETRY_MAX_S = 0.5, 20.0

_log = get_logger("sync")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reconciliation did."""

    desired: Desired
    agent: Embodiment
    written: tuple[str, ...]


class Reconciler:
    """Decides when; what is done to an agent goes through its Embodiment."""

    def __init__(
        self,
        settings: Settings,
        reader: StateReader,
        agents: Embodiments,
        crew: Crew,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
        summaries: Summaries,
    ) -> None:
        self.summaries = summaries
        self.settings = settings
        self.reader = reader
        self.agents = agents
        self.crew = crew
        self.clock = clock
        self.metrics = metrics
        self._rng = rng
        self._schedule = schedules(settings.dirty_heard_max_s)[settings.schedule]
        self._restarts = self._schedule.restarts
        self._storms = Storms(settings)
        self._lanes: Lanes[Key] = Lanes()
        self._wake = asyncio.Event()
        self._in_flight = 0
        # Half of what a runtime takes at a time, so that a turn finds room.
        self._slots = max(settings.runtime_concurrency // 2, 1)

    # -- the feed --------------------------------------------------------------------------------------------------

    def take(self, changes: Iterable[Change]) -> list[Key]:
        """Changes of the feed; the keys whose world has closed."""
        closed, now = [], _now()
        for change in changes:
            if change.closed:
                closed.append(change.key)
                continue
            known = self.agents.entries.get(change.key)
            if known is None and not (change.heard and self.agents.store.owns(change.key)):
                continue  # no agent, and nobody who could need one: what it would be told is read when somebody does
            entry = known or self.agents.entry(change.key)
            entry.closed = False
            if self._restarts or not entry.more(change):
                entry.changed(change, now)
                self.schedule(entry)
        return closed

    def take_list(self, changes: Sequence[Change], partitions: Collection[int] = ()) -> list[Key]:
        """A listing of some partitions, of all where none is named: only what is newer than confirmed waits.

        Answers the keys with agents that it lacks.
        """
        listed = {change.key for change in changes if not change.closed}
        self.take(change for change in changes if not change.closed and self._news(change))
        return [
            key
            for key, entry in self.agents.entries.items()
            if entry.agents and key not in listed
            if not partitions or partition_of(key.tenant, key.world) in partitions
        ]

    def _news(self, change: Change) -> bool:
        entry = self.agents.entries.get(change.key)
        if entry is not None and entry.embodied:
            return change.revision > entry.confirmed_revision
        return change.heard

    def schedule(self, entry: Entry) -> None:
        """Queue the entry for when it is due."""
        due = self._due(entry)
        if entry.dirty is None or due is None or entry.closed:
            self._lanes.drop(entry.key)
        else:
            due, rank = self._storms.place(entry, due, _now())
            self._lanes.put(entry.key, entry.dirty.lane, max(due, entry.retry_at), rank)
        self._wake.set()

    def _due(self, entry: Entry) -> float | None:
        """Monotonic time; None = with the next turn, as always where Earshot holds the blocks itself."""
        if entry.dirty is None or (entry.kept_here and not entry.dirty.forced):
            return None
        return due_at(self._schedule, entry.dirty)

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve what is due, for the life of the app."""
        while True:
            self._wake.clear()
            await leisure(PUT_OFF_S)
            self._serve()
            for lane in Lane:
                self.metrics.sync_pending.labels(lane.name.lower()).set(self._lanes.count(lane))
            wait = self._idle_for()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _idle_for(self) -> float | None:
        """Seconds until something can be served; None = until something changes (a slot that gets free does)."""
        free = self._slots - self._in_flight
        due = self._lanes.next_due(high_only=free <= 0) if free > -RESERVE else None
        return None if due is None else max(due - _now(), 0.0)

    def _serve(self) -> None:
        while self._in_flight < self._slots + RESERVE:
            item = self._lanes.pop(_now(), high_only=self._in_flight >= self._slots)
            if item is None:
                return
            entry = self.agents.entries.get(item[0])
            if entry is None or entry.working or entry.dirty is None:
                continue
            if not self._storms.pay(entry, _now()):
                self.metrics.sync_postponed.inc()
                self.schedule(entry)
                continue
            entry.working = True
            self._in_flight += 1
            self.crew.spawn(self._work(entry, item[1]), "sync.refresh")

    async def _work(self, entry: Entry, lane: Lane) -> None:
        entry.last_lane = lane
        began = entry.dirty.first_at if entry.dirty is not None else _now()
        if lane is Lane.HIGH:
            began = max(began, entry.urgent_since)
        try:
            with tracing.linked("sync.refresh", entry.causes):
                outcome = await self.reconcile(entry, lane=lane, timeout=WORK_S, paced=True)
            if outcome is not None and outcome.written:
                self.metrics.sync_lag_seconds.labels(lane.name.lower()).observe(max(_now() - began, 0.0))
        except (RuntimeFault, EarshotError) as error:
            self._later(entry, error)
        except Exception as error:  # noqa: BLE001 - a defect must neither spin nor stop the others
            _log.error("reconcile_failed", error=type(error).__name__, exc_info=error)
            self._later(entry, Internal("a defect; see the log"))
        finally:
            self._storms.refund(entry)
            entry.working = False
            self._in_flight -= 1
            self.schedule(entry)

    def _later(self, entry: Entry, error: RuntimeFault | EarshotError) -> None:
        """Try again, with the value of then: only the newest is ever written, so this may go on for ever."""
        if isinstance(error, NotFound):
            entry.dirty = None  # no such NPC any more
            return
        entry.failures += 1
        entry.last_error = error.reason if isinstance(error, EarshotError) else type(error).__name__
        wait = min(RETRY_MIN_S * 2 ** min(entry.failures - 1, 10), RETRY_MAX_S) * (0.75 + 0.5 * self._rng.random())
        entry.retry_at = _now() + wait
        if isinstance(error, Tripped) and entry.agent is not None:
            # Nothing was sent: when the breaker lets a call through it is this one's turn again.
            entry.failures -= 1
            entry.retry_at = max(entry.agent.endpoint.retry_at(), _now() + RETRY_MIN_S) + 0.1 * self._rng.random()
        if entry.dirty is None:
            entry.forced(entry.last_lane, _now())

    def back(self, runtime: str) -> None:
        """The runtime is well again: what waited for its breaker need not wait longer."""
        for entry in self.agents.entries.values():
            if entry.primary == runtime and entry.dirty is not None and entry.retry_at > _now():
                entry.retry_at = _now() + self._rng.random()
                self.schedule(entry)

    async def reconcile(
        self,
        entry: Entry,
        *,
        lane: Lane,
        timeout: float,
        min_revision: int = 0,
        create: bool = False,
        paced: bool = False,
    ) -> Outcome | None:
        """Bring the preferred agent to the present; None when there is none and none is needed.

        paced: what the schedule asks for and no more, within the world's budget; None also when it must wait.
        """
        deadline = _now() + timeout
        with tracing.span("read", stage="read"):
            context = await self.current(entry, min_revision, timeout)
        agent = self._agent(entry, context, create=create)
        if agent is None:
            entry.dirty = None
            return None
        news = urgency(entry.told, vitals(context))
        shared = paced and bool(agent.agent_id) and self._storms.share(entry, _now())
        if shared and news is not None and not self._storms.admit(entry, news, _now()):
            return None
        desired = self.agents.render(entry, context, agent)
        if shared and news is None:
            entry.eased(desired, None, agent.record.missing(desired), _now())
            return None
        force, distrust = entry.rewrite, entry.distrust
        entry.rewrite = entry.distrust = False
        try:
            made = await self._ensure(agent, context, desired, lane=lane, deadline=deadline, distrust=distrust)
            wanted = desired if made or force or distrust or not paced else self._hurried(entry, desired)
            # Who asked for it said how long it may take; in the background a server that hangs is left sooner.
            timeout = max(min(deadline - _now(), WRITE_S if paced else timeout), 0.001)
            async with self._storms.slot(entry, max(deadline - _now(), 0.001)) if shared else nullcontext():
                written = await self.agents.bring(
                    entry, agent, context, wanted, lane=lane, timeout=timeout, force=force
                )
            if written.fault is not None:
                raise written.fault
        except BaseException:
            # What was asked for is still to be done.
            entry.rewrite, entry.distrust = entry.rewrite or force, entry.distrust or distrust
            raise
        self.confirm(entry, context, desired)
        return Outcome(desired, agent, written.labels)

    def _agent(self, entry: Entry, context: Context, *, create: bool) -> Embodiment | None:
        """The NPC's agent in the runtime that its profile prefers, perhaps still to be made; None = it needs none."""
        if context.closed:
            return None
        endpoint = self.agents.chain.primary(context.profile)
        entry.primary = endpoint.home
        agent = self.agents.embodiment(entry, endpoint)
        return agent if agent.agent_id or entry.heard or context.heard or create else None

    async def _ensure(
        self, agent: Embodiment, context: Context, desired: Desired, *, lane: Lane, deadline: float, distrust: bool
    ) -> bool:
        """An agent of which one knows what it holds; True when it was made now. distrust: read back all of it."""
        made = await self.agents.ensure(agent, context, desired, lane=lane, timeout=deadline - _now())
        if made or not (agent.suspects() or distrust):
            return made
        labels = [block.label for block in desired.blocks] if distrust else []
        try:
            drifted = await agent.read_back(lane=lane, timeout=deadline - _now(), labels=labels)
        except Missing:
            agent.forget_agent()
            return await self.agents.ensure(agent, context, desired, lane=lane, timeout=deadline - _now())
        self.metrics.block_writes.labels(lane.name.lower(), "drift").inc(len(drifted))
        return False

    def _hurried(self, entry: Entry, desired: Desired) -> Desired:
        """What the schedule writes in the background: blocks that only a turn needs wait for their turn."""
        if self.settings.schedule != "lazy" or entry.dirty is None or entry.dirty.forced:
            return desired
        return desired.only(URGENT) if entry.dirty.lane is Lane.HIGH else desired.without(LEISURELY)

    async def current(self, entry: Entry, min_revision: int, timeout: float) -> Context:
        """What the NPC knows now, at >= min_revision and never before what its agent was told."""
        try:
            context = await self.reader.context(entry.key, min_revision, timeout)
        except NotFound:
            if not entry.agents:
                self.agents.entries.pop(entry.key, None)
            raise
        if context.revision >= entry.confirmed_revision:
            return context
        try:
            return await self.reader.context(entry.key, entry.confirmed_revision, timeout)
        except EarshotError as error:
            if error.reason != "REVISION_UNKNOWN":
                raise
        # State lost its store and counts anew: what we know of this world counts for nothing.
        _log.warning("revision_went_back")
        entry.confirmed_revision = entry.desired_revision = 0
        for agent in entry.agents.values():
            agent.record = agent.record.rewound()
        return context

    def confirm(self, entry: Entry, context: Context, desired: Desired) -> None:
        """The preferred agent holds `desired`, or was told the urgent part of it.

        What is suspect is read back once nothing can land any more.
        """
        rest = entry.agent.record.missing(desired) if entry.agent is not None else []
        if rest:
            entry.eased(desired, vitals(context), rest, _now())
        else:
            entry.confirmed(desired, vitals(context))
        until = entry.agent.suspect_until() if entry.agent is not None else None
        if until is not None:
            entry.forced(Lane.LOW, max(until, _now() + RETRY_MIN_S))
        self.schedule(entry)

    # -- the end of a world ----------------------------------------------------------------------------------------

    async def release(self, key: Key) -> None:
        """The NPC's world closed."""
        self._lanes.drop(key)
        await self.agents.release(key)
        await self.summaries.forget([key])

    async def release_vanished(self, keys: Sequence[Key]) -> None:
        """Keys that a listing did not name: released when state knows their world no more."""
        for start in range(0, len(keys), 64):
            part = keys[start : start + 64]
            for key, context in zip(part, await self.reader.contexts(part, 0, WORK_S), strict=True):
                if isinstance(context, NotFound) or (isinstance(context, Context) and context.closed):
                    await self.release(key)


def _now() -> float:
    return asyncio.get_running_loop().time()
