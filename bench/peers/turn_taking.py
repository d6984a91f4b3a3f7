"""How others choose who speaks next, as far as each says in public: beside the turn policy in `earshot bench turns`.

* Round robin: the next in the list.
* A-B-A: the turn goes back to who spoke before.
* SillyTavern's natural order (its documentation, "Group Chats"): whoever the last line names, in the order of the line;
  of the others everybody by a throw of dice, as talkative as their card says (0.5 where it does not); when that makes
  nobody speak, anybody. A line of a player starts a round, and all who were chosen speak in it; nobody answers
  themselves. There is no way to let nobody speak.

Rows are probabilities of each speaker for the next turn, as `services.chat.predict` gives them: each is exact, no dice
are thrown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from functools import lru_cache

import numpy as np

from services.chat import vocative
from services.chat.predict import Recording

# Probability that a rule of thumb gives its choice beyond an equal share, so that its bits are finite; fitted on train.
RETURN_SHARE = 0.34
VOCATIVE_SHARE = 0.58
NAMED_SHARE = 0.5
TALKATIVE = 0.5
_WORD = re.compile(r"\w+")


def round_robin(recording: Recording) -> list[list[float]]:
    """The next in the list after the last speaker."""
    size = len(recording.speakers)
    return [pointed(size, speaker, (speaker + 1) % size, 1.0) for speaker, _ in recording.turns[:-1]]


def give_back(recording: Recording) -> list[list[float]]:
    """A-B-A: the turn goes back to the previous other speaker."""
    size = len(recording.speakers)
    rows, before, last = [], None, None
    for speaker, _ in recording.turns[:-1]:
        if speaker != last:
            before, last = last, speaker
        rows.append(pointed(size, speaker, before, RETURN_SHARE))
    return rows


def vocative_else_give_back(recording: Recording) -> list[list[float]]:
    """The one person addressed by name, else A-B-A."""
    known = recording.aliases or ((),) * len(recording.speakers)
    cast = [(name, *aliases) for name, aliases in zip(recording.speakers, known, strict=True)]
    rows = give_back(recording)
    for k, (speaker, text) in enumerate(recording.turns[:-1]):
        addressed = vocative.parse(text, cast, speaker).addressed
        if len(addressed) == 1:
            rows[k] = pointed(len(cast), speaker, addressed[0], VOCATIVE_SHARE)
    return rows


def natural_order(recording: Recording) -> list[list[float]]:
    """Who speaks first in the round that a line starts.

    Whom a line names speaks for certain; as probability that is NAMED_SHARE and an equal part of the rest, so that its
    bits are finite.
    """
    rows = []
    for speaker, text in recording.turns[:-1]:
        named = mentioned(text, recording.speakers, speaker)
        if named:
            rows.append(pointed(len(recording.speakers), speaker, named[0], NAMED_SHARE))
        else:
            rows.append(first_of_dice(talk_of(recording), speaker))
    return rows


def talk_of(recording: Recording) -> tuple[float, ...]:
    """How talkative each speaker is."""
    return recording.talkativeness or (TALKATIVE,) * len(recording.speakers)


def mentioned(text: str, names: Sequence[str], speaker: int) -> list[int]:
    """Whom a line names by any word of their name, in the order of the line, the speaker apart."""
    words = [{word.lower() for word in _WORD.findall(name)} for name in names]
    found: list[int] = []
    for word in _WORD.findall(text.lower()):
        who = next((i for i, own in enumerate(words) if word in own and i != speaker), None)
        if who is not None and who not in found:
            found.append(who)
    return found


@lru_cache(maxsize=4096)
def first_of_dice(talk: tuple[float, ...], speaker: int) -> list[float]:
    """Who comes first of those whom the dice let speak, asked in a random order; anybody when they let nobody.

    A random order is one of arrival times: i comes first when nobody who may speak arrives before. Rows are kept, for
    reading only.
    """
    row = [0.0] * len(talk)
    others = [i for i in range(len(talk)) if i != speaker]
    silence = math.prod(1 - talk[i] for i in others)
    for i in others:
        nobody_before = np.polynomial.Polynomial([1.0])
        for other in others:
            if other != i:
                nobody_before *= np.polynomial.Polynomial([1.0, -talk[other]])
        row[i] = talk[i] * float(nobody_before.integ()(1.0)) + silence / len(others)
    return row


def asked(recording: Recording, turn: int, npcs: Collection[int]) -> float:
    """NPCs that speak after a turn, of these, on average: none after an NPC's, one at least after a player's."""
    speaker, text = recording.turns[turn]
    if speaker in npcs or not npcs:
        return 0.0
    cast = sorted(npcs)
    named = {cast[i] for i in mentioned(text, [recording.speakers[i] for i in cast], -1)}
    talk = talk_of(recording)
    rest = [talk[i] for i in cast if i not in named]
    return len(named) + sum(rest) + (0.0 if named else math.prod(1 - t for t in rest))


def pointed(size: int, speaker: int, who: int | None, share: float) -> list[float]:
    """Equal shares of `1 - share` for all but the speaker, and `share` more for one."""
    others = size - 1
    if who is None or who == speaker:
        share = 0.0
    return [0.0 if i == speaker else (1 - share) / others + share * (i == who) for i in range(size)]
