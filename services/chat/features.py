"""What the model sees of a conversation when it asks who speaks next: one row per candidate, and what all share.

Rows follow the conditional-logit study of the turn-taking data (previous speaker, recency, share, address, unanswered
names, pair history, question cues) and add who followed the speaker before. They see the past only, never the order in
which people are listed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from services.chat.cues import LONG_CHARS
from services.chat.rhythm import EMPTY, FAST_FADE, SLOW_FADE, Rhythm

FEATURES = (
    "previous", "third_last", "never_spoken", "never_spoken_crowd", "recent_share", "recent_share_fast",
    "addressed", "addressed_too", "addressed_previous", "addressed_new", "mentioned", "mentioned_previous",
    "unanswered", "unanswered_just", "unanswered_age", "asks_you_previous", "asks_previous", "you_previous",
    "everyone_previous", "length_previous", "long_previous", "laugh_previous", "thanks_previous", "bye_previous",
    "crowd_previous", "return_rate_previous", "run_previous", "asked_previous", "naming_previous",
    "named_me_age", "named_another", "names_nobody", "pair", "answers_me", "starter_share", "share",
    "share_asks", "share_first_person", "share_digit", "speaker_share_previous", "wordy", "wordy_asks",
    "two_ago", "three_ago", "four_ago", "five_ago", "six_ago", "seven_ago", "eight_ago",
    "followed_last", "followed_second", "followed_third", "followed_fourth", "followed_both", "followed_both_before",
    "follows_both", "follows", "log_share", "most_talkative", "character_share",
    "second_last", "fourth_last", "fifth_last", "distance", "last_length", "precedes",
)  # fmt: skip
# Shared by all candidates of a decision: they decide what the others mean.
CONTEXT = (
    "answers", "asks_leave", "asks_what", "agrees", "trails_off", "exclaims", "question", "length", "laugh", "thanks",
    "bye", "asks", "asks_you", "you", "everyone", "first_person", "digit", "short", "previous_asked",
    "previous_length", "me_two_ago", "me_three_ago", "me_four_ago", "me_five_ago", "me_six_ago", "me_seven_ago",
    "voices_of_four", "voices_of_eight", "voices_of_sixteen", "previous_came_back", "top_share", "my_share",
    "lines", "crowd", "voices", "naming",
)  # fmt: skip

RETURN_PRIOR = 0.45
RETURN_PRIOR_WEIGHT = 4.0
SHORT_CHARS = 20


def rows(rhythm: Rhythm, candidates: Sequence[str]) -> list[list[float]]:
    """Feature values of each candidate, in the order of FEATURES. The last speaker is no candidate."""
    if not candidates:
        return []
    return _table(_Shared(rhythm, candidates), candidates)


def table(rhythm: Rhythm, candidates: Sequence[str]) -> tuple[list[list[float]], list[float]]:
    """The rows of `rows`, and the values of CONTEXT."""
    shared = _Shared(rhythm, candidates)
    return _table(shared, candidates), _context(shared, len(candidates))


def _table(shared: _Shared, candidates: Sequence[str]) -> list[list[float]]:
    return [_row(shared, name, i) + _pattern(shared, name, i) for i, name in enumerate(candidates)]


class _Shared:
    """What is worked out once for all candidates of one decision."""

    __slots__ = (
        "asks", "at", "both", "characters", "crowd", "cues", "digits", "fast", "fasts", "followers", "me", "most",
        "next_faded", "next_total", "rank", "returning", "rhythm", "seats", "share", "slow", "slows", "smooth_share",
    )  # fmt: skip

    def __init__(self, rhythm: Rhythm, candidates: Sequence[str]) -> None:
        self.rhythm, self.cues, self.at = rhythm, rhythm.cues, rhythm.at
        size = len(candidates)
        seats = self.seats = [rhythm.seats.get(name, EMPTY) for name in candidates]
        order = sorted((i for i in range(size) if seats[i].last >= 0), key=lambda i: -seats[i].last)
        self.rank = {i: rank for rank, i in enumerate(order[:5])}
        self.slows = [seat.slow * SLOW_FADE ** (rhythm.at - seat.faded_at) for seat in seats]
        self.fasts = [seat.fast * FAST_FADE ** (rhythm.at - seat.faded_at) for seat in seats]
        self.crowd = math.log(max(size, 1))
        self.slow, self.fast = sum(self.slows) + 0.2 * size, sum(self.fasts) + 0.2 * size
        me = rhythm.seats.get(rhythm.speaker, EMPTY)
        self.me = me
        self.share = me.count / max(rhythm.lines, 1)
        self.smooth_share = rhythm.lines - me.count + 0.5 * size
        self.next_faded = me.next_faded
        self.next_total = sum(me.next_faded.get(name, 0.0) for name in candidates) + 1.0
        rate = (rhythm.returned + RETURN_PRIOR * RETURN_PRIOR_WEIGHT) / (rhythm.returnable + RETURN_PRIOR_WEIGHT)
        self.returning = _logit(rate) - _logit(RETURN_PRIOR)
        self.asks = float(self.cues.asks)
        self.digits = float(self.cues.digit)
        everyone = rhythm.seats.values()
        self.most = max((seat.count for seat in everyone), default=0)
        self.characters = sum(seat.characters for seat in everyone) + 50 * (size + 1)
        self.followers, self.both = _followers(rhythm.runs)


def _followers(runs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Who came right after the last speaker before, and after the last two in this order; the newest first."""
    if not runs:
        return [], []
    me, previous = runs[-1], runs[-2] if len(runs) > 1 else None
    after: list[str] = []
    after_both: list[str] = []
    for i in range(len(runs) - 2, -1, -1):
        if runs[i] == me:
            after.append(runs[i + 1])
            if i and runs[i - 1] == previous:
                after_both.append(runs[i + 1])
    return after, after_both


