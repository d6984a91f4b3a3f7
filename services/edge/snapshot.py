"""A snapshot request as an item of the Ingest stream. Pure: text and limits in, message and refusals out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput
from services.edge import bounds
from services.edge.columns import (
    NOWHERE,
    Group,
    Refusals,
    entity_columns,
    listed,
    member_ids,
    pack_axes,
    places,
    refuse,
)
from services.edge.contract.snapshot import EntityParts, GameEvent, SnapshotHead
from services.edge.document import Document, Path, path_text
from services.edge.existing_snapshot import ExistingSnapshot, is_existing
from services.edge.plain import Plain, plain_columns

_PARTS = Document(EntityParts)
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Reading:
    """What a request said. `item` has no id, world and budget yet; `parsed` is the whole request."""

    world: str | None
    item: state_pb2.SnapshotItem
    parsed: Any
    refused: Refusals = field(default_factory=list)


class SnapshotReader:
    """Reads bodies that hold a snapshot of either shape.

    plain: the type of usual requests, tried first (see `plain`). opened: the same with any fields; a second reading
    finds those that the contract does not name. entities_max: entities per snapshot. stale_after_s: an entry of the
    existing game that is older than its snapshot by this is gone (it never removes entries).
    """

    def __init__(self, plain: type[Any], opened: type[Any], *, entities_max: int, stale_after_s: float) -> None:
        self._plain: Plain[Any] = Plain(plain)
        self._opened: Document[Any] = Document(opened)
        self._entities_max = entities_max
        self._stale_after_s = stale_after_s

    def read(self, body: bytes) -> Reading:
        """What the body says. Raises BadInput and TooLarge; nothing of the request is applied then."""
        head = self._plain.read(body)
        if head is not None and len(head.entities) <= self._entities_max:
            reading = _begun(head, [])
            if plain_columns(head.entities, reading.item.entities):
                return _whole(head, reading, _own_groups(head), {}, self._entities_max)
        # Something is unusual or wrong: the open types say what.
        head, bare = self._opened.read(body)
        return self._read(head, bare, body)

    def _read(self, head: Any, bare: list[Path], body: bytes) -> Reading:
        reading = _begun(head, bare)
        if head.entities is None and is_existing(head):
            existing = ExistingSnapshot(head)
            spoiled: set[Any] = {path[1] for path in bare if path[0] == "humanContext" and path[2:3] == ("position",)}
            reading.item.ids_are_names = True
            reading.item.entities.CopyFrom(
                existing.columns(reading.refused, spoiled, self._entities_max, self._stale_after_s)
            )
            return _whole(head, reading, existing.groups, existing.kinds, self._entities_max)
        rows = listed(head.entities)
        bounds.count(rows, "entities", self._entities_max)
        spoiled = {path[1] for path in bare if path[0] == "entities" and path[2:3] == ("position",)}
        extras = listed(_PARTS.value(body).entities)
        entity_columns(
            rows, reading.item.entities, reading.refused, delta=reading.item.delta, spoiled=spoiled, extras=extras
        )
        return _whole(head, reading, _own_groups(head), {}, self._entities_max)


def _begun(head: Any, bare: list[Path]) -> Reading:
    """The request's place in its stream, and the numbers in it that are none."""
    reading = Reading(None if head.world is None else bounds.world_name(head.world), _sequence(head), head)
    for path in bare:
        refuse(reading.refused, path_text(path), "NOT_FINITE")
    return reading


def _own_groups(head: SnapshotHead) -> list[Group]:
    return [
        (member_ids(group.members, f"groups[{number}].members"), places(group.positions))
        for number, group in enumerate(listed(head.groups))
    ]


def _whole(
    head: Any,
    reading: Reading,
    groups: list[Group],
    kinds: dict[str, int],
    entities_max: int,
) -> Reading:
    """The reading with everything that the request says."""
    item = reading.item
    left = listed(head.left)
    bounds.count(left, "left", entities_max)
    if left:
        item.left_ids.extend(bounds.identify(value, f"left[{index}]") for index, value in enumerate(left))
    events = listed(head.events)
    if events:
        item.events.extend(game_events(events, reading.refused))
    bounds.count(groups, "groups", bounds.GROUPS)
    if groups:
        own = set(item.entities.ids)
        item.groups.extend(_group(group, kinds, own) for group in groups if group[0])
    return reading


def _sequence(head: SnapshotHead) -> state_pb2.SnapshotItem:
    item = state_pb2.SnapshotItem(
        epoch=bounds.whole(head.epoch, "epoch"),
        seq=bounds.whole(head.seq, "seq"),
        base_seq=bounds.whole(head.base_seq, "base_seq"),
        delta=bool(head.delta),
        want_positions=head.positions is not False,
    )
    if item.delta and not item.seq:
        raise BadInput("seq: a delta needs its seq and base_seq", reason="INVALID_FIELD")
    return item


def _group(group: Group, kinds: dict[str, int], own: set[str]) -> state_pb2.GroupReport:
    """A group with rows for the members that have no entity of their own (A5)."""
    names, known = group
    report = state_pb2.GroupReport(member_ids=names)
    others = [name for name in names if name not in own]
    if others and (known or kinds):
        report.positions.ids.extend(others)
        report.positions.kinds = bytes(kinds.get(name, type_pb2.ENTITY_KIND_UNSPECIFIED) for name in others)
        pack_axes(report.positions, list(zip(*(known.get(name, NOWHERE) for name in others), strict=True)))
    return report


def game_events(events: Sequence[GameEvent], refused: Refusals) -> list[type_pb2.GameEvent]:
    """Events of the game as messages; one without a type is reported and left out."""
    bounds.count(events, "events", bounds.EVENTS)
    messages = []
    for index, event in enumerate(events):
        path = f"events[{index}]"
        if not event.type:
            refuse(refused, f"{path}.type", "MISSING_TYPE")
            continue
        data = _encode(event.data) if event.data else b""
        if len(data) > bounds.DETAILS_BYTES:
            raise bounds.too_long(f"{path}.data", bounds.DETAILS_BYTES)
        at = event.at if event.at is not None and abs(event.at) < 1e12 else 0.0
        messages.append(
            type_pb2.GameEvent(
                id="" if event.id is None else bounds.identify(event.id, f"{path}.id"),
                type=bounds.short(event.type, f"{path}.type", bounds.WORD),
                actor_id="" if event.actor is None else bounds.identify(event.actor, f"{path}.actor"),
                target_id="" if event.target is None else bounds.identify(event.target, f"{path}.target"),
                text=bounds.shown(event.text, f"{path}.text", bounds.CHAT),
                data=data,
                at_ms=round(at * 1000),
            )
        )
    return messages
