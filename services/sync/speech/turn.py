"""What a turn is asked and what comes of it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from services.sync.blocks.memory import happened
from services.sync.blocks.situation import where
from services.sync.context import Context, Key
from services.sync.hygiene import clean, clean_name
from services.sync.runtimes.port import Scene
from services.sync.speech.prompt import Line, Reason


@dataclass(frozen=True, slots=True)
class Ask:
    """One Converse. deadline: loop time. lines: what the NPC witnessed, oldest first."""

    key: Key
    turn_id: str
    min_revision: int
    reason: Reason
    lines: tuple[Line, ...]
    deadline: float
    player_ids: tuple[str, ...] = ()
    happened: tuple[str, ...] = ()
    speech: bool = True
    actions: bool = True
    generation: int = 0
    # Older lines that fit what is being said.
    recalled: tuple[Line, ...] = ()
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class BlockState:
    """What the agent holds of one block when it is asked."""

    label: str
    revision: int
    digest: str
    written: bool


@dataclass(frozen=True, slots=True)
class Started:
    """The model is being asked. A runtime that fails before it spoke is followed by another Started.

    degraded: "" = a model answers, else cached, markov, canned, offline; why: the reason that no model does.
    """

    revision: int
    age_ms: int
    blocks: tuple[BlockState, ...]
    runtime: str
    inlined: bool
    read_ms: int
    write_ms: int
    degraded: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One sentence."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Acted:
    """One action for the game."""

    action_id: str
    type: str
    data: Mapping[str, Any]


class Ended(Enum):
    """How a turn ended."""

    SPOKE = "spoke"
    PASSED = "passed"
    ACTED = "acted"


@dataclass(slots=True)
class Spent:
    """Tokens and calls so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a turn that did not fail."""

    outcome: Ended
    spent: Spent
    runtime: str
    model: str
    degraded: str
    first_sentence_ms: int
    total_ms: int
    why: str = ""


Event = Started | Spoken | Acted | Finished


@dataclass(slots=True)
class Progress:
    """What the caller has got so far, over all attempts of a turn. Times are loop time."""

    started_at: float
    read_ms: int = 0
    sentences: int = 0
    actions: int = 0
    first_at: float | None = None
    spent: Spent = field(default_factory=Spent)
    intents: int = 0

    @property
    def given(self) -> bool:
        """Something reached the caller: no other runtime may answer this turn."""
        return self.sentences > 0 or self.actions > 0


def scene_of(context: Context, ask: Ask, places: tuple[str, ...]) -> Scene:
    """The turn's facts, for runtimes without a model."""
    heard = next((line for line in reversed(ask.lines) if not line.own and not line.notice), None)
    if ask.reason is not Reason.REPLY:
        heard = None
    events = (happened(event, context) for event in context.events)
    return Scene(
        name=clean_name(context.profile.name),
        persona=context.profile.persona,
        lines=context.profile.lines,
        place=where(context) if context.place is not None else "",
        action=clean(context.action, 60),
        combat=context.combat,
        health_percent=context.health_percent,
        players=tuple(clean_name(member.name) for member in context.members if member.player),
        npcs=tuple(clean_name(member.name) for member in context.members if not member.player),
        left=tuple(clean_name(one.name) for one in context.departed),
        happened=(*filter(None, events), *(clean(text, 200) for text in ask.happened)),
        places=tuple(clean_name(place) for place in places),
        speaker=clean_name(heard.speaker) if heard is not None else "",
        speaker_is_player=heard.player if heard is not None else True,
        said=clean(heard.text, 600) if heard is not None else "",
        own_lines=tuple(line.text for line in ask.lines if line.own),
        reason=ask.reason.value,
    )
