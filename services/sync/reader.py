"""Reads state: what NPCs know at a revision, as this room's own values; nobody else here knows state's protos."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.type.v1 import type_pb2
from msgspec import Struct

from services.common.clock import Clock
from services.common.errors import EarshotError, from_rpc, from_status
from services.sync.context import Band, Context, Departed, Happening, Key, Member, Place, Profile
from services.sync.schedule.due import Lane
from services.sync.speech.tools import EXPECTED, Accepted

# State holds a read of a future revision for at most 1 s.
READ_S = 1.5
LIST_S = 10.0
PLACES_KEPT_S = 30.0
# A watch without news for this long is renewed: a lost stream must not look like a quiet world.
WATCH_S = 300.0
# Pages of the feed come at most so often: under load each key once with its newest revision, not once a revision.
SPACING_MS = 100

_LANES = {
    type_pb2.LANE_HIGH: Lane.HIGH,
    type_pb2.LANE_MEDIUM: Lane.MEDIUM,
    type_pb2.LANE_LOW: Lane.LOW,
}


class Change(Struct, frozen=True):
    """One entry of state's feed: a key, never a payload."""

    key: Key
    revision: int
    lane: Lane
    heard: bool
    combat: bool
    gone: bool
    closed: bool
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of the feed. gap: the token is older than what is kept."""

    token: str
    changes: tuple[Change, ...]
    gap: bool = False


class StateReader:
    """Every call has a deadline; failures are EarshotErrors."""

    def __init__(self, channel: Any, clock: Clock) -> None:
        self._stub: Any = state_pb2_grpc.StateServiceStub(channel)
        self._clock = clock
        self._places: dict[str, tuple[float, tuple[Place, ...]]] = {}

    async def contexts(self, keys: Sequence[Key], min_revision: int, timeout: float) -> list[Context | EarshotError]:
        """In the order of the keys; an NPC that cannot be answered is its error."""
        request = state_pb2.BatchGetNpcContextRequest(npcs=[to_proto(key) for key in keys], min_revision=min_revision)
        try:
            response = await self._stub.BatchGetNpcContext(request, timeout=min(timeout, READ_S))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        return [
            from_status(context.status) if context.status.code else context_of(context, key)
            for context, key in zip(response.contexts, keys, strict=True)
        ]

    async def context(self, key: Key, min_revision: int, timeout: float) -> Context:
        """One NPC's context at >= min_revision. Raises its error."""
        (context,) = await self.contexts([key], min_revision, timeout)
        if isinstance(context, EarshotError):
            raise context
        return context

    async def places(self, tenant: str, timeout: float) -> tuple[Place, ...]:
        """The tenant's locations, at most PLACES_KEPT_S old."""
        known = self._places.get(tenant)
        if known is not None and self._clock.monotonic() - known[0] < PLACES_KEPT_S:
            return known[1]
        try:
            response = await self._stub.ListLocations(
                state_pb2.ListLocationsRequest(tenant=tenant), timeout=min(timeout, READ_S)
            )
        except grpc.aio.AioRpcError as error:
            if known is not None:
                return known[1]
            raise from_rpc(error) from error
        places = tuple(_place(location) for location in response.locations)
        self._places[tenant] = (self._clock.monotonic(), places)
        return places

    async def expect(self, key: Key, actions: Sequence[tuple[str, Accepted]], expires_ms: int) -> None:
        """Tell state what the NPC is about to do: one observation each, in one report (C9)."""
        observations = [
            state_pb2.Observation(
                status=state_pb2.StatusObservation(
                    npc_id=key.npc, action=EXPECTED[action.type], expires_ms=expires_ms, action_id=action_id
                )
            )
            for action_id, action in actions
            if action.type in EXPECTED
        ]
        if not observations:
            return
        request = state_pb2.ReportObservationsRequest(world=_world(key), observations=observations)
        try:
            await self._stub.ReportObservations(request, timeout=READ_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def list(self, partitions: Iterable[int] = ()) -> Changes:
        """Every NPC of partitions (none named: of all), and the token to watch from, taken before listing."""
        request = state_pb2.ListNpcsRequest(partitions=partitions)
        try:
            response = await self._stub.ListNpcs(request, timeout=LIST_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        return Changes(response.resume_token, tuple(map(_change, response.npcs)))

    async def watch(self, token: str, partitions: Iterable[int] = ()) -> AsyncIterator[Changes]:
        """Pages after the token until a gap, or until the watch is due for renewal."""
        request = state_pb2.WatchNpcsRequest(resume_token=token, spacing_ms=SPACING_MS, partitions=partitions)
        call = self._stub.WatchNpcs(request, timeout=WATCH_S)
        try:
            async for page in call:
                yield Changes(page.resume_token, tuple(map(_change, page.changes)), page.gap)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise from_rpc(error) from error
        finally:
            call.cancel()


def to_proto(key: Key) -> state_pb2.NpcKey:
    return state_pb2.NpcKey(world=_world(key), npc_id=key.npc)


def key_from(proto: state_pb2.NpcKey) -> Key:
    return Key(proto.world.tenant, proto.world.world, proto.npc_id)


def _world(key: Key) -> type_pb2.WorldRef:
    return type_pb2.WorldRef(tenant=key.tenant, world=key.world)


def _change(proto: state_pb2.NpcChange) -> Change:
    return Change(
        key_from(proto.key),
        proto.revision,
        _LANES.get(proto.lane, Lane.LOW),
        proto.heard,
        proto.combat,
        proto.gone,
        proto.world_closed,
        proto.traceparent,
    )


def context_of(proto: state_pb2.NpcContext, key: Key) -> Context:
    """The proto as this room's value."""
    me = proto.self
    return Context(
        key=key,
        revision=proto.revision,
        revision_ms=proto.revision_ms,
        age_ms=proto.age_ms,
        profile=_profile(proto.profile, me.name or key.npc),
        present=proto.present,
        action=me.action,
        appearance=me.appearance or proto.profile.appearance,
        description=me.description,
        place=_place(proto.location) if proto.HasField("location") else None,
        band=Band(proto.location_band) if proto.location_band in (1, 2, 3) else Band.UNKNOWN,
        combat=proto.combat,
        health_percent=proto.health_percent,
        members=tuple(map(_member, proto.members)),
        departed=tuple(
            Departed(one.name or one.id, one.kind == type_pb2.ENTITY_KIND_PLAYER, one.left_ms) for one in proto.departed
        ),
        nearby=tuple(name for cluster in proto.nearby for name in cluster.member_names),
        events=tuple(Happening(e.type, e.actor_id, e.target_id, e.text, e.at_ms) for e in proto.recent_events),
        heard=proto.heard,
        closed=proto.world_closed,
        group_revision=proto.group_revision,
    )


def _member(proto: state_pb2.ContextMember) -> Member:
    entity = proto.entity
    return Member(
        entity.id,
        entity.name or entity.id,
        entity.kind == type_pb2.ENTITY_KIND_PLAYER,
        proto.distance if math.isfinite(proto.distance) else -1.0,
        entity.appearance,
        entity.description,
        proto.since_ms,
    )


def _place(proto: type_pb2.Location) -> Place:
    at = proto.position
    position = (at.x, at.y, at.z) if proto.HasField("position") else None
    return Place(proto.slug, proto.name or proto.slug, proto.description, position)


def _profile(proto: type_pb2.NpcProfile, name: str) -> Profile:
    return Profile(
        name=proto.display_name or name,
        aliases=tuple(proto.aliases),
        persona=proto.persona,
        actions=tuple(proto.actions),
        lines=tuple(proto.lines),
        runtimes=tuple(proto.runtimes),
        agent_id=proto.agent_id,
        memory_scope=proto.memory_scope,
        blocks=tuple(sorted(proto.blocks.items())),
        settings=_settings(proto.model_settings),
        version=proto.version,
    )


def _settings(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data) if data else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
