"""The worlds in memory, and how they learn who is within earshot: from state, on demand and when its doorbell rings."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.chat import hygiene
from services.chat.actor import Tools, WorldActor
from services.chat.conversation import World
from services.chat.inputs import Cluster, DecideWish, Observed, PlayerLocated, Transition
from services.chat.policy import NPC, PLAYER, Participant
from services.chat.sight import Sight
from services.common.errors import EarshotError, from_rpc
from services.common.leisure import leisure
from services.common.logs import get_logger
from services.common.ownership import partition_of
from services.common.replicas import Partitions

OBSERVE_S = 2.0
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 5.0
# A world that rings again is looked at this much later, and at most so late while requests keep the loop busy: whoever
# speaks in it brings the world up to date anyway.
LOOK_AGAIN_S = 0.25
LOOK_AGAIN_MAX_S = 2.0
# Worlds silent for longer than this are loaded when somebody asks for them.
RECOVER_MS = 900_000

_log = get_logger("chat")

Key = tuple[str, str]


@dataclass(slots=True)
class Profiles:
    """NPC profiles of the tenants in use, by the version of their roster."""

    state: Any
    _known: dict[str, tuple[int, dict[str, type_pb2.NpcProfile]]] = field(default_factory=dict)
    _lasting: dict[str, tuple[int, frozenset[str]]] = field(default_factory=dict)

    def lasting(self, tenant: str, *, by_default: bool) -> frozenset[str]:
        """NPCs whose memory outlives sessions, as far as their profiles are known here."""
        version, profiles = self._known.get(tenant, (0, {}))
        kept = self._lasting.get(tenant)
        if kept is None or kept[0] != version:
            wanted = ("cross_session", "") if by_default else ("cross_session",)
            names = frozenset(npc for npc, profile in profiles.items() if profile.memory_scope in wanted)
            kept = self._lasting[tenant] = (version, names)
        return kept[1]

    async def of(self, tenant: str, version: int, *, fresh: bool = False) -> dict[str, type_pb2.NpcProfile]:
        """The tenant's profiles, at least as new as `version`; fresh = as state has them now."""
        known = self._known.get(tenant)
        if known is not None and known[0] >= version and not fresh:
            return known[1]
        request = state_pb2.ListNpcProfilesRequest(tenant=tenant, known_version=known[0] if known else 0)
        answer = await self.state.ListNpcProfiles(request, timeout=OBSERVE_S)
        profiles = known[1] if answer.not_modified and known else {profile.id: profile for profile in answer.npcs}
        self._known[tenant] = (answer.roster_version, profiles)
        return profiles


