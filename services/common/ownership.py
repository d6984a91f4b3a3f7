"""Who may write for a world. State, sync and chat own worlds by this one mechanism.

A world belongs to partition crc32(tenant, world) mod 256. Each partition is leased with a fencing token; every durable
write and append compares the token inside its transaction, so a replica that lost its lease cannot write late.
Embedded there is one owner: it takes the next token of every partition when it opens its store, and there is no lease
traffic.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

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
        """The fence to write with. Raises NotOwner (with the owner's address) when another replica owns the world."""
        ...


class EmbeddedOwnership:
    """One owner of everything, with the token that its store handed out when it was opened."""

    def __init__(self, token: int) -> None:
        self._fences = tuple(Fence(partition, token) for partition in range(PARTITIONS))

    def fence(self, tenant: str, world: str) -> Fence:
        return self._fences[partition_of(tenant, world)]
