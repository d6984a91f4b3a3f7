"""Metrics: every name in one module, labels bounded (never npc, job, player, world).

Histogram edges lie on the budgets of docs/architecture.md, so that an SLI is one bucket over the count (H1, H2). Where
a request is sampled, its measurements carry its trace as exemplar.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from services.common import tracing
from services.common.tracing import BUDGETS

# Edges on the budgets of stages, and of what is built from them.
STAGE = (0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
CALL = (0.002, 0.006, 0.02, 0.1, 0.5, 2.5, 20.0)
REQUEST = (0.005, 0.02, 0.05, 0.25, 1.0, 5.0, 25.0)
SLOW = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
AGE = (0.25, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 300.0)
LAG = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
REVISIONS = (0, 1, 2, 5, 10)
# A stage's exemplars that tell nothing special are this far apart: setting one costs ten times the measurement.
EXEMPLAR_S = 0.25
# Labels that are known before anything happens.
TRANSPORTS = ("poll", "sse", "websocket")
LANES = ("high", "medium", "low")

M = TypeVar("M", Counter, Gauge, Histogram)

disable_created_metrics()  # type: ignore[no-untyped-call] # the library types it not


class _Remembered:
    """A metric that finds the series of labels that it has seen at once: the library takes a lock and copies them."""

    def labels(self, *values: Any, **named: Any) -> Any:
        if named:
            return super().labels(*values, **named)  # type: ignore[misc] # of the metric that this is mixed into
        try:
            return self._series[values]
        except AttributeError:
            self._series: dict[tuple[Any, ...], Any] = {}
        except KeyError:
            pass
        found = self._series[values] = super().labels(*values)  # type: ignore[misc] # as above
        return found


class _Counter(_Remembered, Counter):
    pass


class _Gauge(_Remembered, Gauge):
    pass


class _Histogram(_Remembered, Histogram):
    pass


class _Described(Generic[M]):
    """A metric as data; each `Metrics` has its own made of it.

    known: label values that exist from the start. A rate needs a first sample, and "never" is not "unknown".
    """

    def __init__(
        self, make: Callable[..., M], name: str, says: str, labels: Sequence[str],
        known: Iterable[str | tuple[str, ...]] = (), **more: Any,
    ) -> None:  # fmt: skip
        self.name = name
        self._make: Callable[..., M] = partial(make, name, says, labels, **more)
        self._known = tuple(known)

    def __set_name__(self, owner: type[Metrics], name: str) -> None:
        self.attribute = name

    def __get__(self, metrics: Metrics, owner: type[Metrics]) -> M:
        """For the type's sake: an instance has a metric of its own by this name, which is found first."""
        raise AttributeError(self.attribute)

    def made(self, registry: CollectorRegistry) -> M:
        metric: M = self._make(registry=registry)
        for values in self._known:
            metric.labels(*((values,) if isinstance(values, str) else values))
        return metric


def _counter(name: str, says: str, *labels: str, known: Iterable[str | tuple[str, ...]] = ()) -> _Described[Counter]:
    return _Described(_Counter, name, says, labels, known)


def _gauge(name: str, says: str, *labels: str, known: Iterable[str | tuple[str, ...]] = ()) -> _Described[Gauge]:
    return _Described(_Gauge, name, says, labels, known)


def _histogram(
    name: str, says: str, edges: Sequence[float], *labels: str, known: Iterable[str | tuple[str, ...]] = ()
) -> _Described[Histogram]:
    return _Described(_Histogram, name, says, labels, known, buckets=edges)


