"""The rooms beside chat, for its tests: a state that is told its clusters, and a sync whose NPCs follow a script.

Both implement the generated servicers and are reached through the app's in-process channel, as the real ones are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from earshot.chat.v1 import chat_pb2, chat_pb2_grpc
from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from services.chat import server
from services.chat.moderation import Moderator, PatternModerator
from services.common.app import App
from services.common.clock import LoopClock
from services.common.errors import EarshotError, Unavailable
from services.common.settings import Settings

TENANT = "local"
WORLD = "w1"
NAMES = {
    "mara": "Mara", "brom": "Brom", "wyn": "Wyn", "tess": "Tess", "odo": "Odo", "una": "Una", "vic": "Vic",
    "zed": "Zed", "p1": "Ada", "p2": "Ben", "p3": "Cleo", "p4": "Dov",
}  # fmt: skip
NPCS = ("mara", "brom", "wyn", "tess", "odo", "una", "vic", "zed")

Transition = tuple[str, str, Sequence[str], str]


def ref(world: str = WORLD) -> type_pb2.WorldRef:
    return type_pb2.WorldRef(tenant=TENANT, world=world)


def kind_of(entity: str) -> type_pb2.EntityKind.ValueType:
    return type_pb2.ENTITY_KIND_NPC if entity in NPCS else type_pb2.ENTITY_KIND_PLAYER


@dataclass
class Place:
    """One world: clusters by lineage, and the transitions so far."""

    revision: int = 0
    clusters: dict[str, list[str]] = field(default_factory=dict)
    transitions: list[state_pb2.Transition] = field(default_factory=list)
    combat: dict[str, bool] = field(default_factory=dict)
    events: list[type_pb2.GameEvent] = field(default_factory=list)
    present: set[str] = field(default_factory=set)
    closed: bool = False
    epoch: int = 0
    # Of a lineage: the slug of its location.
    locations: dict[str, str] = field(default_factory=dict)


class FakeState(state_pb2_grpc.StateServiceServicer):
    """Answers what tests placed. `move` commits a revision and rings."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.profiles: dict[str, type_pb2.NpcProfile] = {
            npc: type_pb2.NpcProfile(id=npc, display_name=NAMES[npc]) for npc in NPCS
        }
        self.roster_version = 1
        self.erased: list[str] = []
        self.changed = asyncio.Event()
        self.failing = False
        self.ring = True

    def place(self, world: str = WORLD) -> Place:
        return self.places.setdefault(world, Place())

    def move(
        self, clusters: Mapping[str, Iterable[str]], transitions: Iterable[Transition] | None = None, world: str = WORLD
    ) -> int:
        """Commit clusters; without transitions, those that a comparison of memberships gives."""
        place = self.place(world)
        before, place.clusters = place.clusters, {lineage: list(members) for lineage, members in clusters.items()}
        place.revision += 1
        for kind, lineage, members, other in (
            transitions if transitions is not None else _changes(before, place.clusters)
        ):
            place.transitions.append(
                state_pb2.Transition(
                    type=type_pb2.TransitionType.Value(f"TRANSITION_TYPE_{kind.upper()}"),
                    lineage=lineage,
                    member_ids=members,
                    other_lineage=other,
                    revision=place.revision,
                )
            )
        place.present.update(member for members in place.clusters.values() for member in members)
        self.doorbell()
        return place.revision

    def doorbell(self) -> None:
        if self.ring:
            self.changed.set()

    async def GetEarshot(self, request: state_pb2.GetEarshotRequest, context: Any) -> state_pb2.GetEarshotResponse:
        if self.failing:
            raise Unavailable("state is away")
        place = self.place(request.world.world)
        if request.min_revision > place.revision:
            await asyncio.sleep(1.0)
            if request.min_revision > place.revision:
                raise Unavailable("no such revision yet", reason="REVISION_UNKNOWN")
        after = request.after_revision
        return state_pb2.GetEarshotResponse(
            revision=place.revision,
            roster_version=self.roster_version,
            clusters=[
                state_pb2.EarshotCluster(
                    lineage=lineage,
                    location=place.locations.get(lineage, ""),
                    members=[
                        state_pb2.EarshotMember(id=member, name=NAMES.get(member, member), kind=kind_of(member))
                        for member in members
                    ],
                )
                for lineage, members in place.clusters.items()
            ],
            transitions=[change for change in place.transitions if change.revision > after] if after else [],
            transitions_gap=not after,
            epoch=place.epoch,
            closed=place.closed,
            combat_changes=place.combat,
            events=place.events,
        )

    async def ListNpcProfiles(
        self, request: state_pb2.ListNpcProfilesRequest, context: Any
    ) -> state_pb2.ListNpcProfilesResponse:
        return state_pb2.ListNpcProfilesResponse(
            npcs=self.profiles.values(),
            roster_version=self.roster_version,
            not_modified=request.known_version == self.roster_version,
        )

    async def ReportObservations(
        self, request: state_pb2.ReportObservationsRequest, context: Any
    ) -> state_pb2.ReportObservationsResponse:
        place = self.place(request.world.world)
        for observation in request.observations:
            link = observation.link
            clusters = {lineage: list(members) for lineage, members in place.clusters.items()}
            home = next((lineage for lineage, members in clusters.items() if link.npc_id in members), "")
            lineage = home or next((name for name, members in clusters.items() if link.player_id in members), "linked")
            members = clusters.setdefault(lineage, [])
            members.extend(one for one in (link.npc_id, link.player_id) if one not in members)
            self.move(clusters, world=request.world.world)
        return state_pb2.ReportObservationsResponse(revision=place.revision)

    async def GetWorld(self, request: state_pb2.GetWorldRequest, context: Any) -> state_pb2.GetWorldResponse:
        place = self.place(request.world.world)
        return state_pb2.GetWorldResponse(
            revision=place.revision, entities=type_pb2.EntityColumns(ids=sorted(place.present)), closed=place.closed
        )

    async def WatchWorlds(
        self, request: state_pb2.WatchWorldsRequest, context: Any
    ) -> AsyncIterator[state_pb2.WatchWorldsResponse]:
        while True:
            await self.changed.wait()
            self.changed.clear()
            for world, place in list(self.places.items()):
                yield state_pb2.WatchWorldsResponse(world=ref(world), revision=place.revision, closed=place.closed)

    async def ErasePlayer(self, request: state_pb2.ErasePlayerRequest, context: Any) -> state_pb2.ErasePlayerResponse:
        self.erased.append(request.player_id)
        return state_pb2.ErasePlayerResponse(receipts=[type_pb2.ErasureReceipt(store="state", removed=1)])


