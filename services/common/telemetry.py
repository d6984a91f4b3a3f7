"""Metrics: every name in one module, labels bounded (never npc, job, player, world).

Histogram edges lie on the budgets of docs/architecture.md, so that an SLI is one bucket over the count (H1, H2). Where
a request is sampled, its measurements carry its trace as exemplar.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

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
# Labels that are known before anything happens.
TRANSPORTS = ("poll", "sse", "websocket")
LANES = ("high", "medium", "low")

disable_created_metrics()  # type: ignore[no-untyped-call] # the library types it not


class Metrics:
    """The process's metrics, in a registry of its own so that tests do not share one.

    enabled=False measures nothing: what `earshot bench telemetry` compares with.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.registry = CollectorRegistry()
        self._enabled = enabled
        self._stages: dict[str, Histogram] = {}
        counter, gauge, histogram = self._counter, self._gauge, self._histogram

        # -- every room ------------------------------------------------------------------------------------------------
        self.rpc_seconds = histogram("earshot_rpc_seconds", "Served RPCs", CALL, "room", "rpc")
        self.rpcs = counter("earshot_rpcs_total", "Served RPCs by status", "room", "rpc", "code")
        self.stage_seconds = histogram(
            "earshot_stage_duration_seconds", "Stages of a snapshot and of a turn", STAGE, "stage"
        )
        self.stage_over = counter("earshot_stage_budget_exceeded_total", "Stages over their budget", "stage")
        self.store_seconds = histogram("earshot_store_commit_seconds", "One group commit", STAGE, "room")
        self.store_writes = counter("earshot_store_writes_total", "Writes by what became of them", "room", "outcome")
        self.loop_lag = histogram("earshot_loop_lag_seconds", "How late the loop woke", LAG)

        # -- edge ------------------------------------------------------------------------------------------------------
        self.http_seconds = histogram("earshot_http_seconds", "HTTP requests", REQUEST, "route")
        self.http_requests = counter("earshot_http_requests_total", "HTTP requests by status", "route", "status")
        self.admission_refused = counter("earshot_admission_refused_total", "Requests refused before any work", "gate")
        self.requests_in_flight = gauge("earshot_requests_in_flight", "Requests worked on now, held polls apart")
        self.connections = gauge("earshot_connections", "Held polls, streams and sockets open now", "transport")
        self.connections_ended = counter(
            "earshot_connections_ended_total", "Polls, streams and sockets that ended", "transport", "reason"
        )
        self.fallbacks = counter(
            "earshot_fallbacks_total", "Polls that took the place of a stream or socket lost before", "transport"
        )
        self.socket_round_trip_seconds = histogram(
            "earshot_socket_round_trip_seconds", "Ping to pong of a WebSocket", REQUEST
        )
        self.events_lag_seconds = histogram(
            "earshot_events_lag_seconds", "Event appended to client written", LAG, "transport"
        )
        self.sdk_events = counter("earshot_sdk_events_total", "What game servers counted of themselves", "kind")
        self.sdk_round_trip_seconds = histogram("earshot_sdk_round_trip_seconds", "A sync as game servers see it", SLOW)

        # -- recall ----------------------------------------------------------------------------------------------------
        self.recall_seconds = histogram("earshot_recall_seconds", "Recall for a turn, the cue's vector apart", STAGE)
        self.embed_queue = gauge("earshot_embed_queue_depth", "Utterances that wait for a vector")
        self.embedded = counter("earshot_embedded_total", "Utterances embedded, by outcome", "outcome")

        # -- state and cluster -----------------------------------------------------------------------------------------
        self.snapshots = counter("earshot_snapshots_total", "Snapshots by outcome", "outcome")
        self.transitions = counter("earshot_transitions_total", "Cluster transitions", "type")
        self.worlds = gauge("earshot_worlds", "Worlds in memory")
        self.entities = gauge("earshot_entities", "Entities in all worlds")
        self.clusters = gauge("earshot_clusters", "Clusters in all worlds")
        self.unplaced_ratio = gauge(
            "earshot_members_unplaced_ratio", "Cluster members without a position, of those looked at"
        )
        self.game_pairs = counter(
            "earshot_game_pairs_total",
            "Pairs that the game groups itself, by whether they are within earshot",
            "verdict",
        )

        # -- sync ------------------------------------------------------------------------------------------------------
        self.sync_postponed = counter(
            "earshot_sync_postponed_total", "Urgent writes that waited for their world's budget"
        )
        self.turns_serial = gauge(
            "earshot_turns_serial", "1 while turns go one by one: parallel ones are slower", "runtime"
        )
        self.sync_pending = gauge("earshot_sync_pending", "NPCs whose blocks wait", "lane")
        self.sync_lag_seconds = histogram("earshot_sync_lag_seconds", "First change to confirmed write", AGE, "lane")
        self.block_writes = counter("earshot_block_writes_total", "Block writes by lane", "lane", "outcome")
        self.freshness_seconds = histogram(
            "earshot_freshness_seconds", "Age of what an NPC knows when it is asked", AGE
        )
        self.freshness_revisions = histogram(
            "earshot_freshness_revisions_behind", "Revisions behind the asked one when an NPC is asked", REVISIONS
        )
        self.agents = gauge("earshot_agents", "Agents embodied")
        self.runtime_calls = counter(
            "earshot_runtime_calls_total", "Calls to a runtime", "runtime", "operation", "outcome"
        )
        self.runtime_seconds = histogram("earshot_runtime_seconds", "Calls to a runtime", SLOW, "runtime", "operation")
        self.runtime_tokens = counter("earshot_runtime_tokens_total", "Tokens", "runtime", "kind")
        self.runtime_cost = counter("earshot_runtime_cost_dollars_total", "Tokens at the set prices", "runtime")
        self.replies = counter(
            "earshot_replies_total", "Turns answered: mode model, or what the degraded reply is", "runtime", "mode"
        )
        self.tenant_tokens = counter("earshot_tenant_tokens_total", "Tokens by tenant", "tenant", "runtime", "kind")
        self.tenant_cost = counter(
            "earshot_tenant_cost_dollars_total", "Tokens at the set prices, by tenant", "tenant", "runtime"
        )
        self.budget_used = gauge(
            "earshot_budget_used_ratio", "Share of the tenant's budget of the day that is used; 1 = spent", "tenant"
        )
        self.budget_refused = counter(
            "earshot_budget_refused_total", "Model calls not made: the tenant's budget is spent", "tenant"
        )
        self.cache_hits = counter("earshot_cache_hits_total", "Cacheable lines by what the cache had", "kind")
        self.markov_declined = counter(
            "earshot_markov_declined_total", "Degraded turns for which Markov had no line", "reason"
        )
        self.runtime_in_flight = gauge("earshot_runtime_in_flight", "Requests in flight to a runtime", "runtime")
        self.runtime_breaker = gauge(
            "earshot_runtime_breaker_open", "1 = the breaker is open, 0.5 = it probes, 0 = closed", "runtime"
        )

        # -- chat ------------------------------------------------------------------------------------------------------
        self.utterances = counter("earshot_utterances_total", "Utterances by outcome", "outcome")
        self.turns = counter(
            "earshot_turns_total", "Turns: the floor granted (started), and how each ended, with its reason",
            "phase", "reason",
        )  # fmt: skip
        self.turn_seconds = histogram(
            "earshot_turn_seconds", "Floor granted to first sentence and to end", SLOW, "until"
        )
        self.queue_wait_seconds = histogram("earshot_queue_wait_seconds", "Wait for a worker", SLOW, "queue")
        self.queue_depth = gauge("earshot_queue_depth", "Turns waiting", "queue")
        self.events = counter("earshot_events_total", "Events appended to worlds' logs", "type")
        self.notices_early = counter(
            "earshot_notices_early_total", "Entries logged before the revision that they speak of: must stay 0"
        )
        if enabled:
            self._describe_process()

    def _describe_process(self) -> None:
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        build = self._gauge("earshot_build_info", "The version that runs", "version")
        try:
            build.labels(version("earshot")).set(1)
        except PackageNotFoundError:
            build.labels("unknown").set(1)
        # Known from the start: a rate needs a first sample, and "never" is not "unknown".
        for metric, known in (
            (self.stage_over, tuple(BUDGETS)),
            (self.admission_refused, ("in_flight", "lag", "held", "session", "tenant", "address")),
            (self.sdk_events, ("requests", "failures", "throttled", "expired")),
            (self.snapshots, ("applied", "duplicate", "failed", "refused", "resync", "stale", "superseded")),
            (self.utterances, ("accepted", "duplicate", "rate_limited", "unheard")),
            (self.events_lag_seconds, TRANSPORTS),
            (self.connections, TRANSPORTS),
            (self.fallbacks, tuple(one for one in TRANSPORTS if one != "poll")),
            (self.queue_depth, ("urgent", "conversation")),
            (self.embedded, ("embedded", "refused")),
            (self.cache_hits, ("fresh", "stale", "miss")),
            (self.markov_declined, ("few_lines", "nothing_fit")),
            (self.sync_lag_seconds, LANES),
            (self.sync_pending, LANES),
        ):
            for label in known:
                metric.labels(label)
        for lane in LANES:
            for outcome in ("ok", "failed", "drift"):
                self.block_writes.labels(lane, outcome)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(name, says, labels, registry=self.registry) if self._enabled else cast(Counter, _OFF)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(name, says, labels, registry=self.registry) if self._enabled else cast(Gauge, _OFF)

    def _histogram(self, name: str, says: str, edges: Sequence[float], *labels: str) -> Histogram:
        if not self._enabled:
            return cast(Histogram, _OFF)
        return Histogram(name, says, labels, buckets=edges, registry=self.registry)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """A stage that ended just now: whether it kept its budget, and its span where it is sampled."""
        self.observe_whole(stage, seconds)
        tracing.record(stage, seconds, stage=stage)

    def observe_whole(self, stage: str, seconds: float) -> None:
        """The same without a span: what its parts have spans of, or what is measured for every snapshot."""
        child = self._stages.get(stage)
        if child is None:
            child = self._stages[stage] = self.stage_seconds.labels(stage)
        child.observe(seconds, tracing.exemplar())
        if seconds > BUDGETS.get(stage, float("inf")):
            self.stage_over.labels(stage).inc()

    @contextmanager
    def stage(self, name: str, links: Iterable[str] = ()) -> Iterator[None]:
        """Time a stage that others are part of: a metric always, a span where it is sampled."""
        started = time.perf_counter()
        with tracing.span(name, stage=name, links=links):
            try:
                yield
            finally:
                self.observe_whole(name, time.perf_counter() - started)


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
