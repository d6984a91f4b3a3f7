"""Who the NPC is: the author's text, kept as written."""

from __future__ import annotations

from services.sync.blocks.page import Line
from services.sync.context import Profile
from services.sync.hygiene import clean_name


def persona_lines(profile: Profile) -> list[Line]:
    """The name, then the persona paragraph by paragraph."""
    lines = [Line(f"My name is {clean_name(profile.name)}.")]
    aliases = [clean_name(alias) for alias in profile.aliases if alias]
    if aliases:
        lines.append(Line(f"I am also called {', '.join(aliases[:5])}.", 2))
    # Long paragraphs in pieces that a page keeps whole.
    for paragraph in profile.persona.split("\n"):
        rest = paragraph.strip()
        while rest:
            cut = len(rest) if len(rest) <= 380 else (rest.rfind(" ", 1, 380) + 1 or 380)
            lines.append(Line(rest[:cut].rstrip(), 1))
            rest = rest[cut:]
    return lines
