"""The rhythm of a conversation: who spoke when and after whom, kept incrementally. `hear` answers the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.chat.cues import Cues
from services.chat.vocative import Address

# Shares fade by these per utterance; pair history by PAIR_FADE each time its first half speaks.
SLOW_FADE = 0.85
FAST_FADE = 0.6
PAIR_FADE = 0.8
NAMING_FADE = 0.9
RETURN_FADE = 0.97
# Speakers remembered in order, two lines of one in a row as one.
RUNS = 48
# The model was fitted on stretches of about this many utterances: beyond it counts are halved.
STRETCH = 128


@dataclass(frozen=True, slots=True)
class Seat:
    """What is remembered of one speaker. Positions are utterance numbers of this rhythm; -1 = never."""

    last: int = -1
    count: int = 0
    characters: int = 0
    # Characters of its last run of lines.
    run_characters: int = 0
    slow: float = 0.0
    fast: float = 0.0
    faded_at: int = 0
    named_at: int = -1
    asked: bool = False
    named: tuple[str, ...] = ()
    # How often each other speaker came right after this one, faded and whole.
    next_faded: Mapping[str, float] = field(default_factory=dict)
    next_count: Mapping[str, int] = field(default_factory=dict)


EMPTY = Seat()


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A conversation as the model sees it. `at` is the number of the last utterance, -1 = none yet."""

    at: int = -1
    seats: Mapping[str, Seat] = field(default_factory=dict)
    speaker: str = ""
    before: str = ""
    starter: str = ""
    runs: tuple[str, ...] = ()
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
    seat = seats.get(speaker, EMPTY)
    idle = at - seat.faded_at
    seats[speaker] = replace(
        seat,
        last=at,
        count=seat.count + 1,
        characters=seat.characters + cues.characters,
        run_characters=cues.characters + (seat.run_characters if again else 0),
        slow=seat.slow * SLOW_FADE**idle + 1,
        fast=seat.fast * FAST_FADE**idle + 1,
        faded_at=at,
        named_at=-1,
        asked=cues.asks,
        named=addressed,
    )
    for name in addressed:
        seats[name] = replace(seats.get(name, EMPTY), named_at=at)
    heard = Rhythm(
        at=at,
        seats=seats,
        speaker=speaker,
        before=before,
        starter=rhythm.starter or speaker,
        runs=rhythm.runs if again else (*rhythm.runs[1 - RUNS :], speaker),
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
    # Who spoke last stays: the next line follows it, wherever it went.
    runs = tuple(name for name in rhythm.runs if name not in leavers or name == rhythm.speaker)
    return replace(rhythm, seats=seats, runs=runs)


def knows(rhythm: Rhythm, name: str) -> bool:
    """Whether anything in the rhythm is about someone."""
    around = {
        rhythm.speaker,
        rhythm.before,
        rhythm.starter,
        *rhythm.addressed,
        *rhythm.mentioned,
        *rhythm.seats,
        *rhythm.runs,
    }
    return name in around or any(
        name in seat.next_count or name in seat.next_faded or name in seat.named for seat in rhythm.seats.values()
    )


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
