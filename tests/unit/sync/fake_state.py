"""A state room for sync's tests: the generated servicer over a dict, with a feed, holes and faults on order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.clock import Clock
from services.common.errors import EarshotError, NotFound, Unavailable, to_status

NPC, PLAYER = type_pb2.ENTITY_KIND_NPC, type_pb2.ENTITY_KIND_PLAYER


@dataclass
class World:
    revision: int = 0
    npcs: dict[str, state_pb2.NpcContext] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False


class FakeState(state_pb2_grpc.StateServiceServicer):
    """`put` changes an NPC and tells the watchers; every context carries a mark of its revision in its description."""

    def __init__(self, clock: Clock) -> None:
        self.worlds: dict[str, World] = {}
        self.profiles: dict[str, type_pb2.NpcProfile] = {}
        self.locations: list[type_pb2.Location] = []
        self.observations: list[state_pb2.Observation] = []
        self.reads: list[tuple[str, int]] = []
        self.down = False
        self.silent = False  # the feed tells nothing
        self.read_delay = 0.0
        self.marks = True
        self.turns = 0  # numbers the turns that a test asks for, over restarts of sync
        self._clock = clock
        self._watchers: list[asyncio.Queue[state_pb2.WatchNpcsResponse]] = []
        self._serial = 0

    def world(self, name: str = "w") -> World:
        return self.worlds.setdefault(name, World())

    def npc(self, npc: str = "mara", world: str = "w") -> state_pb2.NpcContext:
        """What is told of an NPC, to be changed without a word to the watchers."""
        return self.world(world).npcs[npc]

    def put(
        self,
        npc: str = "mara",
        *,
        world: str = "w",
        lane: int = type_pb2.LANE_MEDIUM,
        heard: bool = True,
        combat: bool = False,
        place: str | None = None,
        action: str | None = None,
        health: int | None = None,
        players: list[str] | None = None,
        tell: bool = True,
    ) -> int:
        """A new revision in which this NPC changed; answers its number."""
        state = self.world(world)
        state.revision += 1
        old = state.npcs.get(npc)
        context = state_pb2.NpcContext()
        if old is not None:
            context.CopyFrom(old)
        else:
            context.health_percent = -1
        context.key.CopyFrom(self.key(npc, world))
        context.revision = state.revision
        context.revision_ms = self._clock.now_ms()
        context.present, context.heard, context.combat = True, heard, combat
        context.self.id, context.self.name, context.self.kind = npc, npc.title(), NPC
        if action is not None:
            context.self.action = action
        if health is not None:
            context.health_percent = health
        if place is not None:
            context.location.slug, context.location.name = place.lower(), place
            context.location_band = state_pb2.DISTANCE_BAND_AT
        if self.marks:
            context.self.description = f"mark {state.revision}."
        if players is not None:
            del context.members[:]
            for player in players:
                entity = type_pb2.Entity(id=f"id-{player}", name=player, kind=PLAYER)
                context.members.append(state_pb2.ContextMember(entity=entity, distance=3.0, since_ms=60_000))
            context.group_revision = state.revision
        context.status_revision = state.revision
        context.profile.CopyFrom(self.profiles.get(npc) or self.profile(npc))
        state.npcs[npc] = context
        for other in state.npcs.values():
            other.revision = state.revision
        state.changed.set()
        state.changed = asyncio.Event()
        if tell and not self.silent:
            self._tell(state_pb2.NpcChange(
                key=context.key, revision=state.revision, lane=lane, heard=heard, combat=combat  # type: ignore[arg-type]  # an enum's number
            ))  # fmt: skip
        return state.revision

    def profile(self, npc: str, **fields: Any) -> type_pb2.NpcProfile:
        persona = fields.pop("persona", f"You are {npc.title()}.")
        profile = type_pb2.NpcProfile(id=npc, display_name=npc.title(), persona=persona, **fields)
        self.profiles[npc] = profile
        return profile

    def close(self, world: str = "w") -> None:
        state = self.world(world)
        state.closed = True
        for npc, context in state.npcs.items():
            context.world_closed = True
            self._tell(
                state_pb2.NpcChange(key=self.key(npc, world), revision=state.revision, gone=True, world_closed=True)
            )

    def gap(self) -> None:
        """Every watcher must list again."""
        for queue in self._watchers:
            queue.put_nowait(state_pb2.WatchNpcsResponse(gap=True))

    @staticmethod
    def key(npc: str = "mara", world: str = "w") -> state_pb2.NpcKey:
        return state_pb2.NpcKey(world=type_pb2.WorldRef(tenant="t", world=world), npc_id=npc)

    def _tell(self, change: state_pb2.NpcChange) -> None:
        self._serial += 1
        for queue in self._watchers:
            queue.put_nowait(state_pb2.WatchNpcsResponse(resume_token=str(self._serial), changes=[change]))

    # -- the service -----------------------------------------------------------------------------------------------

    async def BatchGetNpcContext(
        self, request: state_pb2.BatchGetNpcContextRequest, context: Any
    ) -> state_pb2.BatchGetNpcContextResponse:
        if self.down:
            raise Unavailable("down for a test")
        answers = []
        for key in request.npcs:
            self.reads.append((key.npc_id, request.min_revision))
            answer = state_pb2.NpcContext(key=key)
            try:
                answer.CopyFrom(await self._context(key, request.min_revision))
            except EarshotError as error:
                answer.status.CopyFrom(to_status(error))
            answers.append(answer)
        # What was read is old by the time it arrives.
        if self.read_delay:
            await asyncio.sleep(self.read_delay)
        return state_pb2.BatchGetNpcContextResponse(contexts=answers)

    async def _context(self, key: state_pb2.NpcKey, min_revision: int) -> state_pb2.NpcContext:
        state = self.worlds.get(key.world.world)
        if state is None or key.npc_id not in state.npcs:
            raise NotFound("no such NPC")
        try:
            async with asyncio.timeout(1.0):
                while state.revision < min_revision:
                    await state.changed.wait()
        except TimeoutError as error:
            raise Unavailable("not there yet", reason="REVISION_UNKNOWN") from error
        return state.npcs[key.npc_id]

    async def ListNpcs(self, request: state_pb2.ListNpcsRequest, context: Any) -> state_pb2.ListNpcsResponse:
        if self.down:
            raise Unavailable("down for a test")
        changes = [
            state_pb2.NpcChange(key=npc.key, revision=npc.status_revision, lane=type_pb2.LANE_MEDIUM, heard=npc.heard)
            for state in self.worlds.values()
            if not state.closed
            for npc in state.npcs.values()
        ]
        return state_pb2.ListNpcsResponse(resume_token=str(self._serial), npcs=changes)

    async def WatchNpcs(
        self, request: state_pb2.WatchNpcsRequest, context: Any
    ) -> AsyncIterator[state_pb2.WatchNpcsResponse]:
        queue: asyncio.Queue[state_pb2.WatchNpcsResponse] = asyncio.Queue()
        if int(request.resume_token or 0) < self._serial:
            queue.put_nowait(state_pb2.WatchNpcsResponse(gap=True))
        self._watchers.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(queue)

    async def ListLocations(self, request: Any, context: Any) -> state_pb2.ListLocationsResponse:
        return state_pb2.ListLocationsResponse(locations=self.locations)

    async def ReportObservations(self, request: Any, context: Any) -> state_pb2.ReportObservationsResponse:
        if self.down:
            raise Unavailable("down for a test")
        self.observations.extend(request.observations)
        return state_pb2.ReportObservationsResponse(revision=self.world().revision)
