"""The app that rooms add themselves to: start in order, workers supervised, closers in reverse.

A room is `async def bind(app: App) -> None` in its `server.py`: it opens its store, adds its servicer, its workers and
its closers. The same bind runs every room in one process (embedded) or any subset over real gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from prometheus_client import start_http_server

from services.common import tracing
from services.common.channels import OPTIONS, Channels
from services.common.clock import Clock, SystemClock
from services.common.errors import EarshotError
from services.common.inprocess import InProcessServer
from services.common.interceptors import RoomInterceptor
from services.common.logs import get_logger
from services.common.mirror import PRIVATE, Layout
from services.common.replicas import EVERYTHING, Holder
from services.common.settings import SERVED, Settings
from services.common.shared import Shared
from services.common.store import Database, Group
from services.common.store_file import MEMORY, working_copy
from services.common.telemetry import Metrics
from services.common.tls import CallerInterceptor, require

Worker = Callable[[], Awaitable[None]]
# A worker that fails is started again, after this, doubling to the maximum.
RESTART_MIN_S = 0.2
RESTART_MAX_S = 10.0
# How often a process looks whether the rooms that it calls serve.
HEALTH_S = 2.0
HEALTH_STARTING_S = 0.1
# How often a process measures how late its loop wakes.
LAG_S = 0.25

# What readiness says of a check.
OK, AWAY = "ok", "away"

_log = get_logger("common")


class Away(Exception):
    """A room that has served does not serve now."""


def serves(checks: Mapping[str, str]) -> bool:
    """Whether a process with these checks can serve: one that calls a room which went away can, in part."""
    return all(result in (OK, AWAY) for result in checks.values())


class App:
    """One process.

    rooms: names of the rooms it hosts. network: also serve them over gRPC on their addresses; an embedded process does
    not. inline_stores: writes commit on the loop's thread, for virtual time.
    """

    def __init__(
        self,
        settings: Settings,
        rooms: Iterable[str],
        *,
        network: bool = False,
        clock: Clock | None = None,
        inline_stores: bool = False,
    ) -> None:
        self.settings = settings
        self.rooms = frozenset(rooms)
        self.clock: Clock = clock or SystemClock()
        self.metrics = Metrics(enabled=settings.telemetry)
        self._interceptor = RoomInterceptor(self.metrics)
        self._local = InProcessServer([self._interceptor])
        self.shared = Shared(settings, self.rooms, self.clock.monotonic) if settings.store else None
        self.channels = Channels(settings, self._local, self.rooms, self.shared)
        self._inline_stores = inline_stores
        self._server: grpc.aio.Server | None = None
        self._health: health_aio.HealthServicer | None = None
        self._network = network
        self._adders: list[tuple[Callable[[Any, Any], None], Any, str]] = []
        self._workers: list[tuple[str, Worker]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closers: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._ready_checks: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._ready = False

    # -- what a room's bind uses -----------------------------------------------------------------------------------

    def open_store(self, room: str, schema: Sequence[str], layout: Layout = PRIVATE) -> Database:
        """The room's store; closed with the app. layout: how replicas share it, where the settings name a shared store.

        Raises StoreInUse when another process has it; BadInput (STORE_UNFIT) and Unavailable for a shared store that
        cannot be used.
        """
        if self.settings.store:
            return self._open_shared(room, schema, layout)
        path = self.settings.data_path(room)
        database = Database(
            path, schema, inline=self._inline_stores or path == MEMORY, committed=commits(self.metrics, room)
        )
        self.on_close(f"{room}.store", database.close)
        return database

    def _open_shared(self, room: str, schema: Sequence[str], layout: Layout) -> Database:
        assert self.shared is not None
        path, lock = working_copy(self.settings.data, room)
        database = Database(
            path,
            schema,
            lock=lock,
            committed=commits(self.metrics, room),
            mirror=self.shared.mirror(room, layout),
            lost=self.shared.losing(room),
        )
        self.on_close(f"{room}.store", database.close)
        self._interceptor.guard(room, database.ownership)
        return database

    async def hold(self, room: str, database: Database, holder: Holder) -> None:
        """Bring to life what the room's store holds: everything, at once, or what this replica comes to own."""
        if self.shared is None:
            await holder.entered(EVERYTHING)
            return
        replicas = self.shared.replicas(room, database, holder)
        self._workers.insert(0, (f"{room}.replicas", replicas.run))
        self.ready_check(f"{room}.partitions", replicas.ready)

    def add(self, adder: Callable[[Any, Any], None], servicer: Any, service: str) -> None:
        """Serve a servicer: `adder` is the generated add_...Servicer_to_server, `service` its full name."""
        adder(servicer, self._local)
        self._adders.append((adder, servicer, service))

    def worker(self, name: str, run: Worker) -> None:
        """Run `run` for the life of the app, once every room is served; restarted with back-off when it fails."""
        self._workers.append((name, run))

    def on_close(self, name: str, closer: Callable[[], Awaitable[None]]) -> None:
        """Run at stop, last registered first."""
        self._closers.append((name, closer))

    def ready_check(self, name: str, check: Callable[[], Awaitable[None]]) -> None:
        """Part of readiness: raises when the room cannot serve."""
        self._ready_checks.append((name, check))

    def calls(self, *rooms: str) -> None:
        """The rooms that this one calls: it is ready once each has been seen serving.

        One that goes away later fails its own calls and is told as AWAY. It does not take its callers out of service:
        that would only hide what still works.
        """
        seen: set[str] = set()

        async def check(room: str) -> None:
            try:
                await self.channels.ready(room)
            except EarshotError:
                if room in seen:
                    raise Away from None
                raise
            seen.add(room)

        for room in rooms:
            if room not in self.rooms:
                self.ready_check(room, partial(check, room))

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve, then start workers."""
        sample = self.settings.trace_sample if self.settings.telemetry else 0.0
        recorder = tracing.configure("earshot-" + "-".join(sorted(self.rooms)), sample, self.settings.otlp_endpoint)
        if recorder is not None:
            self.on_close("tracing", partial(self._end_traces, recorder))
        self.metrics.loop_tasks.set_function(partial(_tasks_of, asyncio.get_running_loop()))
        if self.settings.metrics_listen:
            await self._serve_metrics(self.settings.metrics_listen)
        if self._network and self._adders:
            await self._serve_network()
        if "edge" not in self.rooms:  # the edge measures its own, to shed load
            self._workers.append(("common.lag", self._watch_lag))
        if self.shared is not None:
            self._workers[:0] = self.shared.workers()
            self.on_close("shared", self.shared.close)
        for name, run in self._workers:
            self._tasks.append(asyncio.create_task(self._supervise(name, run), name=name))
        self._ready = True

    async def _end_traces(self, recorder: tracing.Tracing) -> None:
        """Only an export has something to wait for, on a thread."""
        if self.settings.otlp_endpoint:
            await asyncio.to_thread(recorder.close)
        else:
            recorder.close()

    async def _serve_metrics(self, listen: str) -> None:
        """Prometheus text on an address of its own, for processes without an edge. Raises OSError when it is taken."""
        host, _, port = listen.rpartition(":")
        server, thread = start_http_server(int(port), host or "127.0.0.1", self.metrics.registry)

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self.on_close("metrics", lambda: asyncio.to_thread(end))

    async def _serve_network(self) -> None:
        identity = self.channels.identity
        served = {room: self.settings.address(room) for room in sorted(self.rooms & set(SERVED))}
        require(identity, served)
        interceptors: list[grpc.aio.ServerInterceptor] = [self._interceptor]
        if identity is not None:
            interceptors.append(CallerInterceptor(served, self.settings.tls_callers))
        server = grpc.aio.server(interceptors=interceptors, options=OPTIONS)
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        for adder, servicer, service in self._adders:
            adder(servicer, server)
            await health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._health = health
        self._workers.append(("common.health", self._tell_health))
        for address in served.values():
            if identity is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, identity.server())
        await server.start()
        self._server = server

    async def _tell_health(self) -> None:
        """Keep the gRPC health service true: a room serves when the rooms that it calls do."""
        assert self._health is not None
        while True:
            ready = serves(await self.check_ready())
            status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
            for service in ("", *(service for _, _, service in self._adders)):
                await self._health.set(service, status)
            await asyncio.sleep(HEALTH_S if ready else HEALTH_STARTING_S)

    async def _supervise(self, name: str, run: Worker) -> None:
        delay = RESTART_MIN_S
        while True:
            started = self.clock.monotonic()
            try:
                await run()
                return
            except Exception as error:  # noqa: BLE001 - a worker's failure must not end the process
                _log.error("worker_failed", worker=name, error=type(error).__name__, exc_info=error)
            if self.clock.monotonic() - started > RESTART_MAX_S:
                delay = RESTART_MIN_S
            await asyncio.sleep(delay)
            delay = min(delay * 2, RESTART_MAX_S)

    async def check_ready(self) -> dict[str, str]:
        """Name -> OK, AWAY or why not, for each check (see `serves`); {"app": ...} before start and after stop."""
        if not self._ready:
            return {"app": "starting or stopping"}
        results = {}
        for name, check in self._ready_checks:
            try:
                async with asyncio.timeout(1.0):
                    await check()
                results[name] = OK
            except Away:
                results[name] = AWAY
            except Exception as error:  # noqa: BLE001 - readiness reports, it does not fail
                results[name] = type(error).__name__
        return results

    async def stop(self) -> None:
        """Drain: refuse new calls, let running ones finish within shutdown_s, end workers, close in reverse."""
        self._ready = False
        grace = self.settings.shutdown_s
        if self._server is not None:
            self._interceptor.end_streams()
            await self._server.stop(grace)
        # Last bound, first ended: the edge lets its requests finish while the rooms behind it still work.
        for task in reversed(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._local.stop(grace)
        for name, closer in reversed(self._closers):
            try:
                await closer()
            except Exception as error:  # noqa: BLE001 - the next closer must still run
                _log.error("close_failed", closer=name, error=type(error).__name__, exc_info=error)
        await self.channels.close()

    async def _watch_lag(self) -> None:
        """Measure how late the loop wakes, for ever."""
        observe, now = self.metrics.loop_lag.observe, time.perf_counter
        while True:
            expected = now() + LAG_S
            await asyncio.sleep(LAG_S)
            observe(max(now() - expected, 0.0))

    async def __aenter__(self) -> App:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _tasks_of(loop: asyncio.AbstractEventLoop) -> float:
    """Counted when somebody looks, on whatever thread that is."""
    return float(len(asyncio.all_tasks(loop)))


def commits(metrics: Metrics, room: str) -> Callable[[Group], None]:
    """What a room's store reports of each group commit."""
    seconds = metrics.store_seconds.labels(room)
    outcomes = {kept: metrics.store_writes.labels(room, "committed" if kept else "failed") for kept in (True, False)}

    def observe(group: Group) -> None:
        seconds.observe(group.seconds)
        outcomes[group.kept].inc(group.writes)

    return observe
