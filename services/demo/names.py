"""Who is who for the audience: names by id, each NPC with a colour of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from services.demo.terminal import Span, clean

LISTED: Final = 5
KNOWN_MOST: Final = 2000


@dataclass(frozen=True, slots=True)
class Names:
    """Id -> (name, hue of an NPC or None for a player)."""

    known: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, roster: Mapping[str, Any]) -> Names:
        """Names of a roster; NPCs get their colours in its order."""
        npcs = {npc["id"]: (clean(npc["display_name"]), hue) for hue, npc in enumerate(roster["npcs"])}
        return cls({**{player["id"]: (clean(player["name"]), None) for player in roster["players"]}, **npcs})

    def learn(self, id: object, name: object, kind: object) -> Names:
        """Take in whom the server speaks of; what is known already stays."""
        if not isinstance(id, str) or not isinstance(name, str) or not name or id in self.known:
            return self
        if len(self.known) >= KNOWN_MOST:
            return self
        hue = sum(one is not None for _, one in self.known.values()) if kind == "npc" else None
        return Names({**self.known, id: (clean(name, 40), hue)})

    def who(self, id: object, name: object = None) -> Span:
        """Name one; a stranger by the name that came along."""
        known = self.known.get(id) if isinstance(id, str) else None
        if known is None:
            return Span(clean(name, 24) or clean(id, 24) or "somebody", "player")
        shown, hue = known
        return Span(shown, "player") if hue is None else Span(shown, "npc", hue)

    def several(self, ids: Sequence[str]) -> tuple[Span, ...]:
        """Name several: NPCs first, "A, B and C", a number where there are many."""
        people = sorted((self.who(id) for id in ids), key=lambda span: (span.style != "npc", span.text))
        shown = people if len(people) <= LISTED else people[: LISTED - 1]
        spans: list[Span] = []
        for place, person in enumerate(shown):
            if place:
                spans.append(Span(" and " if place == len(people) - 1 else ", "))
            spans.append(person)
        if len(shown) < len(people):
            spans.append(Span(f" and {len(people) - len(shown)} more"))
        return tuple(spans)
