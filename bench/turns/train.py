"""Learn the turn policy's weights: a conditional logit with one small hidden layer, on the train splits.

    python -m bench.turns.train DIRECTORY [--out services/chat/weights.json]

Three sets are learnt together: CRD3 as it is, CRD3 with what profiles would say of its speakers (aliases,
talkativeness: the weights of an address are learnt where names are known), and IRC, which counts more so that
neither corpus drowns the other. `--folds N` learns N times without a part and tells which threshold does best on the
parts left out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.turns import corpus, personas, threshold
from services.chat import model
from services.chat.features import CONTEXT, FEATURES, table
from services.chat.predict import Recording, rhythms

Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]

IRC_WEIGHT = 2.0
CRD3_WEIGHT = 0.6
UNITS = 24
EPOCHS = 10
BATCH = 512
RATE = 3e-3
WARM_UP = 200
DECAY = 0.1
SEED = 7
OUT = Path(__file__).parents[2] / "services" / "chat" / "weights.json"
ATTRIBUTION = [
    "CRD3: Revanth Rameshkumar and Peter Bailey, Storytelling with Dialogue: A Critical Role Dungeons and Dragons "
    "Dataset, ACL 2020; CC BY-SA 4.0. Only these numbers were derived from it.",
    "Ubuntu IRC disentanglement: Jonathan K. Kummerfeld et al., A Large-Scale Corpus for Conversation "
    "Disentanglement, ACL 2019; CC BY 4.0. Only these numbers were derived from it.",
]


@dataclass(slots=True)
class Choices:
    """Choice sets laid end to end: x (rows, FEATURES), prior (rows), context (sets, CONTEXT), starts, sizes, chosen."""

    x: Floats
    prior: Floats
    context: Floats
    starts: Whole
    sizes: Whole
    chosen: Whole
    weight: float


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is learnt, over standardised features."""

    features: Floats
    context: Floats
    bias: Floats
    out: Floats
    linear: Floats
    talk: Floats

    def all(self) -> list[Floats]:
        """In a fixed order."""
        return [self.features, self.context, self.bias, self.out, self.linear, self.talk]


@dataclass(frozen=True, slots=True)
class Scale:
    """Means and deviations by which features were standardised."""

    mean: Floats
    deviation: Floats
    context_mean: Floats
    context_deviation: Floats


def choices(recordings: Sequence[Recording], weight: float) -> Choices:
    """The choice sets of all conversations."""
    x: list[Floats] = []
    prior: list[float] = []
    contexts: list[list[float]] = []
    chosen: list[int] = []
    total = 0
    for recording in recordings:
        keys = [str(index) for index in range(len(recording.speakers))]
        talk = [personas.log_odds(value) for value in recording.talkativeness] or [0.0] * len(keys)
        for k, rhythm in enumerate(rhythms(recording, keys)):
            candidates = [key for key in keys if key != rhythm.speaker]
            following = str(recording.turns[k + 1][0])
            if following not in candidates:
                continue
            rows, context = table(rhythm, candidates)
            chosen.append(total + candidates.index(following))
            total += len(rows)
            x.append(np.array(rows, dtype=np.float32))
            contexts.append(context)
            prior.extend(talk[int(key)] for key in candidates)
    sizes = np.array([len(rows) for rows in x])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return Choices(
        np.concatenate(x),
        np.array(prior, dtype=np.float32),
        np.array(contexts, dtype=np.float32),
        starts,
        sizes,
        np.array(chosen),
        weight,
    )


def standardise(sets: Sequence[Choices]) -> Scale:
    """Bring features to mean 0 and deviation 1, in place."""
    mean, context_mean = sets[0].x.mean(0), sets[0].context.mean(0)
    deviation = np.max([data.x.std(0) for data in sets], axis=0) + np.float32(1e-6)
    context_deviation = np.max([data.context.std(0) for data in sets], axis=0) + np.float32(1e-6)
    for data in sets:
        data.x -= mean
        data.x /= deviation
        data.context -= context_mean
        data.context /= context_deviation
    return Scale(mean, deviation, context_mean, context_deviation)


