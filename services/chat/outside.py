"""People who are in no game but in a second place to talk, such as Discord: known by the form of their id. Pure.

Unless the operator opens it, nothing of theirs enters the game: not what they write, not what NPCs answer them, not
their names as they come and go, and no sentence that repeats them word for word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

PREFIX = "discord:"
# Words in a row that make a sentence a quotation.
RUN = 4

_WORD = re.compile(r"\w+")


def outside(player_id: str) -> bool:
    """Whether a player is in no game."""
    return player_id.startswith(PREFIX)


def only(players: Iterable[str]) -> tuple[str, ...]:
    """Those who are in no game."""
    return tuple(player for player in players if outside(player))


def in_game(members: Iterable[str]) -> tuple[str, ...]:
    """Members without those who are in no game."""
    return tuple(member for member in members if not outside(member))


def somebody(players: Iterable[str]) -> str:
    """A player to whom something that nobody asked for is due: one in the game, if there is any. "" = nobody."""
    present = list(players)
    return next((player for player in present if not outside(player)), next(iter(present), ""))


def cause(caused_by: str, players: Sequence[str]) -> str:
    """Whom the platform's text filter shall attribute an NPC's line to: who caused it, else somebody in the game."""
    here = somebody(players)
    return caused_by if caused_by in players and (not outside(caused_by) or outside(here)) else here


def quotes(text: str, lines: Iterable[str]) -> bool:
    """Whether a text repeats RUN words in a row of one of these lines."""
    said = _runs(text)
    return bool(said) and any(not said.isdisjoint(_runs(line)) for line in lines)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)}