class Metrics:
    """The process's metrics, in a registry of its own so that tests do not share one.

    enabled=False measures nothing: what `earshot bench telemetry` compares with.
    """

    # -- every room ------------------------------------------------------------------------------------------------
    rpc_seconds = _histogram("earshot_rpc_seconds", "Served RPCs", CALL, "room", "rpc")
    rpcs = _counter("earshot_rpcs_total", "Served RPCs by status", "room", "rpc", "code")
    stage_seconds = _histogram("earshot_stage_duration_seconds", "Stages of a snapshot and of a turn", STAGE, "stage")
    stage_over = _counter(
        "earshot_stage_budget_exceeded_total", "Stages over their budget", "stage", known=tuple(BUDGETS)
    )
    store_seconds = _histogram("earshot_store_commit_seconds", "One group commit", STAGE, "room")
    store_writes = _counter("earshot_store_writes_total", "Writes by what became of them", "room", "outcome")
    build = _gauge("earshot_build_info", "The version that runs", "version")
    loop_lag = _histogram("earshot_loop_lag_seconds", "How late the loop woke", LAG)
    loop_tasks = _gauge("earshot_loop_tasks", "Tasks of the loop that are not done")

    # -- edge ------------------------------------------------------------------------------------------------------
    http_seconds = _histogram("earshot_http_seconds", "HTTP requests", REQUEST, "route")
    http_requests = _counter("earshot_http_requests_total", "HTTP requests by status", "route", "status")
    admission_refused = _counter(
        "earshot_admission_refused_total",
        "Requests refused before any work",
        "gate",
        known=("in_flight", "lag", "held", "session", "tenant", "address"),
    )
    requests_in_flight = _gauge("earshot_requests_in_flight", "Requests worked on now, held polls apart")
    connections = _gauge(
        "earshot_connections", "Held polls, streams and sockets open now", "transport", known=TRANSPORTS
    )
    connections_ended = _counter(
        "earshot_connections_ended_total", "Polls, streams and sockets that ended", "transport", "reason"
    )
    fallbacks = _counter(
        "earshot_fallbacks_total",
        "Polls that took the place of a stream or socket lost before",
        "transport",
        known=TRANSPORTS[1:],
    )
    socket_round_trip_seconds = _histogram("earshot_socket_round_trip_seconds", "Ping to pong of a WebSocket", REQUEST)
    events_lag_seconds = _histogram(
        "earshot_events_lag_seconds", "Event appended to client written", LAG, "transport", known=TRANSPORTS
    )
    sdk_events = _counter(
        "earshot_sdk_events_total",
        "What game servers counted of themselves",
        "kind",
        known=("requests", "failures", "throttled", "expired"),
    )
    sdk_round_trip_seconds = _histogram("earshot_sdk_round_trip_seconds", "A sync as game servers see it", SLOW)

    # -- recall ----------------------------------------------------------------------------------------------------
    recall_seconds = _histogram("earshot_recall_seconds", "Recall for a turn, the cue's vector apart", STAGE)
    embed_queue = _gauge("earshot_embed_queue_depth", "Utterances that wait for a vector")
    embedded = _counter(
        "earshot_embedded_total", "Utterances embedded, by outcome", "outcome", known=("embedded", "refused")
    )

    # -- state and cluster -----------------------------------------------------------------------------------------
    snapshots = _counter(
        "earshot_snapshots_total",
        "Snapshots by outcome",
        "outcome",
        known=("applied", "duplicate", "failed", "refused", "resync", "stale", "superseded"),
    )
    transitions = _counter("earshot_transitions_total", "Cluster transitions", "type")
    worlds = _gauge("earshot_worlds", "Worlds in memory")
    entities = _gauge("earshot_entities", "Entities in all worlds")
    clusters = _gauge("earshot_clusters", "Clusters in all worlds")
    unplaced_ratio = _gauge("earshot_members_unplaced_ratio", "Cluster members without a position, of those looked at")
    game_pairs = _counter(
        "earshot_game_pairs_total",
        "Pairs that the game groups itself, by whether they are within earshot",
        "verdict",
    )

    # -- sync ------------------------------------------------------------------------------------------------------
    sync_postponed = _counter("earshot_sync_postponed_total", "Urgent writes that waited for their world's budget")
    turns_serial = _gauge("earshot_turns_serial", "1 while turns go one by one: parallel ones are slower", "runtime")
    sync_pending = _gauge("earshot_sync_pending", "NPCs whose blocks wait", "lane", known=LANES)
    sync_lag_seconds = _histogram(
        "earshot_sync_lag_seconds", "First change to confirmed write", AGE, "lane", known=LANES
    )
    block_writes = _counter(
        "earshot_block_writes_total",
        "Block writes by lane",
        "lane",
        "outcome",
        known=tuple(itertools.product(LANES, ("ok", "failed", "drift"))),
    )
    freshness_seconds = _histogram("earshot_freshness_seconds", "Age of what an NPC knows when it is asked", AGE)
    freshness_revisions = _histogram(
        "earshot_freshness_revisions_behind", "Revisions behind the asked one when an NPC is asked", REVISIONS
    )
    agents = _gauge("earshot_agents", "Agents embodied")
    runtime_calls = _counter("earshot_runtime_calls_total", "Calls to a runtime", "runtime", "operation", "outcome")
    runtime_seconds = _histogram("earshot_runtime_seconds", "Calls to a runtime", SLOW, "runtime", "operation")
    runtime_tokens = _counter("earshot_runtime_tokens_total", "Tokens", "runtime", "kind")
    runtime_cost = _counter("earshot_runtime_cost_dollars_total", "Tokens at the set prices", "runtime")
    replies = _counter(
        "earshot_replies_total", "Turns answered: mode model, or what the degraded reply is", "runtime", "mode"
    )
    tenant_tokens = _counter("earshot_tenant_tokens_total", "Tokens by tenant", "tenant", "runtime", "kind")
    tenant_cost = _counter(
        "earshot_tenant_cost_dollars_total", "Tokens at the set prices, by tenant", "tenant", "runtime"
    )
    budget_used = _gauge(
        "earshot_budget_used_ratio", "Share of the tenant's budget of the day that is used; 1 = spent", "tenant"
    )
    budget_refused = _counter(
        "earshot_budget_refused_total", "Model calls not made: the tenant's budget is spent", "tenant"
    )
    cache_hits = _counter(
        "earshot_cache_hits_total", "Cacheable lines by what the cache had", "kind", known=("fresh", "stale", "miss")
    )
    markov_declined = _counter(
        "earshot_markov_declined_total",
        "Degraded turns for which Markov had no line",
        "reason",
        known=("few_lines", "nothing_fit"),
    )
    runtime_in_flight = _gauge("earshot_runtime_in_flight", "Requests in flight to a runtime", "runtime")
    runtime_breaker = _gauge(
        "earshot_runtime_breaker_open", "1 = the breaker is open, 0.5 = it probes, 0 = closed", "runtime"
    )

    # -- chat ------------------------------------------------------------------------------------------------------
    utterances = _counter(
        "earshot_utterances_total",
        "Utterances by outcome",
        "outcome",
        known=("accepted", "duplicate", "rate_limited", "unheard"),
    )
    turns = _counter(
        "earshot_turns_total", "Turns: the floor granted (started), and how each ended, with its reason",
        "phase", "reason",
    )  # fmt: skip
    turn_seconds = _histogram("earshot_turn_seconds", "Floor granted to first sentence and to end", SLOW, "until")
    queue_wait_seconds = _histogram("earshot_queue_wait_seconds", "Wait for a worker", SLOW, "queue")
    queue_depth = _gauge("earshot_queue_depth", "Turns waiting", "queue", known=("urgent", "conversation"))
    events = _counter("earshot_events_total", "Events appended to worlds' logs", "type")
    notices_early = _counter(
        "earshot_notices_early_total", "Entries logged before the revision that they speak of: must stay 0"
    )

    def __init__(self, *, enabled: bool = True) -> None:
        self.registry = CollectorRegistry()
        self._stages: dict[str, _Stage] = {}
        for name, described in vars(Metrics).items():
            if isinstance(described, _Described):
                self.__dict__[name] = described.made(self.registry) if enabled else _OFF
        if enabled:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self.registry)
            self.build.labels(_version()).set(1)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """A stage that ended just now: whether it kept its budget, and its span where it is sampled."""
        self.observe_whole(stage, seconds)
        tracing.record(stage, seconds, stage=stage)

    def observe_whole(self, stage: str, seconds: float) -> None:
        """The same without a span: what its parts have spans of, or what is measured for every snapshot."""
        kept = self._stages.get(stage)
        if kept is None:
            over = self.stage_over.labels(stage) if stage in BUDGETS else None
            kept = self._stages[stage] = _Stage(self.stage_seconds.labels(stage), over, BUDGETS.get(stage, math.inf))
        kept.observe(seconds)

    @contextmanager
    def stage(self, name: str, links: Iterable[str] = ()) -> Iterator[None]:
        """Time a stage that others are part of: a metric always, a span where it is sampled."""
        started = time.perf_counter()
        with tracing.span(name, stage=name, links=links):
            try:
                yield
            finally:
                self.observe_whole(name, time.perf_counter() - started)


class _Stage:
    """A stage's series, looked up once."""

    __slots__ = ("_budget", "_due", "_over", "_seconds")

    def __init__(self, seconds: Histogram, over: Counter | None, budget: float) -> None:
        self._seconds = seconds
        self._over = over
        self._budget = budget
        self._due = 0.0

    def observe(self, seconds: float) -> None:
        """With its trace as exemplar where it is sampled: whatever missed its budget, of the others a few a second."""
        exemplar = tracing.exemplar()
        if exemplar is not None and seconds <= self._budget:
            now = time.monotonic()
            if now < self._due:
                exemplar = None
            else:
                self._due = now + EXEMPLAR_S
        self._seconds.observe(seconds, exemplar)
        if seconds > self._budget and self._over is not None:
            self._over.inc()


def _version() -> str:
    try:
        return version("earshot")
    except PackageNotFoundError:
        return "unknown"


class _Off:
    """A metric that measures nothing."""

    def labels(self, *_: Any, **__: Any) -> _Off:
        return self

    def inc(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    dec = set = observe = set_function = inc

    @contextmanager
    def track_inprogress(self) -> Iterator[None]:
        yield


_OFF = _Off()