class Worlds:
    """Actors by world, made on demand."""

    def __init__(self, state: Any, tools: Tools, *, lasting: bool = False) -> None:
        self._state = state
        self._tools = tools
        self._by_default = lasting
        self._actors: dict[Key, WorldActor] = {}
        self._profiles = Profiles(state)
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        # Worlds that are being looked at, and whether they rang meanwhile.
        self._looks: dict[Key, bool] = {}
        # Partitions whose worlds are to be taken up.
        self._came: asyncio.Queue[Partitions] = asyncio.Queue()
        # The watch on state, and that it does not follow all that is served here.
        self._watching: asyncio.Task[bool] | None = None
        self._fresh = asyncio.Event()

    async def get(self, world: Key) -> WorldActor:
        """The world's actor, loaded. Raises Unavailable while the room starts or stops."""
        await self._tools.crew.ready()
        actor = self._actors.get(world)
        if actor is None or actor.closed:
            actor = WorldActor(world, digest_of(world, self._tools.clock.now_ms()), self._tools)
            self._actors[world] = actor
            self._tasks[world] = self._tools.crew.spawn("chat.world", partial(self._live, actor))
        await actor.ready()
        return actor

    def loaded(self, world: Key) -> WorldActor | None:
        """The world's actor if it is in memory."""
        actor = self._actors.get(world)
        return None if actor is None or actor.closed else actor

    def all(self) -> list[WorldActor]:
        """Every actor in memory."""
        return [actor for actor in self._actors.values() if not actor.closed]

    def lasting(self, tenant: str) -> frozenset[str]:
        """NPCs of a tenant that remember across sessions: their profiles say so, or the process's default does."""
        return self._profiles.lasting(tenant, by_default=self._by_default)

    async def _live(self, actor: WorldActor) -> None:
        try:
            await actor.run()
        finally:
            if self._actors.get(actor.key) is actor:
                del self._actors[actor.key]
                self._tasks.pop(actor.key, None)

    # -- who is within earshot -----------------------------------------------------------------------------------------

    async def observe(self, actor: WorldActor, min_revision: int = 0) -> int:
        """Bring a world's conversations to state's revision. Answers it. Raises EarshotError."""
        tenant, world = actor.key
        request = state_pb2.GetEarshotRequest(
            world=type_pb2.WorldRef(tenant=tenant, world=world),
            min_revision=min_revision,
            after_revision=actor.observed,
        )
        try:
            heard = await self._state.GetEarshot(request, timeout=OBSERVE_S)
            profiles = await self._profiles.of(tenant, heard.roster_version)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        known = actor.world
        if heard.revision > actor.observed or (heard.closed != known.closed and heard.revision == known.revision):
            seen, happened = _sight(heard)
            if not actor.knows(seen, happened=happened):
                await actor.see(observed(heard, profiles, known), seen)
        return int(heard.revision)

    async def person(self, world: Key, npc_id: str) -> Participant | None:
        """An NPC of the tenant's roster as a participant."""
        try:
            profiles = await self._profiles.of(world[0], 0)
            if npc_id not in profiles:
                profiles = await self._profiles.of(world[0], 0, fresh=True)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        profile = profiles.get(npc_id)
        return npc_of(npc_id, "", profile, 0) if profile is not None else None

    async def locate(self, actor: WorldActor, player_id: str) -> None:
        """Find out whether a player is still in the world; while state cannot tell, it counts as being there."""
        tenant, world = actor.key
        present = True
        try:
            request = state_pb2.GetWorldRequest(world=type_pb2.WorldRef(tenant=tenant, world=world))
            answer = await self._state.GetWorld(request, timeout=OBSERVE_S)
            present = not answer.closed and player_id in answer.entities.ids
        except grpc.aio.AioRpcError as error:
            present = error.code() is not grpc.StatusCode.NOT_FOUND
        await actor.feed(PlayerLocated(0, player_id, present))

    def entered(self, partitions: Partitions) -> None:
        """These partitions' logs are kept here from now on."""
        self._came.put_nowait(partitions)
        self._fresh.set()
        if self._watching is not None:
            self._watching.cancel()

    async def let_go(self, partitions: Partitions) -> None:
        """Another replica keeps these logs from now on: what runs here for them ends."""
        ending = [task for world, task in self._tasks.items() if partition_of(*world) in partitions]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)

    async def recover(self) -> None:
        """Take up the worlds that were in use a short while ago: their open turns end now, not with the next caller."""
        while True:
            partitions = await self._came.get()
            since = self._tools.clock.now_ms() - RECOVER_MS
            for world in self._tools.store.worlds():
                if partition_of(*world) not in partitions or not self._tools.store.owns(world):
                    continue
                last = self._tools.store.newest(world, 1)
                if last and last[0].at_ms >= since:
                    try:
                        await self.get(world)
                    except EarshotError as error:
                        _log.info("world_not_recovered", reason=error.reason)
                    self._answer_bell(world)

    async def watch(self) -> None:
        """Follow state's doorbell for ever: clusters that change are told before anybody speaks in them."""
        delay = BACKOFF_MIN_S
        while True:
            self._fresh.clear()
            here = self._tools.store.here
            if here is not None and not here:
                await self._fresh.wait()
                continue
            watching = self._watching = asyncio.create_task(self._watch(here or ()), name="chat.watching")
            try:
                await asyncio.wait((watching,))
            finally:
                self._watching = None
                watching.cancel()
            if self._fresh.is_set():
                continue  # others are followed from now on
            delay = BACKOFF_MIN_S if watching.result() else min(delay * 2, BACKOFF_MAX_S)
            await asyncio.sleep(delay)

    async def _watch(self, partitions: Iterable[int]) -> bool:
        """One watch on the worlds of some partitions (none named: all there are) until it is lost; whether it rang."""
        rung = False
        for actor in self.all():
            self._answer_bell(actor.key)
        call = self._state.WatchWorlds(state_pb2.WatchWorldsRequest(partitions=partitions))
        try:
            async for ring in call:
                rung = True
                self._answer_bell((ring.world.tenant, ring.world.world))
        except grpc.aio.AioRpcError as error:
            _log.warning("world_watch_lost", code=error.code().name)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            _log.warning("world_watch_lost", code="CANCELLED")
        finally:
            call.cancel()
        return rung

    def _answer_bell(self, key: Key) -> None:
        """One look at a world at a time; rings during it and shortly after make one more."""
        if not self._tools.store.owns(key):
            return  # another replica's
        if key in self._looks:
            self._looks[key] = True
            return
        self._looks[key] = False
        self._tools.crew.spawn("chat.observe", partial(self._observe_until_quiet, key))

    async def _observe_until_quiet(self, key: Key) -> None:
        busy = self._looks
        try:
            while True:
                await leisure(LOOK_AGAIN_MAX_S)
                busy[key] = False
                try:
                    await self.observe(await self.get(key))
                except EarshotError as error:
                    _log.warning("observe_failed", reason=error.reason)
                await asyncio.sleep(LOOK_AGAIN_S)
                if not busy[key]:
                    return
        finally:
            del busy[key]


