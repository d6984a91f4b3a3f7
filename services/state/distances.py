"""How far one hears in which world: the defaults, and other distances for worlds of some places (B1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.common.errors import BadInput


@dataclass(frozen=True, slots=True)
class Distances:
    """Studs within which entities come within earshot, and beyond which they leave it; the weight of height."""

    join: float
    leave: float
    vertical_weight: float


@dataclass(frozen=True, slots=True)
class Places:
    """Distances by the beginning of a world's name, the longest beginning first."""

    usual: Distances
    others: tuple[tuple[str, Distances], ...] = ()

    def of(self, world: str) -> Distances:
        """The distances of a world."""
        for beginning, distances in self.others:
            if world.startswith(beginning):
                return distances
        return self.usual


def places(usual: Distances, text: str) -> Places:
    """Read `beginning=join/leave` or `beginning=join/leave/vertical weight`, comma separated.

    Raises BadInput (BAD_DISTANCES) with the part that cannot be read.
    """
    _checked(usual, "join and leave")
    others: dict[str, Distances] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        beginning, _, told = part.rpartition("=")
        numbers = told.split("/")
        try:
            join, leave = float(numbers[0]), float(numbers[1])
            weight = float(numbers[2]) if len(numbers) > 2 else usual.vertical_weight
        except (ValueError, IndexError):
            raise _bad(part) from None
        if not beginning or len(numbers) > 3:
            raise _bad(part)
        others[beginning] = _checked(Distances(join, leave, weight), part)
    return Places(usual, tuple(sorted(others.items(), key=lambda pair: (-len(pair[0]), pair[0]))))


def _checked(distances: Distances, part: str) -> Distances:
    weight = distances.vertical_weight
    if not (0 < distances.join <= distances.leave < math.inf and 0 <= weight < math.inf):
        raise _bad(part)
    return distances


def _bad(part: str) -> BadInput:
    return BadInput(
        f"{part}: expected world=join/leave or world=join/leave/weight, with 0 < join <= leave and weight >= 0",
        reason="BAD_DISTANCES",
    )
