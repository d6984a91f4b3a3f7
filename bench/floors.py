"""Which turns are under way where, as a world's log tells it: what two benches judge by. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

# Changes that bring members to the conversation that they are told of.
CAME = frozenset({"formed", "joined", "merged", "split"})


@dataclass(slots=True)
class Floors:
    """The floor of each conversation. A turn goes where its speaker goes, and frees the floor that it had."""

    _places: dict[str, str] = field(default_factory=dict)
    _speakers: dict[str, str] = field(default_factory=dict)

    def begin(self, turn: str, place: str, speaker: str) -> bool:
        """A turn starts; whether another one is not over there."""
        taken = self.taken(place)
        self._places[turn], self._speakers[turn] = place, speaker
        return taken

    def moved(self, place: str, change: str, members: Collection[str]) -> None:
        """The members of a conversation changed."""
        if change in CAME:
            for turn, speaker in self._speakers.items():
                if speaker in members:
                    self._places[turn] = place

    def end(self, turn: str) -> None:
        """A turn is over, wherever it began."""
        self._places.pop(turn, None)
        self._speakers.pop(turn, None)

    def taken(self, place: str) -> bool:
        """Whether a turn is under way there."""
        return place in self._places.values()
