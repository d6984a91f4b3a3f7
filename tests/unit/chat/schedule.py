"""Random schedules against the reducer alone: a world driven by a seed, and the promises that must hold in its log.

Faster than the room in virtual time by orders of magnitude, so many schedules fit in a test: players talk, move and
interrupt; turns speak, pass, fail and are late; owners crash and the log is replayed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.chat import reducer, vocative
from services.chat.conversation import SOLO, Act, World
from services.chat.effects import Accepted, Ask, Cancel, Settled
from services.chat.events import Did, Event, Moved, Said, Turned
from services.chat.inputs import (
    Acted,
    Cluster,
    Heard,
    Input,
    Loaded,
    Observed,
    PlayerErased,
    PlayerLocated,
    Spoke,
    TimerFired,
    Transition,
    TurnEnded,
    TurnStarted,
    Wished,
    decode,
    encode,
)
from services.chat.policy import NPC, PLAYER, Participant
from services.chat.rules import Rules

NPCS = ("mara", "brom", "wyn", "tess")
PLAYERS = ("p1", "p2", "p3")
NAMES = {"mara": "Mara", "brom": "Brom", "wyn": "Wyn", "tess": "Tess", "p1": "Ada", "p2": "Ben", "p3": "Cleo"}
TERMINAL = {"ended", "declined", "cancelled", "failed", "silent"}
PHRASES = (
    "What a day.", "{0}, are you there?", "I met {0} yesterday.", "{0}, {1}, come here!", "Anyone hungry?",
    "Bye {0}.", "Thanks, {0}!", "Where is the mine?", "We should go.",
)  # fmt: skip


def person(name: str) -> Participant:
    return Participant(name, NAMES[name], NPC if name in NPCS else PLAYER, (NAMES[name],))


@dataclass
class Running:
    """A turn that was asked: how many sentences it still has, when the next thing comes, how it ends."""

    npc: str
    due: int
    left: int
    outcome: str
    started: bool = False


@dataclass
class Schedule:
    """One seeded run. always_reply: NPCs never pass or fail and always name another NPC."""

    seed: int
    rules: Rules = field(default_factory=lambda: Rules(cooldown_greeting_ms=20_000, absence_ms=60_000))
    always_reply: bool = False
    world: World = field(default_factory=World)
    log: list[Event] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    now: int = 0
    revision: int = 0
    running: dict[str, Running] = field(default_factory=dict)
    clusters: dict[str, list[str]] = field(default_factory=dict)
    accepted: dict[str, tuple[str, str]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    lineages: int = 0
    asks: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.feed(Loaded(0, 0, "d", self.rules))
        self.move()

    # -- driving -------------------------------------------------------------------------------------------------------

    def feed(self, item: Input) -> None:
        before = reducer.encode(self.world) if self.random.random() < 0.02 else b""
        known = self.world
        step = reducer.reduce(self.world, item)
        if before:
            assert reducer.encode(known) == before, "reduce changed the state that it was given"
        self.inputs.append(decode(encode(item)))
        self.world = step.world
        self.log.extend(step.events)
        for effect in step.effects:
            match effect:
                case Ask():
                    self._asked(effect)
                case Cancel():
                    self.running.pop(effect.turn_id, None)
                case Settled():
                    self.settled.add(effect.utterance_id)
                case Accepted() if not effect.duplicate and not effect.unheard and isinstance(item, Heard):
                    self.accepted[effect.utterance_id] = (item.speaker.id, item.text)
        self.check()

    def _asked(self, ask: Ask) -> None:
        self.asks += 1
        outcome = "spoke" if self.always_reply else self.random.choices(("spoke", "passed", "failed"), (8, 1, 1))[0]
        sentences = self.random.randint(1, 3) if outcome == "spoke" else 0
        self.running[ask.turn_id] = Running(ask.npc_id, self.now + self.delay(), sentences, outcome)

    def delay(self) -> int:
        return self.random.randint(500, 5000)

    def run(self, steps: int) -> None:
        """Random steps, then quiet until nothing is left to happen."""
        actions = (self.talk, self.move, self.crash, self.decide, self.wait, self.stale, self.erase)
        for _ in range(steps):
            self.random.choices(actions, (10, 3, 0.3, 0.5, 6, 0.5, 0.1))[0]()
        for _ in range(400):
            if not self.running and not self.world.timers:
                break
            self.wait(quiet=True)
        assert not self.world.open, "an utterance never settled"
        assert all(conversation.floor is None for conversation in self.world.conversations.values())

    def talk(self) -> None:
        self.now += self.random.randint(0, 3000)
        speaker = self.random.choice(PLAYERS)
        text = self.random.choice(PHRASES).format(*self.random.sample([NAMES[name] for name in NPCS + PLAYERS], 2))
        old = self.random.random() < 0.1
        direct = self.random.choice(NPCS) if self.random.random() < 0.1 else ""
        waiting = [npc for members in self.clusters.values() if speaker in members for npc in members if npc in NPCS]
        for npc in waiting if old else [""]:
            self.feed(Heard(self.now, person(speaker), text, self.revision, to_npc=direct, waiting_npc=npc))

    def move(self) -> None:
        """Partition everybody anew; lineages go on where they share members."""
        self.now += self.random.randint(0, 500)
        groups: list[list[str]] = [[] for _ in range(self.random.randint(1, 3))]
        for name in NPCS + PLAYERS:
            if self.random.random() < 0.85:
                self.random.choice(groups).append(name)
        before, self.clusters = self.clusters, {}
        for members in sorted((group for group in groups if len(group) > 1), key=len, reverse=True):
            heir = max(
                (lineage for lineage in before if lineage not in self.clusters and set(before[lineage]) & set(members)),
                key=lambda lineage: (len(set(before[lineage]) & set(members)), lineage),
                default="",
            )
            if not heir:
                self.lineages += 1
                heir = f"L{self.lineages}"
            self.clusters[heir] = members
        self.revision += 1
        self.observe(self._transitions(before), gap=self.random.random() < 0.2)

    def observe(self, transitions: tuple[Transition, ...], *, gap: bool) -> None:
        clusters = tuple(Cluster(k, tuple(person(name) for name in v)) for k, v in self.clusters.items())
        self.feed(Observed(self.now, self.revision, 0, False, clusters, transitions, gap))

    def _transitions(self, before: dict[str, list[str]]) -> tuple[Transition, ...]:
        found: list[Transition] = []
        for lineage, members in self.clusters.items():
            if lineage in before:
                came = tuple(name for name in members if name not in before[lineage])
                went = tuple(name for name in before[lineage] if name not in members)
                if came:
                    found.append(Transition("joined", lineage, came, "", self.revision))
                if went:
                    found.append(Transition("left", lineage, went, "", self.revision))
                continue
            source = next((old for old, was in before.items() if set(was) & set(members)), "")
            kind = "split" if source in self.clusters else "formed"
            found.append(Transition(kind, lineage, tuple(members), source if kind == "split" else "", self.revision))
        for lineage, members in before.items():
            if lineage in self.clusters:
                continue
            target = next((new for new, now in self.clusters.items() if set(now) & set(members)), "")
            if target:
                found.append(Transition("merged", target, tuple(members), lineage, self.revision))
            else:
                found.append(Transition("dissolved", lineage, tuple(members), "", self.revision))
        return tuple(found)

    def crash(self) -> None:
        """A new owner recovers by replay: the same bytes, then its own numbers."""
        replayed, log, _ = reducer.replay(World(), self.inputs)
        assert reducer.encode(replayed) == reducer.encode(self.world), "replay came to another state"
        assert log == self.log, "replay came to another log"
        self.world = reducer.decode(reducer.encode(replayed))
        self.running.clear()
        self.now += self.random.randint(100, 20_000)
        self.feed(Loaded(self.now, self.log[-1].seq if self.log else 0, "d", self.rules))

    def decide(self) -> None:
        npc = self.random.choice(NPCS)
        self.feed(Wished(self.now, person(npc), ("a storm",), True, self.random.random() < 0.3, self.revision, "r"))

    def stale(self) -> None:
        """Late output of a turn that has lost the floor."""
        turns = [event.body.turn_id for event in self.log if isinstance(event.body, Turned)]
        held = {c.floor.id for c in self.world.conversations.values() if c.floor is not None}
        gone = [turn for turn in turns if turn not in held]
        if gone:
            turn = self.random.choice(gone)
            length = len(self.log)
            self.feed(Spoke(self.now, turn, "Too late."))
            self.feed(Acted(self.now, turn, Act("a", "wave", b"{}")))
            self.feed(TurnEnded(self.now, turn, "spoke"))
            assert len(self.log) == length, "something stale was delivered"

    def erase(self) -> None:
        player = self.random.choice(PLAYERS)
        self.feed(PlayerErased(self.now, player))
        # Not in the bytes: two letters may stand in any float.
        assert repr(player) not in repr(self.world), "the state still knows an erased player"
        self.revision += 1
        self.observe((), gap=True)

    def wait(self, *, quiet: bool = False) -> None:
        """Let time pass to the next thing that is due."""
        turn = min(self.running, key=lambda name: (self.running[name].due, name), default="")
        timer = min(self.world.timers, key=lambda name: (self.world.timers[name], name), default="")
        turn_due = self.running[turn].due if turn else 1 << 60
        timer_due = self.world.timers[timer] if timer else 1 << 60
        if not turn and not timer:
            self.now += 1000
        elif timer_due <= turn_due:
            self.now = max(self.now, timer_due)
            self.feed(TimerFired(self.now, timer))
            if timer.startswith("absence:"):
                self.feed(PlayerLocated(self.now, timer.partition(":")[2], not quiet and self.random.random() < 0.5))
        else:
            self.now = max(self.now, turn_due)
            self.advance(turn)

    def advance(self, turn: str) -> None:
        running = self.running[turn]
        if not running.started:
            running.started = True
            self.feed(TurnStarted(self.now, turn, self.revision, 0, "fake", False, {"read": 1}))
        elif running.left:
            running.left -= 1
            other = self.random.choice([name for name in NPCS if name != running.npc])
            text = (
                f"{NAMES[other]}, what do you say?"
                if self.always_reply
                else self.random.choice(PHRASES).format("you", "me")
            )
            self.feed(Spoke(self.now, turn, text))
        else:
            del self.running[turn]
            reason = self.random.choice(("AGENT_BUSY", "DEADLINE")) if running.outcome == "failed" else ""
            self.feed(TurnEnded(self.now, turn, running.outcome, reason))
            return
        if turn in self.running:
            running.due = self.now + self.delay()

    # -- promises ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds after every input."""
        speakers = [c.floor.npc_id for c in self.world.conversations.values() if c.floor is not None]
        assert len(speakers) == len(set(speakers)), "one NPC has two floors"
        rules = self.rules
        for utterance in self.world.open.values():
            assert utterance.calls <= rules.calls_per_message, "too many runtime calls for one message"
        for conversation in self.world.conversations.values():
            assert conversation.npc_turns <= rules.turns_hard or conversation.id.startswith(SOLO), (
                "the chain is too long"
            )
            assert len(conversation.owed) <= rules.addressed_max
            if conversation.floor is not None:
                assert conversation.floor.npc_id in conversation.members
        held = sum(c.floor is not None and c.floor.phase != "queued" for c in self.world.conversations.values())
        assert held <= rules.urgent_workers + rules.conversation_workers

    def promises(self) -> Iterator[str]:
        """What the whole log breaks."""
        numbers = [event.seq for event in self.log]
        if numbers != sorted(set(numbers)):
            yield "numbers do not grow"
        yield from self._turns()
        yield from self._answers()
        for utterance in self.accepted:
            if utterance not in self.settled and not self._crashed():
                yield f"{utterance} was never settled"
        said = {event.body.utterance_id for event in self.log if isinstance(event.body, Said)}
        for utterance in self.accepted:
            if utterance not in said:
                yield f"{utterance} is not in the log"

    def _crashed(self) -> bool:
        return sum(isinstance(item, Loaded) for item in self.inputs) > 1

    def _turns(self) -> Iterator[str]:
        """Each turn starts once and ends once; between them alone it speaks; in one conversation one at a time."""
        state: dict[str, str] = {}
        voice: dict[str, tuple[str, str]] = {}
        members: dict[str, set[str]] = {}
        for event in self.log:
            body = event.body
            if isinstance(body, Moved):
                members[event.conversation_id] = {one.id for one in body.members}
            elif isinstance(body, Turned) and body.phase == "started":
                if body.turn_id in state:
                    yield f"{body.turn_id} started twice"
                state[body.turn_id] = "open"
            elif isinstance(body, Turned):
                if state.get(body.turn_id, "new") == "closed":
                    yield f"{body.turn_id} ended twice"
                state[body.turn_id] = "closed"
            elif isinstance(body, Said) and body.ai:
                if state.get(body.turn_id) != "open":
                    yield f"{body.turn_id} spoke without the floor"
                other, npc = voice.get(event.conversation_id, (body.turn_id, ""))
                # A turn follows its speaker: one that went away goes on elsewhere.
                here = npc in members.get(event.conversation_id, ())
                if other != body.turn_id and state.get(other) == "open" and here:
                    yield f"{body.turn_id} spoke while {other} had not ended"
                voice[event.conversation_id] = (body.turn_id, body.speaker_id)
                if event.conversation_id in members and body.speaker_id not in members[event.conversation_id]:
                    yield f"{body.speaker_id} spoke where it is not"
            elif isinstance(body, Did) and state.get(body.turn_id) != "open":
                yield f"{body.turn_id} acted without the floor"
        for turn, phase in state.items():
            if phase == "open":
                yield f"{turn} never ended"

    def _answers(self) -> Iterator[str]:
        """An NPC that a player addressed alone has a turn after it, or an explicit failure."""
        addressed: dict[str, tuple[int, str]] = {}
        members: dict[str, list[str]] = {}
        erased = any(isinstance(item, PlayerErased) for item in self.inputs)
        old = {item.text for item in self.inputs if isinstance(item, Heard) and (item.waiting_npc or item.to_npc)}
        for event in self.log:
            body = event.body
            if isinstance(body, Moved):
                members[event.conversation_id] = [one.id for one in body.members]
            elif isinstance(body, Said) and not body.ai and body.hearers and body.text not in old:
                present = members[event.conversation_id]
                if body.speaker_id in present:
                    found = vocative.parse(body.text, [(NAMES[n],) for n in present], present.index(body.speaker_id))
                    npcs = [present[i] for i in found.addressed if present[i] in NPCS]
                    if len(npcs) == 1:
                        addressed[body.utterance_id] = (event.seq, npcs[0])
        for utterance, (seq, npc) in addressed.items():
            told = any(
                isinstance(event.body, Turned)
                and event.seq > seq
                and event.body.npc_id == npc
                and event.body.phase in TERMINAL
                for event in self.log
            )
            if not told and not erased:
                yield f"{npc} was addressed in {utterance} and nothing came of it"
