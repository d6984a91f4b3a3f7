"""Who may write for a world. State, sync and chat own worlds by this one mechanism.

A world belongs to partition crc32(tenant, world) mod 256. Each partition is leased with a fencing token; every durable
write and append compares the token inside its transaction, so a replica that lost its lease cannot write late.
Embedded there is one owner: it takes the next token of every partition when it opens its store, and there is no lease
traffic.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import NotOwner, Unavailable

PARTITIONS = 256


def partition_of(tenant: str, world: str) -> int:
    """Partition 0..255 of a world."""
    return zlib.crc32(f"{tenant}\0{world}".encode()) % PARTITIONS


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write for one partition: compared for equality by the store."""

    partition: int
    token: int


class Ownership(Protocol):
    """Port: embedded below; leases on a shared store for many replicas."""

    def fence(self, tenant: str, world: str) -> Fence:
        """The fence to write with. Raises NotOwner (with the owner's address) when another replica owns the world,
        Unavailable (STORE_UNAVAILABLE) while it is not known whether this one still does."""
        ...

    def owns(self, tenant: str, world: str) -> bool:
        """Whether the world is served here."""
        ...

    def owner(self, tenant: str, world: str) -> str:
        """Address of the replica that serves the world, "" = here, or not known."""
        ...

    @property
    def life(self) -> int:
        """The highest token that is held here, 0 = none."""
        ...

    @property
    def sure(self) -> bool:
        """Whether what is served here is known to be served nowhere else."""
        ...

    @property
    def parts(self) -> Mapping[int, Fence] | None:
        """Where replicas share the worlds, the partitions that are served here; None where all is one."""
        ...


class EmbeddedOwnership:
    """One owner of everything, with the token that its store handed out when it was opened."""

    def __init__(self, token: int) -> None:
        self._fences = tuple(Fence(partition, token) for partition in range(PARTITIONS))

    def fence(self, tenant: str, world: str) -> Fence:
        return self._fences[partition_of(tenant, world)]

    def owns(self, tenant: str, world: str) -> bool:
        return True

    def owner(self, tenant: str, world: str) -> str:
        return ""

    @property
    def life(self) -> int:
        return self._fences[0].token

    @property
    def sure(self) -> bool:
        return True

    @property
    def parts(self) -> None:
        return None


class LeasedOwnership:
    """What one of many replicas owns just now: tokens by partition, good until a monotonic time.

    `replicas.py` keeps it true. Read on the loop's thread only.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._fences: dict[int, Fence] = {}
        # Addresses of the other owners, by partition.
        self.owners: dict[int, str] = {}
        self.until = float("-inf")

    def fence(self, tenant: str, world: str) -> Fence:
        partition = partition_of(tenant, world)
        fence = self._fences.get(partition)
        if fence is None:
            raise NotOwner(self.owners.get(partition, ""))
        if not self.sure:
            raise Unavailable("the lease could not be renewed", reason="STORE_UNAVAILABLE", retry_after_ms=1000)
        return fence

    def owns(self, tenant: str, world: str) -> bool:
        return partition_of(tenant, world) in self._fences

    def owner(self, tenant: str, world: str) -> str:
        return self.owners.get(partition_of(tenant, world), "")

    @property
    def sure(self) -> bool:
        return self._monotonic() <= self.until

    @property
    def life(self) -> int:
        return max((fence.token for fence in self._fences.values()), default=0)

    @property
    def parts(self) -> Mapping[int, Fence]:
        return self._fences

    def hold(self, tokens: Mapping[int, int]) -> None:
        """Serve partitions."""
        for partition, token in tokens.items():
            self._fences[partition] = Fence(partition, token)
            self.owners.pop(partition, None)

    def drop(self, partitions: Iterable[int]) -> None:
        """Serve partitions no more."""
        for partition in partitions:
            self._fences.pop(partition, None)
