"""Lines that were written before: the author's, fitting the moment, one that was not said lately. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.sync.chance import Chance
from services.sync.context import Profile
from services.sync.speech.prompt import Reason

PLAIN = (
    "Hm. Let me think about that.",
    "Give me a moment.",
    "I am not sure what to say.",
    "Ask me again in a little while.",
    "My thoughts are elsewhere just now.",
)
_GREETING = re.compile(r"\b(welcome|hello|greetings|good (morning|day|evening)|well met|come in)\b", re.IGNORECASE)
_FAREWELL = re.compile(r"\b(farewell|goodbye|bye|safe (roads|travels)|until|see you)\b", re.IGNORECASE)


def canned(profile: Profile, reason: Reason, prompt: str, said: Sequence[str], rng: Chance) -> str:
    """said: the NPC's latest own lines, which are not repeated when others are left.

    Greetings greet and farewells part; everything else is answered by what is neither.
    """
    greets = reason is Reason.GREETING or bool(_GREETING.search(prompt) or re.match(r"\W*(hi|hey)\b", prompt.lower()))
    parts = bool(_FAREWELL.search(prompt))
    wanted = _GREETING if greets else _FAREWELL if parts else None
    lines = [line for line in profile.lines if line.strip()]
    fit = [line for line in lines if wanted.search(line)] if wanted else _neither(lines)
    for choice in (fit, _neither(lines), PLAIN):
        fresh = [line for line in choice if not any(one and one in line for one in said)]
        if fresh:
            return rng.choice(fresh)
    return rng.choice(PLAIN)


def _neither(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not (_GREETING.search(line) or _FAREWELL.search(line))]
