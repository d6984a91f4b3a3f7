"""Who speaks next: a conditional logit over everyone present, humans included, with one small hidden layer.

score(i) = w . x_i + v . tanh(A x_i + B c + b) and p(i) = exp(score(i)) / sum over all but the last speaker; x_i are the
candidate's features, c what all candidates share: the style of the talk decides what the features mean, so that one set
of weights serves spoken and written conversations. Pure Python at runtime; learnt by `bench/turns/train.py`
(attribution inside the weights file).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter, mul
from pathlib import Path
from typing import Any

from services.chat.features import CONTEXT, FEATURES, table
from services.chat.rhythm import Rhythm

# Talkativeness 0..1 becomes ln(t / (1 - t)): 0.5 is neutral, the ends are cut.
TALKATIVENESS_MIN = 0.02


@dataclass(frozen=True, slots=True)
class Model:
    """Weights in the order of FEATURES and CONTEXT, and the weight of the persona's talkativeness.

    units: of each hidden unit its weights of the features; shared: of the context; bias and out: of the unit itself.
    """

    linear: tuple[float, ...]
    talkativeness: float
    units: tuple[tuple[float, ...], ...] = ()
    shared: tuple[tuple[float, ...], ...] = ()
    bias: tuple[float, ...] = ()
    out: tuple[float, ...] = ()
    # `units` turned: of each feature its weights in all units.
    turned: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """Probability of each candidate to take the next turn (sums to 1), and what led to it."""

    probabilities: list[float]
    rows: list[list[float]]
    hidden: list[list[float]]


def parse(text: str) -> Model:
    """Read a weights file. Raises ValueError when its features are not the code's."""
    document = json.loads(text)
    hidden = document.get("hidden") or {"bias": [], "out": [], "features": {}, "context": {}}
    width = len(hidden["bias"])
    features = _columns(hidden["features"], FEATURES, width)
    return Model(
        tuple(float(weight) for (weight,) in _named({k: [v] for k, v in document["linear"].items()}, FEATURES)),
        float(document["talkativeness"]),
        features,
        _columns(hidden["context"], CONTEXT, width),
        tuple(map(float, hidden["bias"])),
        tuple(map(float, hidden["out"])),
        tuple(zip(*features, strict=True)) or ((),) * len(FEATURES),
    )


def _columns(weights: Mapping[str, Sequence[Any]], names: Sequence[str], width: int) -> tuple[tuple[float, ...], ...]:
    rows = _named(weights, names) if width else []
    return tuple(tuple(float(row[unit]) for row in rows) for unit in range(width))


def _named(weights: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[Sequence[Any]]:
    if set(weights) != set(names):
        unknown = sorted(set(weights) ^ set(names))
        raise ValueError(f"weights do not fit the features: {', '.join(unknown)}")
    return [weights[name] for name in names]


@cache
def default() -> Model:
    """The committed weights."""
    return parse(Path(__file__).with_name("weights.json").read_text(encoding="utf-8"))


def score(
    model: Model, rhythm: Rhythm, candidates: Sequence[str], talkativeness: Mapping[str, float] | None = None
) -> Scores:
    """Score everyone who could speak next. talkativeness: persona prior 0..1 of those who have one, else neutral."""
    if not candidates:
        return Scores([], [], [])
    talk = talkativeness or {}
    rows, context = table(rhythm, candidates)
    bases = [bias + sum(map(mul, weights, context)) for bias, weights in zip(model.bias, model.shared, strict=True)]
    units = list(zip(bases, model.units, strict=True))
    hidden = [_hidden(units, row) for row in rows]
    scores = [
        sum(map(mul, model.linear, row))
        + sum(map(mul, model.out, values))
        + model.talkativeness * prior(talk.get(name, 0.5))
        for name, row, values in zip(candidates, rows, hidden, strict=True)
    ]
    top = max(scores)
    powers = [math.exp(value - top) for value in scores]
    total = math.fsum(powers)
    return Scores([power / total for power in powers], rows, hidden)


def _hidden(units: Sequence[tuple[float, Sequence[float]]], row: Sequence[float]) -> list[float]:
    """Values of the hidden units. Most features of a row are 0: only the others are multiplied, in half the time."""
    present = [i for i, value in enumerate(row) if value]
    pick = itemgetter(*(present if len(present) > 1 else (0, 1)))
    values = pick(row)
    return [math.tanh(base + sum(map(mul, pick(weights), values))) for base, weights in units]


def contributions(model: Model, scores: Scores, candidate: int, limit: int) -> list[tuple[str, float]]:
    """The features that moved a candidate's score most, largest first: value times slope, for explanations."""
    slopes = [out * (1 - value * value) for out, value in zip(model.out, scores.hidden[candidate], strict=True)]
    moved = (
        (FEATURES[i], value * (model.linear[i] + sum(map(mul, slopes, model.turned[i]))))
        for i, value in enumerate(scores.rows[candidate])
        if value
    )
    return sorted((pair for pair in moved if pair[1]), key=lambda pair: (-abs(pair[1]), pair[0]))[:limit]


def prior(talkativeness: float) -> float:
    """ln of how much more often than others a persona speaks."""
    bounded = min(max(talkativeness, TALKATIVENESS_MIN), 1 - TALKATIVENESS_MIN)
    return math.log(bounded / (1 - bounded))
