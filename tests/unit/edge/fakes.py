"""Rooms behind the edge as the contracts describe them, small enough to read; and an edge in front of them.

They implement the generated servicers and are reached through in-process stubs, as the real rooms are.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from earshot.chat.v1 import chat_pb2, chat_pb2_grpc
from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.app import App
from services.common.clock import LoopClock
from services.common.errors import Conflict, EarshotError, NotFound, to_status
from services.common.settings import Settings
from services.edge.keys import KeyFile
from services.edge.server import Edge, build

Key = tuple[str, str]
# Read once: reading the environment takes longer than most tests.
DEFAULTS = Settings()


def keys(folder: Path, *tenants: str) -> list[str]:
    file = KeyFile(Settings(data=str(folder)))
    return [file.create(tenant, 1)[0] for tenant in tenants]


def key_of(world: type_pb2.WorldRef) -> Key:
    return world.tenant, world.world


@dataclass
class FakeState(state_pb2_grpc.StateServiceServicer):
    """Keeps the newest snapshot of each world, in one cluster of everybody."""

    items: list[state_pb2.SnapshotItem] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    revisions: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    seqs: dict[Key, int] = field(default_factory=dict)
    observations: list[tuple[Key, state_pb2.Observation]] = field(default_factory=list)
    npcs: dict[Key, type_pb2.NpcProfile] = field(default_factory=dict)
    locations: dict[Key, type_pb2.Location] = field(default_factory=dict)
    players: dict[Key, type_pb2.PlayerProfile] = field(default_factory=dict)
    # Raised by every RPC, or answered in items.
    failure: EarshotError | None = None
    # Items wait here before they are answered; None = at once.
    gate: asyncio.Event | None = None
    # Ends the next streams after this many messages without answering.
    drop_streams: int = 0
    streams: int = 0
    roster_version: int = 0
    known_npcs: set[str] | None = None
    refuse_unknown_npcs: bool = False

    async def Ingest(self, requests: Any, context: Any) -> AsyncIterator[state_pb2.IngestResponse]:
        self.streams += 1
        async for request in requests:
            self.messages.append(len(request.items))
            if self.drop_streams:
                self.drop_streams -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")
            if self.gate is not None:
                await self.gate.wait()
            # In another order than they came: clients match by id.
            yield state_pb2.IngestResponse(results=[self._apply(item) for item in reversed(request.items)])

    def _apply(self, item: state_pb2.SnapshotItem) -> state_pb2.SnapshotResult:
        self.items.append(item)
        if self.failure is not None:
            return state_pb2.SnapshotResult(id=item.id, status=to_status(self.failure))
        key = key_of(item.world)
        if item.epoch and item.epoch < len(self._boots.get(key, [])):
            stale = Conflict("a newer session is open", reason="STALE_EPOCH")
            return state_pb2.SnapshotResult(id=item.id, status=to_status(stale))
        outcome = state_pb2.INGEST_OUTCOME_APPLIED
        if item.seq and item.seq <= self.seqs.get(key, 0):
            outcome = state_pb2.INGEST_OUTCOME_DUPLICATE
        elif item.delta and item.base_seq != self.seqs.get(key, 0):
            outcome = state_pb2.INGEST_OUTCOME_RESYNC
        else:
            self.revisions[key] += 1
            self.seqs[key] = item.seq or self.seqs.get(key, 0)
        rows = item.entities
        clusters = state_pb2.ClusterColumns()
        if len(rows.ids) > 1:
            clusters.lineages.append("c1")
            clusters.sizes.append(len(rows.ids))
            clusters.npcs.append(rows.kinds.count(type_pb2.ENTITY_KIND_NPC))
            clusters.member_ids.extend(rows.ids)
            if item.want_positions:
                clusters.x, clusters.y, clusters.z = rows.x, rows.y, rows.z
        return state_pb2.SnapshotResult(
            id=item.id,
            outcome=outcome,
            revision=self.revisions[key],
            clusters=clusters,
            transitions=[
                state_pb2.Transition(
                    type=type_pb2.TRANSITION_TYPE_FORMED, lineage="c1", member_ids=rows.ids, revision=1
                )
            ]
            if clusters.lineages
            else [],
        )

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def ReportObservations(
        self, request: state_pb2.ReportObservationsRequest, context: Any
    ) -> state_pb2.ReportObservationsResponse:
        self._check()
        key = key_of(request.world)
        refused = []
        for index, observation in enumerate(request.observations):
            kind = observation.WhichOneof("observation") or ""
            npc = getattr(getattr(observation, kind, None), "npc_id", "")
            if self.known_npcs is not None and npc and npc not in self.known_npcs:
                refused.append(type_pb2.FieldRefusal(path=f"observations[{index}].npc_id", reason="UNKNOWN_NPC"))
            else:
                self.observations.append((key, observation))
                self.revisions[key] += 1
        return state_pb2.ReportObservationsResponse(revision=self.revisions[key], refused=refused)

    async def ImportRoster(
        self, request: state_pb2.ImportRosterRequest, context: Any
    ) -> state_pb2.ImportRosterResponse:
        self._check()
        if request.replace_locations:
            self.locations = {key: one for key, one in self.locations.items() if key[0] != request.tenant}
        self.npcs |= {(request.tenant, one.id): one for one in request.npcs}
        self.locations |= {(request.tenant, one.slug): one for one in request.locations}
        self.players |= {(request.tenant, one.id): one for one in request.players}
        self.roster_version += 1
        return state_pb2.ImportRosterResponse(
            roster_version=self.roster_version,
            npcs=len(request.npcs),
            locations=len(request.locations),
            players=len(request.players),
        )

    async def ListNpcProfiles(
        self, request: state_pb2.ListNpcProfilesRequest, context: Any
    ) -> state_pb2.ListNpcProfilesResponse:
        self._check()
        found = [
            one
            for (tenant, name), one in self.npcs.items()
            if tenant == request.tenant and (not request.ids or name in request.ids)
        ]
        return state_pb2.ListNpcProfilesResponse(npcs=found, roster_version=self.roster_version)

    async def DeleteNpcProfile(
        self, request: state_pb2.DeleteNpcProfileRequest, context: Any
    ) -> state_pb2.DeleteNpcProfileResponse:
        self._check()
        deleted = self.npcs.pop((request.tenant, request.id), None) is not None
        return state_pb2.DeleteNpcProfileResponse(deleted=deleted, roster_version=self.roster_version)

    async def ListLocations(
        self, request: state_pb2.ListLocationsRequest, context: Any
    ) -> state_pb2.ListLocationsResponse:
        self._check()
        found = [one for (tenant, _), one in self.locations.items() if tenant == request.tenant]
        return state_pb2.ListLocationsResponse(locations=found)

    async def DescribePlayer(
        self, request: state_pb2.DescribePlayerRequest, context: Any
    ) -> state_pb2.DescribePlayerResponse:
        self._check()
        stored = self.players.get((request.tenant, request.player_id))
        text = stored.description if stored else "A player with a blue hat."
        return state_pb2.DescribePlayerResponse(description=text, source="stored" if stored else "composed")

    async def GetWorld(self, request: state_pb2.GetWorldRequest, context: Any) -> state_pb2.GetWorldResponse:
        self._check()
        key = key_of(request.world)
        newest = next((item for item in reversed(self.items) if key_of(item.world) == key), None)
        if newest is None:
            raise NotFound("no such world", reason="UNKNOWN_WORLD")
        return state_pb2.GetWorldResponse(
            world=request.world,
            revision=self.revisions[key],
            revision_ms=1_700_000_000_000,
            epoch=newest.epoch,
            entities=newest.entities,
            clusters=self._apply_clusters(newest),
            recent_events=newest.events,
            stale=self.stale,
        )

    def _apply_clusters(self, item: state_pb2.SnapshotItem) -> state_pb2.ClusterColumns:
        rows = item.entities
        return state_pb2.ClusterColumns(
            lineages=["c1"], sizes=[len(rows.ids)], npcs=[1], member_ids=rows.ids, x=rows.x, y=rows.y, z=rows.z
        )

    async def ListWorlds(self, request: state_pb2.ListWorldsRequest, context: Any) -> state_pb2.ListWorldsResponse:
        self._check()
        worlds = [
            state_pb2.WorldSummary(
                world=type_pb2.WorldRef(tenant=tenant, world=world), revision=revision, npcs=1, players=1, clusters=1
            )
            for (tenant, world), revision in sorted(self.revisions.items())
            if tenant == request.tenant
        ]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 500)
        return state_pb2.ListWorldsResponse(
            worlds=worlds[start:end], next_page_token=str(end) if end < len(worlds) else ""
        )

    async def ListNpcs(self, request: state_pb2.ListNpcsRequest, context: Any) -> state_pb2.ListNpcsResponse:
        self._check()
        keys = {
            (key_of(item.world), name)
            for item in self.items
            for name, kind in zip(item.entities.ids, item.entities.kinds, strict=True)
            if kind == type_pb2.ENTITY_KIND_NPC and item.world.tenant == request.tenant
        }
        return state_pb2.ListNpcsResponse(
            npcs=[
                state_pb2.NpcChange(
                    key=state_pb2.NpcKey(world=type_pb2.WorldRef(tenant=key[0], world=key[1]), npc_id=name)
                )
                for key, name in sorted(keys)
            ]
        )

    async def BatchGetNpcContext(
        self, request: state_pb2.BatchGetNpcContextRequest, context: Any
    ) -> state_pb2.BatchGetNpcContextResponse:
        self._check()
        return state_pb2.BatchGetNpcContextResponse(contexts=[self._context(key) for key in request.npcs])

    def _context(self, key: state_pb2.NpcKey) -> state_pb2.NpcContext:
        if key.npc_id == "nobody":
            return state_pb2.NpcContext(status=to_status(NotFound("no such NPC", reason="UNKNOWN_NPC")), key=key)
        told = state_pb2.NpcContext(
            key=key, revision=7, present=True, heard=True, health_percent=80, lineage="c1", age_ms=12
        )
        told.self.id, told.self.name, told.self.kind = key.npc_id, "Pete", type_pb2.ENTITY_KIND_NPC
        told.self.position.x = 1.5
        member = told.members.add(distance=4.25, since_ms=1_700_000_000_000)
        member.entity.id, member.entity.kind = "962483389", type_pb2.ENTITY_KIND_PLAYER
        member.entity.position.x = 2.5
        return told

    async def GetEarshot(self, request: state_pb2.GetEarshotRequest, context: Any) -> state_pb2.GetEarshotResponse:
        self._check()
        key = key_of(request.world)
        return state_pb2.GetEarshotResponse(revision=self.revisions[key], epoch=len(self._boots.get(key, [])))

    async def OpenSession(self, request: state_pb2.OpenSessionRequest, context: Any) -> state_pb2.OpenSessionResponse:
        self._check()
        key = key_of(request.world)
        boots = self._boots.setdefault(key, [])
        if (request.job, request.boot) not in boots:
            boots.append((request.job, request.boot))
        return state_pb2.OpenSessionResponse(
            epoch=boots.index((request.job, request.boot)) + 1, revision=self.revisions[key]
        )

    async def CloseSession(
        self, request: state_pb2.CloseSessionRequest, context: Any
    ) -> state_pb2.CloseSessionResponse:
        self._check()
        newest = len(self._boots.get(key_of(request.world), []))
        if request.epoch < newest:
            raise Conflict("a newer session is open", reason="STALE_EPOCH")
        return state_pb2.CloseSessionResponse(closed=True)

    _boots: dict[Key, list[tuple[str, str]]] = field(default_factory=dict)
    stale: bool = False

    # -- not called by the edge

    def WatchNpcs(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def WatchWorlds(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ErasePlayer(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


Say = Callable[[chat_pb2.SayRequest], chat_pb2.SayResponse]


@dataclass
class Watch:
    """A watch on logs: the worlds that it listens to, and every one that it ever asked for."""

    worlds: set[Key] = field(default_factory=set)
    asked: list[Key] = field(default_factory=list)
    rings: asyncio.Queue[chat_pb2.WatchEventsResponse | None] = field(default_factory=asyncio.Queue)
    ended: bool = False


@dataclass
class FakeChat(chat_pb2_grpc.ChatServiceServicer):
    """One log a world; answers every utterance as `reply` says."""

    logs: dict[Key, list[chat_pb2.Event]] = field(default_factory=lambda: defaultdict(list))
    said: list[chat_pb2.SayRequest] = field(default_factory=list)
    reply: Say | None = None
    failure: EarshotError | None = None
    hang: bool = False
    cancelled: int = 0
    first_kept: int = 1
    watches: list[Watch] = field(default_factory=list)
    # Worlds that another replica would keep.
    elsewhere: set[Key] = field(default_factory=set)
    lists: int = 0
    decided: list[chat_pb2.DecideRequest] = field(default_factory=list)
    decision: chat_pb2.DecideResponse | None = None
    erased: list[chat_pb2.ErasePlayerRequest] = field(default_factory=list)

    def append(self, tenant: str, world: str, **event: Any) -> chat_pb2.Event:
        """Add an event to a world's log and ring."""
        log = self.logs[tenant, world]
        entry = chat_pb2.Event(
            seq=len(log) + 1, at_ms=1_700_000_000_000 + len(log), revision=3, conversation_id="c1", **event
        )
        log.append(entry)
        for watch in self.watches:
            if (tenant, world) in watch.worlds:
                ref = type_pb2.WorldRef(tenant=tenant, world=world)
                watch.rings.put_nowait(chat_pb2.WatchEventsResponse(world=ref, last_seq=entry.seq))
        return entry

    def utter(self, tenant: str, world: str, text: str) -> chat_pb2.Event:
        return self.append(
            tenant,
            world,
            utterance=chat_pb2.UtteranceEvent(
                utterance_id=f"u{len(self.logs[tenant, world]) + 1}",
                speaker_id="pete",
                speaker_name="Pete",
                speaker_kind=type_pb2.ENTITY_KIND_NPC,
                text=text,
                turn_id="t1",
                audience_ids=["962483389"],
                cause_user_id="962483389",
                ai=True,
                expires_at_ms=1_700_000_030_000,
            ),
        )

    async def Say(self, request: chat_pb2.SayRequest, context: Any) -> chat_pb2.SayResponse:
        if self.failure is not None:
            raise self.failure
        self.said.append(request)
        if self.hang:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.reply is not None:
            return self.reply(request)
        return chat_pb2.SayResponse(
            outcome=chat_pb2.SAY_OUTCOME_ACCEPTED, utterance_id="u1", conversation_id="c1", revision=5
        )

    async def Decide(self, request: chat_pb2.DecideRequest, context: Any) -> chat_pb2.DecideResponse:
        if self.failure is not None:
            raise self.failure
        self.decided.append(request)
        return self.decision or chat_pb2.DecideResponse(turn_id="t9", outcome="pending", reason="COMBAT")

    async def ListEvents(self, request: chat_pb2.ListEventsRequest, context: Any) -> chat_pb2.ListEventsResponse:
        if self.failure is not None:
            raise self.failure
        self.lists += 1
        log = self.logs[key_of(request.world)]
        if request.cursor < 0:
            return chat_pb2.ListEventsResponse(next_cursor=len(log))
        resync = request.cursor + 1 < self.first_kept or request.cursor > len(log)
        start = len(log) if resync else request.cursor
        events = log[start : start + (request.page_size or 64)]
        return chat_pb2.ListEventsResponse(events=events, next_cursor=start + len(events), resync=resync)

    async def WatchEvents(self, requests: Any, context: Any) -> AsyncIterator[chat_pb2.WatchEventsResponse]:
        watch = Watch()
        self.watches.append(watch)
        following = asyncio.create_task(self._follow(requests, watch))
        try:
            while (ring := await watch.rings.get()) is not None:
                yield ring
        finally:
            following.cancel()
            watch.ended = True
            watch.worlds.clear()

    async def _follow(self, requests: Any, watch: Watch) -> None:
        async for request in requests:
            for ref in request.listen:
                watch.asked.append(key_of(ref))
                watch.worlds.add(key_of(ref))
                ring = chat_pb2.WatchEventsResponse(world=ref, last_seq=len(self.logs[key_of(ref)]))
                if key_of(ref) in self.elsewhere:
                    ring.elsewhere = True
                    watch.worlds.discard(key_of(ref))
                watch.rings.put_nowait(ring)
            watch.worlds -= {key_of(ref) for ref in request.leave}

    async def GetConversation(
        self, request: chat_pb2.GetConversationRequest, context: Any
    ) -> chat_pb2.GetConversationResponse:
        if request.conversation_id != "c1":
            raise NotFound("no such conversation", reason="UNKNOWN_CONVERSATION")
        return chat_pb2.GetConversationResponse(
            conversation=self._conversation(), events=self.logs[key_of(request.world)][-request.page_size :]
        )

    def _conversation(self) -> chat_pb2.Conversation:
        member = state_pb2.EarshotMember(id="pete", name="Pete", kind=type_pb2.ENTITY_KIND_NPC)
        return chat_pb2.Conversation(id="c1", members=[member], open=True, last_activity_ms=1_700_000_000_000)

    async def ListConversations(
        self, request: chat_pb2.ListConversationsRequest, context: Any
    ) -> chat_pb2.ListConversationsResponse:
        if self.failure is not None:
            raise self.failure
        return chat_pb2.ListConversationsResponse(conversations=[self._conversation()])

    async def ExplainTurn(self, request: chat_pb2.ExplainTurnRequest, context: Any) -> chat_pb2.ExplainTurnResponse:
        if request.turn_id != "t1":
            raise NotFound("no such turn", reason="UNKNOWN_TURN")
        return chat_pb2.ExplainTurnResponse(
            turn=chat_pb2.TurnEvent(turn_id="t1", npc_id="pete", phase=chat_pb2.TURN_PHASE_ENDED, reason="VOCATIVE"),
            candidates=[
                chat_pb2.CandidateScore(
                    id="pete",
                    name="Pete",
                    kind=type_pb2.ENTITY_KIND_NPC,
                    probability=0.8,
                    features=[chat_pb2.Feature(name="vocative", contribution=2.5)],
                )
            ],
            obligation="VOCATIVE",
            p_any_npc=0.9,
            tau=0.5,
            stages_ms={"model": 420},
        )

    async def ErasePlayer(self, request: chat_pb2.ErasePlayerRequest, context: Any) -> chat_pb2.ErasePlayerResponse:
        self.erased.append(request)
        return chat_pb2.ErasePlayerResponse(erasure_id="e1")

    async def Retract(self, request: chat_pb2.RetractRequest, context: Any) -> chat_pb2.RetractResponse:
        raise NotImplementedError

    async def GetErasure(self, request: chat_pb2.GetErasureRequest, context: Any) -> chat_pb2.GetErasureResponse:
        if request.erasure_id != "e1":
            raise NotFound("no such erasure", reason="UNKNOWN_ERASURE")
        receipt = type_pb2.ErasureReceipt(store="chat", removed=3)
        return chat_pb2.GetErasureResponse(erasure_id="e1", state="done", receipts=[receipt])


