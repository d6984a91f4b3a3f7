"""What an NPC is reminded of: lines it witnessed, ranked by words, meaning, recency and who is there. Pure.

Ranks of the legs are merged by reciprocal rank (Cormack, Clarke and Büttcher 2009, k = 60), then weighed by age
(half-life) and by whether the speaker is present or named. Near-duplicates of a better line are left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from services.chat.terms import words

K = 60
# Recency has a constant of its own: the answer to a line is one of the next few, or not recent at all.
K_RECENCY = 1
WORDS, MEANING, RECENCY, PARTICIPANT = "words", "meaning", "recency", "participant"
# Share of common words above which two lines count as the same.
SAME = 0.8


@dataclass(frozen=True, slots=True)
class Weights:
    """How the legs count; the defaults were fitted on the train split of the Ubuntu IRC data (docs/decisions).

    present, named: factors of a line whose speaker is here, or is named in what is said. own: factor of the recency of
    a line by who speaks now.
    """

    words: float = 1.0
    meaning: float = 1.0
    recency: float = 0.1
    half_life_ms: int = 3 * 86_400_000
    present: float = 1.5
    named: float = 3.0
    own: float = 0.2


@dataclass(frozen=True, slots=True)
class Memory:
    """One remembered line. id orders them; owner: the player whose session it belongs to, "" = nobody's."""

    id: int
    world: str
    seq: int
    conversation_id: str
    utterance_id: str
    turn_id: str
    speaker_id: str
    speaker_name: str
    kind: str
    owner: str
    at_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class Cue:
    """What recall is asked with. present: ids of those within earshot; named: ids whose names the text holds."""

    text: str
    speaker_id: str
    at_ms: int
    present: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    # Words that are no cue: the names of who is asked, which stand in most lines that it hears.
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """A line with its score and the ranks (1 = best) that it had in each leg."""

    memory: Memory
    score: float
    legs: Mapping[str, int]


def idf(rows: int, with_word: int) -> float:
    """Weight of a word in a scope of `rows` lines of which `with_word` hold it (BM25's, never below zero)."""
    return math.log(1 + (rows - with_word + 0.5) / (with_word + 0.5))


def bm25(
    postings: Mapping[str, Sequence[int]], rows: int, lengths: Mapping[int, int], mean: float = 8.0
) -> dict[int, float]:
    """Score of every line that holds a word (k1 = 1.2, b = 0.4; a word counts once a line).

    postings: word -> ids within the scope. lengths: words of a line; unknown ones count as the mean.
    """
    scores: dict[int, float] = {}
    for ids in postings.values():
        weight = idf(max(rows, len(ids)), len(ids))
        for one in ids:
            norm = 1.2 * (0.6 + 0.4 * lengths.get(one, mean) / mean)
            scores[one] = scores.get(one, 0.0) + weight * 2.2 / (1 + norm)
    return scores


def best(scores: Mapping[int, float], most: int, least: float = 0.0) -> list[int]:
    """Ids by score, best first; of equal ones the newest first. least: share of the best score that a line needs."""
    floor = least * max(scores.values(), default=0.0)
    return sorted((one for one in scores if scores[one] >= floor), key=lambda one: (-scores[one], -one))[:most]


def ranked(memories: Collection[Memory], legs: Mapping[str, Sequence[int]], cue: Cue, weights: Weights) -> list[Found]:
    """The memories by what the legs (name -> ids, best first) say together, best first."""
    ranks = {name: {one: rank for rank, one in enumerate(ids, 1)} for name, ids in legs.items()}
    weight = {WORDS: weights.words, MEANING: weights.meaning}
    found = []
    for memory in memories:
        held = {name: rank[memory.id] for name, rank in ranks.items() if memory.id in rank}
        mine = memory.speaker_id == cue.speaker_id
        score = sum(weight[name] / (K + rank) for name, rank in held.items() if name != RECENCY)
        if RECENCY in held:
            # Nobody answers what he said himself a moment ago; what he said long ago may well be what he means.
            score += weights.recency * (weights.own if mine else 1.0) / (K_RECENCY + held[RECENCY])
        score *= 0.5 ** (max(cue.at_ms - memory.at_ms, 0) / weights.half_life_ms)
        known = _knows(memory, cue)
        if mine or known:
            score *= weights.named if memory.speaker_id in cue.named else weights.present
        found.append(Found(memory, score, {**held, PARTICIPANT: 1} if known else held))
    return sorted(found, key=lambda one: (-one.score, -one.memory.id))


def _knows(memory: Memory, cue: Cue) -> bool:
    return memory.speaker_id != cue.speaker_id and memory.speaker_id in cue.present | cue.named


def relevant(found: Sequence[Found]) -> list[Found]:
    """Those that words or meaning found: what is merely recent stands in the latest lines already."""
    return [one for one in found if WORDS in one.legs or MEANING in one.legs]


def distinct(found: Sequence[Found], most: int) -> list[Found]:
    """The best ones, without lines that say what a better one says."""
    kept: list[tuple[Found, frozenset[str]]] = []
    for one in found:
        bag = frozenset(words(one.memory.text))
        if any(_overlap(bag, other) >= SAME for _, other in kept):
            continue
        kept.append((one, bag))
        if len(kept) == most:
            break
    return [one for one, _ in kept]


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 1.0


def named_in(text: str, names: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Ids of those one of whose names (whole, or its first word) stands in the text."""
    said = set(words(text))
    return frozenset(
        who for who, known in names.items() for name in known if (parts := words(name)) and said.issuperset(parts[:1])
    )
