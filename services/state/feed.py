"""What changed, for those who watch: NPC keys in order with a resume point, and doorbells for worlds.

The log is bounded: a reader that is farther behind, or comes from another life of this process, meets a gap
and lists again. Readers are cursors into the log, so a slow one costs nothing and coalesces by itself to
the latest per NPC.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from services.common.ownership import partition_of
from services.state.change import Change, Lane

KEPT = 65_536
BATCH = 1024
# In so many changes everybody is rung once: who watches quiet worlds moves on before its place in the log is forgotten.
NOTICE = KEPT // 4

Partitions = frozenset[int]
"""Those whose worlds somebody watches; empty = all."""
EVERYWHERE: Partitions = frozenset()

Ref = tuple[str, str]
"""(tenant, world)."""


class Told(NamedTuple):
    """A change of an NPC of a world; `closed` when the world ended. cause: its trace, where that is sampled."""

    ref: Ref
    change: Change
    closed: bool = False
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Changes after a resume point, at most one per NPC, and where to resume."""

    token: str
    told: tuple[Told, ...]
    gap: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one commit told; `number` is that of its first change."""

    number: int
    ref: Ref
    changes: Collection[Change]
    closed: bool
    cause: str
    partition: int


class Feed:
    """The log of changed NPC keys. `life` names this life of the process: tokens of another one are gaps."""

    def __init__(self, life: str, kept: int = KEPT) -> None:
        self._life = life
        self._kept = kept
        self._log: list[_Entry] = []
        self._next = 0  # number of the next change
        self._bells: dict[asyncio.Event, Partitions] = {}

    @property
    def token(self) -> str:
        """The resume point of now."""
        return self._token(self._next)

    def append(self, ref: Ref, changes: Collection[Change], *, closed: bool = False, cause: str = "") -> None:
        """Tell changes; the oldest are forgotten past the bound."""
        if not changes:
            return
        partition, before = partition_of(*ref), self._next
        self._log.append(_Entry(before, ref, changes, closed, cause, partition))
        self._next += len(changes)
        if self._next - self._log[0].number > 2 * self._kept:  # forget in halves: appending stays cheap
            del self._log[: self._place(self._next - self._kept)]
        notice = self._next // NOTICE != before // NOTICE
        for bell, partitions in self._bells.items():
            if notice or not partitions or partition in partitions:
                bell.set()

    def after(self, token: str, tenant: str = "", partitions: Partitions = EVERYWHERE) -> Page:
        """The next changes of a tenant ("": all) in partitions, the most urgent lane of each key since the token."""
        start = self._number(token)
        if start is None:
            return Page(self.token, (), gap=True)
        latest: dict[tuple[Ref, str], Told] = {}
        for entry in self._log[self._place(start) :]:
            if (tenant and entry.ref[0] != tenant) or (partitions and entry.partition not in partitions):
                continue
            for number, change in enumerate(entry.changes, entry.number):
                if number < start:
                    continue
                key = (entry.ref, change.npc)
                if key not in latest and len(latest) >= BATCH:
                    return Page(self._token(number), tuple(latest.values()))
                latest[key] = _coalesced(latest.pop(key, None), Told(entry.ref, change, entry.closed, entry.cause))
        return Page(self.token, tuple(latest.values()))

    def _place(self, number: int) -> int:
        """The entry that holds a change, the end of the log for one that is to come."""
        if number >= self._next:
            return len(self._log)
        return max(bisect_right(self._log, number, key=lambda entry: entry.number) - 1, 0)

    def bell(self, partitions: Partitions = EVERYWHERE) -> asyncio.Event:
        """An event that is set when something is appended there; hand it to `hang_up` in the end."""
        bell = asyncio.Event()
        self._bells[bell] = partitions
        return bell

    def hang_up(self, bell: asyncio.Event) -> None:
        """Forget a bell."""
        self._bells.pop(bell, None)

    def _token(self, number: int) -> str:
        return f"{self._life}.{number}"

    def _number(self, token: str) -> int | None:
        life, _, digits = token.partition(".")
        if life != self._life or not digits.isdecimal():
            return None
        number = int(digits)
        first = self._log[0].number if self._log else self._next
        oldest = max(first, self._next - self._kept)
        return number if oldest <= number <= self._next else None


def _coalesced(older: Told | None, newer: Told) -> Told:
    if older is None:
        return newer
    if older.cause and not newer.cause:
        newer = newer._replace(cause=older.cause)
    if older.change.lane >= newer.change.lane:
        return newer
    return newer._replace(change=newer.change._replace(lane=Lane(older.change.lane)))


@dataclass(frozen=True, slots=True)
class Ring:
    """A world has something new to fetch."""

    ref: Ref
    revision: int
    closed: bool
    partition: int


class Doorbell:
    """Rings of worlds for one watcher, the latest per world; bounded by the number of worlds."""

    def __init__(self, tenant: str, partitions: Partitions = EVERYWHERE) -> None:
        self._tenant = tenant
        self._partitions = partitions
        self._rings: dict[Ref, Ring] = {}
        self._event = asyncio.Event()

    def ring(self, ring: Ring) -> None:
        """Note a ring; never waits."""
        if self._partitions and ring.partition not in self._partitions:
            return
        if not self._tenant or ring.ref[0] == self._tenant:
            self._rings[ring.ref] = ring
            self._event.set()

    async def next(self) -> list[Ring]:
        """Wait for rings and take them."""
        await self._event.wait()
        self._event.clear()
        rings = list(self._rings.values())
        self._rings.clear()
        return rings


class Doorbells:
    """Every watcher of worlds."""

    def __init__(self) -> None:
        self._bells: set[Doorbell] = set()

    def open(self, tenant: str, partitions: Partitions = EVERYWHERE) -> Doorbell:
        """A bell for a tenant's worlds ("": all) in some partitions; hand it to `close` in the end."""
        bell = Doorbell(tenant, partitions)
        self._bells.add(bell)
        return bell

    def close(self, bell: Doorbell) -> None:
        """Forget a bell."""
        self._bells.discard(bell)

    def ring(self, ref: Ref, revision: int, *, closed: bool) -> None:
        """Tell every watcher."""
        if self._bells:
            ring = Ring(ref, revision, closed, partition_of(*ref))
            for bell in self._bells:
                bell.ring(ring)
