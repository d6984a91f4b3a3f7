"""Metrics and traces: every name in one module, labels bounded (never npc, job, player, world).

Histogram edges lie on the budgets of docs/architecture.md, so that an SLI is one bucket over the count (H1, H2).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FAST = (0.0005, 0.001, 0.002, 0.004, 0.005, 0.006, 0.01, 0.015, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SLOW = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)

# Stage -> budget in seconds (docs/architecture.md, budgets).
BUDGETS = {
    "parse": 0.004,
    "state": 0.005,
    "cluster": 0.006,
    "commit": 0.002,
    "snapshot": 0.020,
    "decision": 0.002,
    "utterance_to_model": 0.020,
}


class Metrics:
    """The process's metrics, in a registry of its own so that tests do not share one."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.rpc_seconds = Histogram(
            "earshot_rpc_seconds", "Served RPCs", ["room", "rpc", "code"], buckets=FAST, registry=registry
        )
        self.http_seconds = Histogram(
            "earshot_http_seconds",
            "HTTP requests",
            ["route", "status"],
            buckets=(*FAST, 10.0, 25.0),
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "earshot_stage_duration_seconds", "Stages of a snapshot and of a turn", ["stage"], buckets=FAST,
            registry=registry,
        )  # fmt: skip
        self.stage_over = Counter(
            "earshot_stage_budget_exceeded_total", "Stages over their budget", ["stage"], registry=registry
        )
        self.snapshots = Counter("earshot_snapshots_total", "Snapshots by outcome", ["outcome"], registry=registry)
        self.transitions = Counter("earshot_transitions_total", "Cluster transitions", ["type"], registry=registry)
        self.worlds = Gauge("earshot_worlds", "Worlds in memory", registry=registry)
        self.utterances = Counter("earshot_utterances_total", "Utterances by outcome", ["outcome"], registry=registry)
        self.turns = Counter("earshot_turns_total", "Turns by end and reason", ["phase", "reason"], registry=registry)
        self.turn_seconds = Histogram(
            "earshot_turn_seconds",
            "Utterance to first sentence and to end",
            ["until"],
            buckets=SLOW,
            registry=registry,
        )
        self.queue_wait_seconds = Histogram(
            "earshot_queue_wait_seconds", "Wait for a worker", ["queue"], buckets=SLOW, registry=registry
        )
        self.queue_depth = Gauge("earshot_queue_depth", "Turns waiting", ["queue"], registry=registry)
        self.runtime_calls = Counter(
            "earshot_runtime_calls_total",
            "Calls to a runtime",
            ["runtime", "operation", "outcome"],
            registry=registry,
        )
        self.runtime_seconds = Histogram(
            "earshot_runtime_seconds",
            "Calls to a runtime",
            ["runtime", "operation"],
            buckets=SLOW,
            registry=registry,
        )
        self.runtime_tokens = Counter("earshot_runtime_tokens_total", "Tokens", ["runtime", "kind"], registry=registry)
        self.block_writes = Counter(
            "earshot_block_writes_total", "Block writes by lane", ["lane", "outcome"], registry=registry
        )
        self.freshness_seconds = Histogram(
            "earshot_freshness_seconds", "Age of the revision behind a turn", buckets=SLOW, registry=registry
        )
        self.freshness_revisions = Histogram(
            "earshot_freshness_revisions_behind",
            "Revisions behind at a turn",
            buckets=(0, 1, 2, 5, 10),
            registry=registry,
        )
        self.sync_postponed = Counter(
            "earshot_sync_postponed_total", "Urgent writes that waited for their world's budget", registry=registry
        )
        self.sync_pending = Gauge("earshot_sync_pending", "NPCs whose blocks wait", ["lane"], registry=registry)
        self.agents = Gauge("earshot_agents", "Agents embodied", registry=registry)
        self.events = Counter("earshot_events_total", "Events appended to worlds' logs", ["type"], registry=registry)
        self.admission_refused = Counter(
            "earshot_admission_refused_total", "Requests refused before any work", ["gate"], registry=registry
        )
        self.requests_in_flight = Gauge(
            "earshot_requests_in_flight", "Requests worked on now, held polls apart", registry=registry
        )
        self.loop_lag = Gauge("earshot_loop_lag_seconds", "How late the edge's loop last woke", registry=registry)
        self.polls_held = Gauge("earshot_polls_held", "Long polls held now", registry=registry)
        self.sdk_events = Counter(
            "earshot_sdk_events_total", "What game servers counted of themselves", ["kind"], registry=registry
        )
        self.sdk_round_trip_seconds = Histogram(
            "earshot_sdk_round_trip_seconds", "A sync as game servers see it", buckets=SLOW, registry=registry
        )
        self.store_seconds = Histogram(
            "earshot_store_commit_seconds",
            "Submit to commit",
            ["room", "level"],
            buckets=FAST,
            registry=registry,
        )

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record a stage and whether it kept its budget."""
        self.stage_seconds.labels(stage).observe(seconds)
        if seconds > BUDGETS.get(stage, float("inf")):
            self.stage_over.labels(stage).inc()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage: a metric always, a span when tracing is on."""
        started = time.perf_counter()
        with tracer().start_as_current_span(f"earshot.{name}"):
            try:
                yield
            finally:
                self.observe_stage(name, time.perf_counter() - started)


def tracer() -> trace.Tracer:
    """The process's tracer; does nothing until configure_tracing was called."""
    return trace.get_tracer("earshot")


def configure_tracing(endpoint: str, sample: float, service: str) -> TracerProvider | None:
    """Export spans to an OTLP endpoint; None and no cost when the endpoint is empty."""
    if not endpoint:
        return None
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), sampler=ParentBased(TraceIdRatioBased(sample))
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=True)))
    trace.set_tracer_provider(provider)
    return provider


def traceparent() -> str:
    """W3C trace context of the current span, "" when there is none."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent", "")


def context_of(parent: str) -> Context | None:
    """Context to start a span under, from a traceparent."""
    return propagate.extract({"traceparent": parent}) if parent else None
