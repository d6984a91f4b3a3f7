"""The naive client: one call per change, as the owner's documents describe today's game. Counts its calls on a trace.

Status updates: one per NPC at the start, at each arrival at a location, at each change of its action, at each move of
its health by 10 or more. Group updates: one per (NPC, other) pair when they come together and one when they part.
Beside it what the existing game's script was seen to send: no actions, no leaving, pairs with players only, each at
most once per 30 s and again every 30 s while they stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.demo.frame import Row

AGAIN_S = 30.0
HEALTH_POINTS = 10

Pair = tuple[str, str]


@dataclass(slots=True)
class Naive:
    """Calls so far. groups: pairs of an NPC with anybody; with_players: of these, those with a player.

    actions: of the statuses, those that only tell another action. script: group updates of the existing script.
    """

    statuses: int = 0
    actions: int = 0
    groups: int = 0
    with_players: int = 0
    script: int = 0
    _told: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    # Pairs that are together, and whether the other is a player.
    _pairs: dict[Pair, bool] = field(default_factory=dict)
    _last: dict[Pair, float] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return self.statuses + self.groups

    @property
    def calls_with_players(self) -> int:
        return self.statuses + self.with_players

    @property
    def calls_of_script(self) -> int:
        return self.statuses - self.actions + self.script

    def see(self, at: float, rows: Mapping[str, Row], clusters: Iterable[Iterable[str]]) -> None:
        """One snapshot. at: seconds; clusters: ids of their members, as Earshot answered."""
        for row in rows.values():
            if row.kind == "npc":
                self._status(row)
        pairs: dict[Pair, bool] = {}
        for members in clusters:
            present = [rows[member] for member in members if member in rows]
            for npc in present:
                if npc.kind == "npc":
                    pairs |= {(npc.id, other.id): other.kind == "player" for other in present if other.id != npc.id}
        for pair in pairs.keys() ^ self._pairs.keys():
            self.groups += 1
            self.with_players += pairs.get(pair, self._pairs.get(pair, False))
        for pair, player in pairs.items():
            if player and at - self._last.get(pair, -AGAIN_S) >= AGAIN_S:
                self.script += 1
                self._last[pair] = at
        self._pairs = pairs

    def _status(self, row: Row) -> None:
        told = self._told.get(row.id)
        if told is None:
            self.statuses += 1
            self._told[row.id] = (row.location, row.action, row.health)
            return
        location, action, health = told
        arrived = bool(row.location) and row.location != location
        hurt = abs(row.health - health) >= HEALTH_POINTS
        acted = row.action != action
        self.statuses += arrived + hurt + acted
        self.actions += acted
        self._told[row.id] = (row.location, row.action, row.health if hurt else health)
