"""Splits a stream of text into sentences of at most 200 characters, as soon as each is complete (G7).

Works character by character, so how a model cuts its pieces changes nothing.
"""

from __future__ import annotations

import re

SENTENCE_MAX = 200

_ENDS = frozenset(".!?…")
_WIDE_ENDS = frozenset("。！？")
_CLOSERS = frozenset("\"'”’»)]*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“])(?:[A-Za-z]|mr|mrs|ms|dr|st|sr|jr|prof|capt|sgt|lt|gen|col|vs|e\.g|i\.e|approx)\.$",
    re.IGNORECASE,
)
# Ends a sentence although it looks like an initial: "It was I."
_NOT_INITIAL = re.compile(r"\b(?:I|a)\.$")


class SentenceSplitter:
    """Feed text, take whole sentences; flush gives what is left. Blanks are normalised."""

    def __init__(self, limit: int = SENTENCE_MAX) -> None:
        self._limit = limit
        self._text = ""
        self._blank = False
        self._newline = False

    def feed(self, text: str) -> list[str]:
        """Sentences that this piece completes."""
        done: list[str] = []
        for char in text:
            if char.isspace():
                self._blank = True
                self._newline = self._newline or char in "\n\r\u2028\u2029"
                continue
            if self._blank:
                self._on_blank(char, done)
            self._text += char
            if len(self._text) > self._limit:
                self._cut(done)
            elif char in _WIDE_ENDS:
                self._take(done)
        return done

    def flush(self) -> list[str]:
        """What is left at the end of the stream."""
        done: list[str] = []
        self._take(done)
        self._blank = self._newline = False
        return done

    def _on_blank(self, upcoming: str, done: list[str]) -> None:
        """A blank is over: either a sentence ended before it, or it is one space inside a sentence."""
        if self._text and (self._newline or self._ended(upcoming)):
            self._take(done)
        elif self._text:
            self._text += " "
        self._blank = self._newline = False

    def _ended(self, upcoming: str) -> bool:
        stripped = self._text.rstrip("".join(_CLOSERS))
        if not stripped or stripped[-1] not in _ENDS:
            return False
        if upcoming.islower() and stripped.endswith(("..", "…")):
            return False  # "well... maybe"
        if stripped[-1] != "." or stripped != self._text or stripped.endswith(".."):
            return True
        return not _ABBREVIATION.search(stripped) or bool(_NOT_INITIAL.search(stripped))

    def _cut(self, done: list[str]) -> None:
        """Too long for one: break at the last comma, else the last space, else hard."""
        head = self._text[: self._limit]
        at = max(head.rfind(mark) for mark in (", ", "; ", ": ", " - ", "，", "、"))
        at = at + 1 if at >= self._limit // 3 else head.rfind(" ")
        at = at if at > 0 else self._limit
        done.append(self._text[:at].strip())
        self._text = self._text[at:].lstrip()

    def _take(self, done: list[str]) -> None:
        text = self._text.strip()
        if text:
            done.append(text)
        self._text = ""
