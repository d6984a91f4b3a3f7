"""A registry without a store: what replicas and directories see of each other, and what becomes of asking."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from services.common.errors import EarshotError
from services.common.registry import Registry, Replica


@dataclass
class FakeRegistry(Registry):
    """What a directory looks at. served: address by partition; leases: ms by address; failure: instead of an answer."""

    served: dict[int, str]
    leases: dict[str, int]
    failure: EarshotError | None = None
    looks: int = 0

    async def look(self) -> tuple[dict[int, str], dict[str, int]]:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        return dict(self.served), dict(self.leases)


@dataclass
class Table:
    """The part that all share. beats: until when each is alive, by the table's own time."""

    now: float = 0.0
    beats: dict[str, float] = field(default_factory=dict)
    shown: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)


@dataclass
class SharedRegistry(Registry):
    """One replica's way to the table; `away` = it cannot be reached."""

    table: Table
    away: EarshotError | None = None

    def _ask(self) -> Table:
        if self.away is not None:
            raise self.away
        return self.table

    async def beat(self, me: Replica, lease_ms: int) -> dict[str, str]:
        table = self._ask()
        table.beats[me.id] = table.now + lease_ms / 1000
        return {one: f"{one}:1" for one, until in table.beats.items() if until >= table.now}

    async def part(self, me: Replica) -> None:
        self._ask().beats.pop(me.id, None)

    async def owners(self) -> dict[int, str]:
        return dict(self._ask().shown)

    async def take(self, partitions: Collection[int], me: Replica, alive: Iterable[str]) -> dict[int, int]:
        table, others = self._ask(), set(alive) - {me.id}
        free = [one for one in partitions if table.owners.get(one, "") not in others]
        for one in free:
            table.tokens[one] = table.tokens.get(one, 0) + 1
            table.owners[one] = me.id
        return {one: table.tokens[one] for one in free}

    async def give(self, tokens: Mapping[int, int]) -> None:
        table = self._ask()
        table.owners.update({one: "" for one, token in tokens.items() if table.tokens.get(one) == token})

    async def tokens(self, partitions: Collection[int]) -> dict[int, int]:
        table = self._ask()
        return {one: table.tokens.get(one, 0) for one in partitions}

    async def show(self, me: Replica, partitions: Collection[int]) -> None:
        self._ask().shown.update(dict.fromkeys(partitions, me.shown))

    async def unshow(self, me: Replica, partitions: Collection[int]) -> None:
        shown = self._ask().shown
        for one in partitions:
            if shown.get(one) == me.shown:
                del shown[one]
