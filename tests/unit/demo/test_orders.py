"""Actions that the server asks for: executed, or refused with a reason, whatever the model wrote into them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.demo.orders import Order, obey, read_order
from services.demo.repertoire import play
from services.demo.stage import Body, Point, Stage


def stage() -> Stage:
    made = Stage("test", 1, half=100, places={"well": Point(20, 0), "oak": Point(0, 30), "gate": Point(-40, 0)})
    made.enter(Body("mira", "Mira", "npc", Point(0, 0)))
    made.enter(Body("7", "Ravi", "player", Point(30, 0)))
    return made


def given_order(action: str, data: dict[str, Any] | None = None, npc: str = "mira") -> tuple[Stage, bool, str]:
    made = stage()
    result = obey(made, Order("a1", npc, action, data or {}))
    assert (result.action_id, result.npc_id, result.action) == ("a1", npc, action)
    return made, result.success, result.reason


@pytest.mark.parametrize(
    ("action", "data", "doing"),
    [
        ("follow", {"target": "Ravi"}, "Following"),
        ("follow", {"target": "7"}, "Following"),
        ("hunt", {"target": "ravi"}, "Hunting"),
        ("emote", {"type": "dance"}, "Dancing"),
        ("emote", {"type": "somersault"}, "Emoting"),
        ("emote", {}, "Emoting"),
        ("navigate", {"coordinates": {"x": 10, "y": 3, "z": -4.5}}, "Walking"),
        ("navigate", {"destination_slug": "well"}, "Walking"),
        ("patrol", {"style": "quick"}, "Patrolling"),
        ("unfollow", {}, "Idle"),
        ("stop_hunt", {}, "Idle"),
    ],
)
def test_known_actions_are_executed(action: str, data: dict[str, Any], doing: str) -> None:
    made, success, reason = given_order(action, data)
    assert (success, reason) == (True, "")
    assert made.bodies["mira"].action == doing


@pytest.mark.parametrize(
    ("action", "data", "npc", "why"),
    [
        ("follow", {"target": "Nobody"}, "mira", "NO_TARGET"),
        ("follow", {"target": "Mira"}, "mira", "NO_TARGET"),
        ("follow", {"target": ["Ravi"]}, "mira", "NO_TARGET"),
        ("hunt", {}, "mira", "NO_TARGET"),
        ("navigate", {"coordinates": {"x": "ten", "z": 1}}, "mira", "NO_TARGET"),
        ("navigate", {"coordinates": {"x": 10**400, "z": 1}}, "mira", "NO_TARGET"),
        ("navigate", {"coordinates": {"x": float("nan"), "z": 1}}, "mira", "NO_TARGET"),
        ("navigate", {"destination_slug": "moon"}, "mira", "NO_TARGET"),
        ("fly", {}, "mira", "UNKNOWN_ACTION"),
        ("emote", {}, "nobody", "UNKNOWN_NPC"),
        ("emote", {}, "7", "UNKNOWN_NPC"),
    ],
)
def test_what_cannot_be_done_says_why(action: str, data: dict[str, Any], npc: str, why: str) -> None:
    made, success, reason = given_order(action, data, npc)
    assert (success, reason) == (False, why)
    assert made.bodies["mira"].action == "Idle"


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["target", "coordinates", "x", "z", "type", "destination", "location"])


@settings(max_examples=100)
@given(st.sampled_from(["follow", "hunt", "navigate", "emote", "patrol", ""]), st.dictionaries(keys, json))
def test_whatever_the_model_wrote_the_stage_goes_on(action: str, data: dict[str, Any]) -> None:
    made, _, _ = given_order(action, data)
    for _ in range(5):
        made.advance()
    body = made.bodies["mira"]
    assert max(abs(body.point.x), abs(body.point.z)) <= 100


def test_following_ends_and_the_npc_is_free_again() -> None:
    made, _, _ = given_order("follow", {"target": "Ravi"})
    for _ in range(17):
        made.advance()
    assert made.bodies["mira"].action == "Idle"


@pytest.mark.parametrize(
    "event",
    [{}, {"action_id": "a", "npc_id": "n"}, {"action_id": 1, "npc_id": "n", "action": "emote"},
     {"action_id": "a", "npc_id": "n", "action": "emote", "expires_at": 99}],
)  # fmt: skip
def test_events_that_are_no_order_or_too_late(event: dict[str, Any]) -> None:
    assert read_order(event, now=100) is None


def test_an_action_event_is_an_order() -> None:
    event = {"action_id": "a", "npc_id": "n", "action": "emote", "data": [], "expires_at": 101}
    assert read_order(event, now=100) == Order("a", "n", "emote", {})


def test_a_crowd_obeys_in_the_next_step_in_whatever_world_the_npc_is() -> None:
    run = play("server_migration", 7)
    next(run), next(run)
    run.order(Order("a1", "npc-003", "emote", {"type": "wave"}))
    run.order(Order("a2", "nobody", "emote", {}))
    here, there = next(run), next(run)
    assert [(one.action_id, one.success) for one in here.results] == [("a1", True), ("a2", False)]
    assert [one.action_id for one in there.results] == ["a1"], "one NPC, two worlds"
