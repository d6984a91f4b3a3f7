"""What clients were told, and whether the world that is found at the end is possible after it.

Clients record every call with when it began and ended, on one clock. `violations` is pure: it compares what was
acknowledged with the end of every world and with what readers were shown in between. A call that failed or got no
answer may have happened or not; one that was answered has happened before it ended.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

NEVER = float("inf")
OVER = ("ended", "declined", "cancelled", "failed")


@dataclass(frozen=True, slots=True)
class Session:
    """A session was opened. epoch 0: no answer."""

    world: str
    began: float
    ended: float = NEVER
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A full snapshot was sent. mark: what it says, larger in each; outcome "": no answer, which may mean anything."""

    world: str
    epoch: int
    seq: int
    mark: int
    began: float
    ended: float = NEVER
    outcome: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Utterance:
    """A line was sent; its text is told from every other. utterance_id "": not acknowledged."""

    world: str
    text: str
    began: float
    ended: float = NEVER
    utterance_id: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """The world was read: its revision, and the mark of the snapshot that it shows (0 = of none)."""

    world: str
    began: float
    ended: float
    revision: int
    mark: int


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of a world's log, as far as it can be wrong."""

    seq: int
    type: str
    revision: int = 0
    conversation: str = ""
    utterance_id: str = ""
    text: str = ""
    turn_id: str = ""
    npc: str = ""
    phase: str = ""
    sentence: int = 0
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Events that a reader got after `cursor`. resync: it was told to read the world anew."""

    world: str
    cursor: int
    events: tuple[Event, ...]
    next_cursor: int
    resync: bool = False


Record = Session | Snapshot | Utterance | Read | Page


@dataclass(frozen=True, slots=True)
class End:
    """A world when everything is quiet. kept_from: entries of smaller number may have been trimmed. ended: it shows
    nothing any more, as a world does that nobody fed for long.
    """

    revision: int
    mark: int
    log: tuple[Event, ...]
    kept_from: int = 0
    quiet: bool = True
    ended: bool = False


@dataclass(slots=True)
class History:
    """Everything recorded of one run, in any order."""

    records: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        self.records.append(record)

    def acknowledged(self) -> int:
        """Writes that were answered: what a round is worth."""
        return sum(
            bool(one.outcome) if isinstance(one, Snapshot) else bool(one.utterance_id)
            for one in self.records
            if isinstance(one, Snapshot | Utterance)
        )


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """What cannot be. kind is UPPER_SNAKE."""

    kind: str
    world: str
    what: str


def violations(history: History, ends: Mapping[str, End]) -> list[Violation]:
    """Everything that cannot have happened, by world; [] = the run is possible."""
    by_world: dict[str, list[Record]] = defaultdict(list)
    for record in history.records:
        by_world[record.world].append(record)
    found: list[Violation] = []
    for world, records in by_world.items():
        end = ends.get(world)
        if end is None:
            found.append(Violation("LOST_WORLD", world, "nobody knows it any more"))
            continue
        for kind, what in _judged(records, end):
            found.append(Violation(kind, world, what))
    return found


def _judged(records: Sequence[Record], end: End) -> Iterator[tuple[str, str]]:
    sessions = [one for one in records if isinstance(one, Session)]
    snapshots = [one for one in records if isinstance(one, Snapshot)]
    reads = [one for one in records if isinstance(one, Read)]
    yield from _epochs(sessions, snapshots)
    yield from _revisions(snapshots, reads, end)
    yield from _marks(snapshots, reads, end)
    yield from _log(end)
    yield from _utterances([one for one in records if isinstance(one, Utterance)], end)
    yield from _pages([one for one in records if isinstance(one, Page)], end)
    yield from _turns(end)


def _epochs(sessions: Sequence[Session], snapshots: Sequence[Snapshot]) -> Iterator[tuple[str, str]]:
    """Epochs grow, and nothing of an old one is applied after a newer one was handed out."""
    answered = [one for one in sessions if one.epoch]
    for epoch, times in Counter(one.epoch for one in answered).items():
        if times > 1:
            yield "EPOCH_TWICE", f"epoch {epoch} was handed out {times} times"
    for opened in answered:
        for later in answered:
            if later.began > opened.ended and later.epoch < opened.epoch:
                yield "EPOCH_BACK", f"epoch {later.epoch} after {opened.epoch}"
        for one in snapshots:
            if one.outcome == "applied" and one.epoch < opened.epoch and one.began > opened.ended:
                yield "STALE_APPLIED", f"seq {one.seq} of epoch {one.epoch} after epoch {opened.epoch}"


def _revisions(snapshots: Sequence[Snapshot], reads: Sequence[Read], end: End) -> Iterator[tuple[str, str]]:
    """Revisions only grow with time, and each applied snapshot has its own."""
    applied = [one for one in snapshots if one.outcome == "applied"]
    for revision, times in Counter(one.revision for one in applied).items():
        if times > 1:
            yield "REVISION_TWICE", f"revision {revision} stands for {times} snapshots"
    timed: list[Snapshot | Read] = [*applied, *reads]
    seen = sorted((one.ended, one.revision) for one in timed)
    calls = sorted((one.began, one.revision) for one in timed)
    calls.append((NEVER, end.revision))
    highest, place = 0, 0
    for began, revision in calls:
        while place < len(seen) and seen[place][0] < began:
            highest = max(highest, seen[place][1])
            place += 1
        if revision < highest:
            yield "REVISION_BACK", f"revision {revision} after {highest}"


def _marks(snapshots: Sequence[Snapshot], reads: Sequence[Read], end: End) -> Iterator[tuple[str, str]]:
    """What is read is at least what was acknowledged before, and something that was sent."""
    settled = sorted((one.ended, one.mark) for one in snapshots if one.outcome in ("applied", "duplicate"))
    sent: dict[int, float] = {}
    for one in snapshots:  # a mark is sent again when its snapshot got no answer
        sent[one.mark] = min(one.began, sent.get(one.mark, NEVER))
    looks = sorted((one.began, one.ended, one.mark) for one in reads)
    looks += [] if end.ended else [(NEVER, NEVER, end.mark)]
    floor, place = 0, 0
    for began, ended, mark in looks:
        while place < len(settled) and settled[place][0] < began:
            floor = max(floor, settled[place][1])
            place += 1
        if mark < floor:
            kind = "LOST_SNAPSHOT" if began == NEVER else "RESURRECTED"
            yield kind, f"mark {mark} is shown, {floor} was acknowledged"
        if mark and sent.get(mark, NEVER) >= ended:
            yield "INVENTED", f"mark {mark} was never sent by then"


def _log(end: End) -> Iterator[tuple[str, str]]:
    numbers = [one.seq for one in end.log]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        yield "LOG_ORDER", "the log's numbers do not grow"
    texts = Counter(one.text for one in end.log if one.type == "utterance" and not one.turn_id)
    for text, times in texts.items():
        if times > 1:
            yield "UTTERANCE_TWICE", f"{text!r} stands {times} times in the log"


def _utterances(said: Sequence[Utterance], end: End) -> Iterator[tuple[str, str]]:
    """Every acknowledged line is in the log, under the id that was told; nothing is in it that nobody said."""
    logged = {one.utterance_id: one.text for one in end.log if one.type == "utterance" and not one.turn_id}
    ids: dict[str, set[str]] = defaultdict(set)
    for one in said:
        if not one.utterance_id:
            continue
        ids[one.text].add(one.utterance_id)
        if number(one.utterance_id) >= end.kept_from and logged.get(one.utterance_id) != one.text:
            yield "LOST_UTTERANCE", f"{one.text!r} was acknowledged as {one.utterance_id}"
    for text, names in ids.items():
        if len(names) > 1:
            yield "UTTERANCE_TWICE", f"{text!r} was acknowledged as {sorted(names)}"
    known = {one.text for one in said}
    for text in logged.values():
        if text not in known:
            yield "INVENTED", f"nobody said {text!r}"


def number(utterance_id: str) -> int:
    """The log number in an utterance's id; 0 when it has none."""
    last = utterance_id.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def _pages(pages: Sequence[Page], end: End) -> Iterator[tuple[str, str]]:
    """A page is exactly what the log holds between its cursors: nothing lost, changed, skipped or put in later."""
    by_number = {one.seq: one for one in end.log}
    numbers = sorted(by_number)
    for page in pages:
        got = {one.seq for one in page.events}
        if any(seq <= page.cursor for seq in got) or len(got) != len(page.events):
            yield "DELIVERED_TWICE", f"a page after {page.cursor} holds what came before it"
        if page.resync:
            continue
        for one in page.events:
            if one.seq >= end.kept_from and by_number.get(one.seq) != one:
                yield "LOST_EVENT", f"entry {one.seq} was delivered and is not in the log as it was"
        missed = [seq for seq in numbers if page.cursor < seq <= page.next_cursor and seq not in got]
        if missed:
            yield "SKIPPED", f"entry {missed[0]} was not delivered between {page.cursor} and {page.next_cursor}"


