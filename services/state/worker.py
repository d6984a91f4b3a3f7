"""What the state room repeats: time passes in worlds, and what the store did not take is written again."""

from __future__ import annotations

import asyncio

from services.common.clock import Clock
from services.common.errors import EarshotError
from services.common.logs import get_logger
from services.state.agenda import Agenda
from services.state.intake import Intake

RETRY_MS = 1000
SAVE_EVERY_S = 1.0

_log = get_logger("state")


async def keep_time(agenda: Agenda, intake: Intake, clock: Clock) -> None:
    """Let time pass in every world when something of it is due. Never returns."""
    while True:
        now = int(clock.monotonic() * 1000)
        ref = await agenda.next(now)
        if ref is None:
            continue
        await asyncio.sleep(0)  # many worlds may be due at once: let others in between
        try:
            await intake.pass_time(ref)
        except EarshotError as error:
            _log.warning("time_did_not_pass", reason=error.reason)
            agenda.add(ref, now + RETRY_MS)


async def keep_saved(intake: Intake) -> None:
    """Write again what failed: only the newest of each world, for as long as it takes. Never returns."""
    while True:
        await asyncio.sleep(SAVE_EVERY_S)
        try:
            await intake.save_all()
        except EarshotError as error:
            _log.warning("worlds_not_saved", reason=error.reason)
