"""A text of lines that fits a limit: what matters least goes first, and the text says that it did."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

# Longest single line, characters.
LINE_MAX = 400


class Line(Struct, frozen=True):
    """One line and how much it matters: 0 is dropped last."""

    text: str
    rank: int = 0


def compose(lines: Sequence[Line], limit: int) -> str:
    """The lines in order, at most `limit` characters in all. Of the least important rank the last ones go first."""
    kept = [_clipped(line) for line in lines if line.text]
    text = "\n".join(line.text for line in kept)
    if len(text) <= limit:
        return text
    dropped = 0
    length = len(text)
    while kept:
        note = _note(dropped + 1)
        worst = max(range(len(kept)), key=lambda index: (kept[index].rank, index))
        if len(kept) == 1 and kept[0].rank == 0:
            break
        length -= len(kept[worst].text) + 1
        del kept[worst]
        dropped += 1
        if kept and length + 1 + len(note) <= limit:
            return "\n".join([*(line.text for line in kept), note])
    return _clip(kept[0].text if kept else _note(dropped), limit)


def _clipped(line: Line) -> Line:
    return line if len(line.text) <= LINE_MAX else Line(_clip(line.text, LINE_MAX), line.rank)


def _note(dropped: int) -> str:
    return f"({dropped} less important {'line' if dropped == 1 else 'lines'} left out)"


def _clip(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[: limit - 1] + "…" if limit > 0 else ""
