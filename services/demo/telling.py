"""What the audience of a narration knows already, so that everything is told once, and what was counted on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from services.demo.names import Names

# What is remembered of turns and utterances; the newest stay.
KEPT: Final = 128


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted while telling. Milliseconds to the first sentence are what the server reports per turn."""

    turns: int = 0
    silences: int = 0
    unheard: int = 0
    failures: int = 0
    runtime_calls: int = 0
    actions: int = 0
    # Blocks brought up to date although nobody was about to speak.
    pushes: int = 0
    first_sentence_ms: int = 0
    first_sentences: int = 0


@dataclass(frozen=True, slots=True)
class Telling:
    """What the audience already knows."""

    names: Names = field(default_factory=Names)
    tally: Tally = field(default_factory=Tally)
    # Turn -> why it was granted, "" when that is told. A turn leaves when it is over.
    turns: Mapping[str, str] = field(default_factory=dict)
    # Turns that reached a runtime, turns that spoke, told utterances, utterances whose silence was told; newest last.
    asked: tuple[str, ...] = ()
    spoke: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    # Utterance that is not told yet -> why nobody answers it.
    waiting: Mapping[str, str] = field(default_factory=dict)
    # Turn of the sentence told last, "" after anything else: its next sentence needs no name.
    speaking: str = ""
    # Troubles that were told.
    refused: tuple[str, ...] = ()
    # NPC -> (block writes, turns) as last read; None = never read.
    synced: Mapping[str, tuple[int, int]] | None = None

    def count(self, **more: int) -> Telling:
        """Add to the tally, by its names."""
        tally = self.tally
        return replace(self, tally=replace(tally, **{name: getattr(tally, name) + n for name, n in more.items()}))

    def ask(self, turn: str) -> Telling:
        """Count a turn that reached a runtime, once."""
        if not turn or turn in self.asked:
            return self
        return replace(self, asked=kept(self.asked, turn)).count(runtime_calls=1)

    def start(self, turn: str, why: str) -> Telling:
        """Remember why a turn was granted until it is over."""
        return replace(self, turns=newest({**self.turns, turn: why}))

    def end(self, turn: str) -> Telling:
        """Forget a turn that is over."""
        return replace(self, turns={id: why for id, why in self.turns.items() if id != turn})

    def speak(self, turn: str) -> Telling:
        """Note that a turn speaks."""
        return replace(self.ask(turn), speaking=turn, spoke=kept(self.spoke, turn))

    def hear(self, utterance: str) -> Telling:
        """Note that a player's line was told."""
        return replace(self, said=kept(self.said, utterance)) if utterance else self

    def wait(self, utterance: str, why: str) -> Telling:
        """Keep why nobody answers until the line itself is told."""
        return replace(self, waiting=newest({**self.waiting, utterance: why}))


def kept(ids: tuple[str, ...], id: str) -> tuple[str, ...]:
    """Add an id that is not there yet; the oldest gives way."""
    return ids if id in ids else (*ids[1 - KEPT :], id)


def newest(entries: Mapping[str, str]) -> dict[str, str]:
    """The newest entries."""
    return dict(list(entries.items())[-KEPT:])
