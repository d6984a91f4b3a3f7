"""C10 on virtual time: fifty NPCs in combat at a model that takes a second; players speak to each of them.

Aggregated: what arrives for a busy NPC goes into its next call, as chat does it (a turn carries every line since the
last one). Beside it one call for each message, and both again one after the other instead of in parallel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from bench.feed import TENANT, Feed
from bench.ledger import LedgerRuntime
from bench.letta_rig import crowd, percentile
from bench.result import Result
from services.cluster import server as cluster_room
from services.common.app import App
from services.common.clock import LoopClock
from services.common.settings import Settings
from services.demo.frame import Frame, Step
from services.state import server as state_room
from services.sync import server as sync_room
from services.sync.context import Key
from services.sync.reader import to_proto
from services.sync.runtimes.port import Delta, Turn
from services.sync.store import SyncStore
from tests.fakes import virtual_time

NPCS, MODEL_S = 50, 1.0
# Lines to each NPC in bursts of so many, so far apart; every so often, for so long; then what waits is answered.
BURST, APART_S, EVERY_S, SPOKEN_S, ANSWER_S = 5, 0.25, 10.0, 20.0, 3000.0
# Turns at once where they are parallel: what a fight needs.
TOGETHER = 64
CALLS_TIMES, P95_TIMES = 0.5, 1.0


class Slow(LedgerRuntime):
    """A model that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def send(self, agent_id: str, turn: Turn, timeout: float) -> AsyncIterator[Delta]:
        self.calls += 1
        await asyncio.sleep(MODEL_S)
        async for delta in super().send(agent_id, turn, timeout):
            yield delta


@dataclass
class Talk:
    """One NPC's lines; `waits` are the seconds from a line to the first sentence that answers it."""

    npc: str
    aggregated: bool
    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    rings: asyncio.Event = field(default_factory=asyncio.Event)
    waits: list[float] = field(default_factory=list)
    turns: int = 0

    async def answer(self, sync: Any, revision: int) -> None:
        """Turn after turn, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            while not self.waiting:
                self.rings.clear()
                await self.rings.wait()
            count = len(self.waiting) if self.aggregated else 1
            taken = [self.waiting.popleft() for _ in range(count)]
            self.turns += 1
            lines = [
                sync_pb2.Line(log_seq=seq, speaker_id="ada", speaker_name="Ada", text=f"Behind you! {seq}",
                              speaker_kind=type_pb2.ENTITY_KIND_PLAYER) for seq, _ in taken
            ]  # fmt: skip
            request = sync_pb2.ConverseRequest(
                npc=to_proto(Key(TENANT, "w", self.npc)), turn_id=f"{self.npc}-{self.turns}", min_revision=revision,
                reason=sync_pb2.CONVERSE_REASON_REPLY, lines=lines, player_ids=["ada"], speech=True,
            )  # fmt: skip
            first = True
            async for event in sync.Converse(request, timeout=ANSWER_S):
                if first and event.HasField("sentence"):
                    first = False
                    self.waits += [loop.time() - at for _, at in taken]


@dataclass(frozen=True)
class Ran:
    calls: int
    p95_s: float
    messages: int


async def play(*, aggregated: bool, parallel: bool) -> Ran:
    """Everything said and answered."""
    settings = Settings.model_validate({
        "data": ":memory:", "runtimes": "offline", "otlp_endpoint": "",
        "runtime_concurrency": TOGETHER if parallel else 1,
        # Nothing gives up: what is compared is how long it takes.
        "turn_deadline_s": ANSWER_S, "first_sentence_s": ANSWER_S, "patience_s": ANSWER_S,
    })  # fmt: skip
    app, runtime = App(settings, ("cluster", "state", "sync"), clock=LoopClock(), inline_stores=True), Slow()
    await cluster_room.bind(app)
    await state_room.bind(app)
    await sync_room.serve(app, SyncStore(app.open_store("sync", sync_room.TABLES)), {"ledger": runtime}, ("ledger",))
    async with app:
        state: Any = state_pb2_grpc.StateServiceStub(app.channels.to("state"))
        sync: Any = sync_pb2_grpc.SyncServiceStub(app.channels.to("sync"))
        npcs = [row.id for row in crowd().values() if row.kind == "npc"]
        profiles = [type_pb2.NpcProfile(id=npc, display_name=npc, persona="") for npc in npcs]
        await state.ImportRoster(state_pb2.ImportRosterRequest(tenant=TENANT, npcs=profiles), timeout=10)
        feed = Feed(state)
        step = Step(at=0.0, frame=Frame("w", crowd(action="Combat", health=60)), events=(), utterances=())
        revision = (await feed.apply(step, "w")).revision
        await asyncio.sleep(30)
        talks = [Talk(npc, aggregated) for npc in npcs]
        answering = [asyncio.ensure_future(talk.answer(sync, revision)) for talk in talks]
        seq = await speak(talks)
        async with asyncio.timeout(3600):
            while sum(len(talk.waits) for talk in talks) < seq:  # noqa: ASYNC110 - virtual time costs nothing
                await asyncio.sleep(1.0)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        feed.close()
        return Ran(runtime.calls, percentile([wait for talk in talks for wait in talk.waits], 0.95), seq)


async def speak(talks: list[Talk]) -> int:
    """Say something to each, the bursts spread evenly; how many lines there were."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    said = sorted(
        (burst * EVERY_S + EVERY_S * place / len(talks) + line * APART_S, place)
        for burst in range(round(SPOKEN_S / EVERY_S))
        for place in range(len(talks))
        for line in range(BURST)
    )
    for seq, (at, place) in enumerate(said, 1):
        await asyncio.sleep(max(start + at - loop.time(), 0.0))
        talks[place].waiting.append((seq, loop.time()))
        talks[place].rings.set()
    return len(said)


def run() -> list[Result]:
    """Calls and the wait for the first sentence, aggregated beside one call for each message."""
    runs = {
        (aggregated, parallel): virtual_time.run(play(aggregated=aggregated, parallel=parallel))
        for aggregated in (True, False)
        for parallel in (True, False)
    }
    ours, each = runs[True, True], runs[False, True]
    peers = {
        f"{'aggregated' if aggregated else 'each message'}, {'parallel' if parallel else 'serial'}: {name}": value
        for (aggregated, parallel), ran in runs.items()
        for name, value in (("calls", float(ran.calls)), ("p95 s", ran.p95_s))
    }
    return [
        Result("aggregation, 50 NPCs, calls beside one for each message", ours.calls / each.calls, "x", CALLS_TIMES,
               "less", {"messages": float(ours.messages), **peers}),
        Result("aggregation, 50 NPCs, p95 to the first sentence beside that", ours.p95_s / each.p95_s, "x", P95_TIMES,
               "less", peers),
    ]  # fmt: skip
