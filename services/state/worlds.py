"""Every world of this replica and every tenant's roster, in memory, within bounds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from services.common.errors import BadInput, Overloaded
from services.common.logs import get_logger
from services.common.ownership import partition_of
from services.state.blob import Unreadable, decode
from services.state.document import blank
from services.state.feed import Ref
from services.state.roster import Roster
from services.state.store import Session, StoredWorld
from services.state.world import World

MAX_REF = 128
NO_ROSTER = Roster()

_log = get_logger("state")


class Worlds:
    """Worlds by (tenant, world), rosters by tenant."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._worlds: dict[Ref, World] = {}
        self._rosters: dict[str, Roster] = {}
        self.retired_revision = 0  # no new world may reach down to this revision,
        self.retired_epoch = 0  # or to this epoch

    def __len__(self) -> int:
        return len(self._worlds)

    def __iter__(self) -> Iterator[World]:
        return iter(list(self._worlds.values()))

    def get(self, ref: Ref) -> World | None:
        """The world, if it is known."""
        return self._worlds.get(ref)

    def of(self, tenant: str) -> list[World]:
        """The worlds of a tenant by name; of every tenant for ""."""
        return sorted((w for w in self._worlds.values() if not tenant or w.ref[0] == tenant), key=lambda w: w.ref)

    def make(self, ref: Ref, at_ms: int, tick: int) -> World:
        """A new world. Raises BadInput for a ref that is none, Overloaded when there are too many."""
        if not all(0 < len(part.encode()) <= MAX_REF for part in ref):
            raise BadInput("tenant and world must be 1 to 128 bytes", reason="BAD_WORLD")
        if len(self._worlds) >= self._most:
            raise Overloaded("too many worlds", reason="WORLDS_FULL", retry_after_ms=60_000)
        world = self._worlds[ref] = World(ref, blank(0, at_ms, tick), self.retired_epoch)
        return world

    def drop(self, ref: Ref) -> None:
        """Forget a world."""
        world = self._worlds.pop(ref, None)
        if world is not None:
            self.retired_revision = max(self.retired_revision, world.document.revision)
            self.retired_epoch = max(self.retired_epoch, world.epoch)

    def roster(self, tenant: str) -> Roster:
        """The tenant's roster, empty when it has none."""
        return self._rosters.get(tenant, NO_ROSTER)

    def set_roster(self, tenant: str, roster: Roster) -> None:
        """Replace a tenant's roster."""
        self._rosters[tenant] = roster

    def load(
        self,
        worlds: Iterable[StoredWorld],
        sessions: Iterable[tuple[Ref, Session]],
        rosters: dict[str, Roster],
        at_ms: int,
        tick: int,
    ) -> list[World]:
        """Fill from the store; answers what came.

        A document that cannot be read costs its content, never its numbers.
        """
        self._rosters.update(rosters)
        came: dict[Ref, World] = {}
        for stored in worlds:
            try:
                document = decode(stored.data, stored.revision, tick)
            except Unreadable as error:
                _log.error("world_unreadable", error=str(error))
                document = blank(stored.revision, at_ms, tick)
            came[stored.ref] = World(stored.ref, document, self.retired_epoch)
        for ref, session in sessions:
            if ref not in came:
                came[ref] = World(ref, blank(0, at_ms, tick), self.retired_epoch)
            came[ref].remember(session)
        self._worlds.update(came)
        return list(came.values())

    def let_go(self, partitions: Collection[int]) -> None:
        """Another replica serves these worlds from now on."""
        for ref in [ref for ref in self._worlds if partition_of(*ref) in partitions]:
            del self._worlds[ref]
        for tenant in [tenant for tenant in self._rosters if partition_of(tenant, "") in partitions]:
            del self._rosters[tenant]
