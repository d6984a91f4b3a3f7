"""`earshot bench hour`: the tavern hour - 50 NPCs and 30 players through four rooms, on virtual time.

Every scenario of the library through cluster, state, sync and chat; players say what the scenario has them say, a model
takes MODEL_S to its first words (an hour each: `--seconds 3600`). Then the market day as 1, 10 and 100 game servers at
once, with the hour 1,000 too: how cost grows. What is counted is what clients see, the world's log of events, and the
runtime's ledger of writes and calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from earshot.chat.v1 import chat_pb2, chat_pb2_grpc
from earshot.state.v1 import state_pb2_grpc
from earshot.type.v1 import type_pb2

from bench.catalogue import Options, progress
from bench.feed import TENANT, Disturbed, Feed
from bench.figures import median, percentile
from bench.floors import Floors
from bench.ledger import LedgerRuntime
from bench.naive import Naive
from bench.rehearsal import members, roster_request
from bench.result import Result
from bench.troupe import CALM, COMBAT, Troupe, troupe
from services.chat import server as chat_room
from services.chat.moderation import PatternModerator
from services.cluster import server as cluster_room
from services.common.app import App
from services.common.clock import LoopClock
from services.common.logs import configure
from services.common.settings import Settings
from services.demo.frame import Utterance
from services.state import server as state_room
from services.sync import server as sync_room
from services.sync.runtimes.port import Delta, Turn
from services.sync.store import SyncStore
from tests.fakes import virtual_time

SECONDS = 120.0
MODEL_S = 1.0
CALL_S = 30.0
PAGE = 500
SERVERS, ALL_SERVERS = (1, 10, 100), (1, 10, 100, 1000)
GROWTH = "market_day"
GROWTH_S = 10.0
# With an hour of each scenario the largest number of game servers is played too.
HOUR_S = 3600.0
# Calls of the runtime at once, for each game server.
CONCURRENCY = 8
OVER = frozenset(
    {chat_pb2.TURN_PHASE_ENDED, chat_pb2.TURN_PHASE_DECLINED, chat_pb2.TURN_PHASE_CANCELLED, chat_pb2.TURN_PHASE_FAILED}
)
# Goals. A naive client is one call for each change; a share of it in percent, as `sync` has it for the sum.
SHARE_PERCENT = 3.5


class Thinking(LedgerRuntime):
    """The ledger before a model that thinks. asked: when each turn was."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, float] = {}

    async def send(self, agent_id: str, turn: Turn, timeout: float) -> AsyncIterator[Delta]:
        self.asked[turn.turn_id] = asyncio.get_running_loop().time()
        await asyncio.sleep(MODEL_S)
        async for delta in super().send(agent_id, turn, timeout):
            yield delta


@dataclass(slots=True)
class Hour:
    """What was seen. said: players' lines; refused: of these, not taken; asked_ms: from a line to its model being
    asked, of turns that the line caused; behind: revisions that a turn's memory was behind what was spoken;
    overlaps: turns that began in a conversation in which another one was not over; early: notices before the change
    that they speak of.
    """

    seconds: float = 0.0
    worlds: int = 0
    snapshots: int = 0
    said: int = 0
    refused: int = 0
    turns: int = 0
    calls: int = 0
    writes: int = 0
    naive: int = 0
    overlaps: int = 0
    early: int = 0
    cpu_s: float = 0.0
    asked_ms: list[float] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)


