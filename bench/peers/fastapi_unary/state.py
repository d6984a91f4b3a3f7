"""The peer's state: `python -m bench.peers.fastapi_unary.state ADDRESS CLUSTERS DATABASE`."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import grpc
import peer_pb2  # type: ignore[import-not-found]  # generated into the peers' environment
import peer_pb2_grpc  # type: ignore[import-not-found]  # as above

MOVED = 0.1
JOIN, LEAVE = 10.0, 12.0
TIMEOUT_S = 5.0


@dataclass(slots=True)
class World:
    """What is remembered of one world."""

    revision: int = 0
    positions: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Writer(threading.Thread):
    """One thread that commits whatever waits, together."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._loop = loop
        self._queue: queue.SimpleQueue[tuple[str, int, bytes, asyncio.Future[None]]] = queue.SimpleQueue()

    def put(self, world: str, revision: int, document: bytes) -> asyncio.Future[None]:
        """Done when it is committed."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((world, revision, document, future))
        return future

    def run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS world (name TEXT PRIMARY KEY, revision INTEGER, document BLOB)")
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO world VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, "
                "document = excluded.document",
                [entry[:3] for entry in batch],
            )
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(_resolve, [entry[3] for entry in batch])


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Servicer(peer_pb2_grpc.StateServicer):  # type: ignore[misc]  # generated, untyped
    """See peer.proto."""

    def __init__(self, clusters: Any, writer: Writer) -> None:
        self._clusters = clusters
        self._writer = writer
        self._worlds: defaultdict[str, World] = defaultdict(World)

    async def Apply(self, request: Any, context: Any) -> Any:
        """Apply a snapshot; answered when it is on disk."""
        world = self._worlds[request.world]
        async with world.lock:
            known = world.positions
            positions = {entity.id: _moved(known.get(entity.id), entity.position) for entity in request.entities}
            points = peer_pb2.Points(
                points=[
                    peer_pb2.Point(
                        id=entity.id,
                        position=peer_pb2.Vector(x=place[0], y=place[1], z=place[2]),
                        before=world.before.get(entity.id, -1),
                    )
                    for entity, place in zip(request.entities, positions.values(), strict=True)
                ],
                join=JOIN,
                leave=LEAVE,
            )
            labels = (await self._clusters.Assign(points, timeout=TIMEOUT_S)).labels
            world.positions = positions
            world.before = dict(zip(positions, labels, strict=True))
            world.revision += 1
            revision = world.revision
            answer = _answer(request, positions, labels, revision)
            stored = self._writer.put(request.world, revision, request.SerializeToString())
        await stored
        return answer


def _moved(before: tuple[float, float, float] | None, position: Any) -> tuple[float, float, float]:
    now = (position.x, position.y, position.z)
    if before is None:
        return now
    away = (now[0] - before[0]) ** 2 + (now[1] - before[1]) ** 2 + (now[2] - before[2]) ** 2
    return before if away < MOVED * MOVED else now


def _answer(request: Any, positions: dict[str, tuple[float, float, float]], labels: Any, revision: int) -> Any:
    members: defaultdict[int, list[Any]] = defaultdict(list)
    for entity, label in zip(request.entities, labels, strict=True):
        if label >= 0:
            members[label].append(entity)
    clusters = []
    for label, entities in members.items():
        npcs = sum(entity.kind == "npc" for entity in entities)
        rows = []
        for entity in entities:
            x, y, z = positions[entity.id]
            rows.append(peer_pb2.Member(id=entity.id, position=peer_pb2.Vector(x=x, y=y, z=z)))
        clusters.append(peer_pb2.Cluster(id=label, members=rows, npcs=npcs, players=len(entities) - npcs))
    return peer_pb2.Applied(revision=revision, clusters=clusters)


async def main(address: str, clusters: str, database: str) -> None:
    """Serve for ever."""
    writer = Writer(database, asyncio.get_running_loop())
    writer.start()
    async with grpc.aio.insecure_channel(clusters) as channel:
        server = grpc.aio.server()
        servicer = Servicer(peer_pb2_grpc.ClustersStub(channel), writer)
        peer_pb2_grpc.add_StateServicer_to_server(servicer, server)
        server.add_insecure_port(address)
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
