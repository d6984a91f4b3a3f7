"""Entities of a snapshot as columns: what crosses to state (type.proto, record 5). Pure.

A row that cannot stand is left out and its path and reason reported; a request that breaks a bound is refused whole.
The usual snapshot, in which every row stands, is read column by column; any doubt reads it row by row.
"""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput
from services.edge import bounds
from services.edge.contract.shared import Nothing, Point, Vector
from services.edge.contract.snapshot import Entity, Health

NAN = math.nan
FLOAT_MAX = 3.4028234e38
KINDS = {"npc": type_pb2.ENTITY_KIND_NPC, "player": type_pb2.ENTITY_KIND_PLAYER}
KNOWN_FIELDS = frozenset(Entity.__struct_fields__)
Refusals = list[type_pb2.FieldRefusal]
Place = tuple[float, float, float]
Extras = Sequence[dict[str, Any]]
# Members of a group, and the positions known for them.
Group = tuple[list[str], dict[str, Place]]
NOWHERE: Place = (NAN, NAN, NAN)
EMPTY = b"{}"
_encode = msgspec.json.Encoder().encode


class Looks(msgspec.Struct, omit_defaults=True):
    """What texts about an entity speak of; the keys of the public contract."""

    appearance: Any = None
    description: Any = None


class Details(msgspec.Struct, omit_defaults=True):
    """The cold rest of an entity, one JSON object; the keys of the public contract."""

    state: Any = None
    is_moving: Any = None
    velocity: Any = None


NO_DETAILS = Details()


@dataclass(slots=True)
class _Rows:
    """Rows that stand: their place in the request, and their first columns."""

    indices: Sequence[int]
    entities: Sequence[Entity]
    ids: list[str]
    kinds: bytes
    axes: Sequence[Sequence[float]]


def entity_columns(
    entities: Sequence[Entity],
    columns: type_pb2.EntityColumns,
    refused: Refusals,
    *,
    delta: bool,
    spoiled: Collection[int] = (),
    extras: Extras | None = None,
) -> None:
    """Fill `columns` with the entities that can stand, in their order.

    refused: gets one entry for each part left out. delta: a row may leave its kind out (it does not change).
    spoiled: indices of entities with a bare inf or nan in their position. extras: all fields of each entity, when some
    are not named by the contract. Raises BadInput and TooLarge when a bound is broken: nothing is applied then.
    """
    if not entities:
        return
    rows = None if spoiled else _all(entities)
    rows = rows or _standing(entities, refused, delta=delta, spoiled=spoiled)
    columns.ids.extend(rows.ids)
    columns.kinds = rows.kinds
    pack_axes(columns, rows.axes)
    _pack_texts(columns, rows)
    _pack_health(columns, rows, refused)
    columns.last_seen = doubles([entity.last_seen for entity in rows.entities])
    _pack_details(columns, rows, extras)


def _all(entities: Sequence[Any]) -> _Rows | None:
    """Every entity as a row; None when one may not stand: whatever is not as usual raises on the way."""
    try:
        ids = [entity.id for entity in entities]
        joined = "".join(ids)
        kinds = bytes([KINDS[entity.kind] for entity in entities])
        points = [entity.position for entity in entities]
        axes = [[point.x for point in points], [point.y for point in points], [point.z for point in points]]
        within = all(min(axis) > -FLOAT_MAX and max(axis) < FLOAT_MAX for axis in axes)
    except (TypeError, KeyError, AttributeError):
        return None
    shortest, longest = min(map(len, ids)), max(map(len, ids))
    if not (within and joined.isprintable() and shortest and longest <= bounds.ID and len(set(ids)) == len(ids)):
        return None
    return _Rows(range(len(ids)), entities, ids, kinds, axes)


