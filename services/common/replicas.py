"""A room's share of the work where there are several of it: leases kept, partitions taken over and handed on.

Each replica beats; everybody computes the same plan from who is alive (rendezvous hashing with a bound: a replica that
comes or goes moves its own share and little else). A partition that should be elsewhere is handed on: callers are told,
what was written is kept, the room lets go, and only then the next one takes it. What a dead replica had is taken when
its lease has run out; should it come back to life, its token is old.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

from services.common.errors import EarshotError, Unavailable
from services.common.logs import get_logger
from services.common.ownership import PARTITIONS, LeasedOwnership
from services.common.registry import Registry, Replica
from services.common.store import Database

EVERYTHING = frozenset(range(PARTITIONS))
# Beats in one lease; and the share of the lease after which an owner that was not renewed stops by itself.
BEATS = 5
STOP_AFTER = 2 / 3
# Partitions that are taken up in one go: others are served in between.
TOGETHER = 64
# Beats that a replica is not heard of before its partitions are taken.
MISSED = 1
RETRY_S = 0.2
# Of an even share, what a replica takes at most: the busiest of many would have twice the mean by chance alone.
FULL = 1.15
# Between looks for partitions that are being handed on to this replica.
EXPECTING_S = 0.1
# How long a stop may take to hand on what is here.
PART_S = 3.0

_log = get_logger("common")

Partitions = frozenset[int]


@dataclass(frozen=True, slots=True)
class Holder:
    """What a room does when partitions come (their rows are in its store) and when they go (their rows still are)."""

    entered: Callable[[Partitions], Awaitable[None]]
    leaving: Callable[[Partitions], Awaitable[None]]


def plan(replicas: Iterable[str]) -> dict[int, str]:
    """Who should own each partition. Every replica that sees the same others computes the same.

    Rendezvous hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018): who has its share is passed over.
    """
    ids = sorted(replicas)
    left = dict.fromkeys(ids, math.ceil(FULL * PARTITIONS / len(ids)) if ids else 0)
    owners: dict[int, str] = {}
    for partition in range(PARTITIONS if ids else 0):
        owner = max((one for one in ids if left[one]), key=lambda one: _weight(one, partition))
        owners[partition] = owner
        left[owner] -= 1
    return owners


def _weight(replica: str, partition: int) -> bytes:
    return hashlib.blake2b(f"{replica} {partition}".encode(), digest_size=8).digest()


class Turn:
    """Work that one replica does at a time: it runs between `begin` and `end`."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        self._begun.set()

    async def end(self) -> None:
        """It runs no more once this returns."""
        self._begun.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def of(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """A worker that does the work whenever it is this replica's turn."""

        async def run() -> None:
            while True:
                await self._begun.wait()
                task = asyncio.ensure_future(_awaited(work))
                self._running.add(task)
                try:
                    await asyncio.wait((task,))
                finally:
                    self._running.discard(task)
                    task.cancel()
                if not task.cancelled():
                    return task.result()

        return run


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


class Replicas:
    """Keeps `ownership` true for one room of this process."""

    def __init__(
        self,
        registry: Registry,
        database: Database,
        holder: Holder,
        me: Replica,
        lease_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        assert isinstance(database.ownership, LeasedOwnership)
        self._registry = registry
        self._database = database
        self._ownership = database.ownership
        self._holder = holder
        self._me = me
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._alive: set[str] = set()
        self._missed: dict[str, int] = {}
        self._tokens: dict[int, int] = {}
        self._lost: set[int] = set()
        self._doubt = False
        self._expecting = False
        self._renewed = float("-inf")
        self._wake = asyncio.Event()
        self.settled = asyncio.Event()

    def lost(self, partitions: Collection[int]) -> None:
        """A write was refused: another owner took these."""
        self._lost |= set(partitions)
        self._wake.set()

    async def ready(self) -> None:
        """Raises Unavailable until this replica has its share."""
        if not self.settled.is_set():
            raise Unavailable("partitions are being taken", reason="NOT_READY")

    async def run(self) -> None:
        """Beat, and do what follows, until cancelled; then hand everything on. May be called again after it failed."""
        # What it held before it failed was handed on: it is taken anew, as it is kept by now.
        await self._drop(set(self._tokens))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat(), name="replicas.beat")
                group.create_task(self._settle(), name="replicas.settle")
        finally:
            with contextlib.suppress(TimeoutError, EarshotError):
                async with asyncio.timeout(PART_S):
                    await self._part()

    async def _beat(self) -> None:
        reached = True
        while True:
            began = self._monotonic()
            if self._tokens and began > self._ownership.until:
                self._doubt = True  # others may have taken over meanwhile
            try:
                self._heard(await self._registry.beat(self._me, round(self._lease_s * 1000)))
            except EarshotError:
                if reached:
                    _log.warning("lease_not_renewed")
                reached = False
                await asyncio.sleep(RETRY_S)
                continue
            reached = True
            self._renewed = began
            if not self._doubt:
                self._renew()
            self._wake.set()
            await asyncio.sleep(max(self._lease_s / BEATS - (self._monotonic() - began), 0.0))

    def _heard(self, alive: dict[str, str]) -> None:
        """Who was not heard of once may only be late: after an outage of the store everybody is."""
        self._missed = {one: missed + 1 for one, missed in self._missed.items() if missed < MISSED}
        self._missed |= dict.fromkeys(alive, 0)
        self._alive = set(self._missed)

    def _renew(self) -> None:
        self._ownership.until = self._renewed + self._lease_s * STOP_AFTER

    async def _settle(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXPECTING_S if self._expecting else None):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._adjust()
            except EarshotError as error:
                _log.warning("partitions_not_settled", reason=error.reason)
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _adjust(self) -> None:
        """Bring what is held here to what the plan says, as far as others let go."""
        shown = await self._registry.owners()
        await self._verify({one for one in self._tokens if self._doubt or shown.get(one) != self._me.shown})
        if self._doubt:
            # What is left was still ours after the last beat.
            self._doubt = False
            self._renew()
        wanted = {one for one, owner in plan(self._alive).items() if owner == self._me.id}
        surplus = self._tokens.keys() - wanted
        if surplus:
            await self._hand_on(surplus)
        missing = sorted(wanted - self._tokens.keys())
        if missing:
            # Who came a moment ago may own some of them already.
            self._alive |= (await self._registry.beat(self._me, round(self._lease_s * 1000))).keys()
        for start in range(0, len(missing), TOGETHER):
            await self._take(missing[start : start + TOGETHER])
        self._ownership.owners = {
            partition: owner.partition(" ")[2] for partition, owner in shown.items() if partition not in self._tokens
        }
        # What somebody alive is handing on comes any moment.
        self._expecting = bool(wanted - self._tokens.keys())
        if wanted and wanted <= self._tokens.keys():
            self.settled.set()

    async def _verify(self, doubtful: set[int]) -> None:
        """Let go of what another replica has taken: a write said so, or the table that callers read."""
        doubtful |= self._lost & self._tokens.keys()
        self._lost = set()
        if not doubtful:
            return
        now = await self._registry.tokens(list(doubtful))
        lost = {partition for partition, token in now.items() if token != self._tokens[partition]}
        if lost:
            await self._drop(lost)
            _log.warning("partitions_lost", number=len(lost))
        await self._registry.show(self._me, doubtful - lost)

    async def _take(self, partitions: Collection[int]) -> None:
        tokens = await self._registry.take(partitions, self._me, self._alive)
        if not tokens:
            return
        try:
            await self._database.enter(tokens)
        except EarshotError:
            with contextlib.suppress(EarshotError):
                await self._registry.give(tokens)
            raise
        self._tokens.update(tokens)
        self._ownership.hold(tokens)
        await self._holder.entered(frozenset(tokens))
        await self._registry.show(self._me, tokens)
        _log.info("partitions_taken", number=len(tokens))

    async def _hand_on(self, partitions: Collection[int]) -> None:
        """To whom the plan names, who takes them as soon as nobody has them."""
        given = {partition: self._tokens[partition] for partition in partitions}
        await self._registry.unshow(self._me, given)
        await self._drop(given)
        await self._registry.give(given)
        _log.info("partitions_handed_on", number=len(given))

    async def _drop(self, partitions: Collection[int]) -> None:
        gone = frozenset(partitions)
        if not gone:
            return
        self._ownership.drop(gone)
        await self._holder.leaving(gone)
        for partition in gone:
            self._tokens.pop(partition, None)
        await self._database.leave(gone)

    async def _part(self) -> None:
        self._ownership.owners = {}
        await self._registry.part(self._me)
        given = dict(self._tokens)
        await self._registry.unshow(self._me, given)
        self._ownership.drop(given)
        await self._database.flush()
        await self._registry.give(given)
