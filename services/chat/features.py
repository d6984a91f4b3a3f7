"""The rhythm of a conversation, kept incrementally, and the features of who speaks next.

`Rhythm` is a value: `hear` answers the next one. Features follow the conditional-logit study of the turn-taking data
(previous speaker, recency, share, address, unanswered names, pair history, question cues); they see the past only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.chat.cues import LONG_CHARS, Cues
from services.chat.vocative import Address

FEATURES = (
    "previous", "third_last", "never_spoken", "never_spoken_crowd", "recent_share", "recent_share_fast",
    "addressed", "addressed_too", "addressed_previous", "addressed_new", "mentioned", "mentioned_previous",
    "unanswered", "unanswered_just", "unanswered_age", "asks_you_previous", "asks_previous", "you_previous",
    "everyone_previous", "length_previous", "long_previous", "laugh_previous", "thanks_previous", "bye_previous",
    "crowd_previous", "return_rate_previous", "run_previous", "asked_previous", "naming_previous",
    "named_me_age", "named_another", "names_nobody", "pair", "answers_me", "starter_share", "share",
    "share_asks", "share_first_person", "share_digit", "speaker_share_previous", "wordy", "wordy_asks",
)  # fmt: skip

# Shares fade by these per utterance; pair history by PAIR_FADE each time its first half speaks.
SLOW_FADE = 0.85
FAST_FADE = 0.6
PAIR_FADE = 0.8
NAMING_FADE = 0.9
RETURN_FADE = 0.97
RETURN_PRIOR = 0.45
RETURN_PRIOR_WEIGHT = 4.0
# The model was fitted on stretches of about this many utterances: beyond it counts are halved.
STRETCH = 128


@dataclass(frozen=True, slots=True)
class Seat:
    """What is remembered of one speaker. Positions are utterance numbers of this rhythm; -1 = never."""

    last: int = -1
    count: int = 0
    characters: int = 0
    slow: float = 0.0
    fast: float = 0.0
    faded_at: int = 0
    named_at: int = -1
    asked: bool = False
    named: tuple[str, ...] = ()
    # How often each other speaker came right after this one, faded and whole.
    next_faded: Mapping[str, float] = field(default_factory=dict)
    next_count: Mapping[str, int] = field(default_factory=dict)


_EMPTY = Seat()


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A conversation as the model sees it. `at` is the number of the last utterance, -1 = none yet."""

    at: int = -1
    seats: Mapping[str, Seat] = field(default_factory=dict)
    speaker: str = ""
    before: str = ""
    starter: str = ""
    lines: int = 0
    run: int = 0
    naming: float = 0.0
    returned: float = 0.0
    returnable: float = 0.0
    cues: Cues = field(default_factory=Cues)
    addressed: tuple[str, ...] = ()
    mentioned: tuple[str, ...] = ()


def hear(rhythm: Rhythm, speaker: str, address: Address, cast: Sequence[str], cues: Cues) -> Rhythm:
    """The rhythm after one more utterance. `address` indexes `cast`; two lines of one speaker in a row are one turn."""
    at = rhythm.at + 1
    seats = dict(rhythm.seats)
    addressed = tuple(cast[i] for i in address.addressed if cast[i] != speaker)
    mentioned = tuple(cast[i] for i in address.mentioned if cast[i] != speaker and cast[i] not in addressed)
    again = speaker == rhythm.speaker
    before = rhythm.before if again else rhythm.speaker
    returned, returnable, run = rhythm.returned, rhythm.returnable, rhythm.run
    if not again and rhythm.speaker:
        seats[rhythm.speaker] = _followed(seats[rhythm.speaker], speaker)
        if rhythm.before:
            comes_back = speaker == rhythm.before
            returned = returned * RETURN_FADE + comes_back
            returnable = returnable * RETURN_FADE + 1
            run = run + 1 if comes_back else 0
    seat = seats.get(speaker, _EMPTY)
    idle = at - seat.faded_at
    seats[speaker] = replace(
        seat,
        last=at,
        count=seat.count + 1,
        characters=seat.characters + cues.characters,
        slow=seat.slow * SLOW_FADE**idle + 1,
        fast=seat.fast * FAST_FADE**idle + 1,
        faded_at=at,
        named_at=-1,
        asked=cues.asks,
        named=addressed,
    )
    for name in addressed:
        seats[name] = replace(seats.get(name, _EMPTY), named_at=at)
    heard = Rhythm(
        at=at,
        seats=seats,
        speaker=speaker,
        before=before,
        starter=rhythm.starter or speaker,
        lines=rhythm.lines + 1,
        run=run,
        naming=rhythm.naming * NAMING_FADE + (1 - NAMING_FADE) * bool(addressed),
        returned=returned,
        returnable=returnable,
        cues=cues,
        addressed=addressed,
        mentioned=mentioned,
    )
    return _halved(heard) if heard.lines >= STRETCH else heard


def without(rhythm: Rhythm, leavers: Sequence[str]) -> Rhythm:
    """The rhythm after some left: who comes back enters anew."""
    if not any(name in rhythm.seats for name in leavers):
        return rhythm
    seats = {name: seat for name, seat in rhythm.seats.items() if name not in leavers}
    if rhythm.speaker in leavers:
        seats[rhythm.speaker] = rhythm.seats[rhythm.speaker]
    return replace(rhythm, seats=seats)


def knows(rhythm: Rhythm, name: str) -> bool:
    """Whether anything in the rhythm is about someone."""
    around = {rhythm.speaker, rhythm.before, rhythm.starter, *rhythm.addressed, *rhythm.mentioned, *rhythm.seats}
    return name in around or any(
        name in seat.next_count or name in seat.next_faded or name in seat.named for seat in rhythm.seats.values()
    )


