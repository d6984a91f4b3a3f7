"""What was last taken in of a world's clusters: a revision that changes nothing of it costs no input and no append.

In a game that runs every snapshot makes a revision, and few of them change who hears whom. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sight:
    """revision: up to which the world is as it was taken in. clusters: state's answer for them, as bytes, in order."""

    revision: int
    epoch: int
    closed: bool
    roster_version: int
    clusters: tuple[bytes, ...]


def unchanged(before: Sight | None, now: Sight, *, happened: bool) -> bool:
    """Whether a later look tells a world nothing new. happened: it shows transitions, events or combat."""
    if before is None or happened or now.revision < before.revision:
        return False
    return replace(now, revision=before.revision) == before
