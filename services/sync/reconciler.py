"""Level-triggered: desired = blocks rendered from state at a revision, observed = what the agent was confirmed to hold;
this writes the difference, when the schedule says so. Work items are keys, so an older value cannot override a newer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.common.clock import Clock
from services.common.errors import EarshotError, NotFound
from services.common.logs import get_logger
from services.common.settings import Settings
from services.common.telemetry import Metrics
from services.sync.agent import AgentRecord, tag_of
from services.sync.blocks import Desired, declared, render
from services.sync.chain import Chain
from services.sync.context import Context, Key
from services.sync.crew import Crew
from services.sync.embodiment import Embodiment, Written
from services.sync.endpoint import Endpoint, Tripped
from services.sync.entry import Entry
from services.sync.lanes import Lanes
from services.sync.notes import NOTES_MAX, Note, allowed
from services.sync.prompt import INSTRUCTIONS
from services.sync.reader import Change, StateReader
from services.sync.runtimes.port import AgentSpec, Missing, RuntimeFault
from services.sync.schedule import Lane, due_at, schedules
from services.sync.store import Deletion, SyncStore

# Time for one reconciliation in the background.
WORK_S = 15.0
# Slots beyond the concurrency that only the high lane may take.
RESERVE = 2
RETRY_MIN_S, RETRY_MAX_S = 0.5, 20.0

_log = get_logger("sync")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reconciliation did."""

    desired: Desired
    agent: Embodiment
    written: tuple[str, ...]


