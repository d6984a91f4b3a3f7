"""What one decision costs: an utterance read, heard and judged, as the reducer does it."""

from __future__ import annotations

import random
import time
from typing import Any

from bench.figures import percentile
from bench.result import Result
from services.chat import cues, model, policy, vocative
from services.chat.policy import NPC, PLAYER, Participant, Scene
from services.chat.rhythm import Rhythm, hear
from services.chat.rules import Rules

GOALS_MS = {8: 2.0, 40: 5.0}
UTTERANCES = 1000


def measure(people: int) -> list[float]:
    """Milliseconds of wall time of each decision, sorted; half of those present are NPCs."""
    cast = tuple(
        Participant(f"x{n}", f"Name{n} Surname{n}", NPC if n % 2 else PLAYER, (f"Name{n}", f"Alias{n}"))
        for n in range(people)
    )
    chance = random.Random(1)
    ids = [person.id for person in cast]
    names = [person.names for person in cast]
    rhythm, took = Rhythm(), []
    for number in range(UTTERANCES):
        who = chance.randrange(people)
        text = f"Alias{chance.randrange(people)}, what do you think of number {number}? " + "words " * 25
        began = time.perf_counter()
        address = vocative.parse(text, names, who)
        rhythm = hear(rhythm, ids[who], address, ids, cues.read(text))
        policy.decide(Rules(), Scene(cast, rhythm, ids[who], (), seed=str(number)), model.default())
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


def records() -> list[dict[str, Any]]:
    """p50 and p99 with 8 and with 40 participants."""
    found = []
    for people, goal in GOALS_MS.items():
        took = measure(people)
        for share in (0.5, 0.99):
            name = f"decision with {people} participants, p{share * 100:.0f}"
            found.append(Result(name, percentile(took, share), "ms", goal, "less").record())
    return found