def fit(sets: Sequence[Choices]) -> Parameters:
    """Maximum likelihood by Adam with decoupled decay, a warm-up and a cosine."""
    random = np.random.default_rng(SEED)
    parameters = _initial(random)
    values = parameters.all()
    first, second = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    # The bias and the one weight of the prior are not pulled to zero.
    decays = [DECAY, DECAY, 0.0, DECAY, DECAY * 0.3, 0.0]
    batches = [(n, part) for n, data in enumerate(sets) for part in range(max(1, len(data.sizes) // BATCH))]
    step, steps = 0, EPOCHS * len(batches)
    for _ in range(EPOCHS):
        orders = [random.permutation(len(data.sizes)) for data in sets]
        for number in random.permutation(len(batches)):
            which, part = batches[number]
            data = sets[which]
            gradients = _gradients(parameters, data, orders[which][part :: max(1, len(data.sizes) // BATCH)])
            step += 1
            rate = RATE * min(1.0, step / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for value, gradient, one, two, decay in zip(values, gradients, first, second, decays, strict=True):
                one += np.float32(0.1) * (gradient - one)
                two += np.float32(0.001) * (gradient * gradient - two)
                mean, spread = one / (1 - 0.9**step), np.sqrt(two / (1 - 0.999**step))
                value -= (rate * (mean / (spread + 1e-8) + decay * value)).astype(np.float32)
    return parameters


def _initial(random: np.random.Generator) -> Parameters:
    width = len(FEATURES) + len(CONTEXT)
    return Parameters(
        random.normal(0, width**-0.5, (len(FEATURES), UNITS)).astype(np.float32),
        random.normal(0, width**-0.5, (len(CONTEXT), UNITS)).astype(np.float32),
        np.zeros(UNITS, np.float32),
        random.normal(0, 0.3 * UNITS**-0.5, UNITS).astype(np.float32),
        np.zeros(len(FEATURES), np.float32),
        np.zeros(1, np.float32),
    )


def _gradients(now: Parameters, data: Choices, chosen_sets: Whole) -> list[Floats]:
    sizes = data.sizes[chosen_sets]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    index = np.repeat(data.starts[chosen_sets] - starts, sizes) + np.arange(sizes.sum())
    chosen = starts + (data.chosen[chosen_sets] - data.starts[chosen_sets])
    x, prior, context = data.x[index], data.prior[index], data.context[chosen_sets]
    shared = context @ now.context + now.bias
    hidden = np.tanh(x @ now.features + np.repeat(shared, sizes, axis=0))
    scores = hidden @ now.out + x @ now.linear + now.talk[0] * prior
    top = np.maximum.reduceat(scores, starts)
    powers = np.exp(scores - np.repeat(top, sizes))
    error = powers / np.repeat(np.add.reduceat(powers, starts), sizes)
    error[chosen] -= 1
    error *= np.float32(data.weight / len(sizes))
    inner = np.outer(error, now.out) * (1 - hidden * hidden)
    per_set = np.add.reduceat(inner, starts, axis=0)
    return [
        x.T @ inner,
        context.T @ per_set,
        per_set.sum(0),
        hidden.T @ error,
        x.T @ error,
        np.array([float(error @ prior)], np.float32),
    ]


def document(learnt: Parameters, scale: Scale) -> dict[str, Any]:
    """The weights file: over features as they are."""
    features = learnt.features / scale.deviation[:, None]
    context = learnt.context / scale.context_deviation[:, None]
    bias = learnt.bias - scale.mean @ features - scale.context_mean @ context
    linear = learnt.linear / scale.deviation
    return {
        "attribution": ATTRIBUTION,
        "talkativeness": _rounded(learnt.talk[0]),
        "linear": {name: _rounded(value) for name, value in zip(FEATURES, linear, strict=True)},
        "hidden": {
            "bias": [_rounded(value) for value in bias],
            "out": [_rounded(value) for value in learnt.out],
            "features": {name: [_rounded(v) for v in row] for name, row in zip(FEATURES, features, strict=True)},
            "context": {name: [_rounded(v) for v in row] for name, row in zip(CONTEXT, context, strict=True)},
        },
    }


def _rounded(value: np.floating[Any]) -> float:
    return float(f"{float(value):.5g}")


def learn(crd3: Sequence[Recording], irc: Sequence[Recording]) -> dict[str, Any]:
    """The weights file learnt from these conversations."""
    known = personas.known(crd3, personas.talkativeness(crd3))
    sets = [choices(crd3, CRD3_WEIGHT), choices(known, CRD3_WEIGHT), choices(irc, IRC_WEIGHT)]
    scale = standardise(sets)
    return document(fit(sets), scale)


def written(weights: dict[str, Any]) -> str:
    """JSON with one line for each feature."""
    text = json.dumps(weights, indent=1, ensure_ascii=False)
    lines: list[str] = []
    for line in text.split("\n"):
        value = line.strip()
        if lines and (value.startswith("]") or (lines[-1].endswith(("[", ", ")) and value[:1] in "-0123456789")):
            lines[-1] += value.replace(",", ", ") if value[:1] != "]" else value
        else:
            lines.append(line)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> None:
    """Learn and write the weights file, or cross-validate the threshold."""
    parser = argparse.ArgumentParser(description="learn the turn policy's weights")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--folds", type=int, default=0)
    arguments = parser.parse_args()
    train = {name: corpus.load(arguments.directory, name, "train") for name in corpus.CORPORA}
    if arguments.folds:
        parts = []
        for fold in range(arguments.folds):
            rest = {
                name: [r for i, r in enumerate(all_) if i % arguments.folds != fold] for name, all_ in train.items()
            }
            held = {name: all_[fold :: arguments.folds] for name, all_ in train.items()}
            parts.append((model.parse(json.dumps(learn(rest["crd3"], rest["irc"]))), held))
        print(threshold.report(parts))
        return
    arguments.out.write_text(written(learn(train["crd3"], train["irc"])), encoding="utf-8")
    print(f"{len(train['crd3'])} + {len(train['irc'])} conversations -> {arguments.out}")


if __name__ == "__main__":
    main()
