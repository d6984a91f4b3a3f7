"""The kinematic core: how bodies move, and what a step holds."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.demo.frame import GameEvent, Utterance
from services.demo.stage import Body, Point, Stage, ring

ORIGIN = Point(0, 0)
coordinates = st.floats(-500, 500)
points = st.builds(Point, coordinates, coordinates)


def stage(*bodies: Body, **more: object) -> Stage:
    made = Stage("test", 1, half=100, **more)  # type: ignore[arg-type] # options by name
    for body in bodies:
        made.enter(body)
    return made


def npc(id: str = "a", at: Point = ORIGIN, speed: float = 10.0) -> Body:
    return Body(id, id.upper(), "npc", at, speed=speed)


@settings(max_examples=80)
@given(st.lists(points, max_size=5), st.floats(0.1, 50), st.floats(0.1, 2))
def test_nobody_walks_faster_than_they_can_nor_off_the_floor(path: list[Point], speed: float, step_s: float) -> None:
    made = stage(npc(speed=speed), step_s=step_s)
    made.walk("a", *path)
    body = made.bodies["a"]
    for _ in range(20):
        before = body.point
        made.advance()
        assert math.dist(before, body.point) <= speed * step_s * (1 + 1e-9)
        assert max(abs(body.point.x), abs(body.point.z)) <= 100


def test_a_walk_turns_at_its_points_and_ends_with_what_was_said() -> None:
    made = stage(npc(speed=10))
    made.walk("a", Point(15, 0), Point(15, 15), then="Resting")
    seen = []
    for _ in range(4):
        made.advance()
        seen.append((*made.bodies["a"].point, made.bodies["a"].action))
    assert seen == [(10, 0, "Walking"), (15, 5, "Walking"), (15, 15, "Resting"), (15, 15, "Resting")]


@settings(max_examples=40)
@given(points, points, st.floats(0, 20))
def test_a_follower_comes_up_to_its_gap_and_no_closer(start: Point, goal: Point, gap: float) -> None:
    made = stage(npc("a", start, speed=30), npc("b", goal, speed=1))
    made.follow("a", "b", gap=gap)
    before = math.dist(made.bodies["a"].point, made.bodies["b"].point)
    for _ in range(20):
        made.advance()
    after = math.dist(made.bodies["a"].point, made.bodies["b"].point)
    assert after == pytest.approx(min(before, gap), abs=1e-6)


def test_a_faster_follower_catches_who_runs_whoever_moves_first() -> None:
    for order in (("a", "b"), ("b", "a")):
        made = stage(*(npc(id) for id in order))
        made.bodies["a"].speed, made.bodies["b"].speed = 12, 8
        made.walk("b", Point(90, 0))
        made.follow("a", "b", gap=3)
        made.advance()
        assert math.dist(made.bodies["a"].point, made.bodies["b"].point) == pytest.approx(3)


def test_following_ends_with_its_time_or_with_the_leader() -> None:
    made = stage(npc("a"), npc("b", Point(50, 0), speed=1), npc("c"))
    made.follow("a", "b", until=2)
    made.follow("c", "b")
    for _ in range(3):
        made.advance()
    assert made.bodies["a"].action == "Idle"
    assert made.bodies["c"].action == "Following"
    made.leave("b")
    made.advance()
    assert made.bodies["c"].action == "Idle"


def test_a_pose_ends_with_its_time() -> None:
    made = stage(npc())
    made.pose("a", "Dancing", until=1)
    made.advance()
    assert made.bodies["a"].action == "Dancing"
    made.advance()
    assert made.bodies["a"].action == "Idle"


@given(st.lists(st.integers(-200, 200), max_size=10))
def test_health_stays_within_its_bounds(hurts: list[int]) -> None:
    made = stage(npc())
    for amount in hurts:
        made.hurt("a", amount)
        assert 0 <= made.bodies["a"].health <= 100


def test_a_step_holds_what_happened_in_it_and_nothing_of_the_last() -> None:
    made = stage(npc(), places={"here": Point(1, 1)})
    made.say("a", "Hello!", ("b",))
    made.happen("trade", actor="a", text="bought a pie")
    made.caption("Once upon a time.")
    step = made.cut()
    assert step.utterances == (Utterance(1, "a", "A", "Hello!", ("b",)),)
    assert step.events == (GameEvent("test-1", "trade", "a", "", "bought a pie"),)
    assert step.captions == ("Once upon a time.",)
    assert step.frame.rows["a"].location == "here"
    made.advance()
    again = made.cut()
    assert (again.at, again.utterances, again.events, again.captions) == (1.0, (), (), ())


def test_places_are_where_they_are() -> None:
    made = stage(places={"one": Point(0, 0), "two": Point(10, 0)})
    assert made.place_of(Point(4, 0)) == "one"
    assert made.place_of(Point(6, 0)) == "two"
    assert made.place_of(Point(50, 0)) == ""
    assert stage().place_of(Point(0, 0)) == ""


def test_near_is_sorted_by_distance_and_leaves_oneself_out() -> None:
    made = stage(npc("a"), npc("far", Point(30, 0)), npc("c", Point(3, 0)), npc("b", Point(3, 0)))
    assert [body.id for body in made.near(made.bodies["a"])] == ["b", "c"]


@given(st.integers(1, 40), st.floats(1, 90))
def test_a_ring_is_even(count: int, radius: float) -> None:
    around = ring(Point(0, 0), count, radius)
    assert all(math.dist(point, (0, 0)) == pytest.approx(radius) for point in around)
    gaps = [math.dist(one, two) for one, two in itertools.pairwise([*around, around[0]])]
    assert max(gaps) == pytest.approx(min(gaps))
