"""Which threshold separates an NPC's turn from silence best, on conversations that the weights were not learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.turns import evaluate
from services.chat import policy
from services.chat.model import Model
from services.chat.predict import Recording, predict
from services.chat.rules import Rules

TAUS = (0.4, 0.45, 0.5, 0.55)
CROWDS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
CALLS_MAX = 0.6

Parts = Sequence[tuple[Model, Mapping[str, Sequence[Recording]]]]


def report(parts: Parts) -> str:
    """One line per pair: balanced accuracy and calls per player message of each corpus, the best first."""
    found: dict[tuple[float, float], dict[str, evaluate.Gate]] = {}
    for weights, corpora in parts:
        for name, recordings in corpora.items():
            for recording in recordings:
                _count(found, name, recording, weights)
    ranked = sorted(found.items(), key=lambda item: -_worth(item[1]))
    return "\n".join(
        f"tau {tau} tau_crowd {crowd}: "
        + ", ".join(f"{name} {gate.balanced:.2f} % {gate.calls / gate.players:.3f} calls" for name, gate in by.items())
        for (tau, crowd), by in ranked[:12]
    )


def _worth(gates: Mapping[str, evaluate.Gate]) -> float:
    """Mean balanced accuracy; nothing when a player's message costs too many calls."""
    if any(gate.calls / gate.players > CALLS_MAX for gate in gates.values()):
        return 0.0
    return sum(gate.balanced for gate in gates.values()) / len(gates)


def _count(
    found: dict[tuple[float, float], dict[str, evaluate.Gate]], corpus: str, recording: Recording, weights: Model
) -> None:
    rows = predict(recording, weights)
    casts = [evaluate.npcs(recording, seed) for seed in range(2)]
    for k, row in enumerate(rows):
        speaker, following = recording.turns[k][0], recording.turns[k + 1][0]
        if speaker == following:
            continue
        for chosen in casts:
            p_any, present = sum(row[i] for i in chosen), len(chosen - {speaker})
            for tau in TAUS:
                for crowd in CROWDS:
                    bar = policy.threshold(Rules(tau=tau, tau_crowd=crowd), present, len(row) - 1 - present)
                    gate = found.setdefault((tau, crowd), {}).setdefault(corpus, evaluate.Gate())
                    gate.add(p_any > bar, following in chosen, speaker not in chosen)
