"""What a game shows to a server at one moment, and its two forms on the wire: the full snapshot and the delta.

Frames hold rounded values, so equal rows are equal bytes; bodies follow `POST /v1/snapshots` of the public API.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["npc", "player"]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One entity as a snapshot tells it. Position in studs, two decimals; "" = not known."""

    id: str
    name: str
    kind: Kind
    x: float
    y: float
    z: float
    health: int
    max_health: int
    action: str
    location: str
    appearance: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """Everyone in one world at one moment, by id."""

    world: str
    rows: Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class GameEvent:
    """Something that happened in the game. `data` is JSON-like; ids are unique within a scenario's run."""

    id: str
    type: str
    actor: str = ""
    target: str = ""
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a player says. `answers`: who should reply - these NPCs; () = nobody; None = whoever likes to.

    `answers` never goes on the wire; it is what a test expects.
    """

    number: int
    speaker_id: str
    speaker_name: str
    text: str
    answers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ActionResult:
    """How the game executed an action that the server asked for (C9). `reason` says why not."""

    action_id: str
    npc_id: str
    action: str
    success: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of a scenario: a frame and what was said and done since the last one.

    `at`: seconds since the scenario began. `captions`: the storyteller's words, never sent.
    """

    at: float
    frame: Frame
    events: tuple[GameEvent, ...] = ()
    utterances: tuple[Utterance, ...] = ()
    results: tuple[ActionResult, ...] = ()
    captions: tuple[str, ...] = ()


def full(step: Step, *, started: float = 0.0, epoch: int = 0, seq: int = 0) -> Body:
    """Return the full snapshot of a step. started: unix seconds at which the scenario began; 0 = no epoch, no seq."""
    body = _envelope(step, started, epoch, seq)
    body["entities"] = [entity(row) for row in step.frame.rows.values()]
    return body


def delta(before: Frame, step: Step, *, base_seq: int, seq: int, epoch: int, started: float = 0.0) -> Body:
    """Return what changed since `before`, which went out as `base_seq`: whole rows, and who left."""
    if before.world != step.frame.world:
        raise ValueError("a delta stays within its world")
    body = _envelope(step, started, epoch, seq)
    body["delta"], body["base_seq"] = True, base_seq
    body["entities"] = [entity(row) for row in step.frame.rows.values() if before.rows.get(row.id) != row]
    body["left"] = [id for id in before.rows if id not in step.frame.rows]
    return body


def encode(body: Body) -> bytes:
    """Return the body as it goes out. The same body always gives the same bytes."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def entity(row: Row) -> Body:
    """Return one entity of the public contract."""
    body: Body = {
        "id": row.id,
        "kind": row.kind,
        "name": row.name,
        "position": {"x": row.x, "y": row.y, "z": row.z},
        "health": {"current": row.health, "max": row.max_health},
        "action": row.action,
        "location": row.location,
    }
    if row.appearance:
        body["appearance"] = row.appearance
    return body


def _envelope(step: Step, started: float, epoch: int, seq: int) -> Body:
    body: Body = {"world": step.frame.world, "timestamp": round(started + step.at, 3)}
    if epoch:
        body["epoch"] = epoch
    if seq:
        body["seq"] = seq
    events = [*map(_event, step.events), *_results(step.results)]
    if events:
        body["events"] = events
    return body


def _event(event: GameEvent) -> Body:
    optional = {"actor": event.actor, "target": event.target, "text": event.text, "data": dict(event.data)}
    return {"id": event.id, "type": event.type, **{name: value for name, value in optional.items() if value}}


def _results(results: Iterable[ActionResult]) -> Iterable[Body]:
    # The session loop will carry results in a field of their own; a client without one reports them as events.
    for result in results:
        data: Body = {"action_id": result.action_id, "action": result.action, "success": result.success}
        if result.reason:
            data["reason"] = result.reason
        yield {"id": f"result-{result.action_id}", "type": "action_result", "actor": result.npc_id, "data": data}