def _row(shared: _Shared, name: str, i: int) -> list[float]:
    rhythm, cues, seat, rank = shared.rhythm, shared.cues, shared.seats[i], shared.rank.get(i)
    previous = 1.0 if rank == 0 else 0.0
    spoken = seat.last >= 0
    distance = math.log(max(shared.at - seat.last, 1)) if spoken else 0.0
    addressed = 1.0 if rhythm.addressed[:1] == (name,) else 0.0
    too = 1.0 if name in rhythm.addressed[1:] else 0.0
    mentioned = 1.0 if name in rhythm.mentioned else 0.0
    waiting = 0 <= seat.named_at < shared.at
    share = seat.count / max(rhythm.lines, 1)
    expected = (seat.count + 0.5) / shared.smooth_share
    pair = math.log((shared.next_faded.get(name, 0.0) + expected) / shared.next_total) - math.log(expected)
    names_me = rhythm.speaker in seat.named
    wordy = math.log((seat.characters + 20) / (seat.count + 1)) - 4.0 if spoken else 0.0
    return [
        previous,
        1.0 if rank == 2 else 0.0,
        0.0 if spoken else 1.0,
        0.0 if spoken else shared.crowd,
        math.log((shared.slows[i] + 0.2) / shared.slow),
        math.log((shared.fasts[i] + 0.2) / shared.fast),
        addressed,
        too,
        addressed * previous,
        0.0 if spoken else addressed,
        mentioned,
        mentioned * previous,
        1.0 if waiting else 0.0,
        1.0 if waiting and seat.named_at == shared.at - 1 else 0.0,
        math.log1p(shared.at - seat.named_at) if seat.named_at >= 0 else 0.0,
        previous * cues.asks_you,
        previous * (cues.asks and not cues.asks_you),
        previous * cues.you,
        previous * cues.everyone,
        previous * (cues.length - 4.0),
        previous * (cues.characters > LONG_CHARS),
        previous * cues.laugh,
        previous * cues.thanks,
        previous * cues.bye,
        previous * shared.crowd,
        previous * shared.returning,
        previous * math.log1p(rhythm.run),
        previous * seat.asked,
        previous * rhythm.naming,
        distance if names_me else 0.0,
        1.0 if seat.named and not names_me else 0.0,
        rhythm.naming if spoken and not seat.named else 0.0,
        pair,
        math.log((seat.next_count.get(rhythm.speaker, 0) + 1) / (shared.me.count + 1)),
        share if name == rhythm.starter else 0.0,
        share,
        share * shared.asks,
        share * cues.first_person,
        share * shared.digits,
        previous * shared.share,
        wordy,
        wordy * shared.asks,
    ]