def _changes(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> list[Transition]:
    found: list[Transition] = []
    for lineage, members in after.items():
        if lineage not in before:
            found.append(("formed", lineage, members, ""))
            continue
        came = [one for one in members if one not in before[lineage]]
        went = [one for one in before[lineage] if one not in members]
        if came:
            found.append(("joined", lineage, came, ""))
        if went:
            found.append(("left", lineage, went, ""))
    found.extend(("dissolved", lineage, members, "") for lineage, members in before.items() if lineage not in after)
    return found


@dataclass(frozen=True)
class Line:
    """What an NPC does when asked: after `first_s` its sentences, `each_s` apart."""

    sentences: tuple[str, ...] = ("Well met.",)
    first_s: float = 0.05
    each_s: float = 0.05
    outcome: str = "SPOKE"
    actions: tuple[str, ...] = ()
    error: EarshotError | None = None
    degraded: str = ""


Script = Callable[[sync_pb2.ConverseRequest], Line]


class FakeSync(sync_pb2_grpc.SyncServiceServicer):
    """NPCs that follow `script`; remembers every request, and which calls were open when."""

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or (lambda _: Line())
        self.requests: list[sync_pb2.ConverseRequest] = []
        self.cancelled: list[tuple[str, float]] = []
        self.erased: list[sync_pb2.ErasePlayerRequest] = []
        # So many erasures are refused first.
        self.refusals = 0
        self.open = 0
        self.most_open = 0
        # Recall: texts that were embedded, and how; without it there is no embedder.
        self.embedded: list[str] = []
        self.embedder: Callable[[str], list[float]] | None = None
        self.model = "fake@4"

    async def Embed(self, request: sync_pb2.EmbedRequest, context: Any) -> sync_pb2.EmbedResponse:
        if self.embedder is None:
            raise Unavailable("no embedder is configured", reason="NO_EMBEDDER", retryable=False)
        rows = [self.embedder(text) for text in request.texts]
        self.embedded += request.texts
        vectors = b"".join(np.array(row, "<f2").tobytes() for row in rows)
        return sync_pb2.EmbedResponse(model=self.model, dim=4, vectors=vectors)

    async def Converse(
        self, request: sync_pb2.ConverseRequest, context: Any
    ) -> AsyncIterator[sync_pb2.ConverseResponse]:
        self.requests.append(request)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            line = self.script(request)
            if line.error is not None:
                await asyncio.sleep(line.first_s)
                raise line.error
            yield sync_pb2.ConverseResponse(
                started=sync_pb2.ConverseStarted(revision=request.min_revision, runtime="fake", degraded=line.degraded)
            )
            for number, sentence in enumerate(line.sentences if line.outcome == "SPOKE" else ()):
                await asyncio.sleep(line.first_s if number == 0 else line.each_s)
                yield sync_pb2.ConverseResponse(sentence=sync_pb2.ConverseSentence(index=number, text=sentence))
            if line.outcome != "SPOKE":
                await asyncio.sleep(line.first_s)
            for number, name in enumerate(line.actions):
                action = type_pb2.Action(action_id=f"a{number}", type=name, data=b"{}")
                yield sync_pb2.ConverseResponse(action=sync_pb2.ConverseAction(action=action))
            yield sync_pb2.ConverseResponse(
                finished=sync_pb2.ConverseFinished(
                    outcome=sync_pb2.ConverseOutcome.Value(f"CONVERSE_OUTCOME_{line.outcome}"),
                    degraded=line.degraded,
                )
            )
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append((request.turn_id, asyncio.get_running_loop().time()))
            raise
        finally:
            self.open -= 1

    async def ErasePlayer(self, request: sync_pb2.ErasePlayerRequest, context: Any) -> sync_pb2.ErasePlayerResponse:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("a runtime is away", reason="ERASURE_PENDING")
        self.erased.append(request)
        return sync_pb2.ErasePlayerResponse(receipts=[type_pb2.ErasureReceipt(store="sync", removed=len(request.npcs))])


@dataclass
class Tavern:
    """Chat between its neighbours."""

    app: App
    chat: Any
    state: FakeState
    sync: FakeSync
    cursor: int = 0
    spoken: int = 0

    async def say(self, speaker: str, text: str, *, world: str = WORLD, wait: float = 20.0, **fields: Any) -> Any:
        """Say something; every call is a message of its own."""
        self.spoken += 1
        fields.setdefault("message_id", f"m{self.spoken}")
        request = chat_pb2.SayRequest(
            world=ref(world),
            speaker_id=speaker,
            speaker_name=NAMES.get(speaker, speaker),
            text=text,
            wait_ms=round(wait * 1000),
            **fields,
        )
        return await self.chat.Say(request, timeout=max(wait, 1.0) + 5)

    async def events(self, world: str = WORLD, cursor: int = 0) -> list[chat_pb2.Event]:
        """The whole log after a cursor."""
        found: list[chat_pb2.Event] = []
        while True:
            page = await self.chat.ListEvents(
                chat_pb2.ListEventsRequest(world=ref(world), cursor=cursor, page_size=500), timeout=5
            )
            assert not page.resync
            if not page.events:
                return found
            found.extend(page.events)
            cursor = page.next_cursor

    async def phases(self, world: str = WORLD) -> list[tuple[str, str, str]]:
        """(npc, phase, reason) of every turn event."""
        return [
            (
                event.turn.npc_id,
                chat_pb2.TurnPhase.Name(event.turn.phase).removeprefix("TURN_PHASE_").lower(),
                event.turn.reason,
            )
            for event in await self.events(world)
            if event.WhichOneof("event") == "turn"
        ]

    async def lines(self, world: str = WORLD) -> list[tuple[str, str]]:
        """(speaker, text) of every utterance."""
        return [
            (event.utterance.speaker_id, event.utterance.text)
            for event in await self.events(world)
            if event.WhichOneof("event") == "utterance"
        ]


@asynccontextmanager
async def tavern(
    script: Script | None = None,
    *,
    state: FakeState | None = None,
    moderator: Moderator | None = None,
    data: str = ":memory:",
    greetings: bool = False,
    embedder: Callable[[str], list[float]] | None = None,
    **settings: Any,
) -> AsyncIterator[Tavern]:
    """A running chat room on the loop's time. Greetings are off unless asked for: they would speak into every test."""
    fields = {"data": data, "greetings": greetings, "shutdown_s": 0.5, **settings}
    app = App(
        Settings(_env_file=None, **fields),
        ("chat", "state", "sync"),
        clock=LoopClock(),
        inline_stores=True,
    )
    fake_state = state or FakeState()  # type: ignore[abstract]  # a fake of the part that chat calls
    fake_sync = FakeSync(script)  # type: ignore[abstract]  # likewise
    fake_sync.embedder = embedder
    app.add(state_pb2_grpc.add_StateServiceServicer_to_server, fake_state, "earshot.state.v1.StateService")
    app.add(sync_pb2_grpc.add_SyncServiceServicer_to_server, fake_sync, "earshot.sync.v1.SyncService")
    await server.bind_with(app, moderator or PatternModerator())
    async with app:
        yield Tavern(app, chat_pb2_grpc.ChatServiceStub(app.channels.to("chat")), fake_state, fake_sync)
