"""Degraded speech from counts of three words in a row (order 2): an NPC's own lines, mixed anew. Pure.

It keeps an NPC present, not informative. A line that could carry a player's words is not learnt: see `learnable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from services.common.words import ANYBODYS
from services.sync.chance import Chance

START, END = "\x02", "\x03"
# Fewer lines than this repeat themselves: then canned lines are better.
LINES_MIN = 200
TRIES = 20
WORDS_MIN, WORDS_MAX = 3, 20
# A walk that went back this far from its seed starts there.
BACK_MAX = 10
_UNFIT = re.compile(r"\d|://|www\.|[@#<>{}\[\]\\|_]|\b\w+\.(?:com|net|org|gg|io|de|uk)\b", re.IGNORECASE)
_NORM = re.compile(r"[^\w']+")

Trigram = tuple[str, str, str]
T = TypeVar("T")


class Counts(Protocol):
    """Port: how often words followed each other in one NPC's lines. Words as written, with their punctuation."""

    def known(self, norms: Sequence[str]) -> list[tuple[str, int]]:
        """(word as written, how often) of the words that have one of these normal forms, rarest first."""
        ...

    def around(self, word: str) -> list[tuple[Trigram, int]]:
        """Trigrams with this word in the middle."""
        ...

    def after(self, first: str, second: str) -> list[tuple[str, int]]: ...

    def before(self, second: str, third: str) -> list[tuple[str, int]]: ...

    def norms(self) -> list[str]:
        """Every learnt line in normal form."""
        ...


def norm(text: str) -> str:
    """Lower case, words only, one blank between them."""
    return " ".join(_NORM.sub(" ", text.lower()).split())


def trigrams(text: str) -> list[Trigram]:
    """Every three words in a row, with two marks before the first and one after the last."""
    words = [START, START, *text.split(), END]
    return list(zip(words, words[1:], words[2:], strict=False))


def learnable(text: str, heard: Iterable[str], own: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a line may be learnt: a plain sentence that repeats nothing of a player's.

    heard: what players said around it; own: the author's texts (persona, lines, places), whose words are the NPC's
    anyway; names: of everybody present.
    """
    words = norm(text).split()
    if not WORDS_MIN <= len(words) <= 2 * WORDS_MAX or _UNFIT.search(text):
        return False
    mine = {word for one in own for word in norm(one).split()}
    theirs = {word for one in heard for word in norm(one).split() if len(word) > 3} - mine - ANYBODYS
    called = {word for name in names for word in norm(name).split()} - mine
    return not (set(words) & (theirs | called))


def generate(counts: Counts, prompt: str, rng: Chance) -> str | None:
    """A sentence around the prompt's rarest known word, or any; None when nothing fit was found."""
    lines = [f" {line} " for line in counts.norms()]
    wanted = dict.fromkeys(word for word in norm(prompt).split() if word not in ANYBODYS)
    seeds = [word for word, _ in counts.known(list(wanted))]
    for attempt in range(TRIES):
        # The rarest word first; then the next one, so that a prompt never fails on one word.
        seed = seeds[min(attempt * len(seeds) // TRIES, len(seeds) - 1)] if seeds else ""
        text = _walk(counts, seed, rng)
        if text and _fit(text, lines):
            return text
    return None


def _walk(counts: Counts, seed: str, rng: Chance) -> str:
    """Forward to an end and back to a start from a trigram around the seed; "" = got lost."""
    found = counts.around(seed) if seed else []
    if found:
        words = list(_drawn(found, rng))
    else:
        starts = counts.after(START, START)
        if not starts:
            return ""
        words = [START, START, _drawn(starts, rng)]
    while words[-1] != END:
        follows = counts.after(words[-2], words[-1])
        if not follows or len(words) > WORDS_MAX + 4:
            return ""
        words.append(_drawn(follows, rng))
    for _ in range(BACK_MAX):
        if words[0] == START:
            break
        leads = counts.before(words[0], words[1])
        if not leads:
            return ""
        words.insert(0, _drawn(leads, rng))
    if words[0] != START:
        return ""
    return " ".join(word for word in words if word not in (START, END))


def _fit(text: str, lines: Sequence[str]) -> bool:
    """Neither a learnt line, nor a part of one, nor one with more around it; nothing that is not a plain sentence."""
    plain = norm(text)
    if not WORDS_MIN <= len(plain.split()) <= WORDS_MAX or _UNFIT.search(text):
        return False
    whole = f" {plain} "
    return not any(whole in line or line in whole for line in lines)


def _drawn(choices: Sequence[tuple[T, int]], rng: Chance) -> T:
    return rng.choices([choice for choice, _ in choices], [count for _, count in choices])[0]
