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

    known: the type whose entities have no unknown fields, tried first. opened: the same with any fields; a second
    reading finds those. entities_max: entities per snapshot. stale_after_s: an entry of the existing game that is
    older than its snapshot by this is gone (it never removes entries).
    """

    def __init__(self, known: type[Any], opened: type[Any], *, entities_max: int, stale_after_s: float) -> None:
        self._known: Document[Any] = Document(known)
        self._opened: Document[Any] = Document(opened)
        self._entities_max = entities_max
        self._stale_after_s = stale_after_s

    def read(self, body: bytes) -> Reading:
        """What the body says. Raises BadInput and TooLarge; nothing of the request is applied then."""
        try:
            parsed, bare = self._known.read(body)
        except BadInput as error:
            if error.reason != "INVALID_FIELD":
                raise
            # Perhaps only a field that the contract does not name: the open types say what is really wrong.
            parsed, bare = self._opened.read(body)
            parts = listed(_PARTS.value(body).entities)
        else:
            parts = None
        return _reading(parsed, bare, parts, self._entities_max, self._stale_after_s)


def _reading(head: Any, bare: list[Path], parts: Any, entities_max: int, stale_after_s: float) -> Reading:
    item = _sequence(head)
    reading = Reading(None if head.world is None else bounds.world_name(head.world), item, head)
    for path in bare:
        refuse(reading.refused, path_text(path), "NOT_FINITE")
    groups: list[Group]
    kinds: dict[str, int] = {}
    if head.entities is None and is_existing(head):
        existing = ExistingSnapshot(head)
        spoiled: set[Any] = {path[1] for path in bare if path[0] == "humanContext" and path[2:3] == ("position",)}
        item.ids_are_names = True
        item.entities.CopyFrom(existing.columns(reading.refused, spoiled, entities_max, stale_after_s))
        kinds, groups = existing.kinds, existing.groups
    else:
        rows = listed(head.entities)
        bounds.count(rows, "entities", entities_max)
        spoiled = {path[1] for path in bare if path[0] == "entities" and path[2:3] == ("position",)}
        entity_columns(rows, item.entities, reading.refused, delta=item.delta, spoiled=spoiled, extras=parts)
        groups = [
            (member_ids(group.members, f"groups[{number}].members"), places(group.positions))
            for number, group in enumerate(listed(head.groups))
        ]
    left = listed(head.left)
    bounds.count(left, "left", entities_max)
    item.left_ids.extend(bounds.identify(value, f"left[{index}]") for index, value in enumerate(left))
    item.events.extend(game_events(listed(head.events), reading.refused))
    bounds.count(groups, "groups", bounds.GROUPS)
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