def digest_of(world: Key, loaded_ms: int) -> str:
    """Twelve hex digits that make the ids of one load of a world different from all others': turn ids live longer."""
    return hashlib.blake2b("\0".join((*world, str(loaded_ms))).encode(), digest_size=6).hexdigest()


def observed(heard: state_pb2.GetEarshotResponse, profiles: dict[str, type_pb2.NpcProfile], known: World) -> Observed:
    """State's answer as an input."""
    before = {name: person for c in known.conversations.values() for name, person in c.members.items()}
    clusters = tuple(
        Cluster(
            cluster.lineage,
            tuple([_member(member, profiles, before.get(member.id)) for member in cluster.members]),
            cluster.location,
        )
        for cluster in heard.clusters
    )
    return Observed(
        at_ms=0,
        revision=heard.revision,
        epoch=heard.epoch,
        closed=heard.closed,
        clusters=() if heard.closed else clusters,
        transitions=tuple(
            Transition(
                type_pb2.TransitionType.Name(change.type).removeprefix("TRANSITION_TYPE_").lower(),
                change.lineage,
                tuple(change.member_ids),
                change.other_lineage,
                change.revision,
            )
            for change in heard.transitions
        ),
        gap=heard.transitions_gap or heard.closed,
        wishes=tuple(_wishes(heard, profiles, clusters)) if known.revision else (),
    )


def _sight(heard: state_pb2.GetEarshotResponse) -> tuple[Sight, bool]:
    """What an answer shows, and whether it tells that anything happened."""
    clusters = tuple(cluster.SerializeToString(deterministic=True) for cluster in heard.clusters)
    happened = bool(heard.transitions_gap or heard.transitions or heard.events or heard.combat_changes)
    return Sight(heard.revision, heard.epoch, heard.closed, heard.roster_version, clusters), happened


def npc_of(
    npc_id: str, name: str, profile: type_pb2.NpcProfile | None, since_ms: int, known: Participant | None = None
) -> Participant:
    """An NPC with the names it answers to. known: as it was before."""
    shown = _shown(npc_id, (profile.display_name if profile is not None else "") or name, known)
    if profile is None:
        return Participant(npc_id, shown, NPC, (shown,), since_ms=since_ms)
    names = (shown, *[hygiene.clean(alias) for alias in profile.aliases])
    talk = profile.talkativeness if profile.HasField("talkativeness") else 0.5
    return Participant(npc_id, shown, NPC, names, talk, since_ms)


def _member(
    member: state_pb2.EarshotMember, profiles: dict[str, type_pb2.NpcProfile], known: Participant | None
) -> Participant:
    if member.kind == type_pb2.ENTITY_KIND_NPC:
        return npc_of(member.id, member.name, profiles.get(member.id), member.since_ms, known)
    shown = _shown(member.id, member.name, known)
    return Participant(member.id, shown, PLAYER, (shown,), since_ms=member.since_ms)


def _shown(member_id: str, name: str, known: Participant | None) -> str:
    """A name made harmless. One that equals what came out before needs no second look: cleaning is idempotent."""
    return known.name if known is not None and known.name == name else hygiene.name(name, member_id)


def _wishes(
    heard: state_pb2.GetEarshotResponse, profiles: dict[str, type_pb2.NpcProfile], clusters: Iterable[Cluster]
) -> list[DecideWish]:
    """Decisions that profiles opt into: combat changes, and events that concern the NPC or somebody beside it."""
    found: list[DecideWish] = []
    for npc_id, entered in sorted(heard.combat_changes.items()):
        profile = profiles.get(npc_id)
        if profile is not None and "combat" in profile.decide_on:
            reason = "combat entered" if entered else "combat left"
            found.append(DecideWish(npc_of(npc_id, "", profile, 0), reason, urgent=True))
    for event in heard.events:
        for cluster in clusters:
            names = {person.id: person.name for person in cluster.members}
            if not {event.actor_id, event.target_id} & names.keys():
                continue
            for person in cluster.members:
                profile = profiles.get(person.id)
                if person.kind == NPC and profile is not None and event.type in profile.decide_on:
                    found.append(DecideWish(person, _event_reason(event, names), urgent=False))
    return found


def _event_reason(event: type_pb2.GameEvent, names: dict[str, str]) -> str:
    parts = [f"event: {hygiene.clean(event.type)}"]
    if event.actor_id:
        parts.append(f"by {names.get(event.actor_id, 'someone')}")
    if event.target_id:
        parts.append(f"to {names.get(event.target_id, 'someone')}")
    if event.text:
        parts.append(f"({hygiene.clean(event.text)[: hygiene.LIMIT]})")
    return " ".join(parts)
