"""From nouns to protos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.state.bands import NPC, PLAYER
from services.state.columns import Columns
from services.state.context import Entity, NpcContext, location_of
from services.state.document import Document
from services.state.event import Event
from services.state.feed import Ref, Told
from services.state.intake import Applied
from services.state.membership import Transition
from services.state.roster import Location, Profile, Roster
from services.state.sequence import Verdict
from services.state.snapshot import Refusal

_OUTCOMES = {
    Verdict.APPLY: state_pb2.INGEST_OUTCOME_APPLIED,
    Verdict.DUPLICATE: state_pb2.INGEST_OUTCOME_DUPLICATE,
    Verdict.RESYNC: state_pb2.INGEST_OUTCOME_RESYNC,
}


def result(item_id: int, applied: Applied, refused: Iterable[Refusal], *, positions: bool) -> state_pb2.SnapshotResult:
    """The answer to a snapshot: clusters as ids, positions only where they are wanted."""
    answer = state_pb2.SnapshotResult(
        id=item_id,
        outcome=state_pb2.INGEST_OUTCOME_SUPERSEDED if applied.superseded else _OUTCOMES[applied.verdict],
        revision=applied.document.revision,
        transitions=transitions(applied.transitions),
        refused=refusals(refused),
    )
    answer.clusters.SetInParent()
    _fill(answer.clusters, applied.document, positions=positions)  # in place: a message given is copied
    return answer


def refusals(refused: Iterable[Refusal]) -> list[type_pb2.FieldRefusal]:
    """What was not applied, by path and reason."""
    return [type_pb2.FieldRefusal(path=r.path, reason=r.reason) for r in refused]


def clusters(document: Document, *, positions: bool) -> state_pb2.ClusterColumns:
    """The clusters of a document, flat."""
    answer = state_pb2.ClusterColumns()
    _fill(answer, document, positions=positions)
    return answer


def _fill(answer: state_pb2.ClusterColumns, document: Document, *, positions: bool) -> None:
    columns, membership = document.columns, document.membership
    rows = list(chain.from_iterable(membership.members))
    ids, of = columns.ids, membership.of
    npcs = np.bincount(of[(columns.kinds == NPC) & (of >= 0)], minlength=len(membership.lineages))
    answer.lineages.extend(membership.lineages)
    answer.sizes.extend(map(len, membership.members))
    answer.npcs.extend(npcs.tolist())
    answer.member_ids.extend([ids[row] for row in rows])
    if positions and rows:
        x, y, z = columns.xyz[:, rows]
        answer.x, answer.y, answer.z = x.tobytes(), y.tobytes(), z.tobytes()


def transitions(happened: Iterable[Transition]) -> list[state_pb2.Transition]:
    """Transitions in order."""
    return [
        state_pb2.Transition(
            type=type_pb2.TransitionType.ValueType(t.change),
            lineage=t.lineage,
            member_ids=t.members,
            other_lineage=t.other,
            revision=t.revision,
            at_ms=t.at_ms,
        )
        for t in happened
    ]


def event(happened: Event) -> type_pb2.GameEvent:
    """An event as the game told it."""
    return type_pb2.GameEvent(
        id=happened.id,
        type=happened.type,
        actor_id=happened.actor,
        target_id=happened.target,
        text=happened.text,
        data=happened.data,
        at_ms=happened.at_ms,
    )


def earshot(
    document: Document, *, after_revision: int, entity: str, epoch: int, roster: Roster
) -> state_pb2.GetEarshotResponse:
    """Who hears whom; what happened since `after_revision` (0: not asked)."""
    columns, membership = document.columns, document.membership
    answer = state_pb2.GetEarshotResponse(
        revision=document.revision,
        roster_version=roster.version,
        epoch=epoch,
        closed=document.closed,
        entity_count=len(columns),
    )
    wanted: Sequence[int] = range(len(membership.lineages))
    if entity:
        row = columns.index.get(entity)
        wanted = [int(membership.of[row])] if row is not None and membership.of[row] >= 0 else []
    for index in wanted:
        cluster = answer.clusters.add(
            lineage=membership.lineages[index],
            formed_revision=membership.formed[index],
            location=_place(document, roster, membership.members[index]),
        )
        _fill_members(cluster, document, membership.members[index])
    if after_revision:
        answer.transitions_gap = after_revision < document.floor
        answer.transitions.extend(transitions(t for t in document.history if t.revision > after_revision))
        answer.events.extend(event(e) for e in document.events if e.revision > after_revision)
        for combat in document.combat_log:
            if combat.revision > after_revision:
                answer.combat_changes[combat.npc] = combat.entered
    return answer


def _place(document: Document, roster: Roster, rows: Iterable[int]) -> str:
    """Where a cluster is: where its first NPC is."""
    first = next((row for row in rows if document.columns.kinds[row] == NPC), None)
    at, _ = location_of(document, roster, first) if first is not None else (None, 0)
    return at.slug if at is not None else ""


def _fill_members(cluster: state_pb2.EarshotCluster, document: Document, members: Iterable[int]) -> None:
    """Members by row, made in place."""
    columns, membership = document.columns, document.membership
    rows = list(members)
    for row, kind, revision, at_ms in zip(
        rows,
        columns.kinds[rows].tolist(),
        membership.since_revision[rows].tolist(),
        membership.since_ms[rows].tolist(),
        strict=True,
    ):
        cluster.members.add(
            id=columns.ids[row], name=columns.names[row], kind=kind, since_revision=revision, since_ms=at_ms
        )


def entity(row: Entity) -> type_pb2.Entity:
    """One entity."""
    answer = type_pb2.Entity(
        id=row.id,
        name=row.name,
        kind=type_pb2.EntityKind.ValueType(row.kind),
        health=row.health,
        max_health=row.max_health,
        action=row.action,
        location=row.location,
        appearance=row.appearance,
        description=row.description,
    )
    if row.position is not None:
        x, y, z = row.position
        answer.position.CopyFrom(type_pb2.Vector3(x=x, y=y, z=z))
    return answer


def location(place: Location) -> type_pb2.Location:
    """A location; without coordinates its position is absent."""
    answer = type_pb2.Location(slug=place.slug, name=place.name, description=place.description)
    if place.position is not None:
        x, y, z = place.position
        answer.position.CopyFrom(type_pb2.Vector3(x=x, y=y, z=z))
    return answer


def profile(npc: Profile) -> type_pb2.NpcProfile:
    """A profile."""
    return type_pb2.NpcProfile(
        id=npc.id,
        display_name=npc.display_name,
        aliases=npc.aliases,
        persona=npc.persona,
        talkativeness=npc.talkativeness,
        actions=npc.actions,
        lines=npc.lines,
        runtimes=npc.runtimes,
        agent_id=npc.agent_id,
        decide_on=npc.decide_on,
        memory_scope=npc.memory_scope,
        blocks=npc.blocks,
        appearance=npc.appearance,
        version=npc.version,
        model_settings=npc.model_settings,
    )


def context(
    key: state_pb2.NpcKey, document: Document, found: NpcContext, *, epoch: int, age_ms: int
) -> state_pb2.NpcContext:
    """Everything that an NPC's blocks are rendered from."""
    answer = state_pb2.NpcContext(
        key=key,
        revision=document.revision,
        revision_ms=document.at_ms,
        age_ms=age_ms,
        present=found.present,
        self=entity(found.self_),
        location_band=state_pb2.DistanceBand.ValueType(found.band),
        combat=found.combat,
        health_percent=found.health_percent,
        lineage=found.lineage,
        members=[
            state_pb2.ContextMember(
                entity=entity(m.entity),
                distance=m.distance,
                since_revision=m.since_revision,
                since_ms=m.since_ms,
            )
            for m in found.members
        ],
        departed=[
            state_pb2.Departed(
                id=gone.id, name=gone.name, kind=type_pb2.EntityKind.ValueType(gone.kind), left_ms=gone.left_ms
            )
            for gone in found.departed
        ],
        nearby=[
            state_pb2.NearbyCluster(lineage=n.lineage, member_names=n.names, distance=n.distance) for n in found.nearby
        ],
        recent_events=[event(e) for e in found.events],
        status_revision=found.status_revision,
        group_revision=found.group_revision,
        events_revision=found.events_revision,
        heard=found.heard,
        expected_action_id=found.expected_action_id,
        epoch=epoch,
        world_closed=document.closed,
    )
    if found.location is not None:
        answer.location.CopyFrom(location(found.location))
    if found.profile is not None:
        answer.profile.CopyFrom(profile(found.profile))
    return answer


