"""Decoders against arbitrary bytes and JSON: what they take, what they refuse and why; columns that hold together."""

from __future__ import annotations

import array
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from earshot.type.v1 import type_pb2
from google.protobuf.message import Message as ProtoMessage
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.common.errors import BadInput, TooLarge
from services.edge import bounds
from services.edge.columns import listed
from services.edge.contract.existing import Chat, DescribePlayer, GroupUpdate, StatusUpdate
from services.edge.contract.message import Message
from services.edge.contract.npc_call import Batch
from services.edge.contract.roster import Roster
from services.edge.contract.session import PlainSync, Sync
from services.edge.contract.snapshot import PlainSnapshot, Snapshot
from services.edge.document import MAX_DEPTH, Document, depth, path_text
from services.edge.existing import existing_say
from services.edge.game_sync import action_results
from services.edge.messages import said
from services.edge.npc_calls import batch_updates
from services.edge.profile import locations, players, profiles
from services.edge.snapshot import SnapshotReader
from services.edge.status_text import read_status

READER = SnapshotReader(PlainSnapshot, Snapshot, entities_max=500, stale_after_s=60)
SYNC_READER = SnapshotReader(PlainSync, Sync, entities_max=500, stale_after_s=60)
WORLD = type_pb2.WorldRef(tenant="t", world="w")
EXAMPLES = settings(max_examples=60, deadline=None)

# Words of the contracts, so that random documents reach deep into them.
WORDS = (
    "world", "epoch", "seq", "delta", "base_seq", "timestamp", "entities", "left", "events", "groups", "positions",
    "clusters", "humanContext", "id", "kind", "name", "position", "health", "max_health", "action", "location",
    "last_seen", "state", "description", "x", "y", "z", "current", "max", "isMoving", "members", "npcs", "players",
    "currentGroups", "lastSeen", "type", "actor", "text", "data", "at", "npc", "player", "Pete", "player_id",
    "speaker", "to", "message_id", "wait", "npc_id", "participant_id", "messages", "message", "content", "context",
    "role", "is_joining", "utterances", "action_results", "action_id", "updates", "cursor", "status", "group",
    "status_text", "user_id", "locations", "display_name", "aliases", "persona", "slug", "talkativeness", "blocks",
    "coordinates", "model_settings", "lines", "participant_name", "[SYSTEM] x",
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.sampled_from(WORDS),
    st.sampled_from(["", "\x00", "\u202e", "x" * 65, "x" * 300, "😀"]),
)
NAMES = st.one_of(st.sampled_from(WORDS), st.text(max_size=3))
DOCUMENTS = st.recursive(
    SCALARS,
    lambda child: st.one_of(st.lists(child, max_size=4), st.dictionaries(NAMES, child, max_size=8)),
    max_leaves=40,
)
ENTITIES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.integers(0, 5), st.sampled_from(["a", "b", "", None, 1.5, 3.0])),
        "kind": st.sampled_from(["npc", "player", "x", None]),
        "name": st.one_of(st.none(), st.text(max_size=5)),
        "position": st.one_of(
            st.sampled_from([None, [], {}, [1, 2]]),
            st.lists(st.one_of(st.integers(-9, 9), st.floats()), min_size=3, max_size=3),
            st.fixed_dictionaries({}, optional={axis: st.floats() for axis in "xyz"}),
        ),
        "health": st.one_of(
            st.none(),
            st.floats(),
            st.just([]),
            st.fixed_dictionaries({}, optional={"current": st.floats(), "max": st.floats()}),
        ),
        "max_health": st.one_of(st.none(), st.floats()),
        "last_seen": st.one_of(st.none(), st.floats(0, 9)),
        "state": st.one_of(st.none(), DOCUMENTS),
        "odd": DOCUMENTS,
    },
)


def encoded(value: Any) -> bytes:
    """As Luau would write it: bare NaN and Infinity, and any text."""
    return json.dumps(value).encode()


# An escape that Python writes and JSON readers refuse: half a surrogate pair.
HALF_PAIR = re.compile(rb"\\ud[89a-f]", re.IGNORECASE)


