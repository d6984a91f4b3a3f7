"""Changes of rosters: one at a time, durable before they show."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from services.common.errors import Overloaded
from services.state.intake import Intake
from services.state.roster import (
    Import,
    Location,
    Player,
    Profile,
    Roster,
    imported,
    without_npc,
    without_player,
)
from services.state.store import StateStore
from services.state.worlds import Worlds

WAITING_MAX = 64

T = TypeVar("T")


class Rosters:
    """The one writer of rosters. `run` must be running: it owns the changes, so that a caller who gives up
    while one is being written does not leave memory behind the disk."""

    def __init__(self, worlds: Worlds, store: StateStore, intake: Intake) -> None:
        self._worlds = worlds
        self._store = store
        self._intake = intake
        self._queue: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = asyncio.Queue(
            WAITING_MAX
        )

    async def run(self) -> None:
        """Make the changes that were asked for. Never returns."""
        while True:
            work, done = await self._queue.get()
            try:
                result = await work()
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

    async def _do(self, work: Callable[[], Awaitable[T]]) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((work, done))
        except asyncio.QueueFull:
            raise Overloaded("too many roster changes wait", retry_after_ms=1000) from None
        return await done

    async def bring_in(
        self,
        tenant: str,
        npcs: Sequence[Profile],
        locations: Sequence[Location],
        players: Sequence[Player],
        *,
        replace_locations: bool,
    ) -> Import:
        """Upsert what is good, durably; then worlds that could show it make a revision."""

        async def work() -> Import:
            before = self._worlds.roster(tenant)
            change = imported(before, npcs, locations, players, replace_locations=replace_locations)
            if change.roster is not before:
                await self._store.import_roster(tenant, change, replace_locations=replace_locations)
                self._show(tenant, change.roster, {profile.id for profile in change.npcs})
            return change

        return await self._do(work)

    async def delete_npc(self, tenant: str, npc: str) -> tuple[bool, int]:
        """(whether it was there, the roster's version)."""

        async def work() -> tuple[bool, int]:
            before = self._worlds.roster(tenant)
            if npc not in before.npcs:
                return False, before.version
            after = without_npc(before, npc)
            await self._store.delete_entry(tenant, "npc", npc, after.version)
            self._show(tenant, after, {npc})
            return True, after.version

        return await self._do(work)

    async def erase_player(self, tenant: str, player: str) -> bool:
        """Remove what the tenant stored about a player; whether there was something."""

        async def work() -> bool:
            before = self._worlds.roster(tenant)
            if player not in before.players:
                return False
            after = without_player(before, player)
            await self._store.delete_entry(tenant, "player", player, after.version)
            self._show(tenant, after, set())
            return True

        return await self._do(work)

    def _show(self, tenant: str, roster: Roster, npcs: set[str]) -> None:
        self._worlds.set_roster(tenant, roster)
        self._intake.rewrite(tenant, npcs)
