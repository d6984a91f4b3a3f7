"""A world document as one value of the store, and back.

Numeric columns travel as little-endian bytes. Monotonic times are stored as they are together with the tick
of the document, and shifted at load: while nobody runs, nothing expires. History is not stored: who reads
it after a restart finds a gap and compares clusters.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from services.state.cold import Cold
from services.state.columns import Columns
from services.state.document import Document
from services.state.event import Event
from services.state.membership import Departed, Ended, Membership, members_of
from services.state.observation import Expected, Observed
from services.state.place import Standing
from services.state.sequence import Base
from services.state.situation import FOREVER, Situation

FORMAT = 2


class Unreadable(ValueError):
    """A stored document of another format, or damaged."""


class _Stored(msgspec.Struct, array_like=True):
    format: int
    at_ms: int
    tick: int
    fed_ms: int
    fed_tick: int
    base: Base
    closed: bool
    ids: tuple[str, ...]
    names: tuple[str, ...]
    actions: tuple[str, ...]
    locations: tuple[str, ...]
    looks: tuple[bytes, bytes]
    details: tuple[bytes, bytes]
    kinds: bytes
    xyz: bytes
    vitals: bytes
    last_seen: bytes
    lineages: tuple[str, ...]
    formed: tuple[int, ...]
    of: bytes
    since_revision: bytes
    since_ms: bytes
    departed: dict[str, tuple[Departed, ...]]
    ended: tuple[Ended, ...]
    tens: bytes
    alarm: bytes
    fighting_until: bytes
    place: bytes
    band: bytes
    roster: int
    links: tuple[tuple[str, str, int], ...]
    expected: dict[str, Expected]
    player_names: dict[str, str]
    copresent: tuple[tuple[str, str], ...]
    status_revision: bytes
    group_revision: bytes
    events_revision: bytes
    events: tuple[Event, ...]
    seen: tuple[int, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


def encode(document: Document) -> bytes:
    """The document as bytes; about 10 us for 80 entities."""
    columns, membership, situation, observed = (
        document.columns, document.membership, document.situation, document.observed
    )  # fmt: skip
    return _encoder.encode(
        _Stored(
            FORMAT, document.at_ms, document.tick, document.fed_ms, document.fed_tick, document.base, document.closed,
            columns.ids, columns.names, columns.actions, columns.locations, _cold(columns.looks),
            _cold(columns.details),
            columns.kinds.tobytes(), columns.xyz.tobytes(), columns.vitals.tobytes(), columns.last_seen.tobytes(),
            membership.lineages, membership.formed, membership.of.tobytes(), membership.since_revision.tobytes(),
            membership.since_ms.tobytes(), dict(membership.departed), membership.ended,
            situation.tens.tobytes(), situation.alarm.tobytes(), situation.fighting_until.tobytes(),
            situation.standing.place.tobytes(), situation.standing.band.tobytes(), situation.standing.roster,
            tuple((*pair, until) for pair, until in observed.links.items()), dict(observed.expected),
            dict(observed.names), document.copresent, document.status_revision.tobytes(),
            document.group_revision.tobytes(), document.events_revision.tobytes(), document.events,
            tuple(document.seen),
        )
    )  # fmt: skip


def decode(data: bytes, revision: int, tick: int) -> Document:
    """The document that bytes stand for, at `revision`, with its monotonic times moved to now.

    Raises Unreadable.
    """
    try:
        stored = _decoder.decode(data)
        if stored.format != FORMAT:
            raise Unreadable(f"format {stored.format}")
        return _document(stored, revision, tick)
    except (msgspec.DecodeError, ValueError, IndexError) as error:
        raise Unreadable(str(error)) from error


def _document(stored: _Stored, revision: int, tick: int) -> Document:
    shift = tick - stored.tick
    count = len(stored.ids)
    columns = Columns(
        stored.ids, {entity: row for row, entity in enumerate(stored.ids)}, stored.names,
        _array(stored.kinds, np.uint8, count), _array(stored.xyz, np.float32, 3 * count).reshape(3, count),
        _array(stored.vitals, np.float32, 2 * count).reshape(2, count), stored.actions, stored.locations,
        _array(stored.last_seen, np.float64, count), _column(stored.looks, count), _column(stored.details, count),
    )  # fmt: skip
    of = _array(stored.of, np.int32, count)
    membership = Membership(
        stored.lineages, stored.formed, members_of(of, len(stored.lineages)), of,
        _array(stored.since_revision, np.int64, count), _array(stored.since_ms, np.int64, count),
        {
            lineage: tuple(_moved(who, shift) for who in gone)
            for lineage, gone in stored.departed.items()
        },
        tuple(_moved(ended, shift) for ended in stored.ended),
    )  # fmt: skip
    until = _array(stored.fighting_until, np.int64, count)
    situation = Situation(
        _array(stored.tens, np.int8, count), _array(stored.alarm, np.float32, count),
        np.where((until > 0) & (until < FOREVER), np.maximum(until + shift, 1), until),
        Standing(_array(stored.place, np.int32, count), _array(stored.band, np.int8, count), stored.roster),
    )  # fmt: skip
    observed = Observed(
        {(npc, player): until_tick + shift for npc, player, until_tick in stored.links},
        {npc: Expected(e.status, e.until + shift) for npc, e in stored.expected.items()},
        stored.player_names,
    )
    return Document(
        revision, stored.at_ms, tick, stored.fed_ms, stored.fed_tick + shift, stored.base, stored.closed, columns,
        membership, situation, observed, stored.copresent, _array(stored.status_revision, np.int64, count),
        _array(stored.group_revision, np.int64, count), _array(stored.events_revision, np.int64, count),
        stored.events, dict.fromkeys(stored.seen), (), (), revision,
    )  # fmt: skip


def _cold(column: Cold) -> tuple[bytes, bytes]:
    return column.text, b"" if column.order is None else column.order.tobytes()


def _column(stored: tuple[bytes, bytes], count: int) -> Cold:
    text, order = stored
    return Cold(text, _array(order, np.int32, count) if order else None)


def _array(data: bytes, kind: Any, count: int) -> Any:
    """A stored column; ValueError when it has not `count` values."""
    values = np.frombuffer(data, kind)
    if len(values) != count:
        raise ValueError("a column has the wrong length")
    return values


def _moved(entry: Any, shift: int) -> Any:
    return replace(entry, tick=entry.tick + shift)
