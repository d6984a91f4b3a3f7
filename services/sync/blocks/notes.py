"""What an NPC noted by `remember(subject, fact)`: Earshot's, by subject, within the memory scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.sync.blocks.page import Line
from services.sync.hygiene import clean, clean_name

FACT_MAX = 200
# Notes of one NPC; the oldest make room.
NOTES_MAX = 40


@dataclass(frozen=True, slots=True)
class Note:
    """subject_id: of the player or NPC it is about, "" = the NPC itself. tainted: made while players were heard, so it
    may derive from what they said. generation: history generation it was made in."""

    subject_id: str
    subject: str
    fact: str
    tainted: bool
    generation: int
    at_ms: int


def allowed(notes: Sequence[Note], *, generation: int, cross_session: bool) -> list[Note]:
    """Notes that may still be used. Session scope: tainted ones only in the generation they were made in.

    A generation ends when something must be forgotten; nobody can tell from here whose session it was, so every tainted
    note that is older goes.
    """
    return [note for note in notes if cross_session or not note.tainted or note.generation == generation]


def note_lines(notes: Sequence[Note]) -> list[Line]:
    """One line a note, the newest kept longest."""
    if not notes:
        return [Line("I have noted nothing.")]
    newest = sorted(notes, key=lambda note: (note.at_ms, note.subject, note.fact))[-NOTES_MAX:]
    return [
        Line(f"- {clean_name(note.subject)}: {clean(note.fact, FACT_MAX)}", len(newest) - index)
        for index, note in enumerate(newest)
    ]
