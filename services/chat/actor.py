"""One world at a time: inputs in order, reduced, durably appended, and only then acted on.

Time of a world: the wall clock when it was loaded plus the monotonic time since, so that no clock step makes a timer
early or late. State advances only with a committed append; if an append fails, what a caller asked is refused and what
the world itself needs (turns, timers) is tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from services.chat import effects, erasing, inputs, measures, recording_store, reducer, sight
from services.chat.bell import Bell
from services.chat.conversation import World
from services.chat.crew import Crew
from services.chat.events import Event, Turned
from services.chat.inputs import Input, Loaded, Observed, PlayerErased, Retracted, TimerFired
from services.chat.outcome import Outcomes
from services.chat.rules import Rules
from services.chat.sight import Sight
from services.chat.store import Append, ChatStore, Explained, Seen, Stored
from services.common import tracing
from services.common.clock import Clock
from services.common.errors import Conflict, EarshotError, Internal, Overloaded, Unavailable
from services.common.logs import get_logger
from services.common.telemetry import Metrics

INBOX_MAX = 1_000
BATCH_MAX = 32
# Inputs after which the state is stored and the inputs before it are dropped.
CHECKPOINT_INPUTS = 200
RETRY_S = 0.5
IDLE_S = 600.0
# A world that its game closed: late readers, then nobody.
IDLE_CLOSED_S = 30.0
# Log entries kept in memory: what turns are told, beyond every history budget.
RECENT = 400
# Utterances whose trace is known, so that their turns join it.
TRACES_MAX = 64

_log = get_logger("chat")


@dataclass(slots=True)
class Entry:
    """An input on its way. key: message id under which it is remembered; retain: try again when the store fails;
    trace: where it comes from, if that is sampled, and since when it waits (perf_counter).
    """

    item: Input
    done: asyncio.Future[effects.Accepted | None] | None
    key: str = ""
    retain: bool = True
    trace: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What all actors of a room share. ask and locate carry out those effects; record: keep inputs for replays.

    places: rules by slug of the location.
    """

    store: ChatStore
    crew: Crew
    bell: Bell
    clock: Clock
    metrics: Metrics
    rules: Rules
    ask: Callable[[WorldActor, effects.Ask], Coroutine[Any, Any, None]]
    locate: Callable[[WorldActor, str], Coroutine[Any, Any, None]]
    record: bool = False
    places: dict[str, Rules] = field(default_factory=dict)
    # NPCs of a tenant that remember across sessions.
    lasting: Callable[[str], frozenset[str]] = lambda _: frozenset()


