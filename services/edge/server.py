"""Wires the edge: rooms' stubs, keys, admission, endpoints, and the HTTP server with its life cycle."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextvars import copy_context
from dataclasses import dataclass

from services.common.app import App
from services.common.errors import Forbidden
from services.common.loop import PROMPT
from services.edge.admission import Admission
from services.edge.body import Limits
from services.edge.describer import Describer
from services.edge.doorbell import Doorbell, doorbell_to
from services.edge.entry import Entry
from services.edge.erasures import Erasures
from services.edge.events import Events
from services.edge.existing import Existing
from services.edge.game_sync import GameSync
from services.edge.gateway import Gateway
from services.edge.ingests import Submits, ingest_to
from services.edge.keys import Tenants, is_loopback
from services.edge.listener import ListenFailed, bound_socket, listener
from services.edge.messages import Messages
from services.edge.npc_calls import NpcCalls
from services.edge.openapi import Contract
from services.edge.page import Pages
from services.edge.peer import networks
from services.edge.probes import Probes
from services.edge.rooms import Rooms
from services.edge.roster import RosterPages
from services.edge.routes import Routes
from services.edge.sessions import Sessions
from services.edge.shared_keys import SharedKeys, keys_of, shared_secret
from services.edge.snapshots import Snapshots
from services.edge.stream import EventStream
from services.edge.token import Tokens
from services.edge.web_socket import WebSockets
from services.edge.worlds import Worlds

# How long requests may finish once the edge stops; held polls end at once.
DRAIN_S = 8.0


@dataclass(slots=True)
class Edge:
    """The edge of one process: an ASGI application and what runs behind it."""

    gateway: Gateway
    ingest: Submits
    doorbell: Doorbell
    events: Events
    admission: Admission
    contract: Contract

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The streams to state, the watches on chat and the lag measurement, for as long as requests are served."""
        tasks = [
            asyncio.create_task(self.ingest.run(), name="edge.ingest"),
            asyncio.create_task(self.doorbell.run(), name="edge.doorbell"),
            asyncio.create_task(self.admission.watch_lag(), name="edge.lag"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def drain(self) -> None:
        """No longer ready; held polls end now."""
        self.admission.draining = True
        self.events.polls.drain()


def build(app: App) -> Edge:
    """The edge without a listening socket: what in-process tests call."""
    settings, clock, metrics = app.settings, app.clock, app.metrics
    rooms = Rooms.of(app.channels)
    admission = Admission(settings, metrics, clock.monotonic)
    ingest, doorbell = ingest_to(app.channels, clock.monotonic), doorbell_to(app.channels)
    snapshots = Snapshots(ingest, settings, metrics, clock)
    messages = Messages(rooms, admission, settings)
    events = Events(rooms, doorbell, admission, settings, metrics, clock)
    tokens = Tokens(settings, shared_secret(settings.store) if settings.store else b"")
    worlds, describer, keys = Worlds(rooms), Describer(rooms, settings), keys_of(settings)
    if isinstance(keys, SharedKeys):
        app.worker("edge.keys", keys.run)
    app.on_close("edge.describer", describer.close)
    routes = [
        *snapshots.routes(),
        *EventStream(events, doorbell).routes(),
        *messages.routes(),
        *Existing(rooms, snapshots, messages, describer, settings, clock).routes(),
        *RosterPages(rooms).routes(),
        *worlds.routes(),
        *Sessions(rooms, tokens, settings, clock).routes(),
        *GameSync(rooms, snapshots, events, settings, metrics).routes(),
        *NpcCalls(rooms, worlds, admission, settings).routes(),
        *Erasures(rooms).routes(),
        *Probes(app.check_ready, metrics.registry, admission).routes(),
        *Pages().routes(),
    ]
    contract = Contract(routes)
    entry = Entry(Tenants(keys, tokens, clock), admission, networks(settings.trusted_proxies))
    limits = Limits(settings.body_limit, settings.body_limit_compressed, settings.body_timeout_s)
    sockets = WebSockets(rooms, entry, admission, events, doorbell, limits, clock)
    table = Routes([*routes, *contract.routes()])
    gateway = Gateway(table, entry, admission, limits, metrics, sockets.serve)
    return Edge(gateway, ingest, doorbell, events, admission, contract)


async def bind(app: App) -> None:
    """Add the edge to an app. Raises ListenFailed, and Forbidden for a public address without keys."""
    host, port = address_of(app.settings.listen)
    keys = keys_of(app.settings)
    if not is_loopback(host) and not keys.load():
        raise Forbidden(
            f"{app.settings.listen} can be reached from outside and there are no keys: create one with "
            "`earshot key create`, or listen on 127.0.0.1",
            reason="LISTEN_NEEDS_KEYS",
        )
    app.calls("state", "sync", "chat")
    edge = build(app)
    first = bound_socket(host, port)
    sockets = [first]

    async def serve() -> None:
        # After a failure the supervisor calls again: the first socket is gone then.
        listening = sockets.pop() if sockets else bound_socket(host, port)
        async with edge.running():
            await _serve(app, edge, listening)

    async def close() -> None:
        first.close()

    app.on_close("edge.socket", close)
    app.worker("edge.http", serve)


async def _serve(app: App, edge: Edge, listening: socket.socket) -> None:
    """Serve until cancelled, then let running requests finish."""
    server = listener(
        edge.gateway,
        edge.gateway.is_open,
        edge.gateway.may_enter,
        app.settings,
        min(DRAIN_S, app.settings.shutdown_s),
        app.metrics.socket_round_trip_seconds.observe,
    )
    prompt = copy_context()
    prompt.run(PROMPT.set, True)
    serving = asyncio.create_task(server.serve([listening]), name="edge.uvicorn", context=prompt)
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        edge.drain()
        server.should_exit = True
        await serving
        raise


def address_of(listen: str) -> tuple[str, int]:
    """Host and port of a listen setting. Raises ListenFailed."""
    host, _, port = listen.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ListenFailed(f"not an address of the form host:port: {listen}")
    return host.strip("[]") or "0.0.0.0", int(port)
