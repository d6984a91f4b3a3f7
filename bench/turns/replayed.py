"""Runtime calls per player message when recorded conversations are played through the room's reducer.

Two, or eight, of the participants are NPCs (strangers are added where a conversation has fewer). The others say what
they said, as fast as people write; an NPC that is asked answers after a second with the next line that it said in the
recording, or with a word when it has none left. Greetings are off and nobody is clicked: what is counted is the policy.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.result import Result
from bench.turns import evaluate
from services.chat import hygiene, reducer
from services.chat.conversation import World
from services.chat.effects import Ask, Cancel
from services.chat.inputs import Cluster, Heard, Input, Loaded, Observed, Spoke, TimerFired, TurnEnded, TurnStarted
from services.chat.policy import NPC, PLAYER, Participant
from services.chat.predict import Recording
from services.chat.rules import Rules

GOAL, HARD = 0.6, 2
# Milliseconds: a line is written in this much and so much more per character; an NPC answers after a second.
WRITING_MS, CHARACTER_MS, WRITTEN_MAX = 1_500, 40, 120
ANSWER_MS = 1_000
SPARE = "Indeed."
RULES = Rules(greetings=False)


@dataclass(slots=True)
class Played:
    """messages: of players; calls: of each message; chain: NPC turns since a player spoke, at most."""

    messages: int = 0
    calls: list[int] = field(default_factory=list)
    silences: int = 0
    chain: int = 0

    @property
    def mean(self) -> float:
        """Calls per player message, those after an awkward silence included."""
        return (sum(self.calls) + self.silences) / max(self.messages, 1)


@dataclass(slots=True)
class _Stage:
    """One conversation: the world, what is still to happen, what NPCs have left to say."""

    people: tuple[Participant, ...]
    lines: dict[str, list[str]]
    played: Played
    world: World = field(default_factory=World)
    now: int = 0
    later: list[tuple[int, int, Input]] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    order: itertools.count[int] = field(default_factory=itertools.count)
    calls: dict[str, int] = field(default_factory=dict)

    def feed(self, item: Input) -> None:
        step = reducer.reduce(self.world, item)
        self.world = step.world
        self.played.chain = max([self.played.chain, *(c.npc_turns for c in self.world.conversations.values())])
        for effect in step.effects:
            if isinstance(effect, Ask):
                self._asked(effect)
            elif isinstance(effect, Cancel):
                self.cancelled.add(effect.turn_id)

    def _asked(self, ask: Ask) -> None:
        floor = self.world.conversations[ask.conversation_id].floor
        causes = floor.causes if floor is not None and floor.id == ask.turn_id else ()
        if causes:
            self.calls[causes[-1]] = self.calls.get(causes[-1], 0) + 1
        else:
            self.played.silences += 1
        left = self.lines.get(ask.npc_id, [])
        at = self.now + ANSWER_MS
        said = Spoke(at, ask.turn_id, left.pop(0) if left else SPARE)
        started = TurnStarted(at, ask.turn_id, 1, 0, "recorded", False, {})
        for item in (started, said, TurnEnded(at, ask.turn_id, "spoke")):
            heapq.heappush(self.later, (at, next(self.order), item))

    def until(self, at: int) -> None:
        """Let everything happen that is due before a time."""
        while True:
            timer = min(self.world.timers, key=lambda name: (self.world.timers[name], name), default="")
            due = self.world.timers.get(timer, at + 1)
            first = self.later[0][0] if self.later else at + 1
            if min(due, first) > at:
                break
            if due <= first:
                self.now = max(self.now, due)
                self.feed(TimerFired(self.now, timer))
                continue
            self.now, _, item = heapq.heappop(self.later)
            turn = getattr(item, "turn_id", "")
            if turn not in self.cancelled:
                self.feed(item)
        self.now = at


def play(recordings: Iterable[Recording], npcs: int) -> Played:
    """Play all conversations with so many NPCs."""
    played = Played()
    for recording in recordings:
        _play(recording, npcs, played)
    return played


def _play(recording: Recording, npcs: int, played: Played) -> None:
    chance = random.Random(f"{recording.id}/{npcs}")
    chosen = evaluate.npcs(recording, 0) if npcs == 2 else frozenset(_many(recording, npcs, chance))
    people = tuple(
        Participant(str(i), name, NPC if i in chosen else PLAYER, (hygiene.name(name, str(i)),))
        for i, name in enumerate(recording.speakers)
    )
    strangers = tuple(Participant(f"s{i}", f"Stranger{i}", NPC, (f"Stranger{i}",)) for i in range(npcs - len(chosen)))
    lines = {str(i): [_short(text) for speaker, text in recording.turns if speaker == i] for i in chosen}
    stage = _Stage((*people, *strangers), lines, played)
    stage.feed(Loaded(0, 0, "r", RULES))
    stage.feed(Observed(0, 1, 0, False, (Cluster("L", stage.people),), (), True))
    for speaker, text in recording.turns:
        if speaker in chosen:
            continue
        stage.until(stage.now + WRITING_MS + CHARACTER_MS * min(len(text), WRITTEN_MAX))
        played.messages += 1
        stage.feed(Heard(stage.now, people[speaker], _short(text), 1))
    stage.until(stage.now + 60_000)
    played.calls.extend(stage.calls.values())


def _many(recording: Recording, npcs: int, chance: random.Random) -> list[int]:
    """Up to so many of the speakers, but at least two stay players."""
    people = range(len(recording.speakers))
    return chance.sample(people, max(0, min(npcs, len(people) - 2)))


def _short(text: str) -> str:
    return hygiene.clean(text)[: hygiene.LIMIT] or "..."


def records(corpora: dict[str, list[Recording]]) -> list[dict[str, Any]]:
    """Mean and largest number of calls per player message, with 2 and with 8 NPCs."""
    found = []
    for name, recordings in corpora.items():
        for npcs in (2, 8):
            played = play(recordings, npcs)
            title = f"{name}: replay with {npcs} NPCs"
            found += [
                Result(f"{title}, calls per player message", played.mean, "calls", GOAL, "less").record(),
                Result(f"{title}, most calls for one", max(played.calls, default=0), "calls", HARD, "less").record(),
                Result(f"{title}, longest chain", played.chain, "NPC turns", RULES.turns_hard, "less").record(),
            ]
    return found
