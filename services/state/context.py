"""Everything that an NPC's blocks are rendered from, read from one document (A4, A5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from services.state import change as changed
from services.state.bands import AT, NPC, PLAYER
from services.state.cold import UNKNOWN
from services.state.columns import Columns
from services.state.document import Document
from services.state.event import Event
from services.state.roster import Location, Profile, Roster

NEARBY_STUDS = 50.0
NEARBY_MOST = 5
# What games send for a place that they do not know.
NO_PLACE = frozenset({"", "unknown", "unknown area"})


class Entity(Struct, frozen=True):
    """One row, for readers; None and "" are not known."""

    id: str
    name: str
    kind: int
    position: tuple[float, float, float] | None
    health: float | None
    max_health: float | None
    action: str
    location: str
    appearance: str
    description: str


class Member(Struct, frozen=True):
    """Another member of the NPC's cluster; distance in studs, -1 unknown."""

    entity: Entity
    distance: float
    since_revision: int
    since_ms: int


class Left(Struct, frozen=True):
    """Someone who was a member a moment ago."""

    id: str
    name: str
    kind: int
    left_ms: int


class Nearby(Struct, frozen=True):
    """A cluster out of earshot; distance to its nearest member in studs."""

    lineage: str
    names: tuple[str, ...]
    distance: float


class NpcContext(Struct, frozen=True):
    """See earshot.state.v1.NpcContext, whose fields these are. health_percent in sticky tens, -1 unknown."""

    npc: str
    present: bool
    self_: Entity
    profile: Profile | None
    location: Location | None = None
    band: int = 0
    combat: bool = False
    health_percent: int = -1
    lineage: str = ""
    members: tuple[Member, ...] = ()
    departed: tuple[Left, ...] = ()
    nearby: tuple[Nearby, ...] = ()
    events: tuple[Event, ...] = ()
    status_revision: int = 0
    group_revision: int = 0
    events_revision: int = 0
    heard: bool = False
    expected_action_id: str = ""


def context_of(document: Document, roster: Roster, npc: str, looks: Sequence[bytes] | None = None) -> NpcContext | None:
    """The NPC's context; None when neither the world nor the roster knows it.

    looks: the document's, for who asks for many contexts of it.
    """
    profile = roster.npcs.get(npc)
    row = document.columns.index.get(npc)
    if row is None:
        if profile is None:
            return None
        return NpcContext(npc, False, _absent(npc, profile), profile)
    if looks is None:
        looks = looks_of(document)
    membership, situation = document.membership, document.situation
    lineage = int(membership.of[row])
    expected = document.observed.expected.get(npc)
    location, band = location_of(document, roster, row)
    return NpcContext(
        npc=npc,
        present=True,
        self_=entity_of(document, roster, row, looks),
        profile=profile,
        location=location,
        band=band,
        combat=bool(situation.fighting_until[row]),
        health_percent=int(situation.tens[row]),
        lineage=membership.lineages[lineage] if lineage >= 0 else "",
        members=_members(document, roster, row, looks),
        departed=_departed(document, row),
        nearby=_nearby(document, row),
        events=_events(document, row),
        status_revision=int(document.status_revision[row]),
        group_revision=int(document.group_revision[row]),
        events_revision=int(document.events_revision[row]),
        heard=changed.heard(document.columns, membership, row),
        expected_action_id=expected.status.action_id if expected else "",
    )


def looks_of(document: Document) -> list[bytes]:
    """Every row's looks, still as JSON."""
    return document.columns.looks.rows(len(document.columns))


def entity_of(document: Document, roster: Roster, row: int, looks: Sequence[bytes]) -> Entity:
    """A row with its expected status over the reported one and what the roster knows of it."""
    columns = document.columns
    entity = columns.ids[row]
    kind = int(columns.kinds[row])
    appearance, description = seen(looks[row])
    name = columns.names[row]
    if kind == NPC and entity in roster.npcs:
        profile = roster.npcs[entity]
        name, appearance = name or profile.display_name, appearance or profile.appearance
    elif kind == PLAYER and entity in roster.players:
        player = roster.players[entity]
        name, description = name or player.name, player.description or description
    expected = document.observed.expected.get(entity)
    status = expected.status if expected else None
    health, most = (_known(value) for value in columns.vitals[:, row].tolist())
    if status is not None:
        health = health if status.health is None else status.health
        most = most if status.max_health is None else status.max_health
    return Entity(
        id=entity,
        name=name or entity,
        kind=kind,
        position=position_of(columns, row),
        health=health,
        max_health=most,
        action=(status.action if status else "") or columns.actions[row],
        location=(status.location if status else "") or columns.locations[row],
        appearance=appearance,
        description=description,
    )


