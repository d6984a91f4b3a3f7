"""The peer's edge: `uvicorn bench.peers.fastapi_unary.edge:application`; PEER_STATE is state's address."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import peer_pb2  # type: ignore[import-not-found]  # generated into the peers' environment
import peer_pb2_grpc  # type: ignore[import-not-found]  # as above
from fastapi import FastAPI, Request, Response  # type: ignore[import-not-found]  # in the peers' environment only
from prometheus_client import Counter, generate_latest
from pydantic import BaseModel

REQUESTS = Counter("peer_snapshots_total", "Snapshots by outcome", ["outcome"])
TIMEOUT_S = 5.0


class Vector(BaseModel):
    """A position or a velocity."""

    x: float
    y: float
    z: float


class Health(BaseModel):
    """Health and how the body moves."""

    current: float
    max: float
    state: str = ""
    isMoving: bool = False  # the wire's name
    velocity: Vector | None = None


class Entity(BaseModel):
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


class Event(BaseModel):
    """One event."""

    type: str
    actor: str = ""
    target: str = ""
    text: str = ""


class Snapshot(BaseModel):
    """The request."""

    world: str
    timestamp: float
    entities: list[Entity]
    events: list[Event] = []


class MemberPosition(Vector):
    """Where a member is."""

    id: str


class Cluster(BaseModel):
    """One cluster of the answer."""

    id: str
    members: list[str]
    npcs: int
    players: int
    positions: list[MemberPosition]


class Answer(BaseModel):
    """The answer."""

    world: str
    revision: int
    clusters: list[Cluster]


@asynccontextmanager
async def life(app: Any) -> AsyncIterator[None]:
    """One channel for the life of the process."""
    async with grpc.aio.insecure_channel(os.environ["PEER_STATE"]) as channel:
        app.state.stub = peer_pb2_grpc.StateStub(channel)
        yield


async def post(snapshot: Snapshot, request: Request) -> Answer:
    """POST /v1/snapshots"""
    applied = await request.app.state.stub.Apply(message(snapshot), timeout=TIMEOUT_S)
    REQUESTS.labels("applied").inc()
    clusters = [
        Cluster(
            id=str(cluster.id),
            members=[member.id for member in cluster.members],
            npcs=cluster.npcs,
            players=cluster.players,
            positions=[
                MemberPosition(id=member.id, x=member.position.x, y=member.position.y, z=member.position.z)
                for member in cluster.members
            ],
        )
        for cluster in applied.clusters
    ]
    return Answer(world=snapshot.world, revision=applied.revision, clusters=clusters)


async def metrics() -> Response:
    """GET /metrics"""
    return Response(generate_latest(), media_type="text/plain")


def message(snapshot: Snapshot) -> Any:
    """The request as a nested message."""
    return peer_pb2.Snapshot(
        world=snapshot.world,
        timestamp=snapshot.timestamp,
        entities=[
            peer_pb2.Entity(
                id=entity.id,
                kind=entity.kind,
                name=entity.name,
                position=_vector(entity.position),
                health=peer_pb2.Health(
                    current=entity.health.current,
                    max=entity.health.max,
                    state=entity.health.state,
                    is_moving=entity.health.isMoving,
                    velocity=_vector(entity.health.velocity),
                ),
                action=entity.action,
                location=entity.location,
                last_seen=entity.last_seen,
                appearance=entity.appearance,
                description=entity.description,
            )
            for entity in snapshot.entities
        ],
        events=[
            peer_pb2.Event(type=event.type, actor=event.actor, target=event.target, text=event.text)
            for event in snapshot.events
        ],
    )


def _vector(vector: Vector | None) -> Any:
    return None if vector is None else peer_pb2.Vector(x=vector.x, y=vector.y, z=vector.z)


application = FastAPI(lifespan=life)
application.add_api_route("/v1/snapshots", post, methods=["POST"], response_model=Answer)
application.add_api_route("/metrics", metrics, methods=["GET"])
