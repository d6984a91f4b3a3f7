"""The naive client: one call per change, as the owner's documents describe today's game. Counts its calls on a trace.

Group updates: one per (NPC, other) pair within earshot, when they come together and every 30 s while they stay.
Status updates: one per NPC at the start, at each arrival at a location, at each move of its health by 10 or more.
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

    spaced: group updates with a player when a pair that comes together again within 30 s of its last call sends none,
    as the existing game's script does.
    """

    statuses: int = 0
    groups: int = 0
    with_players: int = 0
    spaced: int = 0
    _told: dict[str, tuple[str, int]] = field(default_factory=dict)
    _pairs: dict[Pair, float] = field(default_factory=dict)
    _last: dict[Pair, float] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return self.statuses + self.groups

    @property
    def calls_with_players(self) -> int:
        return self.statuses + self.with_players

    @property
    def calls_spaced(self) -> int:
        return self.statuses + self.spaced

    def see(self, at: float, rows: Mapping[str, Row], clusters: Iterable[Iterable[str]]) -> None:
        """One snapshot. at: seconds; clusters: ids of their members, as Earshot answered."""
        for row in rows.values():
            if row.kind == "npc":
                self._status(row)
        pairs: dict[Pair, float] = {}
        for members in clusters:
            present = [rows[member] for member in members if member in rows]
            for npc in present:
                if npc.kind == "npc":
                    for other in present:
                        if other.id != npc.id:
                            self._group((npc.id, other.id), other.kind == "player", at, pairs)
        self._pairs = pairs

    def _status(self, row: Row) -> None:
        told = self._told.get(row.id)
        if told is None:
            self.statuses += 1
            self._told[row.id] = (row.location, row.health)
            return
        location, health = told
        if row.location and row.location != location:
            self.statuses += 1
        if abs(row.health - health) >= HEALTH_POINTS:
            self.statuses += 1
            health = row.health
        self._told[row.id] = (row.location, health)

    def _group(self, pair: Pair, player: bool, at: float, pairs: dict[Pair, float]) -> None:
        last = self._pairs.get(pair)
        if last is None or at - last >= AGAIN_S:
            self.groups += 1
            self.with_players += player
            pairs[pair] = at
        else:
            pairs[pair] = last
        if player and at - self._last.get(pair, -AGAIN_S) >= AGAIN_S:
            self.spaced += 1
            self._last[pair] = at
