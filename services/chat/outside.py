"""People who are in no game but in a second place to talk, such as Discord: known by the form of their id. Pure."""

from __future__ import annotations

from collections.abc import Iterable

PREFIX = "discord:"


def outside(player_id: str) -> bool:
    """Whether a player is in no game."""
    return player_id.startswith(PREFIX)


def audience(speaker_id: str, players: tuple[str, ...], *, in_game: bool) -> tuple[str, ...]:
    """Who may read a line. What is written outside is not shown in the game unless its operator says so."""
    if in_game or not outside(speaker_id):
        return players
    return tuple(player for player in players if outside(player))


def cause(caused_by: str, players: Iterable[str]) -> str:
    """Whom the platform's text filter shall attribute an NPC's line to: who caused it, else somebody in the game."""
    present = list(players)
    here = [player for player in present if not outside(player)]
    if caused_by in present and (not outside(caused_by) or not here):
        return caused_by
    return next(iter(here or present), "")
