"""Who an utterance speaks TO, and whom it only speaks about.

An address (vocative) is a name at the start or the end of a sentence or between commas, not possessive, and
unambiguous among those present. Measured on real talk a person addressed by name speaks next 64-70 % of the
time, one merely mentioned 37-41 %: so an address decides a turn, a mention is only a feature (D2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that are names AND everyday words: they count only when written with a capital and followed by
# punctuation, otherwise every "will you" would address a Will.
_EVERYDAY = _words(
    "a all and art ash baby bill bob brook buddy but can chance chase chip christian clay cook daisy dawn day "
    "do drew faith for frank gene grace grant guard guards guy happy has he heath hope hunter in is it iris ivy "
    "jack joy jade king knight lance law lily mark mason max may me merry miles mike miller my no not of on or "
    "pat peg penny pete pierce queen ray reed rich rob robin rose rusty sage sandy scout she sky smith so sue "
    "summer sunny that the they this time to tom trip ty user wade was we will wit you young"
)
# "Old Tom" also answers to "Tom", "Captain Rhea" to both words; these words alone name nobody.
_TITLES = _words("the of and a an von van de del la le old young big little mr mrs ms miss dr st npc npcs player guest")
_OPENERS = _words(
    "ah aha alright and aw but bye damn dear eh er excuse goodbye goodnight hah haha hello hey hi hiya hm hmm "
    "howdy huh lol look listen me morning no nah nope oh ok okay oi ooh please right so sorry sure thank thanks "
    "thx um uh wait welcome well what whoa wow yeah yep yes yo you"
)
_CLOSERS = _words(
    "bye cheers goodbye goodnight hello hey hi hiya morning evening no nope ok okay please right sorry sure "
    "thank thanks thx up welcome well yeah yep yes yo you done there man luck"
)
_SECOND_PERSON = _words("you u ya your you're youre ur yourself you'd you'll you've y'all i i'm i'll")
_DIRECTIVE = _words(
    "what why how where who when which please thanks thx thank check come follow get give go help hold "
    "install let listen look make open read run say see show sorry stop take tell try type use wait watch ok "
    "okay yes no yeah nope hi hello hey"
)
_AUXILIARY = _words(
    "are aren't can can't could couldn't did didn't do does don't have haven't had if is should so then that "
    "was were will won't would wouldn't and but because maybe well"
)
_WORD = re.compile(r"[\w'’]+")
# A stage direction, (laughs) or *waves*, stands between sentences as well.
_SENTENCE = re.compile(r"[.!?…]+[\"')\]]*(?=\s|$)|\n+|\s/\s|;|--|—|\.\.\.|\([^()]{1,40}\)|(?<!\w)\*[^*]{1,40}\*")
# What stands before the first comma or colon may be a name cut short, as chat programs complete it.
_CALLED = re.compile(r"\s*@?([^\W_][\w-]{2,})\s*(?::(?!//)|,(?=\s))")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
_JOINER = re.compile(r"[\s,&+/]*(?:\band\b|\bor\b|\bn\b)?[\s,&+/]*")
# Letters from which the beginning of a name, followed by a comma, is no interjection.
TELLING = 4
_DELIMITERS = ",:;!?.…-–—~)>*"


class Mention(NamedTuple):
    """One name found in a text: whose, where, and whether it was used to address that person."""

    who: int
    start: int
    end: int
    address: bool


@dataclass(frozen=True, slots=True)
class Address:
    """Whom an utterance addresses and whom it mentions, as indices into the cast, in order of appearance."""

    addressed: tuple[int, ...]
    mentioned: tuple[int, ...]


NOBODY = Address((), ())


class _Index(NamedTuple):
    pattern: re.Pattern[str]
    owners: dict[str, tuple[int, ...]]


def aliases_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return every form a person answers to: the names themselves and the telling words of a long name.

    names: display name first, then declared aliases. Casefolded, without duplicates, in a stable order.
    """
    found: dict[str, None] = {}
    for name in names:
        whole = _form(name)
        if len(whole) >= 2:
            found[whole] = None
        # "Light-" and "rmd_" are called Light and rmd.
        plain = _EDGES.sub("", whole)
        if len(plain) >= 3 and plain not in _EVERYDAY:
            found[plain] = None
        words = whole.split()
        if len(words) > 1:
            for word in words:
                bare = word.strip("\"'().,")
                if len(bare) >= 3 and bare not in _TITLES and bare not in _EVERYDAY:
                    found[bare] = None
    return tuple(found)