class Stage:
    """Rooms and worlds of one run; every world plays a scenario of its own seed."""

    def __init__(self, troupes: Sequence[Troupe], settings: Settings) -> None:
        self._troupes = troupes
        self._settings = settings
        self.hour = Hour(worlds=len(troupes))
        self._runtime = Thinking()
        self._tasks: set[asyncio.Task[None]] = set()
        # When each line was said, in which world at which revision, by its id.
        self._said: dict[str, tuple[float, int]] = {}

    async def play(self, seconds: float) -> Hour:
        """Play that many virtual seconds in every world. Raises Disturbed."""
        app = App(self._settings, ("cluster", "state", "sync", "chat"), clock=LoopClock(), inline_stores=True)
        await cluster_room.bind(app)
        await state_room.bind(app)
        store = SyncStore(app.open_store("sync", sync_room.TABLES))
        await sync_room.serve(app, store, {self._runtime.name: self._runtime}, (self._runtime.name,))
        await chat_room.bind_with(app, PatternModerator())
        async with app:
            state: Any = state_pb2_grpc.StateServiceStub(app.channels.to("state"))
            chat: Any = chat_pb2_grpc.ChatServiceStub(app.channels.to("chat"))
            await state.ImportRoster(roster_request(self._troupes[0]), timeout=CALL_S)
            began = time.process_time()
            async with asyncio.TaskGroup() as group:
                for number, one in enumerate(self._troupes):
                    group.create_task(self._world(state, chat, one, f"hour-{number}", seconds))
            await asyncio.gather(*self._tasks)
            self.hour.cpu_s = time.process_time() - began
            for number in range(len(self._troupes)):
                self._judge(await self._log(chat, f"hour-{number}"))
        self.hour.seconds = seconds
        self.hour.writes, self.hour.calls = len(self._runtime.writes), len(self._runtime.asked)
        return self.hour

    async def _world(self, state: Any, chat: Any, one: Troupe, world: str, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        started, naive = loop.time(), Naive()
        settings = self._settings
        feed = Feed(state, entities_max=settings.entities_max, stale_after_s=settings.stale_after_s)
        try:
            for step in one.steps(seconds):
                await asyncio.sleep(max(started + step.at - loop.time(), 0.0))
                result = await feed.apply(step, world)
                self.hour.snapshots += 1
                naive.see(step.at, step.frame.rows, members(result.clusters))
                for utterance in step.utterances:
                    self._spoken(chat, world, utterance, result.revision)
        finally:
            feed.close()
        self.hour.naive += naive.calls

    def _spoken(self, chat: Any, world: str, utterance: Utterance, revision: int) -> None:
        task = asyncio.create_task(self._say(chat, world, utterance, revision), name="hour.say")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _say(self, chat: Any, world: str, utterance: Utterance, revision: int) -> None:
        at = asyncio.get_running_loop().time()
        answer = await chat.Say(
            chat_pb2.SayRequest(
                world=type_pb2.WorldRef(tenant=TENANT, world=world), speaker_id=utterance.speaker_id,
                speaker_name=utterance.speaker_name, text=utterance.text, min_revision=revision,
                message_id=f"{world}-{utterance.number}-{utterance.speaker_id}-{at:.3f}",
            ),
            timeout=CALL_S,
        )  # fmt: skip
        self.hour.said += 1
        if answer.utterance_id:
            self._said[answer.utterance_id] = at, revision
        else:
            self.hour.refused += 1

    async def _log(self, chat: Any, world: str) -> list[chat_pb2.Event]:
        """The whole log of a world. Raises Disturbed when some of it is gone."""
        events: list[chat_pb2.Event] = []
        cursor = 0
        while True:
            page = await chat.ListEvents(
                chat_pb2.ListEventsRequest(
                    world=type_pb2.WorldRef(tenant=TENANT, world=world), cursor=cursor, page_size=PAGE
                ),
                timeout=CALL_S,
            )
            if page.resync and events:
                raise Disturbed("a world's log has a hole")
            if not page.events:
                return events
            events += page.events
            cursor = page.next_cursor

    def _judge(self, events: Iterable[chat_pb2.Event]) -> None:
        """What the log of a world says of its turns."""
        hour = self.hour
        floors = Floors()
        # Of each turn, its cause and what its agent had seen.
        began: dict[str, chat_pb2.TurnEvent] = {}
        revision = 0
        for event in events:
            kind = event.WhichOneof("event")
            # A notice must not speak of changes that the log has not told yet (D4).
            hour.early += kind == "notice" and event.revision > revision
            if kind == "membership":
                revision = max(revision, event.revision)
                change = event.membership
                name = type_pb2.TransitionType.Name(change.type).removeprefix("TRANSITION_TYPE_").lower()
                floors.moved(event.conversation_id, name, change.member_ids)
            elif kind == "turn" and event.turn.phase == chat_pb2.TURN_PHASE_STARTED:
                hour.turns += 1
                hour.overlaps += floors.begin(event.turn.turn_id, event.conversation_id, event.turn.npc_id)
                began[event.turn.turn_id] = event.turn
                self._waited(event.turn)
            elif kind == "turn" and event.turn.phase in OVER:
                floors.end(event.turn.turn_id)
                self._seen(began.get(event.turn.turn_id), event.turn)

    def _seen(self, started: chat_pb2.TurnEvent | None, over: chat_pb2.TurnEvent) -> None:
        cause = self._said.get(started.cause_utterance_id) if started is not None else None
        if cause is not None and over.revision_seen:
            self.hour.behind.append(max(cause[1] - over.revision_seen, 0))

    def _waited(self, started: chat_pb2.TurnEvent) -> None:
        """The wait of who spoke until the model was asked."""
        cause, asked = self._said.get(started.cause_utterance_id), self._runtime.asked.get(started.turn_id)
        if cause is not None and asked is not None:
            self.hour.asked_ms.append((asked - cause[0]) * 1000)


def run(options: Options) -> list[dict[str, Any]]:
    """Records of every scenario, their sum, and of growing numbers of game servers. Raises Disturbed."""
    seconds = options.seconds or SECONDS
    configure("error", "console")
    hours = {}
    for name in (*CALM, *COMBAT):
        progress(f"hour: {name}, {seconds:g} virtual seconds")
        hours[name] = played([troupe(name)], seconds)
    grown = []
    for servers in ALL_SERVERS if seconds >= HOUR_S else SERVERS:
        progress(f"hour: {GROWTH} on {servers} game servers, {GROWTH_S:g} virtual seconds")
        grown.append(played([troupe(GROWTH, seed) for seed in range(servers)], min(seconds, GROWTH_S)))
    return [result.record() for result in (*results(hours), *growth(grown))]


def played(troupes: Sequence[Troupe], seconds: float) -> Hour:
    """Worlds on one loop of their own."""
    settings = Settings.model_validate(
        {
            "data": ":memory:",
            "runtimes": "offline",
            "otlp_endpoint": "",
            # As many calls at once for each game server, however many there are.
            "runtime_concurrency": CONCURRENCY * len(troupes),
        }
    )
    return virtual_time.run(Stage(troupes, settings).play(seconds))


def results(hours: dict[str, Hour]) -> list[Result]:
    """Each scenario, and all of them."""
    every = list(hours.values())
    waits = sorted(value for one in every for value in one.asked_ms)
    behind = [value for one in every for value in one.behind]
    said, calls = sum(one.said for one in every), sum(one.calls for one in every)
    refused, early = (sum(counts) for counts in zip(*((one.refused, one.early) for one in every), strict=True))
    return [
        *(share(f"runtime writes, {name}", [one]) for name, one in hours.items()),
        share("runtime writes, in sum", every),
        Result("turns on memory older than the words", float(sum(value > 0 for value in behind)), "turns", 0.0, "less",
               {"turns": float(len(behind)), "revisions behind at most": float(max(behind, default=0))}),
        Result("turns at once in one conversation", float(sum(one.overlaps for one in every)), "turns", 0.0, "less",
               {"turns": float(sum(one.turns for one in every))}),
        Result("notices before the change that they speak of", float(early), "notices", 0.0, "less"),
        Result("from a line to the model asked, p50", median(waits), "virtual ms"),
        Result("from a line to the model asked, p99", percentile(waits, 0.99), "virtual ms"),
        Result("calls of the model per line", calls / max(said, 1), "calls",
               peers={"lines": float(said), "calls": float(calls), "lines refused": float(refused)}),
    ]  # fmt: skip


def share(name: str, hours: Sequence[Hour]) -> Result:
    """Writes as a percentage of the naive client's calls."""
    writes, naive = sum(one.writes for one in hours), sum(one.naive for one in hours)
    value = 100.0 * writes / naive if naive else float("nan")
    return Result(name, value, "%", SHARE_PERCENT, "less", {"writes": float(writes), "naive calls": float(naive)})


def growth(hours: Sequence[Hour]) -> list[Result]:
    """CPU of one game server's second, beside how many there are."""
    return [
        Result(
            f"CPU of a game server's second, {one.worlds} of them", one.cpu_s / one.seconds / one.worlds * 1000, "ms",
            peers={
                "runtime writes a minute each": one.writes / one.seconds / one.worlds * 60,
                "model calls a minute each": one.calls / one.seconds / one.worlds * 60,
                "snapshots a minute each": one.snapshots / one.seconds / one.worlds * 60,
            },
        )
        for one in hours
    ]  # fmt: skip
