"""Actions that the server asks for, executed on a stage as a game would execute them (D6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.demo.frame import ActionResult
from services.demo.stage import Body, Point, Stage

# Seconds that an NPC spends on what it was asked to do before it returns to its own business.
FOLLOW_S, HUNT_S, EMOTE_S, VISIT_S, PATROL_S = 15.0, 10.0, 4.0, 8.0, 60.0
# How an emote shows as what the NPC does.
EMOTES = {
    "wave": "Waving",
    "laugh": "Laughing",
    "dance": "Dancing",
    "cheer": "Cheering",
    "point": "Pointing",
    "sit": "Sitting",
}


@dataclass(frozen=True, slots=True)
class Order:
    """One action event of the public API. `data` is what the model wrote: anything may be in it."""

    action_id: str
    npc_id: str
    action: str
    data: Mapping[str, Any]


def read_order(event: Mapping[str, Any], now: float) -> Order | None:
    """Read an action event; None when it is none that a game can execute, or too late. now: unix seconds."""
    id, npc, action, data = (event.get(name) for name in ("action_id", "npc_id", "action", "data"))
    expires = event.get("expires_at")
    if not (isinstance(id, str) and isinstance(npc, str) and isinstance(action, str)):
        return None
    if isinstance(expires, int | float) and 0 < expires < now:
        return None
    return Order(id, npc, action, data if isinstance(data, dict) else {})


def obey(stage: Stage, order: Order) -> ActionResult:
    """Execute an order on the stage, or say why not: UNKNOWN_NPC, UNKNOWN_ACTION, NO_TARGET."""
    body = stage.bodies.get(order.npc_id)
    if body is None or body.kind != "npc":
        return refuse(order, "UNKNOWN_NPC")
    match order.action:
        case "unfollow" | "stop_hunt":
            stage.halt(body.id)
        case "emote":
            stage.pose(body.id, EMOTES.get(_word(order.data.get("type")), "Emoting"), stage.at + EMOTE_S)
        case "follow" | "hunt":
            target = _target(stage, order.data.get("target"))
            if target is None or target.id == body.id:
                return refuse(order, "NO_TARGET")
            hunting = order.action == "hunt"
            stage.follow(
                body.id, target.id, action="Hunting" if hunting else "Following",
                until=stage.at + (HUNT_S if hunting else FOLLOW_S),
            )  # fmt: skip
        case "navigate":
            goal = _goal(stage, order.data)
            if goal is None:
                return refuse(order, "NO_TARGET")
            stage.walk(body.id, goal, then="Visiting", until=stage.at + _walk_s(body, goal) + VISIT_S)
        case "patrol":
            tour = sorted(stage.places.values(), key=lambda place: math.dist(place, body.point))[:4]
            stage.walk(body.id, *tour, body.point, action="Patrolling", until=stage.at + PATROL_S)
        case _:
            return refuse(order, "UNKNOWN_ACTION")
    return ActionResult(order.action_id, order.npc_id, order.action, True)


def refuse(order: Order, reason: str) -> ActionResult:
    """Answer that an order was not executed."""
    return ActionResult(order.action_id, order.npc_id, order.action, False, reason)


def _word(value: object) -> str:
    return value.casefold() if isinstance(value, str) else ""


def _target(stage: Stage, value: object) -> Body | None:
    """Find whom an order speaks of: by id, else by name as it is displayed."""
    if not isinstance(value, str):
        return None
    if value in stage.bodies:
        return stage.bodies[value]
    return next((body for body in stage.bodies.values() if body.name.casefold() == value.casefold()), None)


def _goal(stage: Stage, data: Mapping[str, Any]) -> Point | None:
    at = data.get("coordinates")
    if isinstance(at, Mapping):
        x, z = _number(at.get("x")), _number(at.get("z"))
        return None if x is None or z is None else stage.within(Point(x, z))
    for name in ("destination_slug", "destination", "location", "target"):
        value = data.get(name)
        if isinstance(value, str) and value in stage.places:
            return stage.places[value]
    return None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _walk_s(body: Body, goal: Point) -> float:
    return math.dist(body.point, goal) / body.speed