def agrees(body: bytes) -> None:
    """The reader takes what Python's own takes, with the same value, and nothing else: but for what is documented."""
    try:
        theirs = json.loads(body.decode().removeprefix("\ufeff"))
    except ValueError:
        theirs = ...
    try:
        ours, bare = Document[Any](Any).read(body)
    except BadInput as error:
        reason = error.reason
    else:
        assert bare or ours == theirs
        return
    assert reason in ("EMPTY_BODY", "NOT_UTF8", "INVALID_JSON", "TOO_DEEP")
    assert theirs is ... or reason == "TOO_DEEP" or HALF_PAIR.search(body)


# Every reason for which a decoder may refuse a body: a new one is a change of the contract.
REASONS = {
    "EMPTY_BODY", "NOT_UTF8", "INVALID_JSON", "TOO_DEEP", "INVALID_FIELD", "INVALID_ID", "MISSING_ID", "TOO_LONG",
    "TOO_MANY", "NOT_FINITE", "MISSING_SPEAKER", "EMPTY_TEXT", "DUPLICATE_ID",
}  # fmt: skip


def read(body: bytes) -> list[bytes | str]:
    """What each endpoint's decoder makes of a body: its messages as bytes, or the reason of its refusal."""
    decoders: list[Callable[[], bytes]] = [
        lambda: check(READER.read(body).item),
        lambda: sync(body),
        lambda: updates(Document(Batch).value(body)),
        lambda: written(said(Document(Message).value(body), WORLD)),
        lambda: written(existing_say(Document(Chat).value(body), WORLD)),
        lambda: repr(
            [Document[Any](kind).value(body) for kind in (GroupUpdate, StatusUpdate, DescribePlayer)]
        ).encode(),
        lambda: roster(Document(Roster).value(body)),
    ]
    return [outcome(decode) for decode in decoders]


def outcome(decode: Callable[[], bytes]) -> bytes | str:
    """The message, or the reason of a refusal: nothing else may come out."""
    try:
        return decode()
    except (BadInput, TooLarge) as refusal:
        error = refusal
    assert error.reason in REASONS
    assert error.message
    assert not error.retryable, "sending it again changes nothing"
    return error.reason


def written(message: ProtoMessage) -> bytes:
    return message.SerializeToString(deterministic=True)


def updates(batch: Batch) -> bytes:
    found = batch_updates(batch)
    assert len(found.observations) == len(found.owners)
    assert all(one.reason in REASONS for refused in found.refused.values() for one in refused)
    return b"|".join(map(written, found.observations)) + repr(found.refused).encode()


def sync(body: bytes) -> bytes:
    reading = SYNC_READER.read(body)
    results = action_results(listed(reading.parsed.action_results), reading.refused)
    return b"|".join((check(reading.item), *map(written, results.values())))


def roster(value: Roster) -> bytes:
    refused: list[type_pb2.FieldRefusal] = []
    made = [*profiles(listed(value.npcs), refused), *locations(listed(value.locations), refused)]
    assert all(one.path and one.reason for one in refused)
    return b"|".join(map(written, (*made, *players(listed(value.players), refused), *refused)))


def check(item: Any) -> bytes:
    """Columns of one length, unique ids, positions that are numbers or wholly unknown."""
    rows = item.entities
    count = len(rows.ids)
    assert len(set(rows.ids)) == count
    assert len(rows.kinds) == count
    for column in (rows.names, rows.actions, rows.locations):
        assert len(column) in (0, count)
    for column, width in (
        (rows.x, 4),
        (rows.y, 4),
        (rows.z, 4),
        (rows.health, 4),
        (rows.max_health, 4),
        (rows.last_seen, 8),
    ):
        assert len(column) in (0, width * count)
    for x, y, z in zip(*(array.array("f", axis) for axis in (rows.x, rows.y, rows.z)), strict=True):
        assert len({math.isnan(axis) for axis in (x, y, z)}) == 1
        assert not any(map(math.isinf, (x, y, z)))
    looks, rest = (json.loads(column) if column else [{}] * count for column in (rows.looks, rows.details))
    assert len(looks) == len(rest) == count
    for cold in zip(looks, rest, strict=True):
        assert all(isinstance(one, dict) for one in cold)
    # They stay the text that came, white space and all: what it says is compared.
    rows.looks, rows.details = (json.dumps(cold, sort_keys=True).encode() for cold in (looks, rest))
    return written(item)


@EXAMPLES
@given(st.binary(max_size=200))
@example(b'"\\"' * 50_000)
@example(b'{"entities":[{"id":"' + b'\\"' * 20_000)
@example(b"nan" * 10)
@example(b'{"a":\x00}')
def test_arbitrary_bytes(body: bytes) -> None:
    agrees(body)
    assert read(body) == read(body)