def rows(rhythm: Rhythm, candidates: Sequence[str]) -> list[list[float]]:
    """Feature values of each candidate, in the order of FEATURES. The last speaker is no candidate."""
    if not candidates:
        return []
    seats = [rhythm.seats.get(name, _EMPTY) for name in candidates]
    order = sorted((i for i in range(len(seats)) if seats[i].last >= 0), key=lambda i: -seats[i].last)
    slow = [seat.slow * SLOW_FADE ** (rhythm.at - seat.faded_at) for seat in seats]
    fast = [seat.fast * FAST_FADE ** (rhythm.at - seat.faded_at) for seat in seats]
    context = _Context(rhythm, candidates, sum(slow), sum(fast))
    return [
        _row(context, name, seats[i], slow[i], fast[i], i == order[0] if order else False, i in order[2:3])
        for i, name in enumerate(candidates)
    ]


class _Context:
    """What all candidates of one decision share."""

    __slots__ = (
        "asks", "at", "crowd", "cues", "digits", "fast", "me", "next_faded", "next_total", "returning", "rhythm",
        "share", "slow", "smooth_share",
    )  # fmt: skip

    def __init__(self, rhythm: Rhythm, candidates: Sequence[str], slow: float, fast: float) -> None:
        self.rhythm, self.cues, self.at = rhythm, rhythm.cues, rhythm.at
        size = len(candidates)
        self.crowd = math.log(size)
        self.slow, self.fast = slow + 0.2 * size, fast + 0.2 * size
        me = rhythm.seats.get(rhythm.speaker, _EMPTY)
        self.me = me
        self.share = me.count / max(rhythm.lines, 1)
        self.smooth_share = rhythm.lines - me.count + 0.5 * size
        self.next_faded = me.next_faded
        self.next_total = sum(me.next_faded.get(name, 0.0) for name in candidates) + 1.0
        rate = (rhythm.returned + RETURN_PRIOR * RETURN_PRIOR_WEIGHT) / (rhythm.returnable + RETURN_PRIOR_WEIGHT)
        self.returning = _logit(rate) - _logit(RETURN_PRIOR)
        self.asks = float(self.cues.asks)
        self.digits = float(self.cues.digit)


def _row(
    context: _Context, name: str, seat: Seat, slow: float, fast: float, is_previous: bool, third: bool
) -> list[float]:
    rhythm, cues = context.rhythm, context.cues
    previous = 1.0 if is_previous else 0.0
    spoken = seat.last >= 0
    distance = math.log(max(context.at - seat.last, 1)) if spoken else 0.0
    addressed = 1.0 if rhythm.addressed[:1] == (name,) else 0.0
    too = 1.0 if name in rhythm.addressed[1:] else 0.0
    mentioned = 1.0 if name in rhythm.mentioned else 0.0
    waiting = 0 <= seat.named_at < context.at
    share = seat.count / max(rhythm.lines, 1)
    expected = (seat.count + 0.5) / context.smooth_share
    pair = math.log((context.next_faded.get(name, 0.0) + expected) / context.next_total) - math.log(expected)
    names_me = rhythm.speaker in seat.named
    wordy = math.log((seat.characters + 20) / (seat.count + 1)) - 4.0 if spoken else 0.0
    return [
        previous,
        1.0 if third else 0.0,
        0.0 if spoken else 1.0,
        0.0 if spoken else context.crowd,
        math.log((slow + 0.2) / context.slow),
        math.log((fast + 0.2) / context.fast),
        addressed,
        too,
        addressed * previous,
        0.0 if spoken else addressed,
        mentioned,
        mentioned * previous,
        1.0 if waiting else 0.0,
        1.0 if waiting and seat.named_at == context.at - 1 else 0.0,
        math.log1p(context.at - seat.named_at) if seat.named_at >= 0 else 0.0,
        previous * cues.asks_you,
        previous * (cues.asks and not cues.asks_you),
        previous * cues.you,
        previous * cues.everyone,
        previous * (cues.length - 4.0),
        previous * (cues.characters > LONG_CHARS),
        previous * cues.laugh,
        previous * cues.thanks,
        previous * cues.bye,
        previous * context.crowd,
        previous * context.returning,
        previous * math.log1p(rhythm.run),
        previous * seat.asked,
        previous * rhythm.naming,
        distance if names_me else 0.0,
        1.0 if seat.named and not names_me else 0.0,
        rhythm.naming if spoken and not seat.named else 0.0,
        pair,
        math.log((seat.next_count.get(rhythm.speaker, 0) + 1) / (context.me.count + 1)),
        share if name == rhythm.starter else 0.0,
        share,
        share * context.asks,
        share * cues.first_person,
        share * context.digits,
        previous * context.share,
        wordy,
        wordy * context.asks,
    ]


def _followed(seat: Seat, by: str) -> Seat:
    faded = {name: value * PAIR_FADE for name, value in seat.next_faded.items()}
    faded[by] = faded.get(by, 0.0) + 1.0
    return replace(seat, next_faded=faded, next_count={**seat.next_count, by: seat.next_count.get(by, 0) + 1})


def _halved(rhythm: Rhythm) -> Rhythm:
    seats = {
        name: replace(
            seat,
            count=(seat.count + 1) // 2,
            characters=seat.characters // 2,
            next_count={other: count // 2 for other, count in seat.next_count.items()},
        )
        for name, seat in rhythm.seats.items()
    }
    return replace(rhythm, seats=seats, lines=sum(seat.count for seat in seats.values()))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
