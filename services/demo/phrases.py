"""What reasons, actions and numbers of the API are called in front of a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.demo.terminal import clean

# Why an NPC was given the floor. A reason that is not here is shown in its own words.
SPOKE_BECAUSE: Final = {
    "TURN": "",
    "VOCATIVE": "called by name",
    "DIRECT": "chosen by a player",
    "STAND_IN": "steps in for another",
    "GATE": "felt spoken to",
    "GREETING": "greets who came",
    "SILENCE": "broke the silence",
    "DECIDE": "had something to decide",
    "COMBAT": "is in combat",
}
# Why nobody speaks, or why who spoke stopped.
SILENT_BECAUSE: Final = {
    "ADDRESSED_PLAYER": "it was said to another player",
    "GATE": "no NPC felt spoken to",
    "COOLDOWN": "who would speak has just spoken",
    "PASSED": "had nothing to add",
    "AGENT_BUSY": "still busy",
    "RATE_LIMITED": "too many messages at once",
    "BARGE_IN": "a player spoke",
    "DEADLINE": "the time was up",
    "BUSY": "who would speak is busy",
    "NO_NPC": "no NPC can answer",
    "GOODBYE": "goodbye was said",
    "PAIR_COOLDOWN": "these two have talked enough for now",
    "LEFT": "who was asked has left",
    "NOBODY_LISTENS": "nobody listens any more",
    "SUPERSEDED": "something newer was said",
    "CALL_LIMIT": "enough was asked for one message",
    "MERGED": "two groups became one",
    "CHAIN_LIMIT": "the NPCs have talked enough among themselves",
    "OWNER_LOST": "the server was restarted",
}


def phrase(phrases: Mapping[str, str], reason: object) -> str:
    """Say a reason; "" when there is none."""
    return phrases.get(reason, words(reason)) if isinstance(reason, str) else ""


def words(name: object) -> str:
    """UPPER_SNAKE and lower_snake for a person."""
    return clean(name, 60).replace("_", " ").casefold()


def action(name: object, data: object) -> str:
    """Say an action with its plain arguments, as "emote (wave)"."""
    arguments = data.values() if isinstance(data, Mapping) else ()
    shown = ", ".join(clean(str(value), 24) for value in arguments if isinstance(value, str | int | float))
    return f"{words(name)} ({shown})" if shown else words(name)


def duration(ms: int) -> str:
    """Say milliseconds, from one second on in seconds."""
    if ms < 1:
        return "less than 1 ms"
    return f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"
