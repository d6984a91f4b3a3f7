"""The existing game's status line as an observation. Pure and tolerant: what cannot be read is left out."""

from __future__ import annotations

from dataclasses import dataclass

from services.edge import bounds
from services.edge.existing_snapshot import known_location

# Percent; an NPC with infinite health writes a nonsense integer.
FULL = 100.0


@dataclass(frozen=True, slots=True)
class Status:
    """Fields of the line; "" and None are not said."""

    health: float | None = None
    location: str = ""
    action: str = ""


def read_status(text: str) -> Status:
    """`health: 65 | location: chipotle | current_action: Idle`, any part missing, in any order."""
    parts: dict[str, str] = {}
    for part in text.split("|"):
        name, colon, value = part.partition(":")
        if colon:
            parts[name.strip().lower()] = bounds.hygienic(value)[: bounds.WORD]
    return Status(
        _percent(parts.get("health", "")),
        known_location(parts.get("location", "")),
        parts.get("current_action", "") or parts.get("action", ""),
    )


def _percent(text: str) -> float | None:
    try:
        value = float(text.rstrip("% "))
    except ValueError:
        return None
    return value if 0 <= value <= FULL else None