class WorldActor:
    """The one writer of a world's log."""

    def __init__(self, world: tuple[str, str], digest: str, tools: Tools) -> None:
        self.key = world
        self.world = World()
        self.outcomes = Outcomes()
        self.recent: deque[Event] = deque(maxlen=RECENT)
        self.requests: dict[str, asyncio.Future[effects.WishSettled]] = {}
        self.append_ms = 0
        self.decision_ms = 0
        self._sight: Sight | None = None
        self._sightings = 0
        self._digest = digest
        self._tools = tools
        self._inbox: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._loaded = asyncio.Event()
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._traces: dict[str, str] = {}
        self._number = 0
        self._checkpoint = 0
        self._base_ms = 0
        self._base_s = 0.0
        self._last_s = 0.0
        self.closed = False

    # -- what callers use ----------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until the world is loaded."""
        await self._loaded.wait()
        if self.closed:
            raise Unavailable("the world was put away", reason="NOT_READY")

    def submit(self, item: Input, *, key: str = "", retain: bool = True) -> asyncio.Future[effects.Accepted | None]:
        """Hand in an input (its time is set here); the future resolves once it is durable.

        Raises Overloaded WORLD_BUSY when too many wait, Unavailable when the world is being put away.
        """
        if self.closed:
            raise Unavailable("the world was put away", reason="NOT_READY")
        if len(self._inbox) >= INBOX_MAX and not retain:
            raise Overloaded("too much waits for this world", reason="WORLD_BUSY", retry_after_ms=1000)
        done: asyncio.Future[effects.Accepted | None] = asyncio.get_running_loop().create_future()
        self._inbox.append(Entry(item, done, key, retain, tracing.traceparent(), time.perf_counter()))
        self._wake.set()
        return done

    async def feed(self, item: Input) -> None:
        """Hand in what the world itself needs and wait until it is durable."""
        await asyncio.shield(self.submit(item))

    # -- who is within earshot -----------------------------------------------------------------------------------------

    @property
    def observed(self) -> int:
        """The revision up to which the world's clusters are known."""
        return max(self.world.revision, self._sight.revision if self._sight is not None else 0)

    def knows(self, seen: Sight, *, happened: bool) -> bool:
        """Whether state's answer tells nothing new; then its revision counts as observed."""
        if not sight.unchanged(self._sight, seen, happened=happened):
            return False
        self._sight = seen
        return True

    async def see(self, item: Observed, seen: Sight) -> None:
        """Take in what state answered. While any such answer is on its way nothing counts as known."""
        self._sight = None
        self._sightings += 1
        try:
            await self.feed(item)
        finally:
            self._sightings -= 1
        if not self._sightings and self.world.revision == seen.revision:
            self._sight = seen

    def forget(self, player: str, names: tuple[str, ...]) -> None:
        """Drop a player from what is kept in memory for turns and for repeated messages."""
        self._sight = None
        kept = [erasing.without(event, player, names) for event in self.recent]
        self.recent = deque((event for event in kept if event is not None), maxlen=RECENT)
        self.outcomes.forget()

    def amend(self, seq: int, event: Event | None) -> None:
        """An entry says something else from now on, or is gone (None), in what is kept in memory."""
        kept = [event if other.seq == seq else other for other in self.recent]
        self.recent = deque((other for other in kept if other is not None), maxlen=RECENT)
        self.outcomes.forget()

    def now_ms(self) -> int:
        """World time."""
        return self._base_ms + round((self._tools.clock.monotonic() - self._base_s) * 1000)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until idle for long, fenced off, or cancelled."""
        try:
            await self._load()
            self._loaded.set()
            while await self._wait():
                await self._process(self._take())
        except Conflict:
            _log.warning("world_lost")
        finally:
            self._put_away()

    async def _load(self) -> None:
        """Recover by replay, then close what the last owner left open."""
        stored = self._tools.store.load(self.key)
        world = _recovered(stored)
        self._number = stored.n + len(stored.inputs)
        self._checkpoint = stored.n
        floor = max(stored.last_seq, world.next_seq - 1)
        self.world = world
        self.recent.extend(self._tools.store.newest(self.key, RECENT))
        newest = self.recent[-1].at_ms if self.recent else 0
        self._base_ms = max(self._tools.clock.now_ms(), newest)
        self._base_s = self._last_s = self._tools.clock.monotonic()
        loaded = Loaded(0, floor + stored.skip, self._digest, self._tools.rules, self._tools.places)
        hole = (floor, floor + stored.skip) if stored.skip else None
        await self._process([Entry(loaded, None)], hole=hole)

    async def _wait(self) -> bool:
        """Wait for an input or a timer. False when the world has been idle for long."""
        while not self._inbox:
            self._wake.clear()
            due = min(self.world.timers.values(), default=None)
            now = self.now_ms()
            if due is not None and due <= now:
                self._inbox.extend(
                    Entry(TimerFired(0, timer), None)
                    for timer, at in sorted(self.world.timers.items(), key=lambda pair: (pair[1], pair[0]))
                    if at <= now
                )
                break
            idle = self._last_s + (IDLE_CLOSED_S if self.world.closed else IDLE_S) - self._tools.clock.monotonic()
            if idle <= 0 and due is None and not self._turns:
                return False
            left = (due - now) / 1000 if due is not None else max(idle, 1.0)
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                continue
        return True

    def _take(self) -> list[Entry]:
        return [self._inbox.popleft() for _ in range(min(len(self._inbox), BATCH_MAX))]

    async def _process(self, entries: list[Entry], *, hole: tuple[int, int] | None = None) -> None:
        """Reduce, append, publish, act; retried while the store cannot be written."""
        while entries:
            steps, world, append = self._reduce(entries, hole)
            started = self._tools.clock.monotonic()
            try:
                await self._tools.store.append(self.key, append)
            except Conflict:
                _fail(entries, Unavailable("another owner took this world", reason="NOT_OWNER"))
                raise
            except EarshotError as error:
                entries = _kept(entries, error)
                await asyncio.sleep(RETRY_S)
                continue
            seconds = self._tools.clock.monotonic() - started
            self.append_ms = round(seconds * 1000)
            for entry, _ in steps:
                with tracing.carried(entry.trace):
                    tracing.record("append", seconds, stage="append")
            self._commit(world, append)
            for entry, step in steps:
                self._act(entry, step)
            return

    def _reduce(
        self, entries: list[Entry], hole: tuple[int, int] | None
    ) -> tuple[list[tuple[Entry, reducer.Step]], World, Append]:
        world = self.world
        append = Append(self._number + 1, hole=hole, record=self._tools.record, at_ms=self.now_ms())
        append.lasting = self._tools.lasting(self.key[0])
        steps: list[tuple[Entry, reducer.Step]] = []
        now = self.now_ms()
        must_store = False
        for entry in entries:
            item = msgspec.structs.replace(entry.item, at_ms=now)
            began = time.perf_counter()
            try:
                step = reducer.reduce(world, item)
            except Exception as error:  # noqa: BLE001 - a defect in one input must not stop the world
                _log.error("input_failed", kind=type(item).__name__, error=type(error).__name__, exc_info=error)
                _fail([entry], Internal("internal error; see the log"))
                continue
            ended = time.perf_counter()
            with tracing.carried(entry.trace):
                self._tools.metrics.observe_stage("decision", ended - began)
                if entry.trace:
                    tracing.record("inbox", ended - entry.since, stage="inbox")
            self.decision_ms = round((time.perf_counter() - began) * 1000)
            world = step.world
            append.inputs.append(item)
            if append.record:
                append.fingerprints.append(recording_store.fingerprint(step))
                if isinstance(item, Loaded):
                    append.before = reducer.encode(self.world)
            append.events.extend(step.events)
            _explained(append, step)
            _remember(append, entry, step, now)
            steps.append((entry, step))
            must_store = must_store or isinstance(item, PlayerErased | Retracted | Loaded)
        if must_store or self._number + len(append.inputs) - self._checkpoint >= CHECKPOINT_INPUTS:
            append.checkpoint = (self._number + len(append.inputs), reducer.encode(world))
        return steps, world, append

    def _commit(self, world: World, append: Append) -> None:
        measures.queued(self._tools.metrics, self.world, world)
        self.world = world
        self._number += len(append.inputs)
        if append.checkpoint is not None:
            self._checkpoint = append.checkpoint[0]
        self._last_s = self._tools.clock.monotonic()
        if append.events:
            self.recent.extend(append.events)
            self._tools.bell.ring(self.key, append.events[-1].seq)
            measures.logged(self._tools.metrics, append.events, world.revision)

    def _act(self, entry: Entry, step: reducer.Step) -> None:
        """Carry out the effects of a committed input."""
        answer: effects.Accepted | None = None
        for effect in step.effects:
            match effect:
                case effects.Accepted():
                    answer = effect
                    if not effect.unheard:
                        self.outcomes.get(effect.utterance_id)
                        self._note_trace(effect.utterance_id, entry.trace)
                case effects.Ask():
                    self._ask(effect)
                case effects.Cancel():
                    task = self._turns.pop(effect.turn_id, None)
                    if task is not None:
                        task.cancel()
                case effects.Replied():
                    self.outcomes.replied(effect.utterance_id, effect.reply)
                case effects.Settled():
                    self.outcomes.settled(effect)
                case effects.WishSettled():
                    waiting = self.requests.pop(effect.request_id, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(effect)
                case effects.Locate():
                    self._tools.crew.spawn("chat.locate", partial(self._tools.locate, self, effect.player_id))
        if entry.done is not None and not entry.done.done():
            entry.done.set_result(answer)

    def _ask(self, ask: effects.Ask) -> None:
        with tracing.carried(self._trace_of(ask)):
            since = measures.asked(self._tools.metrics, self.world, ask, self.now_ms())
            task = self._tools.crew.spawn("chat.turn", partial(self._turn, ask, since))
        self._turns[ask.turn_id] = task
        task.add_done_callback(lambda _: self._turns.pop(ask.turn_id, None))

    async def _turn(self, ask: effects.Ask, since_ms: int) -> None:
        tracing.record("queue", (self.now_ms() - since_ms) / 1000, stage="queue")
        await self._tools.ask(self, ask)

    def _note_trace(self, utterance: str, trace: str) -> None:
        """Turns that an utterance causes belong to its trace."""
        if not trace:
            return
        while len(self._traces) >= TRACES_MAX:
            del self._traces[next(iter(self._traces))]
        self._traces[utterance] = trace

    def _trace_of(self, ask: effects.Ask) -> str:
        if not self._traces:
            return ""
        conversation = self.world.conversations.get(ask.conversation_id)
        turn = conversation.floor if conversation else None
        causes = turn.causes if turn is not None and turn.id == ask.turn_id else ()
        return next((self._traces[cause] for cause in reversed(causes) if cause in self._traces), "")

    def _put_away(self) -> None:
        """Store the state and let everybody go who waits."""
        self.closed = True
        self._loaded.set()
        gone = Unavailable("the world was put away", reason="NOT_READY")
        _fail(list(self._inbox), gone)
        self._inbox.clear()
        self.outcomes.end("SHUTTING_DOWN")
        for request in self.requests.values():
            if not request.done():
                request.set_exception(gone)
        for task in list(self._turns.values()):
            task.cancel()
        if self._number > self._checkpoint:
            state = (self._number, reducer.encode(self.world))
            last = Append(self._number + 1, checkpoint=state, record=self._tools.record, at_ms=self.now_ms())
            try:
                self._tools.store.keep(self.key, last)
            except EarshotError:
                _log.warning("checkpoint_skipped")


def _recovered(stored: Stored) -> World:
    """The state as it was. What this version cannot read is begun anew; the log that clients read is not touched."""
    try:
        world = reducer.decode(stored.state) if stored.state else World()
        return reducer.replay(world, map(inputs.decode, stored.inputs))[0]
    except msgspec.MsgspecError as error:
        _log.error("state_unreadable", error=type(error).__name__)
        return World()


def _explained(append: Append, step: reducer.Step) -> None:
    told = {event.body.turn_id: event for event in step.events if isinstance(event.body, Turned)}
    for effect in step.effects:
        if isinstance(effect, effects.Explain) and effect.turn_id in told:
            append.turns[effect.turn_id] = Explained(effect, told[effect.turn_id])


def _remember(append: Append, entry: Entry, step: reducer.Step, now: int) -> None:
    if not entry.key:
        return
    for effect in step.effects:
        if isinstance(effect, effects.Accepted):
            seen = Seen(effect.utterance_id, effect.conversation_id, effect.seq, effect.revision, effect.unheard)
            append.seen.append((entry.key, now, seen))


def _fail(entries: list[Entry], error: EarshotError) -> None:
    for entry in entries:
        if entry.done is not None and not entry.done.done():
            entry.done.set_exception(error)
            # Who does not wait any more shall not be reported as never having looked.
            entry.done.exception()


def _kept(entries: list[Entry], error: EarshotError) -> list[Entry]:
    """What the world itself needs is tried again; what callers asked is refused."""
    _log.warning("append_failed", reason=error.reason)
    _fail([entry for entry in entries if not entry.retain], error)
    return [entry for entry in entries if entry.retain]
