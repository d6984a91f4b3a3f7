"""The ceiling: a one-process edge that only decodes and encodes. Nothing is kept, compared, clustered or counted.

The same HTTP server as Earshot's (uvicorn, httptools), the same decoder (msgspec), the same columns in the same
message; no checks, no metrics. `python -m bench.peers.zero_hop PORT`
"""

from __future__ import annotations

import array
import sys
from typing import Any

import msgspec
import uvicorn
from earshot.type.v1 import type_pb2

LOOKS = b'{"appearance":%b,"description":%b}'
DETAILS = b'{"state":%b,"is_moving":%b,"velocity":%b}'
KINDS = {"npc": type_pb2.ENTITY_KIND_NPC, "player": type_pb2.ENTITY_KIND_PLAYER}


class Vector(msgspec.Struct):
    """A position."""

    x: float
    y: float
    z: float


class Health(msgspec.Struct):
    """Health with the fields that become details."""

    current: float
    max: float
    state: msgspec.Raw
    isMoving: msgspec.Raw  # the wire's name
    velocity: msgspec.Raw


class Entity(msgspec.Struct):
    """One entity; what becomes details stays text."""

    id: str
    kind: str
    name: str
    position: Vector
    health: Health
    action: str
    location: str
    last_seen: float
    appearance: msgspec.Raw
    description: msgspec.Raw


class Event(msgspec.Struct):
    """One event."""

    type: str
    actor: str
    target: str
    text: str


class Snapshot(msgspec.Struct):
    """The whole request."""

    world: str
    timestamp: float
    entities: list[Entity]
    events: list[Event]


class Answer(msgspec.Struct):
    """As much of an answer as an edge without a state can give."""

    world: str
    revision: int
    entities: int
    bytes: int


_decode = msgspec.json.Decoder(Snapshot).decode
_encode = msgspec.json.Encoder().encode


def columns(entities: list[Entity]) -> type_pb2.EntityColumns:
    """The entities as the message that would cross to state."""
    return type_pb2.EntityColumns(
        ids=[entity.id for entity in entities],
        names=[entity.name for entity in entities],
        kinds=bytes([KINDS[entity.kind] for entity in entities]),
        x=_packed("f", [entity.position.x for entity in entities]),
        y=_packed("f", [entity.position.y for entity in entities]),
        z=_packed("f", [entity.position.z for entity in entities]),
        health=_packed("f", [entity.health.current for entity in entities]),
        max_health=_packed("f", [entity.health.max for entity in entities]),
        actions=[entity.action for entity in entities],
        locations=[entity.location for entity in entities],
        last_seen=_packed("d", [entity.last_seen for entity in entities]),
        looks=_array([LOOKS % (entity.appearance, entity.description) for entity in entities]),
        details=_array(
            [DETAILS % (health.state, health.isMoving, health.velocity) for health in [e.health for e in entities]]
        ),
    )


def _array(texts: list[bytes]) -> bytes:
    return b"[" + b",".join(texts) + b"]"


def _packed(kind: str, values: list[float]) -> bytes:
    return array.array(kind, values).tobytes()


def answer(body: bytes) -> bytes:
    """Decode a snapshot, encode its columns, and say how much it was."""
    snapshot = _decode(body)
    message = columns(snapshot.entities).SerializeToString()
    return _encode(Answer(snapshot.world, 1, len(snapshot.entities), len(message)))


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI."""
    parts = []
    while True:
        event = await receive()
        parts.append(event["body"])
        if not event.get("more_body"):
            break
    body = answer(b"".join(parts))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        application, host="127.0.0.1", port=int(sys.argv[1]), http="httptools", ws="none", lifespan="off",
        log_level="error", access_log=False, server_header=False, date_header=False,
    )  # fmt: skip
