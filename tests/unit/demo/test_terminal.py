"""Lines on a terminal: aligned, wrapped, coloured only where wanted, and safe whatever they hold."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.demo.terminal import PLAIN, Line, Look, Span, clean, look_of, paint

ANSI = re.compile(r"\x1b\[[0-9;]*m")
COLOUR = Look(colour=True, unicode=True)
texts = st.text(st.characters(codec="utf-8"), max_size=300)
spans = st.builds(Span, texts.map(clean), st.sampled_from(["plain", "dim", "npc", "player"]), st.integers(0, 40))
lines = st.builds(Line, st.floats(0, 1e5), spans, st.lists(spans, max_size=5).map(tuple))


@settings(max_examples=60)
@given(lines, st.integers(60, 120))
def test_colour_changes_nothing_but_colour(line: Line, width: int) -> None:
    plain = paint(line, Look(colour=False, unicode=True, width=width))
    assert ANSI.sub("", paint(line, Look(colour=True, unicode=True, width=width))) == plain


@settings(max_examples=60)
@given(lines)
def test_without_unicode_every_character_is_ascii(line: Line) -> None:
    assert paint(line, PLAIN).isascii()


@settings(max_examples=60)
@given(lines, st.integers(60, 120))
def test_rows_keep_within_the_width_unless_a_single_word_does_not_fit(line: Line, width: int) -> None:
    for row in paint(line, Look(colour=False, unicode=True, width=width)).split("\n"):
        if len(row) > width:
            assert " " not in row[max(17, len(line.label.text)) + 8 :].strip()


@settings(max_examples=60)
@given(lines)
def test_wrapping_loses_no_word(line: Line) -> None:
    painted = paint(line, Look(colour=False, unicode=True, width=60))
    assert painted.split() == [f"{int(line.at) // 60}:{int(line.at) % 60:02}", *(
        line.label.text + " " + "".join(span.text for span in line.spans)
    ).split()]  # fmt: skip


@given(texts)
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    shown = clean(text)
    assert shown.isprintable()
    assert len(shown) <= 400


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a[2Jb"),
        ("one\ntwo\t three", "one two three"),
        ("\u202eevil\u200b", "evil"),
        (None, ""),
        (7, ""),
        ("x" * 500, "x" * 399 + "…"),
    ],
)
def test_cleaning(text: object, shown: str) -> None:
    assert clean(text) == shown


def test_ascii_marks_stand_for_the_others() -> None:
    line = Line(61, Span("● earshot"), (Span("Zoë … “Hi” — 你"),))
    assert paint(line, PLAIN) == '  1:01  * earshot       Zoe ... "Hi" - ?'


def test_a_long_line_continues_below_its_text() -> None:
    line = Line(5, Span("Mira"), (Span("word " * 20),))
    rows = paint(line, Look(colour=False, unicode=False, width=60)).split("\n")
    assert len(rows) == 3
    assert [row.index("word") for row in rows] == [24, 24, 24]


class Terminal(io.StringIO):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override] # StringIO has none
        return self._encoding

    def isatty(self) -> bool:
        return True


def test_colours_only_on_a_terminal_that_wants_them() -> None:
    assert look_of(Terminal(), {}).colour
    assert look_of(Terminal(), {}).unicode
    assert not look_of(Terminal(), {"NO_COLOR": "1"}).colour
    assert not look_of(Terminal(), {"TERM": "dumb"}).colour
    assert not look_of(Terminal("latin-1"), {}).unicode
    assert look_of(io.StringIO(), {}) == PLAIN


def test_an_npc_keeps_its_colour() -> None:
    one, two = (paint(Line(0, Span("Mira", "npc", hue), ()), COLOUR) for hue in (0, 1))
    assert one != two
    assert one == paint(Line(0, Span("Mira", "npc", 8), ()), COLOUR), "eight colours, round and round"