def npc_change(told: Told) -> state_pb2.NpcChange:
    """A changed key."""
    change = told.change
    answer = state_pb2.NpcChange(
        revision=change.revision,
        lane=type_pb2.Lane.ValueType(change.lane),
        heard=change.heard,
        combat=change.combat,
        gone=change.gone,
        world_closed=told.closed,
        traceparent=told.cause,
    )
    # In place: a message that is given is copied, and a page has many of these.
    key = answer.key
    key.npc_id = change.npc
    key.world.tenant, key.world.world = told.ref
    return answer


def npc_key(ref: Ref, npc: str) -> state_pb2.NpcKey:
    """The key of an NPC in a world."""
    return state_pb2.NpcKey(world=world_ref(ref), npc_id=npc)


def world_ref(ref: Ref) -> type_pb2.WorldRef:
    """A world's name."""
    return type_pb2.WorldRef(tenant=ref[0], world=ref[1])


def entities(columns: Columns) -> type_pb2.EntityColumns:
    """Every entity of a world."""
    x, y, z = columns.xyz
    health, most = columns.vitals
    return type_pb2.EntityColumns(
        ids=columns.ids,
        names=columns.names,
        kinds=columns.kinds.tobytes(),
        x=x.tobytes(),
        y=y.tobytes(),
        z=z.tobytes(),
        health=health.tobytes(),
        max_health=most.tobytes(),
        actions=columns.actions,
        locations=columns.locations,
        last_seen=columns.last_seen.tobytes(),
        looks=columns.looks.in_order(len(columns)),
        details=columns.details.in_order(len(columns)),
    )


def summary(ref: Ref, document: Document) -> state_pb2.WorldSummary:
    """A line about a world."""
    kinds = document.columns.kinds
    return state_pb2.WorldSummary(
        world=world_ref(ref),
        revision=document.revision,
        revision_ms=document.at_ms,
        npcs=int(np.count_nonzero(kinds == NPC)),
        players=int(np.count_nonzero(kinds == PLAYER)),
        clusters=len(document.membership.lineages),
        closed=document.closed,
    )
