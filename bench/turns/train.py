"""Learn the turn policy's weights: a conditional logit by Newton's method on the train splits.

    python -m bench.turns.train DIRECTORY [--out services/chat/weights.json]

Every conversation of IRC counts IRC_WEIGHT times, so that neither corpus drowns the other. The persona prior
(talkativeness) is fitted afterwards with the other weights held, on how often each named person of CRD3 speaks.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.turns import corpus
from services.chat.features import FEATURES, rows
from services.chat.predict import Recording, rhythms

Floats = npt.NDArray[np.float64]

IRC_WEIGHT = 2.0
RIDGE = 1.0
ITERATIONS = 15
# A persona's prior is taken from those who could have spoken this often.
PRIOR_MIN_TURNS = 400
OUT = Path(__file__).parents[2] / "services" / "chat" / "weights.json"
ATTRIBUTION = [
    "CRD3: Revanth Rameshkumar and Peter Bailey, Storytelling with Dialogue: A Critical Role Dungeons and Dragons "
    "Dataset, ACL 2020; CC BY-SA 4.0. Only these numbers were derived from it.",
    "Ubuntu IRC disentanglement: Jonathan K. Kummerfeld et al., A Large-Scale Corpus for Conversation "
    "Disentanglement, ACL 2019; CC BY 4.0. Only these numbers were derived from it.",
]


@dataclass(frozen=True, slots=True)
class Choices:
    """Choice sets laid end to end: x (rows, features), starts of each set, chosen rows, one weight for all."""

    x: Floats
    offset: Floats
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    weight: float


def choices(recordings: list[Recording], weight: float, talk: dict[str, float] | None = None) -> Choices:
    """The choice sets of all conversations; `talk` adds each speaker's prior as the offset column."""
    x: list[list[float]] = []
    offset: list[float] = []
    sizes: list[int] = []
    chosen: list[int] = []
    for recording in recordings:
        keys = [str(index) for index in range(len(recording.speakers))]
        for k, rhythm in enumerate(rhythms(recording, keys)):
            candidates = [key for key in keys if key != rhythm.speaker]
            following = str(recording.turns[k + 1][0])
            if following not in candidates:
                continue
            chosen.append(len(x) + candidates.index(following))
            sizes.append(len(candidates))
            x.extend(rows(rhythm, candidates))
            offset.extend((talk or {}).get(recording.speakers[int(key)], 0.0) for key in candidates)
    lengths = np.array(sizes)
    return Choices(
        np.array(x), np.array(offset), np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths, np.array(chosen), weight
    )


def softmax(data: Choices, scores: Floats) -> Floats:
    """Probabilities within each choice set."""
    top = np.maximum.reduceat(scores, data.starts)
    powers = np.exp(scores - np.repeat(top, data.sizes))
    return np.asarray(powers / np.repeat(np.add.reduceat(powers, data.starts), data.sizes))


def fit(sets: list[Choices]) -> Floats:
    """Maximum likelihood with a ridge, by Newton's method."""
    width = len(FEATURES)
    weights = np.zeros(width)
    for _ in range(ITERATIONS):
        gradient = -RIDGE * weights
        curvature = RIDGE * np.eye(width)
        for data in sets:
            p = softmax(data, data.x @ weights)
            mean = np.add.reduceat(data.x * p[:, None], data.starts, axis=0)
            gradient += data.weight * (data.x[data.chosen].sum(0) - mean.sum(0))
            curvature += data.weight * ((data.x * p[:, None]).T @ data.x - mean.T @ mean)
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if float(np.abs(step).max()) < 1e-6:
            break
    return weights


def fit_prior(data: Choices, weights: Floats) -> float:
    """The one weight of the persona prior, the others held."""
    base = data.x @ weights
    weight = 0.0
    for _ in range(ITERATIONS):
        p = softmax(data, base + weight * data.offset)
        mean = np.add.reduceat(data.offset * p, data.starts)
        slope = float(data.offset[data.chosen].sum() - mean.sum())
        bend = float((data.offset**2 * p).sum() - (mean**2).sum())
        weight += slope / bend
    return weight


def talk_rates(recordings: list[Recording]) -> dict[str, float]:
    """ln of how much more often than an equal share each person speaks, for those seen often enough."""
    spoken: Counter[str] = Counter()
    expected: defaultdict[str, float] = defaultdict(float)
    for recording in recordings:
        for name in recording.speakers:
            expected[name] += len(recording.turns) / len(recording.speakers)
        spoken.update(recording.speakers[speaker] for speaker, _ in recording.turns)
    return {
        name: math.log((spoken[name] + 5) / (share + 5)) for name, share in expected.items() if share > PRIOR_MIN_TURNS
    }


def main() -> None:
    """Train and write the weights file."""
    parser = argparse.ArgumentParser(description="learn the turn policy's weights")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    crd3 = corpus.load(arguments.directory, "crd3", "train")
    irc = corpus.load(arguments.directory, "irc", "train")
    talk = talk_rates(crd3)
    spoken = choices(crd3, 1.0, talk)
    weights = fit([spoken, choices(irc, IRC_WEIGHT)])
    document = {
        "attribution": ATTRIBUTION,
        "talkativeness": round(fit_prior(spoken, weights), 4),
        "weights": {name: round(float(value), 5) for name, value in zip(FEATURES, weights, strict=True)},
    }
    arguments.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(crd3)} + {len(irc)} conversations, {len(FEATURES)} weights -> {arguments.out}")


if __name__ == "__main__":
    main()
