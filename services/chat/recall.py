"""What an NPC is reminded of: lines it witnessed, ranked by words, meaning, recency and who is there. Pure.

Ranks of the legs are merged by reciprocal rank (Cormack, Clarke and Büttcher 2009, k = 60), then weighed by age
(half-life) and by whether the speaker is present or named. Near-duplicates of a better line are left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.chat.terms import words

K = 60
# Recency has a constant of its own: the answer to a line is one of the next few, or not recent at all.
K_RECENCY = 1
# Among few lines, which came last and which words they share says nearly everything; likeness only adds noise.
MANY = 100
WORDS, MEANING, RECENCY, PARTICIPANT = "words", "meaning", "recency", "participant"
# Share of common words above which two lines count as the same.
SAME = 0.8


@dataclass(frozen=True, slots=True)
class Weights:
    """How the legs count; the defaults were fitted on the train split of the Ubuntu IRC data (docs/decisions).

    meaning: in a scope of MANY lines; in a smaller one as much less as it is smaller.

    present, named: factors of a line whose speaker is here, or is named in what is said. own: factor of the recency of
    a line by who speaks now.
    """

    words: float = 1.0
    meaning: float = 0.3
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
    # Words that the index holds of it.
    length: int
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


def of_scope(weights: Weights, lines: int) -> Weights:
    """The weights in a scope of so many lines."""
    return replace(weights, meaning=weights.meaning * min(1.0, lines / MANY))


def idf(rows: int, with_word: int) -> float:
    """Weight of a word in a scope of `rows` lines of which `with_word` hold it (BM25's, never below zero)."""
    return math.log(1 + (rows - with_word + 0.5) / (with_word + 0.5))


def weighed(postings: Sequence[Sequence[int]], rows: int, most: int) -> list[tuple[int, float]]:
    """The `most` lines whose words weigh most together, and that weight; of equal ones the newest.

    postings: for each word the ids of the scope's lines that hold it.
    """
    if not any(map(len, postings)):
        return []
    weights = [idf(max(rows, len(ids)), len(ids)) for ids in postings]
    ids, place = np.unique(np.concatenate([np.asarray(ids, np.int64) for ids in postings]), return_inverse=True)
    sums = np.bincount(place, np.repeat(weights, [len(ids) for ids in postings]))
    order = np.lexsort((-ids, -sums))[:most]
    return list(zip(ids[order].tolist(), sums[order].tolist(), strict=True))


def normed(weight: float, length: int, mean: float = 8.0) -> float:
    """BM25 of a line of so many words whose words weigh that much (k1 = 1.2, b = 0.4; a word counts once a line)."""
    return weight * 2.2 / (1 + 1.2 * (0.6 + 0.4 * length / mean))


def best(scores: Mapping[int, float], most: int, least: float = 0.0) -> list[int]:
    """Ids by score, best first; of equal ones the newest first. least: share of the best score that a line needs."""
    floor = least * max(scores.values(), default=0.0)
    return sorted((one for one in scores if scores[one] >= floor), key=lambda one: (-scores[one], -one))[:most]


def ranked(memories: Collection[Memory], legs: Mapping[str, Sequence[int]], cue: Cue, weights: Weights) -> list[Found]:
    """The memories by what the legs (name -> ids, best first) say together, best first."""
    ranks = [(name, {one: rank for rank, one in enumerate(ids, 1)}) for name, ids in legs.items()]
    weight = {WORDS: weights.words, MEANING: weights.meaning}
    here = cue.present | cue.named
    found = []
    for memory in memories:
        held, score = {}, 0.0
        mine = memory.speaker_id == cue.speaker_id
        for name, rank_of in ranks:
            rank = rank_of.get(memory.id)
            if rank is None:
                continue
            held[name] = rank
            if name == RECENCY:
                # Nobody answers what he said himself a moment ago; what he said long ago may well be what he means.
                score += weights.recency * (weights.own if mine else 1.0) / (K_RECENCY + rank)
            else:
                score += weight[name] / (K + rank)
        score *= 0.5 ** (max(cue.at_ms - memory.at_ms, 0) / weights.half_life_ms)
        known = not mine and memory.speaker_id in here
        if mine or known:
            score *= weights.named if memory.speaker_id in cue.named else weights.present
        if known:
            held[PARTICIPANT] = 1
        found.append(Found(memory, score, held))
    return sorted(found, key=lambda one: (-one.score, -one.memory.id))


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