def _standing(entities: Sequence[Entity], refused: Refusals, *, delta: bool, spoiled: Collection[int]) -> _Rows:
    """The entities that stand, one by one; the others are reported."""
    indices, places, ids, kinds = [], [], [], bytearray()
    seen: set[str] = set()
    for index, entity in enumerate(entities):
        where = f"entities[{index}]"
        if entity.id is None:
            refuse(refused, f"{where}.id", "MISSING_ID")
            continue
        name = bounds.identify(entity.id, f"{where}.id")
        kind = KINDS.get((entity.kind or "").lower(), 0)
        place = place_or_reason(entity.position)
        if name in seen:
            refuse(refused, f"{where}.id", "DUPLICATE_ID")
            continue
        seen.add(name)
        if index in spoiled:
            continue  # the reader has reported the coordinate itself
        if not kind and not (delta and entity.kind is None):
            refuse(refused, f"{where}.kind", "UNKNOWN_KIND")
        elif isinstance(place, str):
            refuse(refused, f"{where}.position", place)
        else:
            indices.append(index)
            ids.append(name)
            kinds.append(kind)
            places.append(place)
    axes = list(zip(*places, strict=True))
    return _Rows(indices, [entities[index] for index in indices], ids, bytes(kinds), axes)


def pack_axes(columns: type_pb2.EntityColumns, axes: Sequence[Sequence[float]]) -> None:
    """Fill x, y, z from three sequences; leave them empty when no row has a position."""
    if axes and not all(map(math.isnan, axes[0])):
        columns.x, columns.y, columns.z = (floats(axis) for axis in axes)


def place_or_reason(point: Point | None) -> Place | str:
    """Three coordinates, NaN for none, or the reason why the point does not stand."""
    if isinstance(point, Vector):
        x, y, z = point.x, point.y, point.z
        if x is None and y is None and z is None:
            return NOWHERE
    elif not point:
        return NOWHERE
    elif len(point) == 3:
        x, y, z = point
    else:
        return "INCOMPLETE_POSITION"
    if x is None or y is None or z is None:
        return "INCOMPLETE_POSITION"
    if not (abs(x) < FLOAT_MAX and abs(y) < FLOAT_MAX and abs(z) < FLOAT_MAX):
        return "NOT_FINITE"
    return x, y, z


def places(positions: dict[str, Point | None] | list[None] | None) -> dict[str, Place]:
    """Positions by id, those that stand."""
    if not isinstance(positions, dict):
        return {}
    found = ((name, place_or_reason(point)) for name, point in positions.items())
    return {name: place for name, place in found if not isinstance(place, str) and not math.isnan(place[0])}


def member_ids(values: Any, path: str) -> list[str]:
    """Ids of a list, each once. Raises BadInput when one is not an id."""
    names = [bounds.identify(value, f"{path}[{index}]") for index, value in enumerate(listed(values))]
    return list(dict.fromkeys(names))


def listed(values: Any) -> Any:
    """A list field: null and an empty table are an empty list."""
    return [] if values is None or isinstance(values, Nothing) else values


def _pack_texts(columns: type_pb2.EntityColumns, rows: _Rows) -> None:
    names = [entity.name or "" for entity in rows.entities]
    joined = "".join(names)
    if not (joined.isascii() and joined.isprintable() and bounds.longest(names, bounds.NAME)):
        names = [
            bounds.shown(name, f"entities[{index}].name", bounds.NAME)
            for index, name in zip(rows.indices, names, strict=True)
        ]
    actions = [entity.action or "" for entity in rows.entities]
    locations = [entity.location or "" for entity in rows.entities]
    for field, values in (("action", actions), ("location", locations)):
        if not bounds.longest(values, bounds.WORD):
            for index, value in zip(rows.indices, values, strict=True):
                bounds.short(value, f"entities[{index}].{field}", bounds.WORD)
    if any(names):
        columns.names.extend(names)
    if any(actions):
        columns.actions.extend(actions)
    if any(locations):
        columns.locations.extend(locations)


