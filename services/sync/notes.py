"""What an NPC noted by `remember(subject, fact)`: Earshot's, by subject, within the memory scope."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from services.sync.hygiene import clean, clean_name
from services.sync.page import Line

FACT_MAX = 200
# Notes of one NPC; the oldest make room.
NOTES_MAX = 40


@dataclass(frozen=True, slots=True)
class Note:
    """subject_id: a player's or NPC's id, "" for anything else. generation: history generation it was made in."""

    subject_id: str
    subject: str
    fact: str
    player: bool
    generation: int
    at_ms: int


def allowed(notes: Sequence[Note], *, players: Collection[str], generation: int, cross_session: bool) -> list[Note]:
    """Notes that a turn may use. Session scope: of players only those present, noted in this generation.

    A generation ends when something must be forgotten; nobody can tell from here whose session it was, so every note
    about a player that is older goes.
    """
    if cross_session:
        return list(notes)
    return [note for note in notes if not note.player or (note.subject_id in players and note.generation == generation)]


def note_lines(notes: Sequence[Note]) -> list[Line]:
    """One line a note, the newest kept longest."""
    if not notes:
        return [Line("I have noted nothing.")]
    newest = sorted(notes, key=lambda note: (note.at_ms, note.subject, note.fact))[-NOTES_MAX:]
    return [
        Line(f"- {clean_name(note.subject)}: {clean(note.fact, FACT_MAX)}", len(newest) - index)
        for index, note in enumerate(newest)
    ]
