"""When an NPC's waiting change is written: both schedules as data, one pure function (C1-C5, C13).

`lazy`: a change waits for the turn that needs it; combat goes out at once. `documented`: the owner's documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from msgspec import Struct
from msgspec.structs import replace


class Lane(IntEnum):
    """Smaller is served first."""

    HIGH = 1
    MEDIUM = 2
    LOW = 3


class Dirty(Struct, frozen=True):
    """What waits for one (world, npc): never a payload, only that something changed, since when and how urgent.

    Times are monotonic seconds. wrote_at: the last write, None = none. forced: asked for by Refresh.
    """

    lane: Lane
    first_at: float
    last_at: float
    heard: bool = False
    combat: bool = False
    forced: bool = False
    wrote_at: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Due `quiet` after the last change, at most `longest` after the first; never = only with the next turn.

    spacing: seconds between two writes of one NPC.
    """

    quiet: float = 0.0
    longest: float = 0.0
    spacing: float = 0.0
    never: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """Rules by lane; `combat` replaces medium in combat, `unheard` replaces medium and low where no player hears."""

    high: Rule
    medium: Rule
    combat: Rule
    low: Rule
    unheard: Rule

    @property
    def restarts(self) -> bool:
        """Whether a later change puts off what waits already."""
        return any(rule.quiet < rule.longest for rule in (self.high, self.medium, self.combat, self.low, self.unheard))


def schedules(dirty_heard_max_s: float = 300.0) -> Mapping[str, Schedule]:
    """Both schedules; `dirty_heard_max_s` is the setting of that name."""
    waits = Rule(never=True)
    once = Rule(quiet=dirty_heard_max_s, longest=dirty_heard_max_s)
    return {
        "lazy": Schedule(high=Rule(spacing=1.0), medium=once, combat=once, low=waits, unheard=waits),
        "documented": Schedule(
            high=Rule(),
            medium=Rule(quiet=5.0, longest=30.0),
            combat=Rule(quiet=1.0, longest=30.0),
            low=Rule(quiet=30.0, longest=30.0),
            unheard=Rule(quiet=60.0, longest=60.0),
        ),
    }


def due_at(schedule: Schedule, dirty: Dirty) -> float | None:
    """Monotonic time at which it is due; None = with the next turn."""
    if dirty.forced:
        return dirty.first_at
    if dirty.lane is Lane.HIGH:
        rule = schedule.high
    elif not dirty.heard:
        rule = schedule.unheard
    elif dirty.lane is Lane.LOW:
        rule = schedule.low
    else:
        rule = schedule.combat if dirty.combat else schedule.medium
    if rule.never:
        return None
    # A first change longest ago caps the quiet time of later ones; both count from the first for fixed batches.
    due = min(dirty.last_at + rule.quiet, dirty.first_at + rule.longest)
    if rule.spacing and dirty.wrote_at is not None:
        due = max(due, dirty.wrote_at + rule.spacing)
    return due


def merge(old: Dirty | None, new: Dirty) -> Dirty:
    """One item per NPC: the most urgent lane, the first time, the latest facts."""
    if old is None:
        return new
    return replace(
        new,
        lane=min(old.lane, new.lane),
        first_at=min(old.first_at, new.first_at),
        last_at=max(old.last_at, new.last_at),
        forced=old.forced or new.forced,
        wrote_at=old.wrote_at if new.wrote_at is None else new.wrote_at,
    )
