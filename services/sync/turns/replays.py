"""Turns that ended a moment ago, told again to who asks with the same id: a lost answer is not lost (G4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from services.sync.context import Key
from services.sync.speech.turn import Event, Finished

KEPT = 1000
KEPT_S = 60.0


class Replays:
    """Whole turns only, in memory, for a minute. Times are loop time."""

    def __init__(self) -> None:
        self._turns: OrderedDict[tuple[Key, str], tuple[float, tuple[Event, ...]]] = OrderedDict()

    def keep(self, key: Key, turn_id: str, events: Sequence[Event], now: float) -> None:
        """A turn is over; one that did not end is not kept."""
        if not events or not isinstance(events[-1], Finished):
            return
        self._turns[key, turn_id] = (now, tuple(events))
        while len(self._turns) > KEPT or (self._turns and next(iter(self._turns.values()))[0] < now - KEPT_S):
            self._turns.popitem(last=False)

    def get(self, key: Key, turn_id: str, now: float) -> tuple[Event, ...]:
        """Its events; () = not known, or the id belongs to another NPC's turn."""
        at, events = self._turns.get((key, turn_id), (0.0, ()))
        return events if at >= now - KEPT_S else ()

    def forget(self, keys: Iterable[Key]) -> None:
        """What these NPCs said is told no more."""
        doomed = set(keys)
        for known in [one for one in self._turns if one[0] in doomed]:
            del self._turns[known]
