"""The usual snapshot, read fast: whole rows without unknown fields become columns, their cold parts stay text. Pure.

Whatever is not as usual answers None, and the open types read the body again: they say what is wrong, row by row. One
body gives one message on either way (a property test holds the two equal).
"""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
import numpy as np
from earshot.type.v1 import type_pb2

from services.edge import bounds
from services.edge.contract.snapshot import PlainEntity, PlainHealth
from services.edge.document import MAX_DEPTH, depth

T = TypeVar("T")

KINDS = {"npc": type_pb2.ENTITY_KIND_NPC, "player": type_pb2.ENTITY_KIND_PLAYER}
# The cold parts stand below the request, its list, the entity and its health, and here below an array and an object.
DEEP = MAX_DEPTH - 4 + 2
# Of the looks and of the details of one row: together they fit then.
LONG = bounds.DETAILS_BYTES // 2
_NULL = msgspec.Raw(b"null")


class Plain(Generic[T]):
    """Reads plain bodies of one type, which has `entities: list[PlainEntity]`."""

    def __init__(self, kind: type[T]) -> None:
        self._decode = msgspec.json.Decoder(kind).decode

    def read(self, body: bytes) -> T | None:
        """The request; None when it is not plain."""
        try:
            if not body.isascii():
                body.decode()  # text that is kept as it came is not looked at by the decoder
            return self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None


def plain_columns(entities: Sequence[PlainEntity], columns: type_pb2.EntityColumns) -> bool:
    """Fill `columns` with plain entities; False, and nothing filled, when one of them needs a closer look."""
    if not entities:
        return False
    ids = [entity.id for entity in entities]
    names = [entity.name for entity in entities]
    kinds = [KINDS.get(entity.kind, 0) for entity in entities]
    actions = [entity.action for entity in entities]
    locations = [entity.location for entity in entities]
    shown = "".join(names)
    if not (
        all(kinds)
        and len(set(ids)) == len(ids)
        and "".join(ids).isprintable()
        and all(ids)
        and bounds.longest(ids, bounds.ID)
        and shown.isascii()
        and shown.isprintable()
        and bounds.longest(names, bounds.NAME)
        and bounds.longest(actions, bounds.WORD)
        and bounds.longest(locations, bounds.WORD)
    ):
        return False
    try:
        numbers = _numbers(entities)
        seen = array.array("d", [entity.last_seen for entity in entities])  # type: ignore[type-var] # None raises
        cold = _cold(entities)
    except (TypeError, AttributeError):  # something is not known, or not of one kind in all rows
        return False
    if cold is None or np.isinf(np.frombuffer(numbers, np.float32)).any():
        return False
    if sys.byteorder == "big":
        numbers.byteswap()
        seen.byteswap()
    packed, size = numbers.tobytes(), 4 * len(ids)
    columns.ids.extend(ids)
    columns.kinds = bytes(kinds)
    if shown:
        columns.names.extend(names)
    if any(actions):
        columns.actions.extend(actions)
    if any(locations):
        columns.locations.extend(locations)
    columns.x, columns.y, columns.z = packed[:size], packed[size : 2 * size], packed[2 * size : 3 * size]
    columns.health, columns.max_health = packed[3 * size : 4 * size], packed[4 * size :]
    columns.last_seen = seen.tobytes()
    columns.looks, columns.details = cold
    return True


def _numbers(entities: Sequence[PlainEntity]) -> array.array[float]:
    """x, y, z, health and maximum, one after the other. Raises TypeError when one is not known."""
    points = [entity.position for entity in entities]
    numbers = array.array("f", [point.x for point in points])
    numbers.extend([point.y for point in points])
    numbers.extend([point.z for point in points])
    healths = [entity.health for entity in entities]
    if type(healths[0]) is PlainHealth:
        if any(entity.max_health is not None for entity in entities):
            raise TypeError
        numbers.extend([health.current for health in healths])  # type: ignore[union-attr] # AttributeError: see below
        numbers.extend([health.max for health in healths])  # type: ignore[union-attr] # as above
    else:
        numbers.extend(healths)  # type: ignore[arg-type] # others raise TypeError
        numbers.extend([entity.max_health for entity in entities])  # type: ignore[misc] # as above
    return numbers


def _cold(entities: Sequence[PlainEntity]) -> tuple[bytes, bytes] | None:
    """(looks, details); None when a part is null, too long or perhaps too deep."""
    looks = _array(
        ([entity.appearance for entity in entities], [entity.description for entity in entities]),
        (b'"appearance":', b'"description":'),
    )
    states = [entity.state for entity in entities]
    if isinstance(entities[0].health, PlainHealth):
        if any(states):
            return None
        healths = [entity.health for entity in entities]
        parts = (
            [health.state for health in healths],  # type: ignore[union-attr] # all alike: see _numbers
            [health.isMoving for health in healths],  # type: ignore[union-attr] # as above
            [health.velocity for health in healths],  # type: ignore[union-attr] # as above
        )
        details = _array(parts, (b'"state":', b'"is_moving":', b'"velocity":'))
    else:
        details = _array((states,), (b'"state":',))
    return None if looks is None or details is None else (looks, details)


def _array(parts: Sequence[Sequence[msgspec.Raw]], keys: Sequence[bytes]) -> bytes | None:
    """Columns of parts as one JSON array of objects, empty when none is there; None when one needs a closer look."""
    if any(_NULL in column for column in parts):
        return None
    if all(map(all, parts)):
        form = b"{" + b",".join([key + b"%b" for key in keys]) + b"}"
        texts = [form % row for row in zip(*parts, strict=True)]
    elif any(map(any, parts)):
        texts = [
            b"{" + b",".join([key + bytes(part) for key, part in zip(keys, row, strict=True) if part]) + b"}"
            for row in zip(*parts, strict=True)
        ]
    else:
        return b""
    text = b"[" + b",".join(texts) + b"]"
    if max(map(len, texts)) > LONG:
        return None
    return text if all(map(_flat, parts)) or depth(text) <= DEEP else None


def _flat(column: Sequence[msgspec.Raw]) -> bool:
    """Whether nothing nests in any part: no brackets, or one pair of braces around every part."""
    joined = b"".join(column)
    if b"[" in joined:
        return False
    if b"{" not in joined:
        return True
    # Every brace opens the column or follows a part's end, so none stands within another.
    return joined[0] == ord("{") and joined.count(b"{") == joined.count(b"}{") + 1
