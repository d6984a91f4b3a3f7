"""What is known of the players who are here: changes only when one with a description comes or goes (C14)."""

from __future__ import annotations

from services.sync.blocks.page import Line
from services.sync.context import Context
from services.sync.hygiene import clean, clean_name


def human_lines(context: Context) -> list[Line]:
    """One line for each player within earshot whom the game described."""
    known = [
        Line(f"- {clean_name(member.name or member.id)}: {clean(member.description, 300)}", 1)
        for member in sorted(context.members, key=lambda member: (member.since_ms, member.id))
        if member.player and member.description
    ]
    return [Line("The players here:"), *known] if known else [Line("I know nothing more of the players here.")]
