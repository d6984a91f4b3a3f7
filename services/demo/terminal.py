"""Lines for a person: a time, a label, a text; aligned, wrapped, in colour only where somebody looks.

Whatever comes from outside is cleaned first: a chat line must not be able to move the cursor of a terminal.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Literal, TextIO

Style = Literal["plain", "dim", "story", "npc", "player", "earshot", "action", "silence", "trouble"]

LABEL_WIDTH: Final = 16
WIDTH_DEFAULT, WIDTH_LEAST, WIDTH_MOST = 110, 60, 116
TEXT_MOST: Final = 400
_ANSI: Final[Mapping[Style, str]] = {
    "dim": "2", "story": "2;3", "player": "1", "earshot": "32", "action": "35", "silence": "2", "trouble": "1;31",
}  # fmt: skip
# Each NPC keeps one of these (256 colours, readable on dark and on light).
_HUES: Final = (173, 70, 74, 139, 179, 109, 168, 98)
_ASCII: Final = str.maketrans(
    {
        "●": "*",
        "↻": "~",
        "○": ".",
        "★": ">",
        "·": "|",
        "…": "...",
        "–": "-",
        "—": "-",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
    }
)


@dataclass(frozen=True, slots=True)
class Span:
    """Text in one style. `hue` numbers an NPC, so that its name always has the same colour."""

    text: str
    style: Style = "plain"
    hue: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it is told. `at`: seconds of the story."""

    at: float
    label: Span
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What the terminal can show."""

    colour: bool
    unicode: bool
    width: int = WIDTH_DEFAULT


PLAIN: Final = Look(colour=False, unicode=False)


def look_of(out: TextIO, environment: Mapping[str, str] = os.environ) -> Look:
    """Find out what `out` can show. Colour only on a terminal that wants it (NO_COLOR, TERM=dumb)."""
    terminal = out.isatty()
    colour = terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    width = shutil.get_terminal_size((WIDTH_DEFAULT, 24)).columns if terminal else WIDTH_DEFAULT
    encoding = (getattr(out, "encoding", None) or "ascii").casefold().replace("-", "")
    return Look(colour, encoding.startswith("utf"), max(WIDTH_LEAST, min(WIDTH_MOST, width)))


def paint(line: Line, look: Look) -> str:
    """Return the line as it is printed, without its end of line; longer ones continue below their text."""
    minutes, seconds = divmod(int(line.at), 60)
    time = f"{minutes:>3}:{seconds:02}  "
    label = Span(_shown(line.label.text, look), line.label.style, line.label.hue)
    head = _painted(Span(time, "dim"), look) + _painted(label, look) + " " * max(1, LABEL_WIDTH - len(label.text))
    margin = len(time) + max(LABEL_WIDTH, len(label.text) + 1)
    rows = ["".join(_painted(span, look) for span in row) for row in _wrap(line.spans, look.width - margin, look)]
    return head + ("\n" + " " * margin).join(rows)


def clean(text: object, most: int = TEXT_MOST) -> str:
    """Return text from outside as one line without control, format and private characters."""
    if not isinstance(text, str):
        return ""
    shown = "".join(
        " " if c.isspace() else c for c in text[: 4 * most] if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    words = " ".join(shown.split())
    return words if len(words) <= most else words[: most - 1] + "…"


def _shown(text: str, look: Look) -> str:
    if look.unicode:
        return text
    folded = unicodedata.normalize("NFKD", text.translate(_ASCII))
    return "".join(c for c in folded if not unicodedata.combining(c)).encode("ascii", "replace").decode()


def _painted(span: Span, look: Look) -> str:
    code = f"38;5;{_HUES[span.hue % len(_HUES)]};1" if span.style == "npc" else _ANSI.get(span.style, "")
    return f"\x1b[{code}m{span.text}\x1b[0m" if look.colour and code and span.text else span.text


def _wrap(spans: Sequence[Span], width: int, look: Look) -> Iterator[list[Span]]:
    """Break at spaces; what is longer than a row stands alone."""
    row: list[Span] = []
    used = 0
    for word in _words(spans, look):
        length = sum(len(part.text) for part in word)
        if row and used + 1 + length > width:
            yield row
            row, used = [], 0
        used += length + bool(row)
        if row and (row[-1].style, row[-1].hue) == (word[0].style, word[0].hue):
            word = [replace(word[0], text=f"{row.pop().text} {word[0].text}"), *word[1:]]
        elif row:
            row.append(Span(" "))
        row.extend(word)
    yield row


def _words(spans: Sequence[Span], look: Look) -> Iterator[list[Span]]:
    """Words of the whole text; one may be made of several spans ("Mira" + ",")."""
    letters = [(c, span.style, span.hue) for span in spans for c in _shown(span.text, look)]
    for blank, run in groupby(letters, key=lambda letter: letter[0] == " "):
        if not blank:
            yield [
                Span("".join(letter[0] for letter in part), style, hue)
                for (style, hue), part in groupby(run, key=lambda letter: (letter[1], letter[2]))
            ]
