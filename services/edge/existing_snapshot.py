"""The existing game's snapshot: display names for ids, entries that are never removed. Pure.

Both historical shapes and the one it builds today: entries with or without position, health and relationships, empty
tables as [], clusters with a null centre.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from earshot.type.v1 import type_pb2

from services.edge import bounds
from services.edge.columns import (
    EMPTY,
    FLOAT_MAX,
    NAN,
    Group,
    Place,
    Refusals,
    array_of,
    details_of,
    doubles,
    fitting,
    health_of,
    known_floats,
    listed,
    member_ids,
    pack_axes,
    place_or_reason,
    places,
    refuse,
)
from services.edge.contract.snapshot import CurrentGroups, HumanContext, SnapshotHead

NPC, PLAYER = type_pb2.ENTITY_KIND_NPC, type_pb2.ENTITY_KIND_PLAYER
Entries = list[tuple[str, HumanContext]]


def is_existing(head: SnapshotHead) -> bool:
    """Whether a request without `entities` has the existing game's shape."""
    return head.humanContext is not None or head.clusters is not None


class ExistingSnapshot:
    """What one such request says, read once."""

    def __init__(self, head: SnapshotHead) -> None:
        self.timestamp = head.timestamp
        self.entries: Entries = []
        if isinstance(head.humanContext, dict):
            self.entries = [
                (name, entry if isinstance(entry, HumanContext) else HumanContext())
                for name, entry in head.humanContext.items()
            ]
        # Kinds that cluster counts give away; state's roster decides for the rest.
        self.kinds: dict[str, int] = {}
        told: dict[str, Place] = {}
        self.groups: list[Group] = []
        for number, cluster in enumerate(listed(head.clusters)):
            names = member_ids(cluster.members, f"clusters[{number}].members")
            self.groups.append((names, told))
            if cluster.players == 0 or cluster.npcs == 0:
                kind = NPC if cluster.players == 0 else PLAYER
                self.kinds.update(dict.fromkeys(names, kind))
            told.update(places(cluster.positions))
        self._own_groups(told, wanted=not self.groups)
        self.told = told

    def _own_groups(self, told: dict[str, Place], *, wanted: bool) -> None:
        """Positions in entries' own groups; the groups themselves when the game sent no clusters."""
        unique: dict[frozenset[str], list[str]] = {}
        for name, entry in self.entries:
            if isinstance(entry.currentGroups, CurrentGroups):
                told.update(places(entry.currentGroups.positions))
                if wanted:
                    names = member_ids(entry.currentGroups.members, f"humanContext[{name}].currentGroups.members")
                    unique.setdefault(frozenset(names), names)
        self.groups.extend((names, told) for names in unique.values())

    def columns(
        self, refused: Refusals, spoiled: Collection[str], entities_max: int, stale_after_s: float
    ) -> type_pb2.EntityColumns:
        """Entries as columns, ids = display names; entries of who has left are dropped.

        spoiled: names with a bare inf or nan in their position. Raises TooLarge above entities_max.
        """
        here = self._here(stale_after_s)
        bounds.count(here, "humanContext", entities_max)
        kept: Entries = []
        spots: list[Place] = []
        for name, entry in here:
            spot = place_or_reason(entry.position)
            if not name or len(name) > bounds.ID or not name.isprintable():
                refuse(refused, "humanContext", "INVALID_ID")
            elif name in spoiled:
                continue  # the reader has reported the coordinate itself
            elif isinstance(spot, str):
                refuse(refused, f"humanContext[{name}].position", spot)
            else:
                kept.append((name, entry))
                spots.append(self.told.get(name, spot) if math.isnan(spot[0]) else spot)
        names = [name for name, _ in kept]
        kinds = bytes(self.kinds.get(name, type_pb2.ENTITY_KIND_UNSPECIFIED) for name in names)
        columns = type_pb2.EntityColumns(ids=names, names=names, kinds=kinds)
        pack_axes(columns, list(zip(*spots, strict=True)))
        _pack_status(columns, kept)
        return columns

    def _here(self, stale_after_s: float) -> Entries:
        if self.timestamp is None:
            return self.entries
        oldest = self.timestamp - stale_after_s
        grouped = {name for names, _ in self.groups for name in names}
        return [
            (name, entry)
            for name, entry in self.entries
            if entry.lastSeen is None or entry.lastSeen >= oldest or name in grouped
        ]


def _pack_status(columns: type_pb2.EntityColumns, entries: Entries) -> None:
    health = [health_of(entry.health) for _, entry in entries]
    columns.health = known_floats([_number(current) for current, _ in health])
    columns.max_health = known_floats([_number(most) for _, most in health])
    columns.last_seen = doubles([entry.lastSeen for _, entry in entries])
    locations, actions, details = [], [], []
    for name, entry in entries:
        path = f"humanContext[{name}]"
        locations.append(known_location(bounds.short(entry.location, f"{path}.location", bounds.WORD)))
        actions.append(bounds.short(entry.action, f"{path}.action", bounds.WORD))
        details.append(details_of(entry.health))
        fitting(EMPTY, details[-1], path)
    if any(locations):
        columns.locations.extend(locations)
    if any(actions):
        columns.actions.extend(actions)
    columns.details = array_of(details)


def known_location(text: str) -> str:
    """The old game writes "Unknown" or "Unknown Area" when it knows none."""
    return "" if text.lower().startswith("unknown") else text


def _number(value: float | None) -> float:
    return value if value is not None and abs(value) < FLOAT_MAX else NAN