@EXAMPLES
@given(DOCUMENTS)
def test_arbitrary_json(value: Any) -> None:
    """White space and escapes change nothing."""
    agrees(encoded(value))
    assert read(encoded(value)) == read(json.dumps(value, indent=1, separators=(" ,\t", " :\n")).encode())
    if not HALF_PAIR.search(encoded(value)):
        assert read(encoded(value)) == read(json.dumps(value, ensure_ascii=False).encode())


@EXAMPLES
@given(st.dictionaries(st.sampled_from(WORDS), DOCUMENTS, max_size=12), DOCUMENTS)
def test_arbitrary_objects_in_the_words_of_the_contract(value: Any, unknown: Any) -> None:
    """A field that the contract does not name changes nothing."""
    agrees(encoded(value))
    more = encoded({**value, "not_in_the_contract": unknown})
    if depth(more) <= MAX_DEPTH and not HALF_PAIR.search(more):
        assert read(encoded(value)) == read(more)


@EXAMPLES
@given(st.lists(ENTITIES, max_size=8), st.booleans())
def test_entities_stand_or_are_named(entities: list[Any], delta: bool) -> None:
    body = encoded({"entities": entities, "delta": delta, "seq": 2, "base_seq": 1})
    try:
        reading = READER.read(body)
    except BadInput:
        return
    check(reading.item)
    named = {one.path.partition("]")[0] for one in reading.refused}
    assert len(reading.item.entities.ids) + len(named) >= len(entities)


@EXAMPLES
@given(DOCUMENTS, st.data())
def test_truncated_and_spoilt_json(value: Any, data: st.DataObject) -> None:
    body = bytearray(encoded({"entities": [value], "humanContext": {"A": value}}))
    cut = data.draw(st.integers(0, len(body)))
    body[cut : cut + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    agrees(bytes(body))
    assert read(bytes(body)) == read(bytes(body))


@EXAMPLES
@given(DOCUMENTS)
def test_depth_is_exact_for_json(value: Any) -> None:
    def measured(one: Any) -> int:
        children = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        return 0 if children is None else 1 + max(map(measured, children), default=0)

    assert depth(encoded(value)) == measured(value)


@pytest.mark.parametrize(
    ("body", "levels"),
    [
        (b'"[[[["', 0),
        (rb'["\\", [], "\"[[["]', 2),
        (rb'{"a\\\"[": [{}]}', 3),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, MAX_DEPTH),
        (b"]" * 9 + b"[", 0),
        (b"", 0),
    ],
)
def test_depth(body: bytes, levels: int) -> None:
    assert max(depth(body), 0) == levels


@EXAMPLES
@given(DOCUMENTS.filter(lambda value: isinstance(value, dict)))
@example({"hole": math.inf, "largest": 1.7976931348623157e308})
def test_bare_tokens_are_null_and_found(value: Any) -> None:
    def holes(one: Any, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if isinstance(one, float) and not math.isfinite(one):
            return [path]
        items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        return [hole for key, child in items for hole in holes(child, (*path, key))]

    def cleaned(one: Any) -> Any:
        if isinstance(one, float) and not math.isfinite(one):
            return None
        if isinstance(one, dict):
            return {key: cleaned(child) for key, child in one.items()}
        return [cleaned(child) for child in one] if isinstance(one, list) else one

    text = encoded(value)
    if depth(text) > MAX_DEPTH:
        return
    try:
        got, bare = Document(dict[str, Any]).read(text)
    except BadInput:
        # The one thing that Python writes and JSON readers refuse: half a surrogate pair.
        assert b"\\ud" in text
    else:
        assert bare == holes(value, ())
        assert got == cleaned(value)


@given(st.text(max_size=80))
@settings(max_examples=60, deadline=None)
def test_status_lines_are_always_read(text: str) -> None:
    status = read_status(text)
    assert status.health is None or 0 <= status.health <= 100
    assert len(status.location) <= bounds.WORD
    assert len(status.action) <= bounds.WORD


def test_paths_read_as_refusals_do() -> None:
    assert path_text(("entities", 3, "position", "x")) == "entities[3].position.x"
    assert Document(Snapshot).read(b'{"entities":[{"id":nan}]}')[1] == [("entities", 0, "id")]