def _turns(end: End) -> Iterator[tuple[str, str]]:
    """A turn starts once, ends once, says each sentence once while it is open, and one at a time has the floor."""
    started: dict[str, Event] = {}
    over: set[str] = set()
    floor: dict[str, str] = {}
    sentences: set[tuple[str, int]] = set()
    answered: set[tuple[str, str]] = set()
    for one in end.log:
        if one.type == "utterance" and one.turn_id:
            if (one.turn_id, one.sentence) in sentences:
                yield "SENTENCE_TWICE", f"sentence {one.sentence} of {one.turn_id}"
            sentences.add((one.turn_id, one.sentence))
            if one.turn_id in over or (one.turn_id not in started and not end.kept_from):
                yield "SENTENCE_OUTSIDE", f"{one.turn_id} speaks without the floor"
        elif one.type == "turn" and one.phase == "started":
            if one.turn_id in started:
                yield "TURN_TWICE", f"{one.turn_id} started twice"
            if one.conversation in floor:
                yield "OVERLAP", f"{one.turn_id} starts while {floor[one.conversation]} has the floor"
            started[one.turn_id] = one
            floor[one.conversation] = one.turn_id
        elif one.type == "turn" and one.phase in OVER:
            if one.turn_id in over:
                yield "TURN_TWICE", f"{one.turn_id} ended twice"
            over.add(one.turn_id)
            floor = {conversation: turn for conversation, turn in floor.items() if turn != one.turn_id}
            if one.phase == "ended" and one.cause:
                if (one.cause, one.npc) in answered:
                    yield "ANSWERED_TWICE", f"{one.npc} answered {one.cause} twice"
                answered.add((one.cause, one.npc))
    if end.quiet:
        for turn_id in _open(started, over):
            yield "TURN_OPEN", f"{turn_id} never ended"


def _open(started: Iterable[str], over: set[str]) -> list[str]:
    return [turn_id for turn_id in started if turn_id not in over]
