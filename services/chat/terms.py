"""Words of a line as recall indexes and looks them up. Pure; the same text always gives the same words.

A change of what comes out of here needs a new INDEX_VERSION: the index holds words, not texts, and is rebuilt then.
"""

from __future__ import annotations

import re

from services.common.words import COMMON

INDEX_VERSION = 1
# Longest word that is indexed; most words of one line.
WORD_MAX = 32
WORDS_MAX = 40

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
# The same for ASCII, several times as fast: what is no letter or digit is a blank (apostrophes are taken out).
_BLANKED = bytes(code if chr(code).isalnum() else 32 for code in range(128)) + bytes(128)
# Scripts without spaces between words: two neighbouring characters are a word.
_DENSE = re.compile(r"[぀-ヿ㐀-䶿一-鿿ｦ-ﾟ가-힯฀-๿]+")


def words(text: str) -> tuple[str, ...]:
    """Distinct words of a cleaned line in their order, lower case, without those that tell nothing."""
    plain = text.casefold()
    if plain.isascii() and "''" not in plain:
        found = plain.encode().translate(_BLANKED, b"'").decode().split()
    else:
        plain = plain.replace("’", "'")
        found = [word.replace("'", "") for word in _WORD.findall(plain)]
        if not plain.isascii():
            found = [part for word in found for part in _parts(word)]
    kept = dict.fromkeys([word[:WORD_MAX] for word in found if word not in COMMON])
    return tuple(kept)[:WORDS_MAX]


def _parts(word: str) -> list[str]:
    """A word, or the neighbouring pairs of a script that has no spaces, and what stands beside it."""
    run = _DENSE.search(word)
    if run is None:
        return [word]
    dense = run.group()
    pairs = [dense[index : index + 2] for index in range(max(len(dense) - 1, 1))]
    return [*pairs, *filter(None, (word[: run.start()], word[run.end() :]))]
