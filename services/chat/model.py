"""Who speaks next: a conditional logit over everyone present, humans included.

p(i) = exp(w . x_i) / sum_j exp(w . x_j) over all but the last speaker. Pure Python at runtime; the weights were learnt
by `bench/turns/train.py` (attribution inside the weights file).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import mul
from pathlib import Path

from services.chat.features import FEATURES, Rhythm, rows

# Talkativeness 0..1 becomes ln(t / (1 - t)): 0.5 is neutral, the ends are cut.
TALKATIVENESS_MIN = 0.02


@dataclass(frozen=True, slots=True)
class Model:
    """Weights in the order of FEATURES, and the weight of the persona's talkativeness."""

    weights: tuple[float, ...]
    talkativeness: float


def parse(text: str) -> Model:
    """Read a weights file. Raises ValueError when its features are not the code's."""
    document = json.loads(text)
    weights = document["weights"]
    if set(weights) != set(FEATURES):
        unknown = sorted(set(weights) ^ set(FEATURES))
        raise ValueError(f"weights do not fit the features: {', '.join(unknown)}")
    return Model(tuple(float(weights[name]) for name in FEATURES), float(document["talkativeness"]))


@cache
def default() -> Model:
    """The committed weights."""
    return parse(Path(__file__).with_name("weights.json").read_text(encoding="utf-8"))


def score(
    model: Model, rhythm: Rhythm, candidates: Sequence[str], talkativeness: Mapping[str, float] | None = None
) -> tuple[list[float], list[list[float]]]:
    """Probability of each candidate to take the next turn (sums to 1), and the feature rows behind it.

    talkativeness: persona prior 0..1 of those who have one; others are neutral.
    """
    if not candidates:
        return [], []
    talk = talkativeness or {}
    table = rows(rhythm, candidates)
    scores = [
        math.fsum(map(mul, model.weights, row)) + model.talkativeness * prior(talk.get(name, 0.5))
        for name, row in zip(candidates, table, strict=True)
    ]
    top = max(scores)
    powers = [math.exp(value - top) for value in scores]
    total = math.fsum(powers)
    return [power / total for power in powers], table


def contributions(model: Model, row: Sequence[float], limit: int) -> list[tuple[str, float]]:
    """The features that moved a candidate's score most, largest first: for explanations."""
    moved = [(name, weight * value) for name, weight, value in zip(FEATURES, model.weights, row, strict=True) if value]
    return sorted(moved, key=lambda pair: (-abs(pair[1]), pair[0]))[:limit]


def prior(talkativeness: float) -> float:
    """ln of how much more often than others a persona speaks."""
    bounded = min(max(talkativeness, TALKATIVENESS_MIN), 1 - TALKATIVENESS_MIN)
    return math.log(bounded / (1 - bounded))