class Reconciler:
    """Owns the entries and the agents. Everything that touches an agent goes through its Embodiment."""

    def __init__(
        self,
        settings: Settings,
        reader: StateReader,
        store: SyncStore,
        chain: Chain,
        crew: Crew,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.settings = settings
        self.reader = reader
        self.store = store
        self.chain = chain
        self.crew = crew
        self.clock = clock
        self.metrics = metrics
        self.entries: dict[Key, Entry] = {}
        self.deletions: asyncio.Queue[Deletion] = asyncio.Queue()
        self._rng = rng
        self._schedule = schedules(settings.dirty_heard_max_s)[settings.schedule]
        self._lanes: Lanes[Key] = Lanes()
        self._wake = asyncio.Event()
        self._in_flight = 0

    def load(self) -> None:
        """Take over what the last process left: agents, confirmed digests, open turns, notes, deletions."""
        for record in self.store.load_agents():
            endpoint = self.chain.get(record.runtime)
            if endpoint is None:
                continue  # not configured now; its agents wait for the day that it is again
            entry = self.entry(record.key)
            entry.agents[record.runtime] = self._embodiment(record, endpoint, known=True)
            entry.primary = entry.primary or record.runtime
            entry.confirmed_revision = record.revision(tuple(record.blocks))
        for intent in self.store.load_open_turns():
            known = self.entries.get(intent.key)
            agent = known.agents.get(intent.runtime) if known else None
            if agent is not None:
                agent.restore(intent)
        for key, note in self.store.load_notes():
            self.entry(key).notes.append(note)
        for deletion in self.store.load_deletions():
            self.deletions.put_nowait(deletion)

    def _embodiment(self, record: AgentRecord, endpoint: Endpoint, *, known: bool = False) -> Embodiment:
        return Embodiment(record, endpoint, self.store, self.clock.now_ms, known=known)

    def entry(self, key: Key) -> Entry:
        return self.entries.setdefault(key, Entry(key))

    def embodiment(self, entry: Entry, endpoint: Endpoint) -> Embodiment:
        """The NPC's agent in this runtime; not made yet."""
        if endpoint.name not in entry.agents:
            entry.agents[endpoint.name] = self._embodiment(AgentRecord(entry.key, endpoint.name), endpoint)
        return entry.agents[endpoint.name]

    # -- the feed --------------------------------------------------------------------------------------------------

    def take(self, changes: Iterable[Change]) -> list[Key]:
        """Changes of the feed; the keys whose world has closed."""
        closed = []
        for change in changes:
            if change.closed:
                closed.append(change.key)
                continue
            entry = self.entry(change.key)
            entry.closed = False
            entry.changed(change, _now())
            self.schedule(entry)
        return closed

    def take_list(self, changes: Sequence[Change]) -> list[Key]:
        """A whole listing: only what is newer than confirmed waits. Answers the keys with agents that it lacks."""
        listed = {change.key for change in changes if not change.closed}
        self.take(change for change in changes if not change.closed and self._news(change))
        return [key for key, entry in self.entries.items() if entry.agents and key not in listed]

    def _news(self, change: Change) -> bool:
        entry = self.entries.get(change.key)
        if entry is not None and entry.embodied:
            return change.revision > entry.confirmed_revision
        return change.heard

    def schedule(self, entry: Entry) -> None:
        """Queue the entry for when it is due."""
        due = due_at(self._schedule, entry.dirty) if entry.dirty is not None else None
        if entry.dirty is None or due is None or entry.closed:
            self._lanes.drop(entry.key)
        else:
            self._lanes.put(entry.key, entry.dirty.lane, max(due, entry.retry_at))
        self._wake.set()

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve what is due, for the life of the app."""
        while True:
            self._wake.clear()
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
        free = self.settings.runtime_concurrency - self._in_flight
        due = self._lanes.next_due(high_only=free <= 0) if free > -RESERVE else None
        return None if due is None else max(due - _now(), 0.0)

    def _serve(self) -> None:
        most = self.settings.runtime_concurrency
        while self._in_flight < most + RESERVE:
            item = self._lanes.pop(_now(), high_only=self._in_flight >= most)
            if item is None:
                return
            entry = self.entries.get(item[0])
            if entry is None or entry.working or entry.dirty is None:
                continue
            entry.working = True
            self._in_flight += 1
            self.crew.spawn(self._work(entry, item[1]), "sync.refresh")

    async def _work(self, entry: Entry, lane: Lane) -> None:
        entry.last_lane = lane
        try:
            await self.reconcile(entry, lane=lane, timeout=WORK_S)
        except (RuntimeFault, EarshotError) as error:
            self._later(entry, error)
        finally:
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

    async def reconcile(
        self, entry: Entry, *, lane: Lane, timeout: float, min_revision: int = 0, create: bool = False
    ) -> Outcome | None:
        """Bring the preferred agent to the present; None when there is none and none is needed."""
        deadline = _now() + timeout
        context = await self.current(entry, min_revision, timeout)
        if context.closed:
            entry.dirty = None
            return None
        endpoint = self.chain.of(context.profile)[0]
        entry.primary = endpoint.name
        agent = self.embodiment(entry, endpoint)
        desired = self.render(entry, context, agent)
        if not agent.agent_id and not (entry.heard or context.heard or create):
            entry.dirty = None
            return None
        force, distrust = entry.rewrite, entry.distrust
        entry.rewrite = entry.distrust = False
        made = await self.ensure(agent, context, desired, lane=lane, timeout=deadline - _now())
        labels = [block.label for block in desired.blocks] if distrust else []
        if not made and (agent.suspects() or distrust):
            await agent.read_back(lane=lane, timeout=deadline - _now(), labels=labels)
        written = await self.bring(
            entry, agent, context, desired, lane=lane, timeout=max(deadline - _now(), 0.001), force=force
        )
        if written.fault is not None:
            raise written.fault
        self.confirm(entry, desired)
        return Outcome(desired, agent, written.labels)

    async def current(self, entry: Entry, min_revision: int, timeout: float) -> Context:
        """What the NPC knows now, at >= min_revision and never before what its agent was told."""
        context = await self.reader.context(entry.key, min_revision, timeout)
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

    def confirm(self, entry: Entry, desired: Desired) -> None:
        """The preferred agent holds `desired`. What is suspect is read back once nothing can land any more."""
        entry.confirmed(desired)
        until = entry.agent.suspect_until() if entry.agent is not None else None
        if until is not None:
            entry.forced(Lane.LOW, max(until, _now() + RETRY_MIN_S))
        self.schedule(entry)

    # -- what turns use too ----------------------------------------------------------------------------------------

    def render(self, entry: Entry, context: Context, agent: Embodiment, generation: int | None = None) -> Desired:
        """The blocks that the agent should hold. generation: of the turn's history, None = what it was last told."""
        entry.scope = context.profile.memory_scope
        notes = allowed(
            entry.notes,
            generation=agent.record.generation if generation is None else generation,
            cross_session=self._cross_session(entry),
        )
        desired = render(
            context,
            split=self.settings.blocks == "split",
            limit=self.settings.block_limit,
            bands=entry.bands,
            notes=notes,
            adopted=bool(context.profile.agent_id) and agent.endpoint.capabilities.stateful,
        )
        entry.bands = desired.bands
        return desired

    def _cross_session(self, entry: Entry) -> bool:
        return (entry.scope or self.settings.memory_scope) == "cross_session"

    async def drop_notes(self, entry: Entry, generation: int) -> None:
        """What must be forgotten leaves the store too, not only the block."""
        kept = allowed(entry.notes, generation=generation, cross_session=self._cross_session(entry))
        if len(kept) != len(entry.notes):
            entry.notes = kept
            await self.store.keep_notes(entry.key, kept)

    async def note(self, entry: Entry, note: Note) -> None:
        """Keep a note; the oldest make room. Shown from the next write on."""
        kept = [one for one in entry.notes if (one.subject_id, one.fact) != (note.subject_id, note.fact)]
        entry.notes = [*kept, note][-NOTES_MAX:]
        await self.store.keep_notes(entry.key, entry.notes)

    async def ensure(
        self, agent: Embodiment, context: Context, desired: Desired, *, lane: Lane, timeout: float
    ) -> bool:
        """Make the agent when there is none; True when it was made now."""
        if agent.agent_id:
            return False
        adopt = context.profile.agent_id if agent.endpoint.capabilities.stateful else ""
        spec = AgentSpec(
            tag=tag_of(context.key),
            name=context.profile.name,
            instructions=INSTRUCTIONS,
            blocks=(*desired.blocks, *declared(context, self.settings.block_limit)),
            adopt=adopt,
            model=str(context.profile.settings.get("model") or ""),
            settings=context.profile.settings,
        )
        made = await agent.ensure(spec, desired, lane=lane, timeout=max(timeout, 0.001))
        self.metrics.agents.set(sum(1 for entry in self.entries.values() if entry.embodied))
        return made

    async def bring(
        self,
        entry: Entry,
        agent: Embodiment,
        context: Context,
        desired: Desired,
        *,
        lane: Lane,
        timeout: float,
        force: bool = False,
    ) -> Written:
        """Write what differs. An agent that is gone is made anew, once."""
        deadline = _now() + timeout
        try:
            written = await agent.write(desired, lane=lane, timeout=timeout, force=force)
        except Missing:
            agent.forget_agent()
            await self.ensure(agent, context, desired, lane=lane, timeout=deadline - _now())
            written = await agent.write(desired, lane=lane, timeout=max(deadline - _now(), 0.001))
        name = lane.name.lower()
        self.metrics.block_writes.labels(name, "ok").inc(len(written.labels))
        self.metrics.block_writes.labels(name, "failed").inc(len(written.failed))
        entry.writes += len(written.labels)
        return written

    # -- the end of a world ----------------------------------------------------------------------------------------

    async def release(self, key: Key) -> None:
        """The NPC's world closed: forget the mapping; the agents are deleted by a durable job."""
        entry = self.entries.get(key)
        if entry is None:
            return
        entry.closed, entry.dirty = True, None
        self._lanes.drop(key)
        for agent in entry.agents.values():
            agent.release()
        for deletion in await self.store.release([agent.record for agent in entry.agents.values() if agent.known]):
            self.deletions.put_nowait(deletion)
        if entry.notes and not self._cross_session(entry):
            await self.store.keep_notes(key, [])
        self.entries.pop(key, None)
        self.metrics.agents.set(sum(1 for one in self.entries.values() if one.embodied))

    async def release_vanished(self, keys: Sequence[Key]) -> None:
        """Keys that a listing did not name: released when state knows their world no more."""
        for start in range(0, len(keys), 64):
            part = keys[start : start + 64]
            for key, context in zip(part, await self.reader.contexts(part, 0, WORK_S), strict=True):
                if isinstance(context, NotFound) or (isinstance(context, Context) and context.closed):
                    await self.release(key)


def _now() -> float:
    return asyncio.get_running_loop().time()
