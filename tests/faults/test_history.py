"""The checker of histories is checked: it passes what a correct Earshot may do, and finds every planted violation."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.faults.history import End, Event, History, Page, Read, Record, Session, Snapshot, Utterance, violations

SKIP = 65_536
T = TypeVar("T", Session, Snapshot, Utterance, Read, Page)


@dataclass
class World:
    """A correct world, one step at a time: crashes lose answers and what was not acknowledged, nothing else."""

    rng: random.Random
    name: str
    history: History
    now: float = 0.0
    revision: int = 0
    mark: int = 0
    sent: int = 0
    epoch: int = 0
    seq: int = 0
    cursor: int = 0
    base: int = 0
    log: list[Event] = field(default_factory=list)

    def tick(self) -> float:
        self.now += self.rng.uniform(0.001, 0.1)
        return self.now

    def append(self, **what: Any) -> Event:
        seq = max(self.base, self.log[-1].seq if self.log else 0) + 1
        event = Event(seq=seq, revision=self.revision, conversation="c", **what)
        self.log.append(event)
        return event

    def open(self) -> None:
        began = self.tick()
        self.epoch += 1
        self.seq = 0
        self.history.add(Session(self.name, began, self.tick(), self.epoch))

    def snapshot(self) -> None:
        began = self.tick()
        self.sent += 1
        self.seq += 1
        one = Snapshot(self.name, self.epoch, self.seq, self.sent, began)
        answered, happened = self.rng.random() < 0.8, self.rng.random() < 0.5
        if answered or happened:
            self.revision += 1
            self.mark = self.sent
        if answered:
            one = replace(one, ended=self.tick(), outcome="applied", revision=self.revision)
        self.history.add(one)

    def say(self) -> None:
        began = self.tick()
        text = f"line {len(self.history.records)}"
        one = Utterance(self.name, text, began)
        answered, happened = self.rng.random() < 0.8, self.rng.random() < 0.5
        if answered or happened:
            seq = max(self.base, self.log[-1].seq if self.log else 0) + 1
            self.append(type="utterance", utterance_id=f"u-x-{seq}", text=text)
            self.answer(f"u-x-{seq}")
        if answered:
            one = replace(one, ended=self.tick(), utterance_id=f"u-x-{seq}")
        self.history.add(one)

    def answer(self, cause: str) -> None:
        turn = f"t-{len(self.log)}"
        self.append(type="turn", phase="started", turn_id=turn, npc="mara", cause=cause)
        for sentence in range(self.rng.randrange(3)):
            self.append(type="utterance", turn_id=turn, sentence=sentence, npc="mara", text="Well.")
        phase = self.rng.choice(["ended", "ended", "failed", "cancelled"])
        self.append(type="turn", phase=phase, turn_id=turn, npc="mara", cause=cause)

    def read(self) -> None:
        began = self.tick()
        self.history.add(Read(self.name, began, self.tick(), self.revision, self.mark))

    def poll(self) -> None:
        page = tuple(one for one in self.log if one.seq > self.cursor)[: self.rng.randrange(1, 9)]
        after = page[-1].seq if page else self.cursor
        self.history.add(Page(self.name, self.cursor, page, after))
        if self.rng.random() < 0.9:  # else the answer is asked for once more
            self.cursor = after

    def crash(self) -> None:
        self.tick()
        self.revision += SKIP
        self.base = (self.log[-1].seq if self.log else 0) + SKIP

    def end(self) -> End:
        return End(self.revision, self.mark, tuple(self.log))


@dataclass
class Run:
    history: History
    ends: dict[str, End]
    rng: random.Random

    def kinds(self) -> set[str]:
        return {one.kind for one in violations(self.history, self.ends)}

    def pick(self, kind: type[T], wanted: Callable[[T], bool] = bool) -> T:
        """One record of a kind; a run without gives another run a try."""
        found = [one for one in self.history.records if isinstance(one, kind) and wanted(one)]
        assume(found)
        return self.rng.choice(found)

    def put(self, old: Record, new: Record) -> None:
        self.history.records[self.history.records.index(old)] = new

    def change_log(self, world: str, change: Callable[[list[Event]], None]) -> None:
        log = list(self.ends[world].log)
        change(log)
        self.ends[world] = replace(self.ends[world], log=tuple(log))


def played(seed: int) -> Run:
    rng = random.Random(seed)
    history = History()
    worlds = [World(rng, f"w{number}", history) for number in range(2)]
    for world in worlds:
        world.open()
    steps = ["snapshot"] * 5 + ["say"] * 4 + ["read"] * 3 + ["poll"] * 3 + ["crash", "open"]
    for _ in range(60):
        getattr(rng.choice(worlds), rng.choice(steps))()
    for world in worlds:
        world.snapshot()
        world.read()
        world.poll()
    rng.shuffle(history.records)
    return Run(history, {world.name: world.end() for world in worlds}, rng)


seeds = st.integers(0, 2**32)
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
few = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@many
@given(seeds)
def test_what_a_correct_earshot_does_is_possible(seed: int) -> None:
    run = played(seed)
    assert violations(run.history, run.ends) == []
    assert run.history.acknowledged() > 0


# -- one violation each, planted where the run has something to violate --------------------------------------------


def lose_an_utterance(run: Run) -> None:
    one = run.pick(Utterance, lambda one: bool(one.utterance_id))
    run.change_log(one.world, lambda log: log.remove(next(e for e in log if e.utterance_id == one.utterance_id)))


def say_an_utterance_twice(run: Run) -> None:
    one = run.pick(Utterance, lambda one: bool(one.utterance_id))
    text = one.text
    run.change_log(
        one.world, lambda log: log.append(Event(log[-1].seq + 1, "utterance", utterance_id="u-9", text=text))
    )


def acknowledge_it_under_two_names(run: Run) -> None:
    one = run.pick(Utterance, lambda one: bool(one.utterance_id))
    run.history.add(replace(one, utterance_id="u-x-999999999"))


def lose_the_last_snapshot(run: Run) -> None:
    one = max(
        (one for one in run.history.records if isinstance(one, Snapshot) and one.outcome), key=lambda one: one.mark
    )
    run.ends[one.world] = replace(run.ends[one.world], mark=one.mark - 1)


def show_an_older_version(run: Run) -> None:
    acknowledged = [one for one in run.history.records if isinstance(one, Snapshot) and one.outcome]
    one = run.pick(Read, lambda read: any(s.world == read.world and s.ended < read.began for s in acknowledged))
    before = [s.mark for s in acknowledged if s.world == one.world and s.ended < one.began]
    run.put(one, replace(one, mark=max(before) - 1))


def show_what_was_never_sent(run: Run) -> None:
    one = run.pick(Read)
    run.put(one, replace(one, mark=10**6))


def use_a_revision_twice(run: Run) -> None:
    first = run.pick(Snapshot, lambda one: one.outcome == "applied")
    second = run.pick(Snapshot, lambda one: one.outcome == "applied" and one.world == first.world and one is not first)
    run.put(second, replace(second, revision=first.revision))


def go_back_to_an_older_revision(run: Run) -> None:
    one = max((one for one in run.history.records if isinstance(one, Read)), key=lambda one: one.began)
    assume(one.revision > 0)
    run.put(one, replace(one, revision=0))


def forget_revisions(run: Run) -> None:
    one = run.pick(Snapshot, lambda one: one.outcome == "applied")
    run.ends[one.world] = replace(run.ends[one.world], revision=0)


def hand_out_an_epoch_twice(run: Run) -> None:
    one = run.pick(Session)
    run.history.add(replace(one, began=one.ended + 1, ended=one.ended + 2))


def hand_out_an_older_epoch(run: Run) -> None:
    one = run.pick(Session, lambda one: one.epoch > 1)
    run.history.add(replace(one, began=one.ended + 1, ended=one.ended + 2, epoch=one.epoch - 1))


def apply_a_snapshot_of_an_old_session(run: Run) -> None:
    one = run.pick(Session)
    revision = run.ends[one.world].revision + 1
    run.ends[one.world] = replace(run.ends[one.world], revision=revision)
    run.history.add(Snapshot(one.world, one.epoch - 1, 9, 1, one.ended + 1, one.ended + 2, "applied", revision))


def change_what_was_delivered(run: Run) -> None:
    page = run.pick(Page, lambda one: bool(one.events))
    changed = (replace(page.events[0], text="other"), *page.events[1:])
    run.put(page, replace(page, events=changed))


def skip_an_event(run: Run) -> None:
    page = run.pick(Page, lambda one: len(one.events) > 1)
    run.put(page, replace(page, events=page.events[1:]))


def deliver_an_event_twice(run: Run) -> None:
    page = run.pick(Page, lambda one: bool(one.events))
    run.put(page, replace(page, events=(page.events[0], *page.events)))


def put_into_the_log_behind_a_reader(run: Run) -> None:
    page = run.pick(Page, lambda one: bool(one.events))
    late = Event(page.events[0].seq, "notice")
    run.change_log(page.world, lambda log: log.insert(0, late))


def say_a_sentence_twice(run: Run) -> None:
    world, log, place = spot(run, lambda one: one.type == "utterance" and bool(one.turn_id))
    run.change_log(world, lambda whole: whole.insert(place + 1, replace(log[place], seq=log[place].seq)))


def speak_after_the_end(run: Run) -> None:
    world, log, place = spot(run, lambda one: one.phase in ("ended", "failed", "cancelled"))
    turn = log[place].turn_id
    late = Event(log[-1].seq + 1, "utterance", turn_id=turn, sentence=99, text="And another thing.")
    run.change_log(world, lambda whole: whole.append(late))


def end_a_turn_twice(run: Run) -> None:
    world, log, place = spot(run, lambda one: one.phase in ("ended", "failed", "cancelled"))
    run.change_log(world, lambda whole: whole.append(replace(log[place], seq=log[-1].seq + 1, phase="failed")))


def leave_a_turn_open(run: Run) -> None:
    world, log, place = spot(run, lambda one: one.phase in ("ended", "failed", "cancelled"))
    run.change_log(world, lambda whole: whole.remove(log[place]))


def let_two_speak_at_once(run: Run) -> None:
    world, log, place = spot(run, lambda one: one.phase == "started")
    extra = replace(log[place], turn_id="t-other")
    run.change_log(world, lambda whole: whole.insert(place + 1, extra))


def answer_a_line_twice(run: Run) -> None:
    world, log, place = spot(run, lambda one: one.phase == "ended" and bool(one.cause))
    last = log[-1].seq
    again = [
        replace(log[place], seq=last + 1, phase="started", turn_id="t-again"),
        replace(log[place], seq=last + 2, turn_id="t-again"),
    ]
    run.change_log(world, lambda whole: whole.extend(again))


def forget_a_world(run: Run) -> None:
    del run.ends[run.pick(Session).world]


def spot(run: Run, wanted: Callable[[Event], bool]) -> tuple[str, list[Event], int]:
    """A place in a log."""
    found = [
        (world, list(end.log), place)
        for world, end in run.ends.items()
        for place, event in enumerate(end.log)
        if wanted(event)
    ]
    assume(found)
    return run.rng.choice(found)


PLANTS: dict[Callable[[Run], None], str] = {
    lose_an_utterance: "LOST_UTTERANCE",
    say_an_utterance_twice: "UTTERANCE_TWICE",
    acknowledge_it_under_two_names: "UTTERANCE_TWICE",
    lose_the_last_snapshot: "LOST_SNAPSHOT",
    show_an_older_version: "RESURRECTED",
    show_what_was_never_sent: "INVENTED",
    use_a_revision_twice: "REVISION_TWICE",
    go_back_to_an_older_revision: "REVISION_BACK",
    forget_revisions: "REVISION_BACK",
    hand_out_an_epoch_twice: "EPOCH_TWICE",
    hand_out_an_older_epoch: "EPOCH_BACK",
    apply_a_snapshot_of_an_old_session: "STALE_APPLIED",
    change_what_was_delivered: "LOST_EVENT",
    skip_an_event: "SKIPPED",
    deliver_an_event_twice: "DELIVERED_TWICE",
    put_into_the_log_behind_a_reader: "LOG_ORDER",
    say_a_sentence_twice: "SENTENCE_TWICE",
    speak_after_the_end: "SENTENCE_OUTSIDE",
    end_a_turn_twice: "TURN_TWICE",
    leave_a_turn_open: "TURN_OPEN",
    let_two_speak_at_once: "OVERLAP",
    answer_a_line_twice: "ANSWERED_TWICE",
    forget_a_world: "LOST_WORLD",
}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_every_planted_violation_is_found(plant: Callable[[Run], None]) -> None:
    @few
    @given(seeds)
    def found(seed: int) -> None:
        run = played(seed)
        plant(run)
        assert PLANTS[plant] in run.kinds()

    found()
