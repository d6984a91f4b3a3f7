"""Rooms over a real Letta server in one process, and the raw `letta-client` beside them, for `earshot bench letta`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from bench.feed import TENANT, Feed
from services.cluster import server as cluster_room
from services.common.app import App
from services.common.clock import SystemClock
from services.common.settings import Settings
from services.demo.frame import Frame, Row, Step
from services.state import server as state_room
from services.sync import server as sync_room
from services.sync.agents.record import tag_of
from services.sync.context import Key
from services.sync.reader import to_proto
from services.sync.runtimes.letta import LettaRuntime
from services.sync.runtimes.port import Block
from services.sync.store import SyncStore

NPCS = 50
MODEL = "openai-proxy/gpt-4o-mini"


class Timed(LettaRuntime):
    """Says when a block was confirmed."""

    def __init__(self, url: str) -> None:
        super().__init__(url, model=MODEL)
        self.confirmed: asyncio.Queue[float] = asyncio.Queue()

    async def write_block(self, agent_id: str, block: Block, timeout: float) -> None:
        await super().write_block(agent_id, block, timeout)
        self.confirmed.put_nowait(time.perf_counter())


class Rig:
    """The rooms, a world in them, and the raw client with an agent of its own."""

    def __init__(self, app: App, runtime: Timed, client: Any) -> None:
        self.runtime, self.client = runtime, client
        self.world = f"bench-{uuid.uuid4().hex[:8]}"
        self.raw: list[str] = []
        self.sync: Any = sync_pb2_grpc.SyncServiceStub(app.channels.to("sync"))
        self.metrics = app.metrics
        self._state: Any = state_pb2_grpc.StateServiceStub(app.channels.to("state"))
        self._feed = Feed(self._state)

    async def raw_agent(self) -> str:
        """An agent of the raw client's own."""
        agent = await self.client.agents.create(
            name="raw", agent_type="letta_v1_agent", model=MODEL, embedding="openai/text-embedding-3-small",
            memory_blocks=[{"label": label, "value": "x"} for label in ("status", "group_members", "location")],
            include_base_tools=False,
        )  # fmt: skip
        self.raw.append(agent.id)
        return str(agent.id)

    async def enrol(self, npcs: Iterable[str]) -> None:
        """Give these a profile each, and nothing else."""
        profiles = [type_pb2.NpcProfile(id=npc, display_name=npc, persona=f"You are {npc}.") for npc in npcs]
        await self._state.ImportRoster(state_pb2.ImportRosterRequest(tenant=TENANT, npcs=profiles), timeout=10)

    async def snapshot(self, rows: dict[str, Row]) -> int:
        """Apply it; its revision."""
        step = Step(at=0.0, frame=Frame(self.world, rows), events=(), utterances=())
        return await self.step(step)

    async def step(self, step: Step) -> int:
        return (await self._feed.apply(step, self.world)).revision

    async def converse(self, npc: str, number: int, revision: int) -> None:
        line = sync_pb2.Line(
            log_seq=number, speaker_id="ada", speaker_name="Ada", speaker_kind=type_pb2.ENTITY_KIND_PLAYER, text="Well?"
        )
        request = sync_pb2.ConverseRequest(
            npc=to_proto(Key(TENANT, self.world, npc)), turn_id=f"{self.world}-{npc}-{number}", min_revision=revision,
            reason=sync_pb2.CONVERSE_REASON_REPLY, lines=[line], player_ids=["ada"], speech=True,
        )  # fmt: skip
        async for _ in self.sync.Converse(request, timeout=30):
            pass

    async def settled(self) -> None:
        """Those that a player hears have their agents and nothing is under way: for two seconds all is as it was."""
        request = sync_pb2.GetSyncStatusRequest(world=type_pb2.WorldRef(tenant=TENANT, world=self.world))
        before, same = -1, 0
        async with asyncio.timeout(120):
            while same < 10:
                found = (await self.sync.GetSyncStatus(request, timeout=5)).npcs
                made = sum(bool(one.agent_id) for one in found)
                same = same + 1 if made == before and made and not any(one.in_flight for one in found) else 0
                before = made
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        """Delete everything that this run made."""
        self._feed.close()
        for agent_id in self.raw:
            await self.client.agents.delete(agent_id)
        tags = [tag_of(Key(TENANT, self.world, f"npc-{n:03}")) for n in range(200)]
        wanted = set(tags)
        async for agent in self.client.agents.list(include=["agent.tags"]):
            tag = next((tag for tag in agent.tags or () if tag in wanted), "")
            if tag:
                await self.runtime.delete_agent(agent.id, tag, 10)


@asynccontextmanager
async def rig(url: str) -> AsyncIterator[Rig]:
    settings = Settings.model_validate(
        {"data": ":memory:", "runtimes": "offline", "otlp_endpoint": "", "schedule": "lazy", "freshness": "strict"}
    )
    app = App(settings, ("cluster", "state", "sync"), clock=SystemClock())
    await cluster_room.bind(app)
    await state_room.bind(app)
    runtime = Timed(url)
    client, _ = await runtime.open()
    await sync_room.serve(app, SyncStore(app.open_store("sync", sync_room.TABLES)), {"letta": runtime}, ("letta",))
    async with app:
        made = Rig(app, runtime, client)
        try:
            yield made
        finally:
            await made.close()


def crowd(only: str = "", health: int = 100, action: str = "Idle", z: float = 0.0) -> dict[str, Row]:
    """Pairs of an NPC and a player, far from each other. only: the one that the health is of, "" = all."""
    rows = {}
    for n in range(NPCS):
        npc, at = f"npc-{n:03}", 60.0 * n
        own = health if only in ("", npc) else 100
        rows[npc] = Row(npc, npc, "npc", at, 0, z, own, 100, action, "")
        rows[f"ada-{n}"] = Row(f"ada-{n}", f"Ada{n}", "player", at + 2, 0, z, 100, 100, "Idle", "")
    return rows


async def seconds(work: Awaitable[Any]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
