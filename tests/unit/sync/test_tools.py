"""Nothing a model says reaches the game unchecked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sync.context import Context, Key, Member, Place, Profile
from services.sync.speech.tools import (
    EMOTES,
    STANDARD,
    Accepted,
    Refused,
    accept,
    find_member,
    find_place,
    mismatch,
    offered,
)

PLACES = (
    Place("old-mill", "The Old Mill", "", (1.0, 2.0, 3.0)),
    Place("lantern_tavern", "the Lantern tavern"),
    Place("market", "Market"),
)
CONTEXT = Context(
    Key("t", "w", "mara"), 1, 0, 0, Profile("Mara"),
    members=(Member("id-1", "Ada", True), Member("id-2", "Old Tom", True), Member("brom", "Brom", False)),
)  # fmt: skip
TOOLS = offered(CONTEXT, PLACES)


def call(name: str, arguments: Any = None, context: Context = CONTEXT) -> Accepted | Refused:
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return accept(name, raw, offered(context, PLACES), context, PLACES)


@pytest.mark.parametrize(
    ("name", "arguments", "data"),
    [
        ("follow", {"target": "ADA"}, {"target": "Ada", "target_id": "id-1"}),
        ("follow", {"target": "tom"}, {"target": "Old Tom", "target_id": "id-2"}),
        ("unfollow", {}, {}),
        ("unfollow", "", {}),
        ("emote", {"type": "wave"}, {"type": "wave"}),
        ("emote", {"type": "wave", "target": "brom"}, {"type": "wave", "target": "Brom", "target_id": "brom"}),
        ("patrol", {}, {}),
        ("patrol", {"area": "market"}, {"destination": "market", "name": "Market"}),
        ("hunt", {"target": "Ada"}, {"target": "Ada", "target_id": "id-1"}),
        ("hunt", {"target": "wolves"}, {"target": "wolves"}),
        ("stop_hunt", {}, {}),
        ("navigate", {"location": "lantern tavern"}, {"destination": "lantern_tavern", "name": "the Lantern tavern"}),
        (
            "navigate",
            {"location": "the old mill"},
            {"destination": "old-mill", "name": "The Old Mill", "coordinates": {"x": 1.0, "y": 2.0, "z": 3.0}},
        ),
    ],
)
def test_what_fits_becomes_an_action(name: str, arguments: Any, data: dict[str, Any]) -> None:
    outcome = call(name, arguments)
    assert isinstance(outcome, Accepted), outcome
    assert (outcome.type, dict(outcome.data)) == (name, data)


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("fly", {}, "no such action"),
        ("follow", {"target": "Zed"}, "Within earshot: Ada, Old Tom, Brom"),
        ("follow", {}, "needs target"),
        ("follow", {"target": 7}, "must be string"),
        ("follow", {"target": "x" * 99}, "too long"),
        ("follow", {"target": "Ada", "speed": 9}, "has no speed"),
        ("emote", {"type": "explode"}, "must be one of"),
        ("navigate", {"location": "the moon"}, "Places: The Old Mill"),
        ("navigate", {"location": ""}, "no such place"),
        ("patrol", "[]", "must be object"),
        ("patrol", "{", "not JSON"),
        ("patrol", "[" * 4000, "not JSON"),
        ("patrol", '{"a": ' * 2000, "too long"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(name: str, arguments: Any, why: str) -> None:
    outcome = call(name, arguments)
    assert isinstance(outcome, Refused), outcome
    assert why in outcome.told


def test_which_actions_are_offered() -> None:
    assert [tool.name for tool in TOOLS] == list(STANDARD)
    assert "navigate" not in [tool.name for tool in offered(CONTEXT, ())]
    few = replace(CONTEXT, profile=Profile("Mara", actions=("emote", "brew", "bad name!", "emote")))
    assert [tool.name for tool in offered(few, PLACES)] == ["emote", "brew"]
    assert isinstance(call("brew", {"detail": "ale"}, few), Accepted)
    assert isinstance(call("brew", {"detail": "x" * 300}, few), Refused)
    assert isinstance(call("follow", {"target": "Ada"}, few), Refused)
    schema = {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1, "maximum": 3}}}
    declared = replace(CONTEXT, profile=Profile("Mara", settings={"tools": [
        {"name": "pour", "parameters": schema}, {"name": "x y"}, 7, {"name": "odd", "parameters": 5},
    ]}))  # fmt: skip
    assert [tool.name for tool in offered(declared, ())][-2:] == ["pour", "odd"]
    assert isinstance(call("pour", {"size": 2}, declared), Accepted)
    for size in (0, 4, 1.5, True, "2"):
        assert isinstance(call("pour", {"size": size}, declared), Refused)


def test_a_name_that_could_be_two_people_is_nobody() -> None:
    twins = (Member("1", "Ada", True), Member("2", "Ada", True), Member("3", "Ada May", False))
    assert find_member("Ada", twins) is None
    assert find_member("may", twins) is not None
    assert find_member("", twins) is None
    assert find_place("the", PLACES) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*STANDARD, "fly"]), st.text(max_size=60) | json_values.map(json.dumps))
def test_anything_a_model_writes_is_accepted_or_refused(name: str, arguments: str) -> None:
    outcome = call(name, arguments or "{}")
    if isinstance(outcome, Accepted):
        assert name in STANDARD
        json.dumps(dict(outcome.data))
        if name == "emote":
            assert outcome.data["type"] in EMOTES
        if name == "follow":
            assert outcome.data["target_id"] in {"id-1", "id-2", "brom"}
    else:
        assert outcome.told


@settings(max_examples=100, deadline=None)
@given(json_values)
def test_a_value_without_the_required_field_never_fits(value: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    fits = isinstance(value, dict) and isinstance(value.get("a"), str)
    assert (mismatch(value, schema) == "") == fits
    deep: dict[str, Any] = {"type": "array", "items": {}}
    for _ in range(12):
        deep = {"type": "array", "items": deep}
    nested: Any = value
    for _ in range(12):
        nested = [nested]
    assert mismatch(nested, deep)
