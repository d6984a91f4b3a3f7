"""A scenario played against state, cluster and sync in one process, on virtual time, with the ledger as runtime.

The players' own talk in the scenario is the schedule of turns: whoever is addressed answers; of those who hear a
question to everybody one does, by seed. A turn is asked as of the revision of the snapshot in which it was spoken.
In exchanges a player goes on talking with who answered, for as long as both stay within earshot.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from bench.feed import TENANT, Disturbed, Feed
from bench.ledger import BAND, LedgerRuntime, unbanded
from bench.naive import Naive
from bench.troupe import Troupe
from services.cluster import server as cluster_room
from services.common.app import App
from services.common.clock import LoopClock
from services.common.settings import Settings
from services.demo.frame import Step, Utterance
from services.state import server as state_room
from services.sync import server as sync_room
from services.sync.agents.record import tag_of
from services.sync.blocks.desired import digest, render
from services.sync.blocks.situation import NO_BANDS, Bands
from services.sync.context import Band, Context, Key
from services.sync.hygiene import clean_name
from services.sync.reader import StateReader, to_proto
from services.sync.store import SyncStore

READ_S = 5.0
TURN_S = 20.0
FOLLOWS_S = 6.0
# Text versions are counted of every n-th NPC, and stand for n: to render all would take most of the time.
SAMPLED = 5
WORDS = {"right beside me": Band.AT, "near": Band.NEAR, "some way off": Band.FAR}


@dataclass(slots=True)
class Outcome:
    """What one run found. on_demand: block writes that turns waited for; clairvoyant: writes that nobody can avoid.

    waited: turns that waited for a write; stale: turns whose blocks were older than the words that they answer, by
    their own record or by the text that the model saw; versions: texts that differed from the NPC's last, estimated.
    Where `relaxed` is measured, stale are turns on an older status than it allows, or that do not know who is present.
    """

    naive: Naive = field(default_factory=Naive)
    seconds: float = 0.0
    turns: int = 0
    waited: int = 0
    on_demand: int = 0
    clairvoyant: int = 0
    stale: int = 0
    behind_max: int = 0
    age_max_ms: int = 0
    age_max_combat_ms: int = 0
    writes: int = 0
    agents: int = 0
    versions: int = 0
    peak_per_s: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    background: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Rehearsal:
    """One run. `versions`: also render every SAMPLED-th NPC at every revision (slower). exchange: lines of a player to
    who answered the first, FOLLOWS_S apart."""

    troupe: Troupe
    settings: Settings
    versions: bool = False
    exchange: int = 1
    outcome: Outcome = field(default_factory=Outcome)
    runtime: LedgerRuntime = field(default_factory=LedgerRuntime)
    _app: App = field(init=False)
    _reader: StateReader = field(init=False)
    _sync: Any = field(init=False)
    _world: str = field(default="", init=False)
    _chance: random.Random = field(default_factory=lambda: random.Random("turns"), init=False)
    # What the agent's model saw last, by agent; the texts rendered last, by NPC.
    _last: dict[str, dict[str, str]] = field(default_factory=dict, init=False)
    _texts: dict[Key, tuple[str, ...]] = field(default_factory=dict, init=False)
    # Lines of exchanges that are still to be said: when, to whom, and how many after it.
    _follows: list[tuple[float, str, Utterance, int]] = field(default_factory=list, init=False)
    _turn_writes: set[int] = field(default_factory=set, init=False)

    async def play(self, seconds: float) -> Outcome:
        """Play that many virtual seconds. Raises Disturbed."""
        clock = LoopClock()
        self._app = app = App(self.settings, ("cluster", "state", "sync"), clock=clock, inline_stores=True)
        await cluster_room.bind(app)
        await state_room.bind(app)
        store = SyncStore(app.open_store("sync", sync_room.TABLES))
        await sync_room.serve(app, store, {self.runtime.name: self.runtime}, (self.runtime.name,))
        async with app:
            state: Any = state_pb2_grpc.StateServiceStub(app.channels.to("state"))
            self._sync = sync_pb2_grpc.SyncServiceStub(app.channels.to("sync"))
            self._reader = StateReader(app.channels.to("state"), clock)
            await state.ImportRoster(roster_request(self.troupe), timeout=READ_S)
            await self._steps(state, seconds)
        self._sum(seconds)
        return self.outcome

    async def _steps(self, state: Any, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        feed = Feed(state, entities_max=self.settings.entities_max, stale_after_s=self.settings.stale_after_s)
        try:
            for step in self.troupe.steps(seconds):
                await asyncio.sleep(max(started + step.at - loop.time(), 0.0))
                self._world = step.frame.world
                result = await feed.apply(step, self._world)
                await self._after(step, result)
        finally:
            feed.close()

    async def _after(self, step: Step, result: state_pb2.SnapshotResult) -> None:
        clusters = members(result.clusters)
        self.outcome.naive.see(step.at, step.frame.rows, clusters)
        if self.versions:
            await self._render(sorted(self.troupe.cast)[::SAMPLED], result.revision)
        for utterance in step.utterances:
            npc = self._answers(utterance, clusters)
            if npc:
                await self._turn(npc, utterance, result.revision)
                self._follow(step.at, npc, utterance, self.exchange - 1)
        due, self._follows = [f for f in self._follows if f[0] <= step.at], [f for f in self._follows if f[0] > step.at]
        for _, npc, utterance, left in due:
            if any(npc in cluster and utterance.speaker_id in cluster for cluster in clusters):
                await self._turn(npc, utterance, result.revision)
                self._follow(step.at, npc, utterance, left - 1)

    def _follow(self, at: float, npc: str, utterance: Utterance, left: int) -> None:
        if left > 0:
            self._follows.append((at + FOLLOWS_S, npc, utterance, left))

    def _answers(self, utterance: Utterance, clusters: Sequence[Sequence[str]]) -> str:
        """Who answers; "" = nobody."""
        hearing = next((sorted(cluster) for cluster in clusters if utterance.speaker_id in cluster), [])
        npcs = [member for member in hearing if member in self.troupe.cast]
        if utterance.answers is not None:
            return next((npc for npc in utterance.answers if npc in npcs), "")
        return self._chance.choice(npcs) if npcs else ""

    # -- turns ---------------------------------------------------------------------------------------------------------

    async def _turn(self, npc: str, utterance: Utterance, revision: int) -> None:
        key, outcome = Key(TENANT, self._world, npc), self.outcome
        turn_id, tag = f"turn-{outcome.turns}", tag_of(key)
        made, before = tag not in self.runtime.agents, len(self.runtime.writes)
        line = sync_pb2.Line(
            log_seq=outcome.turns + 1, speaker_id=utterance.speaker_id, speaker_name=utterance.speaker_name,
            speaker_kind=type_pb2.ENTITY_KIND_PLAYER, text=utterance.text,
        )  # fmt: skip
        request = sync_pb2.ConverseRequest(
            npc=to_proto(key), turn_id=turn_id, min_revision=revision, reason=sync_pb2.CONVERSE_REASON_REPLY,
            lines=[line], player_ids=[utterance.speaker_id], speech=True,
        )  # fmt: skip
        started = None
        async for event in self._sync.Converse(request, timeout=TURN_S):
            if event.HasField("started"):
                started = event.started
        if started is None:
            raise Disturbed("a turn did not start")
        outcome.turns += 1
        agent_id, seen = self.runtime.agents[tag], self.runtime.seen[turn_id]
        written = 0 if made else sum(block.written for block in started.blocks)
        outcome.on_demand += written
        outcome.waited += written > 0
        self._turn_writes.update(
            index
            for index in range(before, len(self.runtime.writes))
            if self.runtime.writes[index].agent_id == agent_id
        )
        last = self._last.get(agent_id) or self.runtime.first[agent_id]
        outcome.clairvoyant += sum(last.get(label) != text for label, text in seen.items())
        self._last[agent_id] = seen
        behind = max(revision - started.revision, 0)
        outcome.behind_max = max(outcome.behind_max, behind)
        context = await self._reader.context(key, revision, READ_S)
        if context.combat:
            outcome.age_max_combat_ms = max(outcome.age_max_combat_ms, started.age_ms)
        else:
            outcome.age_max_ms = max(outcome.age_max_ms, started.age_ms)
        if self.settings.freshness == "relaxed":
            oldest_s = self.settings.fresh_combat_s if context.combat else self.settings.fresh_s
            outcome.stale += started.age_ms > 1000 * oldest_s or not self._knows_who(context, seen)
        else:
            outcome.stale += behind > 0 or not self._fresh(context, seen)

    def _knows_who(self, context: Context, seen: dict[str, str]) -> bool:
        """Whether the model saw everybody who is present, and nobody else."""
        now = self._rendered(context, bands_of(seen["situation"], context))
        told, true = ([*unbanded(texts["situation"])] for texts in (seen, now))
        return told == true

    def _fresh(self, context: Context, seen: dict[str, str]) -> bool:
        """Whether the model saw exactly what state says now."""
        # How near somebody is keeps its word until it is clearly wrong, so it is rendered from what was said.
        now = self._rendered(context, bands_of(seen["situation"], context))
        return all(seen[label] == text for label, text in now.items())

    # -- texts ---------------------------------------------------------------------------------------------------------

    def _rendered(self, context: Context, bands: Bands = NO_BANDS) -> dict[str, str]:
        desired = render(context, split=self.settings.blocks == "split", limit=self.settings.block_limit, bands=bands)
        return {block.label: block.text for block in desired.blocks}

    async def _render(self, npcs: Sequence[str], revision: int) -> None:
        keys = [Key(TENANT, self._world, npc) for npc in npcs]
        for key, context in zip(keys, await self._reader.contexts(keys, revision, READ_S), strict=True):
            if not isinstance(context, Context):
                raise Disturbed("an NPC has no context")
            texts = tuple(digest("\n".join(_unbanded(text))) for text in self._rendered(context).values())
            before = self._texts.get(key, ("",) * len(texts))
            self.outcome.versions += SAMPLED * sum(old != new for old, new in zip(before, texts, strict=True))
            self._texts[key] = texts

    def _sum(self, seconds: float) -> None:
        outcome, writes = self.outcome, self.runtime.writes
        outcome.seconds, outcome.writes, outcome.agents = seconds, len(writes), len(self.runtime.blocks)
        outcome.peak_per_s = peak([write.at for write in writes])
        for index, write in enumerate(writes):
            outcome.labels[write.label] += 1
            why = "+".join(sorted(write.causes))
            outcome.causes[why] += 1
            if index not in self._turn_writes:
                outcome.background[why] += 1


def bands_of(situation: str, context: Context) -> Bands:
    """The distance bands that a text tells of the context's members."""
    lines = situation.split("\n")
    told = {}
    for member in context.members:
        start = f"- {clean_name(member.name or member.id)}, "
        found = next((BAND.search(line) for line in lines if line.startswith(start)), None)
        if found is not None:
            told[member.id] = WORDS[found[1]]
    return Bands(told)


def _unbanded(text: str) -> list[str]:
    return [*(line for line in text.splitlines() if not line.startswith("- ")), *unbanded(text)]


def members(columns: state_pb2.ClusterColumns) -> list[list[str]]:
    """The clusters of an answer as lists of ids."""
    ids, found, start = list(columns.member_ids), [], 0
    for size in columns.sizes:
        found.append(ids[start : start + size])
        start += size
    return found


def peak(times: Sequence[float], window_s: float = 10.0) -> float:
    """The most per second over any window; times ascending."""
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most / window_s


def roster_request(troupe: Troupe) -> state_pb2.ImportRosterRequest:
    """The roster as state takes it."""
    roster = troupe.roster
    return state_pb2.ImportRosterRequest(
        tenant=TENANT,
        npcs=[
            type_pb2.NpcProfile(id=npc["id"], display_name=npc["display_name"], persona=npc["persona"])
            for npc in roster["npcs"]
        ],
        locations=[
            type_pb2.Location(
                slug=place["slug"],
                name=place["name"],
                position=type_pb2.Vector3(**dict(zip("xyz", place["coordinates"], strict=True))),
            )
            for place in roster["locations"]
        ],
    )