def _pack_health(columns: type_pb2.EntityColumns, rows: _Rows, refused: Refusals) -> None:
    told = [entity.health for entity in rows.entities]
    most = [entity.max_health for entity in rows.entities]
    if not {type(health) for health in told} <= _PLAIN:
        pairs = [health_of(health) for health in told]
        now = [current for current, _ in pairs]
        most = [own if own is not None else maximum for own, (_, maximum) in zip(most, pairs, strict=True)]
    else:
        now = told  # type: ignore[assignment] # numbers and None, as just seen
    columns.health = _finite(now, "health", rows, refused)
    columns.max_health = _finite(most, "max_health", rows, refused)


_PLAIN = frozenset({float, int, type(None)})


def _finite(values: list[float | None], field: str, rows: _Rows, refused: Refusals) -> bytes:
    """A column of numbers; what float32 cannot hold is unknown and reported."""
    if values.count(None) == len(values):
        return b""
    kept = [NAN if value is None else value for value in values]
    packed = floats(kept)
    if not np.isinf(np.frombuffer(packed, "<f4")).any():
        return packed
    for index, value in zip(rows.indices, kept, strict=True):
        if abs(value) >= FLOAT_MAX:
            refuse(refused, f"entities[{index}].{field}", "NOT_FINITE")
    return known_floats([NAN if abs(value) >= FLOAT_MAX else value for value in kept])


def health_of(health: float | Health | list[None] | None) -> tuple[float | None, float | None]:
    """Current health and its maximum, None where not said."""
    if isinstance(health, Health):
        return health.current, health.max
    return (None, None) if health is None or isinstance(health, list) else (health, None)


def _pack_details(columns: type_pb2.EntityColumns, rows: _Rows, extras: Extras | None) -> None:
    looks = [_encode(Looks(entity.appearance, entity.description)) for entity in rows.entities]
    rest = []
    for place, entity in enumerate(rows.entities):
        text = details_of(entity.health, entity.state)
        if extras is not None:
            text = _with_extras(text, extras[rows.indices[place]])
        rest.append(text)
    for index, look, text in zip(rows.indices, looks, rest, strict=True):
        fitting(look, text, f"entities[{index}]")
    columns.looks, columns.details = array_of(looks), array_of(rest)


def details_of(health: Any, state: Any = None) -> bytes:
    """The cold rest as one JSON object."""
    if isinstance(health, Health):
        state = health.state if state is None else state
        return _encode(Details(state, health.isMoving, health.velocity))
    return _encode(NO_DETAILS if state is None else Details(state))


def _with_extras(text: bytes, fields: dict[str, Any]) -> bytes:
    more = {key: value for key, value in fields.items() if key not in KNOWN_FIELDS}
    if not more:
        return text
    return _encode({**msgspec.json.decode(text), **more})


def fitting(look: bytes, text: bytes, where: str) -> None:
    """Raises BadInput when an entity's cold parts are longer than 4 KiB."""
    if len(look) + len(text) > bounds.DETAILS_BYTES:
        raise BadInput(f"{where}: details longer than {bounds.DETAILS_BYTES} bytes", reason="TOO_LONG")


def array_of(texts: Sequence[bytes]) -> bytes:
    """Objects as one JSON array; empty when all are."""
    return b"[" + b",".join(texts) + b"]" if any(text != EMPTY for text in texts) else b""


def refuse(refused: Refusals, path: str, reason: str) -> None:
    refused.append(type_pb2.FieldRefusal(path=path, reason=reason))


def floats(values: Iterable[float]) -> bytes:
    """Packed little-endian float32."""
    return _packed(array.array("f", values))


def known_floats(values: list[float]) -> bytes:
    """The same, empty when no row's value is known."""
    return b"" if all(map(math.isnan, values)) else floats(values)


def doubles(values: list[float | None]) -> bytes:
    """Packed little-endian float64, NaN for None; empty when no row's value is known."""
    if all(value is None for value in values):
        return b""
    return _packed(array.array("d", [NAN if value is None else value for value in values]))


def _packed(values: array.array[float]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
