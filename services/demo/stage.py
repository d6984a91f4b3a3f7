"""The kinematic core that every scenario shares: bodies that stand, walk, follow and jump on a bounded floor.

A stage draws all its chance from one seeded generator and moves in fixed steps, so a seed is a world.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.demo.frame import ActionResult, Frame, GameEvent, Kind, Row, Step, Utterance

# Studs: within this of a place one is "there".
AT_PLACE = 8.0
# Studs within which one player's small talk reaches another; scenarios use it to choose whom to speak to.
TALKING = 8.0
FLOOR_Y = 3.0


class Point(NamedTuple):
    """A point on the floor, in studs."""

    x: float
    z: float

    def towards(self, other: Point, distance: float) -> Point:
        """Go `distance` studs towards `other`, never past it."""
        gap = math.dist(self, other)
        if gap <= distance:
            return other
        share = distance / gap
        return Point(self.x + (other.x - self.x) * share, self.z + (other.z - self.z) * share)


@dataclass(slots=True, eq=False)
class Body:
    """One entity on a stage, equal to itself alone (mutable: hundreds of them move in every step)."""

    id: str
    name: str
    kind: Kind
    point: Point
    speed: float = 9.0
    health: int = 100
    max_health: int = 100
    action: str = "Idle"
    appearance: str = ""
    path: list[Point] = field(default_factory=list)
    # On arrival the action becomes this.
    then: str = "Idle"
    # Whom it follows and how closely.
    leader: str = ""
    gap: float = 4.0
    # When it stops what it does, in seconds of the stage.
    until: float = math.inf


class Stage:
    """Bodies of one world, moved in steps of `step_s` seconds within `half` studs of the origin."""

    def __init__(
        self, world: str, seed: int, *, half: float, step_s: float = 1.0, places: Mapping[str, Point] | None = None
    ) -> None:
        self.world = world
        self.half = half
        self.step_s = step_s
        self.places = dict(places or {})
        # A string seed goes through SHA-512: the same everywhere, unlike hash().
        self.random = random.Random(f"{world}:{seed}")
        self.bodies: dict[str, Body] = {}
        self.steps = 0
        self._said = self._happened = 0
        self._utterances: list[Utterance] = []
        self._events: list[GameEvent] = []
        self._results: list[ActionResult] = []
        self._captions: list[str] = []

    @property
    def at(self) -> float:
        """Seconds since the stage began."""
        return round(self.steps * self.step_s, 3)

    # -- who is there ----------------------------------------------------------------------------------------------

    def enter(self, body: Body) -> Body:
        """Put a body on the stage; one of the same id is replaced."""
        body.point = self.within(body.point)
        self.bodies[body.id] = body
        return body

    def leave(self, id: str) -> None:
        """Take a body off the stage; one that is not there stays away."""
        self.bodies.pop(id, None)

    def of(self, kind: Kind) -> list[Body]:
        """Everyone of a kind, in order of arrival."""
        return [body for body in self.bodies.values() if body.kind == kind]

    def near(self, body: Body, reach: float = TALKING) -> list[Body]:
        """Everyone else within `reach` studs, nearest first."""
        others = [(math.dist(body.point, other.point), other) for other in self.bodies.values() if other.id != body.id]
        return [other for gap, other in sorted(others, key=lambda pair: (pair[0], pair[1].id)) if gap <= reach]

    # -- what they do ----------------------------------------------------------------------------------------------

    def walk(
        self, id: str, *points: Point, action: str = "Walking", then: str = "Idle", until: float = math.inf
    ) -> None:
        """Send a body along points; it stops following whom it followed."""
        body = self.halt(id, action)
        body.path, body.then, body.until = [self.within(point) for point in points], then, until

    def follow(
        self, id: str, leader: str, *, gap: float = 4.0, action: str = "Following", until: float = math.inf
    ) -> None:
        """Let a body run after another, up to `gap` studs."""
        body = self.halt(id, action)
        body.leader, body.gap, body.until = leader, gap, until

    def pose(self, id: str, action: str, until: float = math.inf) -> None:
        """Let a body do something on the spot; where it was going it no longer goes."""
        self.halt(id, action).until = until

    def halt(self, id: str, action: str = "Idle") -> Body:
        """Stop a body where it is."""
        body = self.bodies[id]
        body.path, body.leader, body.until = [], "", math.inf
        body.action, body.then = action, "Idle"
        return body

    def teleport(self, id: str, point: Point) -> None:
        """Put a body elsewhere at once; what it was walking to is forgotten."""
        self.halt(id).point = self.within(point)

    def hurt(self, id: str, amount: int) -> None:
        """Take health (negative: give), within 0 and the maximum."""
        body = self.bodies[id]
        body.health = max(0, min(body.max_health, body.health - amount))

    def say(self, id: str, text: str, answers: tuple[str, ...] | None = None) -> None:
        """Let a player speak in this step."""
        self._said += 1
        self._utterances.append(Utterance(self._said, id, self.bodies[id].name, text, answers))

    def happen(self, type: str, *, actor: str = "", target: str = "", text: str = "") -> None:
        """Record an event of the game."""
        self._happened += 1
        self._events.append(GameEvent(f"{self.world}-{self._happened}", type, actor, target, text))

    def report(self, result: ActionResult) -> None:
        """Record how an action went."""
        self._results.append(result)

    def caption(self, text: str) -> None:
        """Tell the audience, not the server."""
        self._captions.append(text)

    # -- time ------------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Move everyone by one step."""
        self.steps += 1
        for body in self.bodies.values():
            if self.at > body.until:
                self.halt(body.id)
            self._along(body, body.speed * self.step_s)
        # After those whom they follow, or nobody would ever be caught.
        for body in self.bodies.values():
            if body.leader:
                self._run_after(body, body.speed * self.step_s)

    def cut(self) -> Step:
        """Return this moment as a step, and begin to collect for the next one."""
        step = Step(
            self.at,
            Frame(self.world, {body.id: self._row(body) for body in self.bodies.values()}),
            tuple(self._events), tuple(self._utterances), tuple(self._results), tuple(self._captions),
        )  # fmt: skip
        for collected in (self._events, self._utterances, self._results, self._captions):
            collected.clear()
        return step

    # -- geometry --------------------------------------------------------------------------------------------------

    def within(self, point: Point) -> Point:
        """Keep a point on the floor."""
        return Point(max(-self.half, min(self.half, point.x)), max(-self.half, min(self.half, point.z)))

    def anywhere(self) -> Point:
        """A point by chance."""
        return Point(self.random.uniform(-self.half, self.half), self.random.uniform(-self.half, self.half))

    def around(self, point: Point, radius: float) -> Point:
        """A point by chance within `radius` of another, on the floor."""
        angle, reach = self.random.uniform(0, math.tau), radius * math.sqrt(self.random.random())
        return self.within(Point(point.x + reach * math.cos(angle), point.z + reach * math.sin(angle)))

    def place_of(self, point: Point) -> str:
        """Slug of the place at which a point lies, "" = none."""
        near = [(math.dist(point, centre), slug) for slug, centre in self.places.items()]
        gap, slug = min(near, default=(math.inf, ""))
        return slug if gap <= AT_PLACE else ""

    @staticmethod
    def _along(body: Body, reach: float) -> None:
        while body.path:
            goal = body.path[0]
            gap = math.dist(body.point, goal)
            if gap > reach:
                body.point = body.point.towards(goal, reach)
                return
            body.point, reach = goal, reach - gap
            body.path.pop(0)
            if not body.path:
                body.action = body.then

    def _run_after(self, body: Body, reach: float) -> None:
        leader = self.bodies.get(body.leader)
        if leader is None:
            self.halt(body.id)
            return
        gap = math.dist(body.point, leader.point)
        if gap > body.gap:
            body.point = body.point.towards(leader.point, min(reach, gap - body.gap))

    def _row(self, body: Body) -> Row:
        return Row(
            body.id, body.name, body.kind,
            # + 0.0 turns -0.0 into 0.0: equal rows must be equal bytes.
            round(body.point.x, 2) + 0.0, FLOOR_Y, round(body.point.z, 2) + 0.0,
            body.health, body.max_health, body.action, self.place_of(body.point), body.appearance,
        )  # fmt: skip


def ring(centre: Point, count: int, radius: float) -> Sequence[Point]:
    """Points evenly around a centre."""
    return [
        Point(centre.x + radius * math.cos(math.tau * i / count), centre.z + radius * math.sin(math.tau * i / count))
        for i in range(count)
    ]
