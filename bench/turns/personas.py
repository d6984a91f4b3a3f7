"""What a game would tell Earshot of CRD3's speakers: the names they answer to, and how talkative they are.

The players of that show speak through characters; an NPC's profile names such aliases. How talkative a person is, is
learnt from the train split. `known` gives both to recordings, as profiles give them to the service.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from services.chat.predict import Recording

ALIASES: Mapping[str, tuple[str, ...]] = {
    "ASHLEY": ("Pike", "Yasha"),
    "LAURA": ("Vex", "Vex'ahlia", "Jester"),
    "LIAM": ("Vax", "Vax'ildan", "Caleb"),
    "MARISHA": ("Keyleth", "Beau", "Beauregard"),
    "MATT": ("Matthew",),
    "ORION": ("Tiberius",),
    "SAM": ("Scanlan", "Nott", "Taryon", "Tary"),
    "TALIESIN": ("Percy", "Percival", "Molly", "Mollymauk", "Caduceus"),
    "TRAVIS": ("Grog", "Fjord"),
}
# A persona's talkativeness is taken from those who could have spoken this often.
MIN_TURNS = 400
SMOOTHING = 5


def talkativeness(recordings: Iterable[Recording]) -> dict[str, float]:
    """0..1 of each person seen often enough: the odds are how much more than an equal share the person speaks."""
    spoken: Counter[str] = Counter()
    expected: defaultdict[str, float] = defaultdict(float)
    for recording in recordings:
        for name in recording.speakers:
            expected[name] += len(recording.turns) / len(recording.speakers)
        spoken.update(recording.speakers[speaker] for speaker, _ in recording.turns)
    odds = {
        name: (spoken[name] + SMOOTHING) / (share + SMOOTHING) for name, share in expected.items() if share > MIN_TURNS
    }
    return {name: odd / (1 + odd) for name, odd in odds.items()}


def known(recordings: Iterable[Recording], talk: Mapping[str, float]) -> list[Recording]:
    """The recordings with what profiles would say."""
    return [
        replace(
            recording,
            aliases=tuple(ALIASES.get(name, ()) for name in recording.speakers),
            talkativeness=tuple(talk.get(name, 0.5) for name in recording.speakers),
        )
        for recording in recordings
    ]


def log_odds(talk: float) -> float:
    """ln(t / (1 - t)): what the model weighs."""
    return math.log(talk / (1 - talk))