@dataclass
class FakeSync(sync_pb2_grpc.SyncServiceServicer):
    """Answers freshness, and confirms every refresh."""

    failure: EarshotError | None = None
    refreshed: list[sync_pb2.RefreshRequest] = field(default_factory=list)

    async def GetSyncStatus(
        self, request: sync_pb2.GetSyncStatusRequest, context: Any
    ) -> sync_pb2.GetSyncStatusResponse:
        if self.failure is not None:
            raise self.failure
        key = state_pb2.NpcKey(world=request.world, npc_id="pete")
        return sync_pb2.GetSyncStatusResponse(
            npcs=[
                sync_pb2.NpcSyncStatus(
                    key=key, runtime="offline", agent_id="agent-1", confirmed_revision=4, lane=type_pb2.LANE_LOW
                )
            ],
            runtimes=[sync_pb2.RuntimeStatus(name="offline", healthy=True, breaker="closed")],
        )

    async def Refresh(self, request: sync_pb2.RefreshRequest, context: Any) -> sync_pb2.RefreshResponse:
        if self.failure is not None:
            raise self.failure
        self.refreshed.append(request)
        results = [
            sync_pb2.RefreshResult(
                key=key,
                outcome=sync_pb2.REFRESH_OUTCOME_CONFIRMED if request.wait else sync_pb2.REFRESH_OUTCOME_PENDING,
                revision=9,
                blocks=[sync_pb2.BlockStatus(label="situation", confirmed_revision=9, digest="ab", written=True)],
            )
            for key in request.npcs
        ]
        return sync_pb2.RefreshResponse(results=results)

    # -- not called by the edge

    def Converse(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Complete(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Embed(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ErasePlayer(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@dataclass
class World:
    """An edge with fakes behind it, and a client in front."""

    client: httpx.AsyncClient
    edge: Edge
    app: App
    state: FakeState
    chat: FakeChat
    sync: FakeSync


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    """The edge in process: no socket, no store."""
    options: dict[str, Any] = {"data": ":memory:", "listen": "127.0.0.1:0", "shutdown_s": 0.0, **settings}
    app = App(DEFAULTS.model_copy(update=options), ("edge", "state", "sync", "chat"), clock=LoopClock())
    state, chat, sync = FakeState(), FakeChat(), FakeSync()
    app.add(state_pb2_grpc.add_StateServiceServicer_to_server, state, "earshot.state.v1.StateService")
    app.add(chat_pb2_grpc.add_ChatServiceServicer_to_server, chat, "earshot.chat.v1.ChatService")
    app.add(sync_pb2_grpc.add_SyncServiceServicer_to_server, sync, "earshot.sync.v1.SyncService")
    edge = build(app)
    transport = httpx.ASGITransport(app=edge.gateway)  # type: ignore[arg-type] # a plain ASGI callable
    async with (
        app,
        edge.running(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client,
    ):
        # The stream and the watch are open before the first request.
        for _ in range(10):
            await asyncio.sleep(0)
        yield World(client, edge, app, state, chat, sync)
