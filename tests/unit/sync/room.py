"""The sync room in one process over a fake state and fake runtimes, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from earshot.state.v1 import state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.app import App
from services.common.clock import LoopClock
from services.common.settings import Settings
from services.sync import server
from services.sync.routing.providers import Configured
from services.sync.runtimes.port import Runtime
from services.sync.store import SyncStore
from tests.unit.sync.fake_runtime import FakeRuntime
from tests.unit.sync.fake_state import FakeState


@dataclass
class Heard:
    """What a caller of Converse got."""

    started: list[sync_pb2.ConverseStarted] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    actions: list[type_pb2.Action] = field(default_factory=list)
    finished: sync_pb2.ConverseFinished | None = None


class Room:
    """What tests drive: the stub, the fakes, and short ways to ask."""

    def __init__(self, app: App, state: FakeState, store: SyncStore) -> None:
        self.app = app
        self.store = store
        self.state = state
        self.stub: Any = sync_pb2_grpc.SyncServiceStub(app.channels.to("sync"))

    def request(self, npc: str = "mara", text: str = "Hello?", **fields: Any) -> sync_pb2.ConverseRequest:
        """A turn about the present revision; `seq` numbers its one line."""
        self.state.turns += 1
        seq = fields.pop("seq", self.state.turns * 10)
        world = fields.pop("world", "w")
        line = sync_pb2.Line(
            log_seq=seq, speaker_id="id-Ada", speaker_name="Ada", speaker_kind=type_pb2.ENTITY_KIND_PLAYER, text=text
        )
        values: dict[str, Any] = {
            "npc": FakeState.key(npc, world),
            "turn_id": f"turn-{self.state.turns}",
            "min_revision": self.state.world(world).revision,
            "lines": [line],
            "player_ids": ["id-Ada"],
            "speech": True,
            "actions": True,
        } | fields
        return sync_pb2.ConverseRequest(**values)

    async def converse(self, npc: str = "mara", text: str = "Hello?", *, timeout: float = 20.0, **fields: Any) -> Heard:
        return await self.hear(self.stub.Converse(self.request(npc, text, **fields), timeout=timeout))

    @staticmethod
    async def hear(call: Any, heard: Heard | None = None) -> Heard:
        """What comes of a call; `heard` also keeps what came before a failure."""
        heard = heard if heard is not None else Heard()
        async for event in call:
            kind = event.WhichOneof("event")
            if kind == "started":
                heard.started.append(event.started)
            elif kind == "sentence":
                heard.sentences.append(event.sentence.text)
            elif kind == "action":
                heard.actions.append(event.action.action)
            else:
                heard.finished = event.finished
        return heard

    async def refresh(self, *npcs: str, timeout: float = 20.0, **fields: Any) -> Sequence[sync_pb2.RefreshResult]:
        request = sync_pb2.RefreshRequest(npcs=[FakeState.key(npc) for npc in npcs], **fields)
        response = await self.stub.Refresh(request, timeout=timeout)
        results: Sequence[sync_pb2.RefreshResult] = response.results
        return results

    async def status(self, npc: str = "mara") -> sync_pb2.NpcSyncStatus:
        request = sync_pb2.GetSyncStatusRequest(world=FakeState.key().world, npc_ids=[npc])
        response = await self.stub.GetSyncStatus(request, timeout=5)
        (status,) = response.npcs
        assert isinstance(status, sync_pb2.NpcSyncStatus)
        return status


def settings(data: str = ":memory:", **fields: Any) -> Settings:
    values: dict[str, Any] = {"data": data, "letta_base_url": "", "openai_base_url": "", "shutdown_s": 1.0} | fields
    return Settings(**values)


@asynccontextmanager
async def room(
    *runtimes: Runtime,
    state: FakeState | None = None,
    data: str = ":memory:",
    chain: Sequence[str] = (),
    found: Configured | None = None,
    **fields: Any,
) -> AsyncIterator[Room]:
    """Started, with the informer watching; stopped at the end. chain: names in order, else the runtimes."""
    clock = LoopClock()
    configured = settings(data, **fields)
    app = App(configured, ["state", "sync"], clock=clock, inline_stores=True)
    state = state or FakeState(clock)  # type: ignore[abstract]  # a fake of part of the service
    app.add(state_pb2_grpc.add_StateServiceServicer_to_server, state, "earshot.state.v1.StateService")
    store = SyncStore(app.open_store("sync", server.TABLES))
    chosen = runtimes or (FakeRuntime(),)
    order = tuple(chain) or tuple(one.name for one in chosen)
    await server.serve(app, store, {one.name: one for one in chosen}, order, found)
    async with app:
        await asyncio.sleep(0.05)
        yield Room(app, state, store)
