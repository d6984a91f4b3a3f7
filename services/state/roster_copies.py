"""Rosters that another replica keeps, as far as worlds here show them: copies, a moment old."""

from __future__ import annotations

import asyncio

from services.common.errors import EarshotError
from services.common.logs import get_logger
from services.state.intake import Intake
from services.state.store import StateStore
from services.state.worlds import Worlds

# How old a copy may be; a new world's tenant is looked up within it too.
EVERY_S = 0.2
BACK_OFF_S = 2.0

_log = get_logger("state")


class RosterCopies:
    """Follows the versions of the rosters in use. The roster's owner answers before its copies have followed."""

    def __init__(self, worlds: Worlds, store: StateStore, intake: Intake) -> None:
        self._worlds = worlds
        self._store = store
        self._intake = intake

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                for tenant in {world.ref[0] for world in self._worlds}:
                    await self._follow(tenant)
                await asyncio.sleep(EVERY_S)
            except EarshotError as error:
                _log.warning("rosters_not_followed", reason=error.reason)
                await asyncio.sleep(BACK_OFF_S)

    async def _follow(self, tenant: str) -> None:
        if self._store.keeps_roster(tenant):
            return
        before = self._worlds.roster(tenant)
        if await self._store.roster_version(tenant) == before.version:
            return
        after = await self._store.roster_elsewhere(tenant)
        if self._store.keeps_roster(tenant):
            return  # it came here meanwhile, with its partition
        self._worlds.set_roster(tenant, after)
        changed = {npc for npc in before.npcs.keys() | after.npcs.keys() if before.npcs.get(npc) != after.npcs.get(npc)}
        self._intake.rewrite(tenant, changed)
