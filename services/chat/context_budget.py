"""What the lines of a turn cost, and how much of the budget of history recall may take. Pure; tokens are estimates."""

from __future__ import annotations

CHARS_PER_TOKEN = 4
# A line's speaker, number and punctuation cost about this much.
LINE_TOKENS = 6
# Sync gives at most 0.15 to a summary; the latest lines have the rest, and what recall leaves.
RECALLED_SHARE = 0.25


def recalled(total: int) -> int:
    """The most that recalled lines may take of a budget of history."""
    return int(total * RECALLED_SHARE)


def cost(text: str) -> int:
    """Estimated tokens of a line."""
    return len(text) // CHARS_PER_TOKEN + LINE_TOKENS
