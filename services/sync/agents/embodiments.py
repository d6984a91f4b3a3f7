"""Every entry and agent of this process: taken over at the start, made when needed, written to, released at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from services.common import tracing
from services.common.clock import Clock
from services.common.errors import Conflict
from services.common.ownership import partition_of
from services.common.settings import Settings
from services.common.telemetry import Metrics
from services.sync.agents.embodiment import Embodiment, Written
from services.sync.agents.entry import Entry
from services.sync.agents.record import AgentRecord, tag_of
from services.sync.blocks.desired import Desired, declared, render
from services.sync.blocks.notes import NOTES_MAX, Note, allowed
from services.sync.context import Context, Key
from services.sync.routing.chain import Chain
from services.sync.routing.endpoint import Endpoint
from services.sync.runtimes.port import AgentSpec, Missing
from services.sync.schedule.due import Lane
from services.sync.speech.prompt import INSTRUCTIONS
from services.sync.store import Deletion, SyncStore


class Embodiments:
    """What the reconciler and turns share. Everything that touches an agent goes through its Embodiment."""

    def __init__(self, settings: Settings, store: SyncStore, chain: Chain, clock: Clock, metrics: Metrics) -> None:
        self.entries: dict[Key, Entry] = {}
        self.deletions: asyncio.Queue[Deletion] = asyncio.Queue()
        self.store = store
        self.chain = chain
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        # Counted when somebody looks, not with every agent made.
        metrics.agents.set_function(self._count)

    def load(self, partitions: Collection[int]) -> None:
        """Take over what the last owner left: agents, confirmed digests, open turns, notes, deletions."""

        def within(key: Key) -> bool:
            return partition_of(key.tenant, key.world) in partitions

        for record in self.store.load_agents():
            if not within(record.key):
                continue
            endpoint = self.chain.home(record.runtime)
            if endpoint is None:
                continue  # not configured now; its agents wait for the day that it is again
            entry = self.entry(record.key)
            entry.agents[record.runtime] = self._embodiment(record, endpoint, known=True)
            entry.primary = entry.primary or record.runtime
            entry.confirmed_revision = record.revision(tuple(record.blocks))
        for intent in self.store.load_open_turns():
            known = self.entries.get(intent.key) if within(intent.key) else None
            agent = known.agents.get(intent.runtime) if known else None
            if agent is not None:
                agent.restore(intent)
        for key, note in self.store.load_notes():
            if within(key):
                self.entry(key).notes.append(note)
        for deletion in self.store.load_deletions():
            if within(deletion.key):
                self.deletions.put_nowait(deletion)

    def let_go(self, partitions: Collection[int]) -> None:
        """Another replica keeps these worlds' agents from now on; they live on."""
        for key in [key for key in self.entries if partition_of(key.tenant, key.world) in partitions]:
            entry = self.entries.pop(key)
            entry.closed, entry.dirty = True, None
            for agent in entry.agents.values():
                agent.release()

    def _embodiment(self, record: AgentRecord, endpoint: Endpoint, *, known: bool = False) -> Embodiment:
        return Embodiment(record, endpoint, self.store, self._clock.now_ms, known=known)

    def entry(self, key: Key) -> Entry:
        return self.entries.setdefault(key, Entry(key))

    def embodiment(self, entry: Entry, endpoint: Endpoint) -> Embodiment:
        """The NPC's agent in this runtime; not made yet."""
        home = endpoint.home
        if home not in entry.agents:
            # Who reads and writes it need not be who is asked: endpoints of one home share it.
            entry.agents[home] = self._embodiment(AgentRecord(entry.key, home), self.chain.home(home) or endpoint)
        return entry.agents[home]

    # -- blocks and notes ---------------------------------------------------------------------------------------------

    def render(self, entry: Entry, context: Context, agent: Embodiment, generation: int | None = None) -> Desired:
        """The blocks that the agent should hold. generation: of the turn's history, None = what it was last told."""
        with tracing.span("render", stage="render"):
            return self._render(entry, context, agent, generation)

    def _render(self, entry: Entry, context: Context, agent: Embodiment, generation: int | None) -> Desired:
        entry.scope = context.profile.memory_scope
        notes = allowed(
            entry.notes,
            generation=agent.record.generation if generation is None else generation,
            cross_session=self._cross_session(entry),
        )
        desired = render(
            context,
            split=self._settings.blocks == "split",
            limit=self._settings.block_limit,
            bands=entry.bands,
            notes=notes,
            adopted=bool(context.profile.agent_id) and agent.endpoint.capabilities.stateful,
        )
        entry.bands = desired.bands
        return desired

    def _cross_session(self, entry: Entry) -> bool:
        return (entry.scope or self._settings.memory_scope) == "cross_session"

    async def drop_notes(self, entry: Entry, generation: int) -> None:
        """What must be forgotten leaves the store too, not only the block."""
        kept = allowed(entry.notes, generation=generation, cross_session=self._cross_session(entry))
        if len(kept) != len(entry.notes):
            entry.notes = kept
            await self.store.keep_notes(entry.key, kept)

    async def forget_notes(self, keys: Collection[Key], speaker: str, since_ms: int) -> int:
        """What these NPCs noted of a speaker since then, and in scope `session` of anybody; how many there were."""
        removed = 0
        for entry in [self.entries[key] for key in keys if key in self.entries]:
            lasting = self._cross_session(entry)
            kept = [
                one
                for one in entry.notes
                if one.at_ms < since_ms or (one.subject_id != speaker and (lasting or not one.tainted))
            ]
            removed += len(entry.notes) - len(kept)
            if len(kept) != len(entry.notes):
                entry.notes = kept
                await self.store.keep_notes(entry.key, kept)
        return removed

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
        if adopt and self._elsewhere(adopt, context.key):
            raise Conflict("the profile's agent is embodied in another world", reason="AGENT_ELSEWHERE")
        seed = self.store.seed(context.key)
        spec = AgentSpec(
            tag=tag_of(context.key),
            name=context.profile.name,
            instructions=INSTRUCTIONS,
            blocks=(*desired.blocks, *declared(context, self._settings.block_limit, seed)),
            adopt=adopt,
            model=str(context.profile.settings.get("model") or ""),
            settings=context.profile.settings,
        )
        forget = not self._cross_session(self.entry(context.key))
        made = await agent.ensure(spec, desired, forget=forget, lane=lane, timeout=max(timeout, 0.001))
        if seed:
            await self.store.drop_seed(context.key)
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
        self._metrics.block_writes.labels(name, "ok").inc(len(written.labels))
        self._metrics.block_writes.labels(name, "failed").inc(len(written.failed))
        entry.writes += len(written.labels)
        return written

    # -- the end ------------------------------------------------------------------------------------------------------

    def _elsewhere(self, agent_id: str, key: Key) -> bool:
        return any(
            agent.agent_id == agent_id
            for other, entry in self.entries.items()
            if other != key
            for agent in entry.agents.values()
        )

    async def release(self, key: Key) -> None:
        """The NPC's world closed: forget the mapping; the agents are deleted by a durable job."""
        entry = self.entries.get(key)
        if entry is None:
            return
        entry.closed, entry.dirty = True, None
        await self.give_up(entry)
        if entry.notes and not self._cross_session(entry):
            await self.store.keep_notes(key, [])
        if self.entries.get(key) is entry:
            del self.entries[key]

    async def give_up(self, entry: Entry) -> None:
        """Its agents embody the NPC no more, and are to be deleted."""
        agents, entry.agents = list(entry.agents.values()), {}
        for agent in agents:
            agent.release()
        for deletion in await self.store.release([agent.record for agent in agents if agent.known]):
            self.deletions.put_nowait(deletion)

    def _count(self) -> int:
        return sum(1 for entry in list(self.entries.values()) if entry.embodied)


def _now() -> float:
    return asyncio.get_running_loop().time()
