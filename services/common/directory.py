"""Where a room's replicas are and who serves which partition, as the registry says: read often, asked seldom."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Collection, Sequence

from services.common.errors import EarshotError, Unavailable
from services.common.logs import get_logger
from services.common.ownership import PARTITIONS
from services.common.registry import Registry

EVERY_S = 0.5
# For so long what was read is taken for what is.
KNOWN_S = 2.0
# Share of a lease that is left of it when its owner counts as quiet.
QUIET = 0.4
# What it takes to take over once a lease has run out.
TAKEN_MS = 2000
# Between two looks for what is changing hands.
LOOK_S = 0.05

_log = get_logger("common")


class Directory:
    """One room's. `run` keeps it fresh; who was told wrong asks for `refresh`.

    here: this process's own address in that room, "" = it does not host it.
    """

    def __init__(self, registry: Registry, here: str, lease_ms: int) -> None:
        self._registry = registry
        self.here = here
        self.lease_ms = lease_ms
        self._owners: dict[int, str] = {}
        # How long each replica's lease lasts, ms, and since when that is known.
        self._leases: dict[str, int] = {}
        self._looked_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._doubted = asyncio.Event()
        self._changed = asyncio.Event()
        # Grows whenever a partition gets another owner.
        self.version = 0

    def owner(self, partition: int) -> str:
        """Address of who serves a partition, "" = nobody."""
        return self._owners.get(partition, "")

    @property
    def complete(self) -> bool:
        """Whether every partition is served by somebody who is heard of."""
        return len(self._owners) == PARTITIONS and set(self._owners.values()) <= self._leases.keys()

    def everybody(self, partitions: Collection[int] = ()) -> Sequence[str]:
        """Addresses of the owners of these partitions, of all when none is named."""
        return sorted({self._owners[one] for one in partitions or self._owners if one in self._owners})

    def nearest(self) -> Sequence[str]:
        """Addresses of all replicas: this process first, then in an order of its own."""
        return sorted(self._leases, key=lambda one: (one != self.here, zlib.crc32(f"{self.here}{one}".encode())))

    def left_ms(self, address: str) -> int:
        """How long a replica still counts as alive, as far as is known."""
        since = round((asyncio.get_running_loop().time() - self._looked_at) * 1000)
        return max(self._leases.get(address, 0) - since, 0)

    def quiet(self, address: str) -> bool:
        """Whether a replica has missed several beats: it hangs, or the machine does.

        False while the registry cannot be asked: then nobody's beats are heard, and who served goes on reading.
        """
        if asyncio.get_running_loop().time() - self._looked_at > KNOWN_S:
            return False
        return self.left_ms(address) < self.lease_ms * QUIET

    def moving(self, address: str = "") -> Unavailable:
        """What a caller is told of worlds that their owner does not serve just now: when to come back."""
        return Unavailable(
            "nobody serves this just now", reason="MOVING", retry_after_ms=self.left_ms(address) + TAKEN_MS
        )

    async def served(self, partition: int, until: float, but: str = "") -> str:
        """The address of a partition's owner, waited for while it changes hands. until: loop time.

        but: who says that it is not the owner. Raises Unavailable (MOVING) when there is none in time, or it hangs.
        """
        await self.patiently(lambda: self.owner(partition) not in ("", but), until)
        found = self.owner(partition)
        if self.quiet(found):
            await self.refresh()
            if self.owner(partition) == found and self.quiet(found):
                raise self.moving(found)
        return self.owner(partition) or found

    async def patiently(self, done: Callable[[], bool], until: float) -> None:
        """Ask the registry again and again until something is so. Raises Unavailable at `until`, loop time."""
        while not done():
            await self.refresh()
            if done():
                return
            if asyncio.get_running_loop().time() >= until:
                raise self.moving()
            await asyncio.sleep(LOOK_S)

    def watch(self) -> asyncio.Event:
        """An event that is set once partitions have changed hands: take it before looking at who serves what."""
        return self._changed

    def doubt(self) -> None:
        """Somebody did not answer: look soon."""
        self._doubted.set()

    async def refresh(self) -> None:
        """Ask the registry; callers at the same time share the answer. Raises Unavailable."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="directory.ask")
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        owners, self._leases = await self._registry.look()
        self._looked_at = asyncio.get_running_loop().time()
        if owners != self._owners:
            self._owners = owners
            self.version += 1
            self._changed.set()
            self._changed = asyncio.Event()

    async def run(self) -> None:
        """Ask now and then, for ever."""
        while True:
            try:
                await self.refresh()
            except EarshotError as error:
                _log.debug("directory_not_refreshed", reason=error.reason)
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._doubted.wait()
                    await asyncio.sleep(EVERY_S / 5)
            except TimeoutError:
                pass
            self._doubted.clear()