def _pattern(shared: _Shared, name: str, i: int) -> list[float]:
    """Where the candidate stands in the sequence of speakers, and how often it came where it would come now."""
    rhythm, seat, rank = shared.rhythm, shared.seats[i], shared.rank.get(i)
    runs, followers, both = rhythm.runs, shared.followers, shared.both
    size = len(runs)
    expected = (seat.count + 0.5) / max(rhythm.lines, 1)
    spoken = seat.last >= 0
    ago = [1.0 if size > lag and runs[-1 - lag] == name else 0.0 for lag in range(2, 9)]
    followed = [1.0 if len(followers) > k and followers[k] == name else 0.0 for k in range(4)]
    followed_both = [1.0 if len(both) > k and both[k] == name else 0.0 for k in range(2)]
    return [
        *ago,
        *followed,
        *followed_both,
        math.log((both.count(name) + 0.5 * expected) / (len(both) + 0.5)),
        math.log((followers.count(name) + expected) / (len(followers) + 1.0)),
        math.log(expected),
        1.0 if spoken and seat.count == shared.most else 0.0,
        math.log((seat.characters + 50) / shared.characters),
        1.0 if rank == 1 else 0.0,
        1.0 if rank == 3 else 0.0,
        1.0 if rank == 4 else 0.0,
        math.log(max(shared.at - seat.last, 1)) if spoken else 0.0,
        math.log1p(seat.run_characters) - 3.5 if spoken else 0.0,
        math.log((seat.next_count.get(rhythm.speaker, 0) + 0.3) / (seat.count + 0.6)),
    ]


def _context(shared: _Shared, size: int) -> list[float]:
    rhythm, cues, runs = shared.rhythm, shared.cues, shared.rhythm.runs
    count = len(runs)
    before = rhythm.seats.get(rhythm.before, EMPTY) if rhythm.before else EMPTY
    me = rhythm.speaker
    return [
        float(cues.answers),
        float(cues.asks_leave),
        float(cues.asks_what),
        float(cues.agrees),
        float(cues.trails_off),
        float(cues.exclaims),
        float(cues.question),
        cues.length - 4.0,
        float(cues.laugh),
        float(cues.thanks),
        float(cues.bye),
        float(cues.asks),
        float(cues.asks_you),
        float(cues.you),
        float(cues.everyone),
        float(cues.first_person),
        float(cues.digit),
        float(cues.characters < SHORT_CHARS),
        float(before.asked),
        math.log1p(before.run_characters) - 4.0,
        *(1.0 if count > lag and runs[-1 - lag] == me else 0.0 for lag in range(2, 8)),
        len(set(runs[-4:])) - 2.5,
        len(set(runs[-8:])) - 3.5,
        len(set(runs[-16:])) - 4.0,
        1.0 if count > 3 and runs[-4] == runs[-2] else 0.0,
        shared.most / max(rhythm.lines, 1),
        shared.share,
        math.log(max(rhythm.lines, 1)) - 3.0,
        shared.crowd - 1.5,
        math.log(max(len(rhythm.seats), 1)) - 1.2,
        rhythm.naming,
    ]


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
