"""How urgent an NPC's news are, and how many urgent writes a world may have: the gravest first (C4). Pure.

A storm is fifty NPCs hurt every second. Each first blow goes out at once; after a short burst the world's writes are
spread evenly, what matters most first, and nobody waits longer than the setting says. Turns never wait for this: they
write what they need themselves.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum

# Writes of a burst that alarms may not have.
RESERVE = 4.0
# Worlds remembered before the first look for those that may be forgotten.
SWEEP_MIN = 64
# Percent of the maximum that health falls by since it was last told.
FALL = 10


class Urgency(IntEnum):
    """GRAVE: death, combat entered or left, an action's critical result. ALARM: health fell."""

    GRAVE = 0
    ALARM = 1


@dataclass(frozen=True, slots=True)
class Vitals:
    """What of an NPC can be urgent, as its agent was last told. health in percent, -1 = not known.

    status: the rest of its status as text: a critical result of an action shows there.
    """

    combat: bool
    health: int
    status: str


def urgency(told: Vitals | None, now: Vitals) -> Urgency | None:
    """How urgent `now` is for an agent that was told `told`, None = never anything; None when it is not."""
    if told is None or (told.combat, told.health == 0, told.status) != (now.combat, now.health == 0, now.status):
        return Urgency.GRAVE
    return Urgency.ALARM if told.health - now.health >= FALL else None


class WriteBudget:
    """A bucket of urgent writes for each world; RESERVE of its tokens are for graver news than alarms.

    per_s: tokens that come back each second. burst: tokens of a world that was quiet. Who has them all again is
    forgotten, being as good as one that was never here: worlds that closed or are served elsewhere leave nothing.
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        # What must be there for a write of that urgency.
        self._needed = {Urgency.GRAVE: 1.0, Urgency.ALARM: RESERVE + 1.0}
        self._buckets: dict[Hashable, tuple[float, float]] = {}
        self._sweep_at = SWEEP_MIN

    def __len__(self) -> int:
        """Worlds that are remembered."""
        return len(self._buckets)

    def take(self, world: Hashable, how: Urgency, now: float) -> bool:
        """Whether a write may go out now; it is then paid for."""
        tokens = self._tokens(world, now)
        # Rounding must not make a waiter of exactly the right length wait once more.
        if tokens + 1e-6 < self._needed[how]:
            return False
        self._buckets[world] = (tokens - 1.0, now)
        if len(self._buckets) >= self._sweep_at:
            self._sweep(now)
        return True

    def give_back(self, world: Hashable) -> None:
        """What was taken was not needed."""
        if world in self._buckets:
            tokens, at = self._buckets[world]
            self._buckets[world] = (min(tokens + 1.0, self._burst), at)

    def next_at(self, world: Hashable, how: Urgency) -> float:
        """When the next write of that urgency may go out, unless others go first; 0 = at once."""
        if world not in self._buckets:
            return 0.0
        tokens, at = self._buckets[world]
        return at + max(self._needed[how] - tokens, 0.0) / self._per_s

    def _tokens(self, world: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(world, (self._burst, now))
        return min(tokens + max(now - at, 0.0) * self._per_s, self._burst)

    def _sweep(self, now: float) -> None:
        """Forget full buckets, seldom enough to cost each write next to nothing."""
        full = [world for world in self._buckets if self._tokens(world, now) >= self._burst]
        for world in full:
            del self._buckets[world]
        self._sweep_at = max(2 * len(self._buckets), SWEEP_MIN)
