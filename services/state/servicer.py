"""StateService: translates calls into what the nouns decide and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common import tracing
from services.common.clock import Clock
from services.common.errors import BadInput, EarshotError, NotFound, to_status
from services.common.leisure import leisure
from services.common.logs import get_logger
from services.common.ownership import partition_of
from services.common.settings import Settings
from services.state.bands import NPC
from services.state.change import Change, Lane, heard
from services.state.context import context_of, entity_of, looks_of
from services.state.document import Document, blank
from services.state.feed import BATCH, Doorbells, Feed, Ref, Told
from services.state.intake import Intake
from services.state.observation import Observed
from services.state.rosters import Rosters
from services.state.snapshot import Snapshot
from services.state.store import StateStore
from services.state.stream import IngestStream, Taken, failed
from services.state.wire import answers, requests
from services.state.world import World
from services.state.worlds import Worlds

MAX_OBSERVATIONS = 256
MAX_KEYS = 1000
LOGGED_REFUSALS = 8
SPACING_MAX_MS = 10_000
PAGE, PAGE_MAX = 100, 1000

Found = tuple[World | None, Document, list[bytes]]
"""A world that was asked for, its document, and the looks in that."""

_log = get_logger("state")


class StateServicer(state_pb2_grpc.StateServiceServicer):
    """See protos/earshot/state/v1/state.proto, whose comments are the contract."""

    def __init__(
        self,
        worlds: Worlds,
        intake: Intake,
        rosters: Rosters,
        store: StateStore,
        feed: Feed,
        bells: Doorbells,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._worlds = worlds
        self._intake = intake
        self._rosters = rosters
        self._store = store
        self._feed = feed
        self._bells = bells
        self._clock = clock
        self._stale_after_s = settings.stale_after_s  # a settings object is slow to read
        self._entities_max = settings.entities_max

    # -- sessions and what comes in
    # --------------------------------------------------------------------------------

    async def OpenSession(self, request: state_pb2.OpenSessionRequest, context: Any) -> state_pb2.OpenSessionResponse:
        if not (0 < len(request.job) <= 200 and 0 < len(request.boot) <= 200):
            raise BadInput("job and boot must be 1 to 200 characters", reason="BAD_SESSION")
        epoch, revision = await self._intake.open_session(_ref(request.world), request.job, request.boot)
        return state_pb2.OpenSessionResponse(epoch=epoch, revision=revision)

    async def CloseSession(
        self, request: state_pb2.CloseSessionRequest, context: Any
    ) -> state_pb2.CloseSessionResponse:
        return state_pb2.CloseSessionResponse(
            closed=await self._intake.close_session(_ref(request.world), request.epoch)
        )

    async def Ingest(  # type: ignore[override]  # answers through context.write, the other form grpc.aio takes
        self, request_iterator: Any, context: Any
    ) -> None:
        await IngestStream(self).serve(request_iterator, context.write)

    async def alone(self, item: state_pb2.SnapshotItem) -> state_pb2.SnapshotResult:
        """See stream.Ingest."""
        with tracing.span("read", stage="read"):
            snapshot = self._read(item)
        applied = await self._intake.snapshot(_ref(item.world), snapshot)
        with tracing.span("answer", stage="answer"):
            return answers.result(item.id, applied, snapshot.refused, positions=item.want_positions)

    def take(self, items: Sequence[state_pb2.SnapshotItem]) -> Taken:
        """See stream.Ingest: items of different worlds with nobody's turn in between, but those that are traced."""
        held: dict[World, tuple[state_pb2.SnapshotItem, Snapshot]] = {}
        alone: list[state_pb2.SnapshotItem] = []
        results: list[state_pb2.SnapshotResult] = []
        for item in items:
            ref = _ref(item.world)
            known = self._worlds.get(ref)
            if item.traceparent or (known is not None and known.lane.busy):
                alone.append(item)
                continue
            try:
                snapshot = self._read(item)
                world = self._intake.taken(ref, snapshot)
            except EarshotError as error:
                results.append(failed(item, error))
                continue
            if world is None:
                alone.append(item)
            else:
                held[world] = item, snapshot

        async def together() -> list[state_pb2.SnapshotResult]:
            outcomes = await self._intake.together({world: snapshot for world, (_, snapshot) in held.items()})
            return [
                failed(item, outcome)
                if isinstance(outcome, EarshotError)
                else answers.result(item.id, outcome, snapshot.refused, positions=item.want_positions)
                for (item, snapshot), outcome in zip(held.values(), outcomes, strict=True)
            ]

        def dropped() -> None:
            for world in held:
                world.lane.leave()

        return Taken([item for item, _ in held.values()], together, dropped, alone, results)

    def _read(self, item: state_pb2.SnapshotItem) -> Snapshot:
        """The snapshot of an item. Raises BadInput, TooLarge and NotOwner."""
        self._store.owns(_ref(item.world))
        world = self._worlds.get(_ref(item.world))
        snapshot = requests.snapshot_of(
            item,
            self._worlds.roster(item.world.tenant),
            world.document.observed if world else Observed(),
            now_s=self._clock.now_ms() / 1000,
            stale_after_s=self._stale_after_s,
            entities_max=self._entities_max,
            known=world.document.steady.sent_ids if world and world.document.steady else (),
        )
        for refusal in snapshot.refused[:LOGGED_REFUSALS]:
            _log.info("field_refused", path=refusal.path, reason=refusal.reason)
        return snapshot

    async def ReportObservations(
        self, request: state_pb2.ReportObservationsRequest, context: Any
    ) -> state_pb2.ReportObservationsResponse:
        if len(request.observations) > MAX_OBSERVATIONS:
            raise BadInput("too many observations in one call", reason="TOO_MANY_OBSERVATIONS")
        observations, refused = requests.observations_of(request.observations)
        revision, more = await self._intake.observe(_ref(request.world), observations)
        return state_pb2.ReportObservationsResponse(revision=revision, refused=answers.refusals((*refused, *more)))

    # -- reads
    # -----------------------------------------------------------------------------------------------------

    async def _document(self, ref: Ref, min_revision: int) -> tuple[World | None, Document]:
        """The world's document at min_revision or later; an unknown world is one in which nobody is."""
        world = self._worlds.get(ref)
        if world is None and min_revision:
            world = World(ref, blank(), 0)  # nobody will show anything here: this waits, then refuses
            await world.reach(min_revision)
        return world, await world.reach(min_revision) if world else blank()

    async def GetEarshot(self, request: state_pb2.GetEarshotRequest, context: Any) -> state_pb2.GetEarshotResponse:
        ref = _ref(request.world)
        world, document = await self._document(ref, request.min_revision)
        return answers.earshot(
            document,
            after_revision=request.after_revision,
            entity=request.entity_id,
            epoch=world.epoch if world else 0,
            roster=self._worlds.roster(ref[0]),
        )

    async def BatchGetNpcContext(
        self, request: state_pb2.BatchGetNpcContextRequest, context: Any
    ) -> state_pb2.BatchGetNpcContextResponse:
        if len(request.npcs) > MAX_KEYS:
            raise BadInput("too many NPCs in one call", reason="TOO_MANY_KEYS")
        found: dict[Ref, Found | EarshotError] = {}
        for ref in dict.fromkeys(_ref(key.world) for key in request.npcs):
            try:
                world, document = await self._document(ref, request.min_revision)
                found[ref] = world, document, looks_of(document)
            except EarshotError as error:
                found[ref] = error
        return state_pb2.BatchGetNpcContextResponse(
            contexts=[self._context(key, found[_ref(key.world)]) for key in request.npcs]
        )

    def _context(self, key: state_pb2.NpcKey, found: Found | EarshotError) -> state_pb2.NpcContext:
        if isinstance(found, EarshotError):
            return state_pb2.NpcContext(key=key, status=to_status(found))
        world, document, looks = found
        context = context_of(document, self._worlds.roster(key.world.tenant), key.npc_id, looks)
        if context is None:
            unknown = NotFound("neither the world nor the roster knows this NPC", reason="UNKNOWN_NPC")
            return state_pb2.NpcContext(key=key, status=to_status(unknown), revision=document.revision)
        age = self._clock.monotonic() * 1000 - document.fed_tick if world else 0
        return answers.context(key, document, context, epoch=world.epoch if world else 0, age_ms=max(0, int(age)))

    async def GetWorld(self, request: state_pb2.GetWorldRequest, context: Any) -> state_pb2.GetWorldResponse:
        ref = _ref(request.world)
        world = self._worlds.get(ref)
        if world is None:
            # At once, whatever revision is asked for: who was told one was told by this world's owner.
            raise NotFound("no such world", reason="UNKNOWN_WORLD")
        document = await world.reach(request.min_revision)
        return state_pb2.GetWorldResponse(
            world=request.world,
            revision=document.revision,
            revision_ms=document.at_ms,
            epoch=world.epoch,
            entities=answers.entities(document.columns),
            clusters=answers.clusters(document, positions=True),
            recent_events=[answers.event(event) for event in document.events],
            closed=document.closed,
            stale=not self._store.sure,
        )

    async def ListWorlds(self, request: state_pb2.ListWorldsRequest, context: Any) -> state_pb2.ListWorldsResponse:
        size = min(request.page_size or PAGE, PAGE_MAX)
        after = tuple(request.page_token.split("\0", 1)) if request.page_token else ("", "")
        worlds = [world for world in self._worlds.of(request.tenant) if world.ref > after]
        page = worlds[:size]
        return state_pb2.ListWorldsResponse(
            worlds=[answers.summary(world.ref, world.document) for world in page],
            next_page_token="\0".join(page[-1].ref) if len(worlds) > size else "",
        )

    # -- the informer
    # ----------------------------------------------------------------------------------------------

    async def ListNpcs(self, request: state_pb2.ListNpcsRequest, context: Any) -> state_pb2.ListNpcsResponse:
        token, partitions = self._feed.token, frozenset(request.partitions)
        return state_pb2.ListNpcsResponse(
            resume_token=token,
            npcs=[
                answers.npc_change(Told(world.ref, change))
                for world in self._worlds.of(request.tenant)
                if not partitions or partition_of(*world.ref) in partitions
                for change in _npcs(world.document)
            ],
        )

    async def WatchNpcs(
        self, request: state_pb2.WatchNpcsRequest, context: Any
    ) -> AsyncIterator[state_pb2.WatchNpcsResponse]:
        token = request.resume_token or self._feed.token
        spacing = min(request.spacing_ms, SPACING_MAX_MS) / 1000
        partitions = frozenset(request.partitions)
        bell = self._feed.bell(partitions)
        try:
            while True:
                page = self._feed.after(token, request.tenant, partitions)
                # Also where nothing is told: a place in the log that is not renewed is forgotten.
                if page.gap or page.told or page.token != token:
                    yield state_pb2.WatchNpcsResponse(
                        resume_token=page.token,
                        changes=[answers.npc_change(told) for told in page.told],
                        gap=page.gap,
                    )
                if page.gap:
                    return
                if page.token == token:
                    await bell.wait()
                    bell.clear()
                elif spacing and len(page.told) < BATCH:
                    await asyncio.sleep(spacing)
                    await leisure(10 * spacing)
                token = page.token
        finally:
            self._feed.hang_up(bell)

    async def WatchWorlds(
        self, request: state_pb2.WatchWorldsRequest, context: Any
    ) -> AsyncIterator[state_pb2.WatchWorldsResponse]:
        bell = self._bells.open(request.tenant, frozenset(request.partitions))
        try:
            while True:
                for ring in await bell.next():
                    yield state_pb2.WatchWorldsResponse(
                        world=answers.world_ref(ring.ref), revision=ring.revision, closed=ring.closed
                    )
        finally:
            self._bells.close(bell)

    # -- the roster
    # ------------------------------------------------------------------------------------------------

    async def ImportRoster(
        self, request: state_pb2.ImportRosterRequest, context: Any
    ) -> state_pb2.ImportRosterResponse:
        change = await self._rosters.bring_in(
            _tenant(request.tenant),
            [requests.profile_of(message) for message in request.npcs],
            [requests.location_of(message) for message in request.locations],
            [requests.player_of(message) for message in request.players],
            replace_locations=request.replace_locations,
        )
        roster = change.roster
        return state_pb2.ImportRosterResponse(
            roster_version=roster.version,
            refused=answers.refusals(change.refused),
            npcs=len(roster.npcs),
            locations=len(roster.locations),
            players=len(roster.players),
        )

    async def ListNpcProfiles(
        self, request: state_pb2.ListNpcProfilesRequest, context: Any
    ) -> state_pb2.ListNpcProfilesResponse:
        roster = self._worlds.roster(request.tenant)
        if request.known_version and request.known_version == roster.version:
            return state_pb2.ListNpcProfilesResponse(roster_version=roster.version, not_modified=True)
        wanted = request.ids or sorted(roster.npcs)
        return state_pb2.ListNpcProfilesResponse(
            npcs=[answers.profile(roster.npcs[npc]) for npc in wanted if npc in roster.npcs],
            roster_version=roster.version,
        )

    async def DeleteNpcProfile(
        self, request: state_pb2.DeleteNpcProfileRequest, context: Any
    ) -> state_pb2.DeleteNpcProfileResponse:
        deleted, version = await self._rosters.delete_npc(_tenant(request.tenant), request.id)
        return state_pb2.DeleteNpcProfileResponse(deleted=deleted, roster_version=version)

    async def ListLocations(
        self, request: state_pb2.ListLocationsRequest, context: Any
    ) -> state_pb2.ListLocationsResponse:
        locations = self._worlds.roster(request.tenant).locations
        return state_pb2.ListLocationsResponse(
            locations=[answers.location(locations[slug]) for slug in sorted(locations)]
        )

    async def DescribePlayer(
        self, request: state_pb2.DescribePlayerRequest, context: Any
    ) -> state_pb2.DescribePlayerResponse:
        roster = self._worlds.roster(request.tenant)
        stored = roster.players.get(request.player_id)
        if stored is not None and stored.description:
            return state_pb2.DescribePlayerResponse(description=stored.description, source="stored")
        for world in self._worlds.of(request.tenant):
            row = world.document.columns.index.get(request.player_id)
            if row is not None and request.world in ("", world.ref[1]):
                player = entity_of(world.document, roster, row, looks_of(world.document))
                told = player.description or player.appearance
                text = f"{player.name}: {told}" if told else f"A player called {player.name}."
                return state_pb2.DescribePlayerResponse(description=text, source="composed")
        if stored is not None and stored.name:
            return state_pb2.DescribePlayerResponse(description=f"A player called {stored.name}.", source="composed")
        return state_pb2.DescribePlayerResponse(description="A player nobody here has described yet.", source="unknown")

    async def ErasePlayer(self, request: state_pb2.ErasePlayerRequest, context: Any) -> state_pb2.ErasePlayerResponse:
        tenant = _tenant(request.tenant)
        if not request.player_id:
            raise BadInput("player_id is missing", reason="BAD_ID")
        worlds = await self._intake.erase(tenant, request.player_id)
        stored = await self._rosters.erase_player(tenant, request.player_id)
        await self._store.purge()
        return state_pb2.ErasePlayerResponse(
            receipts=[
                type_pb2.ErasureReceipt(store="state.worlds", removed=worlds),
                type_pb2.ErasureReceipt(store="state.roster", removed=int(stored)),
            ]
        )


def _ref(world: type_pb2.WorldRef) -> Ref:
    return world.tenant, world.world


def _tenant(tenant: str) -> str:
    if not 0 < len(tenant) <= 128:
        raise BadInput("tenant must be 1 to 128 characters", reason="BAD_TENANT")
    return tenant


def _npcs(document: Document) -> list[Change]:
    """Every NPC of a world as a change, for who lists."""
    columns = document.columns
    return [
        Change(
            columns.ids[row],
            int(max(document.status_revision[row], document.group_revision[row], document.events_revision[row])),
            Lane.LOW,
            heard=heard(columns, document.membership, row),
            combat=bool(document.situation.fighting_until[row]),
        )
        for row in range(len(columns))
        if columns.kinds[row] == NPC
    ]
