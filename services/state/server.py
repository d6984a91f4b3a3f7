"""Wires the state room into an app."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

from earshot.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from earshot.state.v1 import state_pb2_grpc

from services.common.app import App
from services.common.logs import get_logger
from services.common.replicas import Holder, Partitions
from services.common.settings import Settings
from services.common.store_file import MEMORY
from services.state import compiled, measures
from services.state.agenda import Agenda
from services.state.assigner import Assigner
from services.state.distances import Distances, places
from services.state.document import Rules
from services.state.feed import Doorbells, Feed
from services.state.intake import Intake, Times
from services.state.roster_copies import RosterCopies
from services.state.rosters import Rosters
from services.state.servicer import StateServicer
from services.state.store import LAYOUT, SCHEMA, StateStore
from services.state.worker import keep_saved, keep_time
from services.state.worlds import Worlds

# The contract reads 0 as its default; this is as good as none.
NO_HEIGHT = 1e-9
SERVICE = "earshot.state.v1.StateService"

_log = get_logger("state")


async def bind(app: App) -> None:
    """Open the store, load what it holds, serve, and keep time."""
    settings, clock = app.settings, app.clock
    app.calls("cluster")
    database = app.open_store("state", SCHEMA, LAYOUT)
    store = StateStore(database)
    worlds = Worlds(settings.worlds_max)
    assigner = Assigner(cluster_pb2_grpc.ClusterServiceStub(app.channels.to("cluster")), _cluster_settings(settings))
    feed, bells, agenda = Feed(uuid.uuid4().hex[:12]), Doorbells(), Agenda()
    intake = Intake(
        worlds, store, assigner, clock, app.metrics,
        feed=feed, bells=bells, agenda=agenda, rules=_rules(settings), times=_times(settings),
    )  # fmt: skip
    measures.describe(app.metrics, worlds)
    rosters = Rosters(worlds, store, intake)
    servicer = StateServicer(worlds, intake, rosters, store, feed, bells, clock, settings)
    app.add(state_pb2_grpc.add_StateServiceServicer_to_server, servicer, SERVICE)
    copies = RosterCopies(worlds, store, intake)

    async def entered(partitions: Partitions) -> None:
        revision, epoch = store.retired()
        worlds.retired_revision = max(worlds.retired_revision, revision)
        worlds.retired_epoch = max(worlds.retired_epoch, epoch)
        tick = int(clock.monotonic() * 1000)
        came = worlds.load(
            store.worlds(partitions), store.sessions(partitions), store.rosters(partitions), clock.now_ms(), tick
        )
        intake.resume(came)

    async def leaving(partitions: Partitions) -> None:
        worlds.let_go(partitions)

    await app.hold("state", database, Holder(entered, leaving))
    fallback = None if settings.data == MEMORY else Path(settings.data) / "cache"

    async def warm_up() -> None:
        try:
            await asyncio.to_thread(compiled.warm_up, fallback)
        except ImportError:
            _log.warning("compiled_method_missing")  # slower, not wrong

    app.worker("state.warm_up", warm_up)
    app.worker("state.assigner", assigner.run)
    app.worker("state.rosters", rosters.run)
    app.worker("state.time", lambda: keep_time(agenda, intake, clock))
    if app.shared is not None:
        app.worker("state.roster_copies", copies.run)
    app.worker("state.saver", lambda: keep_saved(intake))


def _cluster_settings(settings: Settings) -> Callable[[str], cluster_pb2.Settings]:
    """The cluster room's settings of a world by its name. Raises BadInput (BAD_DISTANCES)."""
    usual = Distances(settings.join_studs, settings.leave_studs, settings.vertical_weight)
    known = places(usual, settings.distances)
    messages = {
        distances: cluster_pb2.Settings(
            join=distances.join,
            leave=distances.leave,
            vertical_weight=distances.vertical_weight or NO_HEIGHT,
            revival_ms=round(settings.revival_s * 1000),
        )
        for distances in (usual, *(distances for _, distances in known.others))
    }
    return lambda world: messages[known.of(world)]


def _rules(settings: Settings) -> Rules:
    return Rules(
        movement=settings.movement_threshold,
        entities_max=settings.entities_max,
        events_kept=settings.events_kept,
        combat_linger_ms=round(settings.combat_linger_s * 1000),
        revival_ms=round(settings.revival_s * 1000),
    )


def _times(settings: Settings) -> Times:
    return Times(link_ttl_ms=round(settings.link_ttl_s * 1000), world_expiry_ms=round(settings.world_expiry_s * 1000))
