"""What one utterance tells about who speaks next, apart from names: questions, thanks, goodbyes, length."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_YOU = re.compile(r"\b(?:you|your|you['’]re|youre|u|ya|yours|you['’]ve|you['’]ll|you['’]d)\b", re.IGNORECASE)
_BYE = re.compile(
    r"\b(?:bye|goodbye|good night|goodnight|farewell|see (?:you|ya)|cya|take care|later|gtg|brb)\b", re.IGNORECASE
)
_PARTING = re.compile(
    r"\b(?:bye|goodbye|good night|goodnight|farewell|see (?:you|ya)|cya|take care|safe travels)\b", re.IGNORECASE
)
_THANKS = re.compile(r"\b(?:thanks|thank|thx|ty|cheers|appreciate)\b", re.IGNORECASE)
_EVERYONE = re.compile(
    r"\b(?:we|everyone|everybody|anyone|anybody|all|guys|somebody|someone|who|let['’]s)\b", re.IGNORECASE
)
_FIRST_PERSON = re.compile(r"\b(?:i|i['’]m|my|me|i['’]ll|i['’]ve)\b", re.IGNORECASE)
_LAUGH = re.compile(r"\((?:laugh|chuckl|giggl|cheer|gasp|sing)|\b(?:lol|haha|hehe|rofl)", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_ANSWER = re.compile(
    r"\W*(?:yes|yeah|yep|yup|no|nope|nah|okay|ok|right|sure|oh|all right|alright|correct|exactly)\b", re.IGNORECASE
)
_LEAVE = re.compile(
    r"\b(?:can|could|do|may|should|am|did|would|is|are|does) (?:i|we|he|she|it|they|there|this|that)\b", re.IGNORECASE
)
_WHAT = re.compile(r"\b(?:what|who|where|when|why|how|which)\b", re.IGNORECASE)
_AGREEMENT = re.compile(r"\b(?:okay|ok|all right)\b", re.IGNORECASE)
_TRAILING = re.compile(r"(?:--|—|\.\.\.|…|-)\s*$")
_ENDS = re.compile(r"(?<=[.!?])\s+")
LONG_CHARS = 250


@dataclass(frozen=True, slots=True)
class Cues:
    """Cues of one utterance. length is ln(1 + characters); a question counts when the last sentence asks it."""

    length: float = 0.0
    characters: int = 0
    asks: bool = False
    asks_you: bool = False
    you: bool = False
    everyone: bool = False
    first_person: bool = False
    thanks: bool = False
    bye: bool = False
    parting: bool = False
    laugh: bool = False
    digit: bool = False
    answers: bool = False
    asks_leave: bool = False
    asks_what: bool = False
    agrees: bool = False
    trails_off: bool = False
    exclaims: bool = False
    question: bool = False


def read(text: str) -> Cues:
    """Read the cues of a text; cost is linear in its length."""
    last = _last_sentence(text)
    asks = "?" in last
    return Cues(
        length=math.log1p(len(text)),
        characters=len(text),
        asks=asks,
        asks_you=asks and _YOU.search(last) is not None,
        you=not asks and _YOU.search(text) is not None,
        everyone=_EVERYONE.search(text) is not None,
        first_person=_FIRST_PERSON.search(last) is not None,
        thanks=_THANKS.search(text) is not None,
        bye=_BYE.search(text) is not None,
        parting=_PARTING.search(text) is not None,
        laugh=_LAUGH.search(text) is not None,
        digit=_DIGIT.search(text) is not None,
        answers=_ANSWER.match(text) is not None,
        asks_leave=_LEAVE.search(text) is not None,
        asks_what=_WHAT.search(text) is not None,
        agrees=_AGREEMENT.search(text) is not None,
        trails_off=_TRAILING.search(text) is not None,
        exclaims=text.rstrip().endswith("!"),
        question="?" in text,
    )


def _last_sentence(text: str) -> str:
    for sentence in reversed(_ENDS.split(text)):
        if sentence.strip():
            return sentence
    return ""
