"""The quick way to read a usual snapshot gives the message that the open types give, or steps aside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from earshot.state.v1 import state_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import crowd
from services.common.errors import EarshotError
from services.edge.contract.snapshot import PlainSnapshot, Snapshot
from services.edge.document import MAX_DEPTH
from services.edge.plain import Plain, plain_columns
from services.edge.snapshot import SnapshotReader

PLAIN: Plain[Any] = Plain(PlainSnapshot)
READER = SnapshotReader(PlainSnapshot, Snapshot, entities_max=500, stale_after_s=60)


def taken(body: bytes) -> bool:
    """Whether the quick way takes a body."""
    head = PLAIN.read(body)
    return head is not None and plain_columns(head.entities, state_pb2.SnapshotItem().entities)


def comparable(body: bytes, *, plain: bool) -> Any:
    """What a way of reading makes of a body, or the reason why not."""
    reader = READER if plain else Opened(PlainSnapshot, Snapshot, entities_max=500, stale_after_s=60)
    try:
        item = reader.read(body).item
    except EarshotError as error:
        return error.reason
    cold = [json.loads(column) if column else None for column in (item.entities.looks, item.entities.details)]
    item.entities.ClearField("looks")
    item.entities.ClearField("details")
    return item.SerializeToString(deterministic=True), cold


class Opened(SnapshotReader):
    """The same without the quick way."""

    def __init__(self, plain: type[Any], opened: type[Any], **bounds: Any) -> None:
        super().__init__(plain, opened, **bounds)
        self._plain = Never()  # type: ignore[assignment] # it has what is called


class Never:
    def read(self, body: bytes) -> None:
        return None


texts = st.text('aZ09 é‮\0"\\{[]},:\n', max_size=5) | st.sampled_from(["Pete", "x" * 64, "x" * 65, '":{', "}{"])
cold = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)
number = st.integers(-100, 100) | st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([1e39])
position = st.fixed_dictionaries({"x": number, "y": number, "z": number})
health = number | st.none() | st.fixed_dictionaries(
    {"current": number, "max": number}, optional={"state": cold, "isMoving": cold, "velocity": cold | position}
)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Snapshots whose rows are mostly alike, as games send them."""
    optional = {
        "name": texts, "health": draw(st.sampled_from([health, number])), "max_health": number, "action": texts,
        "location": texts, "last_seen": number, "appearance": cold, "description": texts, "state": cold, "odd": cold,
    }  # fmt: skip
    keys = draw(st.sets(st.sampled_from(sorted(optional))))
    row = st.fixed_dictionaries(
        {"id": texts | st.integers(0, 9), "kind": st.sampled_from(["npc", "player"]), "position": position}
        | {key: optional[key] for key in keys}
    )
    head: dict[str, Any] = {"entities": draw(st.lists(row, min_size=1, max_size=4))}
    head |= draw(st.fixed_dictionaries({}, optional={"seq": st.just(1), "epoch": st.just(1), "odd": cold}))
    return json.dumps(head, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@settings(max_examples=200, deadline=None)
@given(bodies())
def test_both_ways_make_the_same_message(body: bytes) -> None:
    assert comparable(body, plain=True) == comparable(body, plain=False)


def test_what_games_usually_send_is_read_the_quick_way() -> None:
    for body in crowd.frames(4, 3):
        assert taken(body)
        assert comparable(body, plain=True) == comparable(body, plain=False)
    few: dict[str, Any] = {"id": "a", "kind": "npc", "position": {"x": 1, "y": 2, "z": 3}, "health": 5, "max_health": 9}
    assert taken(json.dumps({"entities": [few | {"last_seen": 1.5}]}).encode())


@pytest.mark.parametrize("key", ["appearance", "velocity"])
def test_depth_is_bounded_on_the_quick_way_too(key: str) -> None:
    def body(levels: int) -> bytes:
        deep = "[" * levels + "]" * levels
        cold = f'"appearance":{deep}' if key == "appearance" else '"appearance":"x"'
        velocity = deep if key == "velocity" else '"x"'
        row = (
            '{"id":"a","kind":"npc","position":{"x":1,"y":2,"z":3},"last_seen":1,' + cold + ","
            '"health":{"current":1,"max":2,"state":"x","isMoving":true,"velocity":' + velocity + "}}"
        )
        return b'{"entities":[%b]}' % row.encode()

    most = MAX_DEPTH - (3 if key == "appearance" else 4)
    assert taken(body(2))
    assert comparable(body(most), plain=True) == comparable(body(most), plain=False) != "TOO_DEEP"
    assert comparable(body(most + 1), plain=True) == comparable(body(most + 1), plain=False) == "TOO_DEEP"
