"""Text from outside without what nobody can see: what every room's hygiene begins with."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """NFKC text in which control characters are blanks, and invisible and bidirectional ones are gone. Idempotent."""
    # Most text is plain ASCII, which has nothing to normalise or drop; every name passes here with every revision.
    if text.isascii() and text.isprintable():
        return text
    kept = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category[0] != "C":
            kept.append(char)
    # Dropping a character may have brought two together that compose.
    return unicodedata.normalize("NFC", "".join(kept))