def position_of(columns: Columns, row: int) -> tuple[float, float, float] | None:
    """Coordinates in studs, None without any."""
    x, y, z = columns.xyz[:, row].tolist()
    return None if x != x else (x, y, z)


def seen(look: bytes) -> tuple[str, str]:
    """(appearance, description) from the entity's JSON; odd values are none."""
    if look == UNKNOWN:
        return "", ""
    try:
        found: Any = msgspec.json.decode(look)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", ""
    if not isinstance(found, dict):
        return "", ""
    appearance, description = (found.get(key) for key in ("appearance", "description"))
    return (
        appearance if isinstance(appearance, str) else "",
        description if isinstance(description, str) else "",
    )


def _known(value: float) -> float | None:
    return None if value != value else value


def _absent(npc: str, profile: Profile) -> Entity:
    return Entity(npc, profile.display_name, NPC, None, None, None, "", "", profile.appearance, "")


def location_of(document: Document, roster: Roster, row: int) -> tuple[Location | None, int]:
    """The nearest known place with its band; what the game reports where there is no position."""
    standing = document.situation.standing
    place = int(standing.place[row])
    if place >= 0 and standing.roster == roster.version:
        return roster.places[place], int(standing.band[row])
    reported = document.columns.locations[row]
    if reported.casefold() in NO_PLACE:
        return None, 0
    return roster.known(reported) or Location(reported, reported, None), AT


def _members(document: Document, roster: Roster, row: int, looks: Sequence[bytes]) -> tuple[Member, ...]:
    membership = document.membership
    lineage = int(membership.of[row])
    if lineage < 0:
        return ()
    others = [member for member in membership.members[lineage] if member != row]
    away = _distances(document.columns, row)[others].tolist()
    revisions, times = membership.since_revision[others].tolist(), membership.since_ms[others].tolist()
    return tuple(
        Member(entity_of(document, roster, member, looks), -1.0 if studs != studs else studs, revision, ms)
        for member, studs, revision, ms in zip(others, away, revisions, times, strict=True)
    )


def _distances(columns: Columns, row: int) -> npt.NDArray[np.float64]:
    """From the row to every row, in studs; NaN where one of them has no position."""
    offsets = columns.xyz.astype(np.float64) - columns.xyz[:, [row]]
    away: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->j", offsets, offsets))
    return away


def _departed(document: Document, row: int) -> tuple[Left, ...]:
    """Who left the NPC's lineage; for an NPC that is alone, who was in the lineage that just dissolved."""
    membership, columns = document.membership, document.columns
    lineage = int(membership.of[row])
    if lineage >= 0:
        gone = membership.departed.get(membership.lineages[lineage], ())
        return tuple(Left(who.id, who.name, who.kind, who.left_ms) for who in gone)
    for ended in reversed(membership.ended):
        if columns.ids[row] in ended.members:
            rows = [(who, columns.index.get(who)) for who in ended.members if who != columns.ids[row]]
            return tuple(
                Left(who, columns.names[at] or who, int(columns.kinds[at]), ended.at_ms)
                for who, at in rows
                if at is not None
            )
    return ()


def _nearby(document: Document, row: int) -> tuple[Nearby, ...]:
    """Other clusters, nearest first, by their member nearest to the NPC."""
    columns, membership = document.columns, document.membership
    if not membership.lineages or columns.xyz[0, row] != columns.xyz[0, row]:
        return ()
    away = np.nan_to_num(_distances(columns, row), nan=np.inf)
    nearest = np.full(len(membership.lineages) + 1, np.inf)
    np.minimum.at(nearest, membership.of, away)  # those of no lineage (-1) count for the last place
    nearest[[membership.of[row], -1]] = np.inf
    found = []
    for index in np.argsort(nearest, kind="stable")[:NEARBY_MOST].tolist():
        if nearest[index] <= NEARBY_STUDS:
            names = tuple(columns.names[member] or columns.ids[member] for member in membership.members[index])
            found.append(Nearby(membership.lineages[index], names, float(nearest[index])))
    return tuple(found)


def _events(document: Document, row: int) -> tuple[Event, ...]:
    """Recent events that the NPC took part in or witnessed where it stood then, and those of nobody."""
    npc = document.columns.ids[row]
    return tuple(event for event in document.events if npc in event.witnesses or not (event.actor or event.target))
