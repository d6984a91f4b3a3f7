"""Unary gRPC with nested messages and nothing slow around it: `python -m bench.peers.unary_nested PORT STATE`.

The FastAPI peer's state and cluster services and its contract, behind an edge without a framework: the HTTP server and
the decoder are Earshot's own choices, so what remains beside it is what nested messages and a call for each hop cost.
Runs with Earshot's interpreter; the contract's code is generated into the peers' environment.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import msgspec
import peer_pb2  # type: ignore[import-not-found]  # generated into the peers' environment
import peer_pb2_grpc  # type: ignore[import-not-found]  # as above
import uvicorn

TIMEOUT_S = 5.0


class Vector(msgspec.Struct):
    """A position or a velocity."""

    x: float
    y: float
    z: float


class Health(msgspec.Struct):
    """Health and how the body moves."""

    current: float
    max: float
    state: str = ""
    isMoving: bool = False  # the wire's name
    velocity: Vector | None = None


class Entity(msgspec.Struct):
    """One NPC or player."""

    id: str
    kind: str
    name: str
    position: Vector
    health: Health
    action: str = ""
    location: str = ""
    last_seen: float = 0.0
    appearance: str = ""
    description: str = ""


class Event(msgspec.Struct):
    """One event."""

    type: str
    actor: str = ""
    target: str = ""
    text: str = ""


class Snapshot(msgspec.Struct):
    """The request."""

    world: str
    timestamp: float
    entities: list[Entity]
    events: list[Event] = []


class MemberPosition(msgspec.Struct):
    """Where a member is."""

    id: str
    x: float
    y: float
    z: float


class Cluster(msgspec.Struct):
    """One cluster of the answer."""

    id: str
    members: list[str]
    npcs: int
    players: int
    positions: list[MemberPosition]


class Answer(msgspec.Struct):
    """The answer."""

    world: str
    revision: int
    clusters: list[Cluster]


_decode = msgspec.json.Decoder(Snapshot).decode
_encode = msgspec.json.Encoder().encode


def _vector(vector: Vector | None) -> Any:
    return None if vector is None else peer_pb2.Vector(x=vector.x, y=vector.y, z=vector.z)


def _entity(entity: Entity) -> Any:
    health = entity.health
    return peer_pb2.Entity(
        id=entity.id, kind=entity.kind, name=entity.name, position=_vector(entity.position),
        health=peer_pb2.Health(
            current=health.current, max=health.max, state=health.state, is_moving=health.isMoving,
            velocity=_vector(health.velocity),
        ),
        action=entity.action, location=entity.location, last_seen=entity.last_seen, appearance=entity.appearance,
        description=entity.description,
    )  # fmt: skip


def _message(snapshot: Snapshot) -> Any:
    events = [
        peer_pb2.Event(type=one.type, actor=one.actor, target=one.target, text=one.text) for one in snapshot.events
    ]
    return peer_pb2.Snapshot(
        world=snapshot.world, timestamp=snapshot.timestamp, entities=map(_entity, snapshot.entities), events=events
    )


def _cluster(cluster: Any) -> Cluster:
    places = [(member.id, member.position) for member in cluster.members]
    return Cluster(
        str(cluster.id), [name for name, _ in places], cluster.npcs, cluster.players,
        [MemberPosition(name, place.x, place.y, place.z) for name, place in places],
    )  # fmt: skip


class Edge:
    """ASGI, with one channel for the life of the process."""

    def __init__(self, state: str) -> None:
        self._address = state
        self._stub: Any = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        parts = []
        while True:
            event = await receive()
            parts.append(event["body"])
            if not event.get("more_body"):
                break
        if self._stub is None:
            self._stub = peer_pb2_grpc.StateStub(grpc.aio.insecure_channel(self._address))
        snapshot = _decode(b"".join(parts))
        applied = await self._stub.Apply(_message(snapshot), timeout=TIMEOUT_S)
        body = _encode(Answer(snapshot.world, applied.revision, [_cluster(one) for one in applied.clusters]))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        Edge(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), http="httptools", ws="none", lifespan="off",
        log_level="error", access_log=False, server_header=False, date_header=False,
    )  # fmt: skip
