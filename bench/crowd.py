"""Snapshots of made-up worlds, full content: 50 NPCs and 30 players at the stalls of a market. Pure and seeded.

A world's frames follow each other as a game's would: everybody's `last_seen` moves on, most NPCs shift a little,
players walk from stall to stall, so that clusters form, merge and dissolve.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NPCS, PLAYERS = 50, 30
FRAMES = 8
# Seconds between two frames, and studs per second of a walking player.
STEP_S = 2.0
WALK = 12.0
# Chance per frame that a player goes to another stall: about three changes of clusters a snapshot.
MOVES_ON = 0.06
HALF = 110.0
STALLS = 12
FIRST_PLAYER = 1_234_567_000
START = 1_700_000_000.0
ACTIONS = ("Idle", "Patrolling", "Following", "Trading", "Combat", "Running")
TRADES = ("baker", "smith", "guard", "bard", "weaver", "miller", "tanner", "scribe", "cook", "warden")
LOOKS = (
    "A broad figure in a flour-dusted apron, sleeves rolled up, a ring of keys at the belt",
    "Wears a dented breastplate over a blue tunic and carries a lantern even by day",
    "Grey hair in a long braid, a patched travelling cloak, muddy boots, a wooden flute",
    "Young, freckled, in a green hood that is a size too large; never stands still",
)


@dataclass(slots=True)
class _Being:
    id: str
    name: str
    kind: str
    x: float
    z: float
    stall: int
    action: str
    health: float = 100.0
    moving: bool = False


def world_name(number: int) -> str:
    """The name of a world; names of all numbers below 100,000 are equally long."""
    return f"bench-{number:05d}"


def frames(number: int, count: int = FRAMES) -> list[bytes]:
    """Bodies of `POST /v1/snapshots` for one world. Equal arguments give equal bytes."""
    chance = random.Random(f"crowd/{number}")
    stalls = [(chance.uniform(-HALF, HALF), chance.uniform(-HALF, HALF)) for _ in range(STALLS)]
    beings = [_born(chance, number, i, stalls) for i in range(NPCS + PLAYERS)]
    bodies = []
    for frame in range(count):
        if frame:
            for being in beings:
                _step(chance, being, stalls)
        bodies.append(_body(chance, number, frame, beings))
    return bodies


def retold(body: bytes, number: int) -> bytes:
    """A body of world 0 as another world's, with players of its own: quicker than a world made anew."""
    other = body.replace(world_name(0).encode(), world_name(number).encode())
    return other.replace(str(FIRST_PLAYER // 1000).encode(), str(FIRST_PLAYER // 1000 + number).encode())


def back_and_forth(count: int) -> Iterator[int]:
    """0, 1, ..., count-1, count-2, ..., 1, 0, ... for ever: frames without a jump from the last to the first."""
    while True:
        yield from range(count)
        yield from range(count - 2, 0, -1)


def request(body: bytes, path: str, port: int) -> bytes:
    """The bytes of one HTTP request on a connection that stays open."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _born(chance: random.Random, number: int, index: int, stalls: list[tuple[float, float]]) -> _Being:
    stall = index % STALLS if index < NPCS else chance.randrange(STALLS)
    x, z = (centre + chance.uniform(-9, 9) for centre in stalls[stall])
    if index < NPCS:
        trade = TRADES[index % len(TRADES)]
        return _Being(
            f"npc-{trade}-{index:02d}", f"{trade.title()} {index}", "npc", x, z, stall, chance.choice(ACTIONS)
        )
    player = FIRST_PLAYER + number * 1000 + index
    return _Being(str(player), f"Player_{player}", "player", x, z, stall, "Idle")


def _step(chance: random.Random, being: _Being, stalls: list[tuple[float, float]]) -> None:
    if being.kind == "npc":
        being.moving = chance.random() < 0.7
        reach = 0.8 if being.moving else 0.02
        being.x += chance.uniform(-reach, reach)
        being.z += chance.uniform(-reach, reach)
        if chance.random() < 0.05:
            being.action = chance.choice(ACTIONS)
    else:
        if chance.random() < MOVES_ON:
            being.stall = chance.randrange(STALLS)
        x, z = stalls[being.stall]
        away = math.hypot(x - being.x, z - being.z)
        being.moving = away > 6
        if being.moving:
            share = min(WALK * STEP_S / away, 1 - 4 / away)
            being.x += (x - being.x) * share
            being.z += (z - being.z) * share
        being.action = "Running" if being.moving else "Idle"
    if being.action == "Combat":
        being.health = max(10.0, being.health - chance.randrange(8))


def _body(chance: random.Random, number: int, frame: int, beings: list[_Being]) -> bytes:
    now = START + frame * STEP_S
    entities = [_entity(chance, being, index, now) for index, being in enumerate(beings)]
    event = {"type": "trade", "actor": beings[frame].id, "target": beings[-1 - frame].id, "text": "sold a loaf of rye"}
    body = {"world": world_name(number), "timestamp": now, "entities": entities, "events": [event]}
    return json.dumps(body, separators=(",", ":")).encode()


def _entity(chance: random.Random, being: _Being, index: int, now: float) -> dict[str, Any]:
    speed = 1.0 if being.moving else 0.0
    return {
        "id": being.id,
        "kind": being.kind,
        "name": being.name,
        "position": {"x": being.x, "y": 3.000123 + index / 1000, "z": being.z},
        "health": {
            "current": being.health,
            "max": 100,
            "state": "Running" if being.moving else "Standing",
            "isMoving": being.moving,
            "velocity": {"x": speed * chance.uniform(-8, 8), "y": 0, "z": speed * chance.uniform(-8, 8)},
        },
        "action": being.action,
        "location": f"market-stall-{being.stall:02d}",
        "last_seen": now + chance.uniform(-0.5, 0),
        "appearance": LOOKS[index % len(LOOKS)],
        "description": f"Number {index} of those who come to the market on most days",
    }
