"""State's and sync's messages in the words of the public contract. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.edge.contract.world import (
    BlockStatus,
    ContextAnswer,
    ContextMember,
    ConversationAnswer,
    Departed,
    EntityAnswer,
    GameEventAnswer,
    NearbyCluster,
    NpcSyncStatus,
    RuntimeStatus,
    SyncStatus,
    WorldSummary,
)
from services.edge.roster import npc_answer, place_answer
from services.edge.view import KINDS, participants, point, unpacked, vector

LANES = {type_pb2.LANE_HIGH: "high", type_pb2.LANE_MEDIUM: "medium", type_pb2.LANE_LOW: "low"}
BANDS = {
    state_pb2.DISTANCE_BAND_AT: "at",
    state_pb2.DISTANCE_BAND_NEAR: "near",
    state_pb2.DISTANCE_BAND_FAR: "far",
}


def world_summary(world: state_pb2.WorldSummary) -> WorldSummary:
    return WorldSummary(
        world.world.world,
        world.revision,
        world.revision_ms / 1000,
        world.npcs,
        world.players,
        world.clusters,
        world.closed,
    )


def entities(columns: type_pb2.EntityColumns) -> list[EntityAnswer]:
    """Rows of the columns; what is not known is left out."""
    count = len(columns.ids)
    names, actions, places = (_texts(column, count) for column in (columns.names, columns.actions, columns.locations))
    x, y, z, health, most = (
        _numbers(column, count) for column in (columns.x, columns.y, columns.z, columns.health, columns.max_health)
    )
    seen = _numbers(columns.last_seen, count, "d")
    looks, details = _objects(columns.looks, count), _objects(columns.details, count)
    return [
        EntityAnswer(
            columns.ids[row],
            KINDS.get(columns.kinds[row], "") if columns.kinds else "",
            names[row],
            None if math.isnan(x[row]) else point(x[row], y[row], z[row]),
            _known(health[row]),
            _known(most[row]),
            actions[row],
            places[row],
            _known(seen[row]),
            details={**looks[row], **details[row]} or None,
        )
        for row in range(count)
    ]


def _texts(column: Sequence[str], count: int) -> Sequence[str]:
    return column or [""] * count


def _numbers(column: bytes, count: int, kind: Literal["f", "d"] = "f") -> Sequence[float]:
    return unpacked(column, kind) if column else [math.nan] * count


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _objects(column: bytes, count: int) -> list[dict[str, Any]]:
    """A JSON array of objects; what cannot be read says nothing."""
    if not column:
        return [{}] * count
    return [_object(bytes(text)) or {} for text in msgspec.json.decode(column, type=list[msgspec.Raw])]


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text) if text else None
    except msgspec.MsgspecError:  # a number beyond every bound in a part that nobody checks
        return None
    return value if isinstance(value, dict) else None


def game_event(event: type_pb2.GameEvent) -> GameEventAnswer:
    return GameEventAnswer(
        event.type,
        event.id,
        event.actor_id,
        event.target_id,
        event.text,
        _object(event.data),
        event.at_ms / 1000 if event.at_ms else None,
    )


def conversation(one: chat_pb2.Conversation) -> ConversationAnswer:
    return ConversationAnswer(
        one.id,
        participants(one.members),
        one.open,
        one.npc_turns_since_player,
        one.last_activity_ms / 1000,
        one.floor_turn_id,
        one.floor_npc_id,
    )


def sync_status(status: sync_pb2.GetSyncStatusResponse) -> SyncStatus:
    return SyncStatus(
        [npc_sync_status(npc) for npc in status.npcs],
        [RuntimeStatus(one.name, one.healthy, one.in_flight, one.breaker, one.detail) for one in status.runtimes],
    )


def npc_sync_status(npc: sync_pb2.NpcSyncStatus) -> NpcSyncStatus:
    """Freshness of one agent, and its id, so that an operator finds it in the runtime."""
    return NpcSyncStatus(
        npc.key.npc_id,
        npc.runtime,
        npc.agent_id,
        npc.confirmed_revision,
        npc.desired_revision,
        npc.revisions_behind,
        npc.age_ms,
        LANES.get(npc.lane, ""),
        npc.dirty,
        npc.in_flight,
        npc.suspect,
        npc.writes,
        npc.turns,
        block_statuses(npc.blocks),
        npc.last_error,
    )


def block_statuses(blocks: Iterable[sync_pb2.BlockStatus]) -> list[BlockStatus]:
    return [BlockStatus(one.label, one.confirmed_revision, one.digest, one.written) for one in blocks]


def context(told: state_pb2.NpcContext) -> ContextAnswer:
    """An NPC's context as clients read it."""
    return ContextAnswer(
        told.key.world.world,
        told.key.npc_id,
        told.revision,
        told.revision_ms / 1000,
        told.age_ms,
        told.present,
        told.heard,
        told.combat,
        EntityAnswer(**_entity(told.self)),
        [_member(member) for member in told.members],
        [Departed(one.id, one.name, KINDS.get(one.kind, ""), one.left_ms / 1000) for one in told.departed],
        [NearbyCluster(one.lineage, list(one.member_names), round(one.distance, 2)) for one in told.nearby],
        [game_event(event) for event in told.recent_events],
        told.status_revision,
        told.group_revision,
        told.events_revision,
        told.lineage,
        told.health_percent if told.health_percent >= 0 else None,
        place_answer(told.location) if told.HasField("location") else None,
        BANDS.get(told.location_band, ""),
        npc_answer(told.profile) if told.HasField("profile") else None,
    )


def _member(member: state_pb2.ContextMember) -> ContextMember:
    distance = None if math.isnan(member.distance) else round(member.distance, 2)
    return ContextMember(**_entity(member.entity), distance=distance, since=member.since_ms / 1000)


def _entity(entity: type_pb2.Entity) -> dict[str, Any]:
    return {
        "id": entity.id,
        "kind": KINDS.get(entity.kind, ""),
        "name": entity.name,
        "position": vector(entity.position) if entity.HasField("position") else None,
        "health": entity.health if entity.HasField("health") else None,
        "max_health": entity.max_health if entity.HasField("max_health") else None,
        "action": entity.action,
        "location": entity.location,
        "appearance": entity.appearance,
        "description": entity.description,
    }
