"""Words of a line as recall indexes and looks them up. Pure; the same text always gives the same words.

A change of what comes out of here needs a new INDEX_VERSION: the index holds words, not texts, and is rebuilt then.
"""

from __future__ import annotations

import re

INDEX_VERSION = 1
# Longest word that is indexed; most words of one line.
WORD_MAX = 32
WORDS_MAX = 40

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# Scripts without spaces between words: two neighbouring characters are a word.
_DENSE = re.compile(r"[぀-ヿ㐀-䶿一-鿿ｦ-ﾟ가-힯฀-๿]+")
# Words that tell no line from another. Short on purpose: a rare word weighs more by itself.
_COMMON = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "is",
        "it",
        "its",
        "just",
        "me",
        "my",
        "no",
        "not",
        "of",
        "oh",
        "ok",
        "on",
        "or",
        "our",
        "she",
        "so",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "they",
        "this",
        "to",
        "too",
        "us",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "would",
        "yes",
        "you",
        "your",
        "im",
        "its",
        "dont",
        "thats",
        "ive",
        "youre",
    ]
)


def words(text: str) -> tuple[str, ...]:
    """Distinct words of a cleaned line in their order, lower case, without those that tell nothing."""
    found: dict[str, None] = {}
    for word in _WORD.findall(text.casefold()):
        plain = word.replace("'", "").replace("’", "")
        if not plain.isascii() and (run := _DENSE.search(plain)) is not None:
            run_text = run.group()
            for index in range(max(len(run_text) - 1, 1)):
                found.setdefault(run_text[index : index + 2])
            plain = plain.replace(run_text, "")
        if plain and plain not in _COMMON:
            found.setdefault(plain[:WORD_MAX])
        if len(found) >= WORDS_MAX:
            break
    return tuple(found)
