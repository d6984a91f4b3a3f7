"""What a process has of the store that replicas share: who it is there, where the others are, its leases."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress

from services.common.directory import Directory
from services.common.errors import EarshotError, Unavailable
from services.common.mirror import Layout, Mirror
from services.common.redis_rows import RedisRows, fit, new_slot
from services.common.registry import Registry, Replica, client
from services.common.replicas import BEATS, Holder, Replicas
from services.common.routing import OWNED
from services.common.settings import SERVED, Settings
from services.common.store import Database

EVERYWHERE = ("0.0.0.0", "::", "[::]", "")


class Shared:
    """Opened with the first store; raises BadInput (STORE_UNFIT) and Unavailable then."""

    def __init__(self, settings: Settings, rooms: frozenset[str], monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._rooms = rooms
        self._monotonic = monotonic
        self._id = uuid.uuid4().hex[:12]
        self._slot: int | None = None
        self._store = client(settings.store)
        self._directories: dict[str, Directory] = {}
        self._replicas: dict[str, Replicas] = {}

    # -- what this process is there ------------------------------------------------------------------------------------

    def address(self, room: str) -> str:
        """Where others reach a room of this process, "" = nobody calls it."""
        if room not in SERVED:
            return ""
        address = self._settings.address(room)
        host, _, port = address.rpartition(":")
        if self._settings.advertise:
            return f"{self._settings.advertise}:{port}"
        return f"{socket.gethostname()}:{port}" if host in EVERYWHERE else address

    def mirror(self, room: str, layout: Layout) -> Mirror:
        """The room's share of the store, empty as yet."""
        if self._slot is None:
            fit(self._settings.store)
            self._slot = new_slot(self._settings.store)
        return Mirror(layout, RedisRows(self._settings.store, room), self._slot)

    def losing(self, room: str) -> Callable[[set[int]], None]:
        """What the store's thread calls when another owner has taken partitions."""
        loop = asyncio.get_running_loop()

        def lost(partitions: set[int]) -> None:
            if room in self._replicas:
                with suppress(RuntimeError):  # the loop is closed: so are we
                    loop.call_soon_threadsafe(self._replicas[room].lost, partitions)

        return lost

    def replicas(self, room: str, database: Database, holder: Holder) -> Replicas:
        """This process among the room's replicas; not running yet."""
        found = self._replicas[room] = Replicas(
            Registry(self._store, room), database, holder, self._me(room), self._settings.lease_s, self._monotonic
        )
        return found

    def _me(self, room: str) -> Replica:
        return Replica(self._id, self.address(room))

    # -- where the others are ------------------------------------------------------------------------------------------

    def directory(self, room: str) -> Directory:
        """Who serves what of a room."""
        if room not in self._directories:
            here = self.address(room) if room in self._rooms else ""
            self._directories[room] = Directory(Registry(self._store, room), here, round(self._settings.lease_s * 1000))
        return self._directories[room]

    async def ready(self, room: str) -> None:
        """Raises Unavailable unless the room is served, all of it."""
        directory = self.directory(room)
        if not (directory.complete if room in OWNED else directory.nearest()):
            await directory.refresh()
            if not (directory.complete if room in OWNED else directory.nearest()):
                raise Unavailable(f"{room} is not served yet", reason="NOT_READY")

    # -- life ----------------------------------------------------------------------------------------------------------

    def workers(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What runs for the life of the process, beside the replicas."""
        found: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            (f"directory.{room}", directory.run) for room, directory in self._directories.items()
        ]
        if "cluster" in self._rooms:
            found.append(("cluster.presence", self._present))
        return found

    async def _present(self) -> None:
        """Cluster keeps nothing, so that being there is all."""
        registry, me = Registry(self._store, "cluster"), self._me("cluster")
        lease_s = self._settings.lease_s
        try:
            while True:
                with suppress(EarshotError):
                    await registry.beat(me, round(lease_s * 1000))
                await asyncio.sleep(lease_s / BEATS)
        finally:
            with suppress(EarshotError):
                await registry.part(me)

    async def close(self) -> None:
        await self._store.aclose()