def find_mentions(text: str, cast: Sequence[Sequence[str]], speaker: int) -> tuple[Mention, ...]:
    """Find every unambiguous name of `cast` in `text`, leaving out the speaker's own.

    cast: per person the names he goes by (display name, aliases); speaker: his index, -1 for nobody present.
    """
    index = _index(tuple(tuple(names) for names in cast))
    if index is None:
        return ()
    found: list[tuple[int, int, int]] = []
    for match in index.pattern.finditer(text):
        owners = [who for who in index.owners.get(_form(match[0]), ()) if who != speaker]
        if len(owners) == 1 and _is_a_name(match[0], text, match.end()):
            found.append((owners[0], match.start(), match.end()))
    if not found:
        return ()
    sentences = _sentences(text)
    return tuple(
        Mention(who, start, end, _is_address(text, group, sentences))
        for group in _groups(text, found)
        for who, start, end in group
    )


def parse(text: str, cast: Sequence[Sequence[str]], speaker: int) -> Address:
    """Tell whom `text` addresses and whom it mentions (an address is also a mention)."""
    mentions = find_mentions(text, cast, speaker)
    addressed = tuple(dict.fromkeys(m.who for m in mentions if m.address))
    if not addressed and (called := _CALLED.match(text)):
        addressed = _abbreviated(called[1].casefold(), called[0].endswith(":"), cast, speaker)
    if not mentions and not addressed:
        return NOBODY
    return Address(addressed, tuple(dict.fromkeys((*addressed, *(m.who for m in mentions)))))


def _abbreviated(word: str, colon: bool, cast: Sequence[Sequence[str]], speaker: int) -> tuple[int, ...]:
    """The one person whose name begins with the word that a text begins with; before a comma only when it tells."""
    if word in _OPENERS or (not colon and (word in _EVERYDAY or len(word) < TELLING)):
        return ()
    found = [
        who for who, names in enumerate(cast) if who != speaker and any(_form(name).startswith(word) for name in names)
    ]
    return (found[0],) if len(found) == 1 else ()


@lru_cache(maxsize=1024)
def _index(cast: tuple[tuple[str, ...], ...]) -> _Index | None:
    owners: dict[str, tuple[int, ...]] = {}
    for who, names in enumerate(cast):
        for alias in aliases_of(names):
            owners[alias] = (*owners.get(alias, ()), who)
    if not owners:
        return None
    forms = "|".join(
        r"\s+".join(re.escape(word) for word in alias.split())
        for alias in sorted(owners, key=lambda form: (-len(form), form))
    )
    return _Index(re.compile(rf"(?<![\w/])(?:{forms})(?!\w)", re.IGNORECASE), owners)


def _form(written: str) -> str:
    return " ".join(written.casefold().split())


def _is_a_name(written: str, text: str, end: int) -> bool:
    if written.casefold() not in _EVERYDAY:
        return True
    following = text[end : end + 1]
    return written[:1].isupper() and (following == "" or following in _DELIMITERS or following in "'’")


def _sentences(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _SENTENCE.finditer(text):
        spans.append((start, match.start()))
        start = match.end()
    spans.append((start, len(text)))
    return spans


def _groups(text: str, found: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Join names that are listed together ("Ann, Bo and Cy"): the list as a whole is an address or is not."""
    groups = [[found[0]]]
    for item in found[1:]:
        if _JOINER.fullmatch(text, groups[-1][-1][2], item[1]):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _is_address(text: str, group: list[tuple[int, int, int]], sentences: list[tuple[int, int]]) -> bool:
    start, end = group[0][1], group[-1][2]
    if text[end : end + 2].casefold() in ("'s", "’s") or text[end : end + 1] in ("_", "/"):
        return False
    left = next((low for low, high in reversed(sentences) if low <= start), 0)
    right = next((high for low, high in sentences if low <= start and end <= max(high, end) and high >= end), len(text))
    before, after = text[left:start].rstrip(), text[end:right].lstrip()
    words_before = [word.casefold() for word in _WORD.findall(before)]
    closed_before = before == "" or before[-1] in ",:(\"“'@*>" or not words_before
    opened = not words_before or (len(words_before) <= 3 and all(word in _OPENERS for word in words_before))
    ends_here = after == "" or not _WORD.search(after)
    if ends_here:
        return opened or before[-1:] == "," or words_before[-1] in _CLOSERS or words_before[-2:] == ["come", "on"]
    if after[0] in _DELIMITERS:
        return opened or closed_before or words_before[-1] == "you"
    if not opened:
        return False
    return _speaks_to(after)


def _speaks_to(after: str) -> bool:
    """Tell "Bo can you come" from "Bo can swim": what follows an unpunctuated first name."""
    words = [word.casefold().replace("’", "'") for word in _WORD.findall(after)[:2]]
    if not words:
        return False
    if words[0] in _SECOND_PERSON or words[0] in _DIRECTIVE:
        return True
    return len(words) > 1 and words[0] in _AUXILIARY and words[1] in _SECOND_PERSON
