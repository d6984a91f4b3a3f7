"""Finished spans to an OTLP endpoint, in batches, on a thread of its own: who records a span waits for nothing.

OpenTelemetry's objects are made here, of spans that are exported, and nowhere else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from services.common.logs import get_logger
from services.common.tracing import Span

# How long a span waits for others, how many go together, how many wait at most: the oldest make room.
EVERY_S = 1.0
BATCH = 512
WAITING_MAX = 4096
CLOSE_S = 5.0
SCOPE = InstrumentationScope("earshot")

_log = get_logger("common")


class Exporter(Protocol):
    """What sends: OpenTelemetry's exporters are."""

    def export(self, spans: list[ReadableSpan], /) -> object: ...

    def shutdown(self) -> None: ...


class Export:
    """One per process."""

    def __init__(
        self, service: str, endpoint: str, connect: Callable[[str], Exporter] | None = None, every_s: float = EVERY_S
    ) -> None:
        self._resource = Resource.create({"service.name": service})
        self._exporter = (connect or _otlp)(endpoint)
        self._every_s = every_s
        self._waiting: deque[Span] = deque(maxlen=WAITING_MAX)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    def take(self, span: Span) -> None:
        """A span that ended. Never blocks."""
        self._waiting.append(span)

    def close(self) -> None:
        """Send what waits, within CLOSE_S."""
        self._ending.set()
        self._thread.join(CLOSE_S)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ending.wait(self._every_s):
            self._send()
        self._send()

    def _send(self) -> None:
        """All that waits; a collector that fails costs its batch and nothing else."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                self._exporter.export([self._readable(span) for span in batch])
            except Exception as error:  # noqa: BLE001 - a collector's trouble is never the process's
                _log.warning("spans_not_exported", spans=len(batch), error=type(error).__name__)

    def _readable(self, span: Span) -> ReadableSpan:
        context = _context(span.trace_id, span.span_id)
        return ReadableSpan(
            span.name,
            context,
            _context(span.trace_id, span.parent_id) if span.parent_id else None,
            self._resource,
            span.attributes,
            links=[Link(_context(*link)) for link in span.links],
            kind=SpanKind[span.kind.upper()],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=SCOPE,
        )


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _otlp(endpoint: str) -> Exporter:
    # It tells of a collector that is away itself, once in a while.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.WARNING)
    return OTLPSpanExporter(endpoint=endpoint, insecure=True)
