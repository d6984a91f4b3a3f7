"""Traces: spans where a request is sampled, nothing at all where it is not.

The decision falls once, where a request enters (`entered`); whatever it causes follows it (`span`, `received`), and
work that many requests caused is a trace of its own with links (`linked`). Where nothing is sampled no object is made:
the cost of a span is one look at a context variable. Span names and attributes hold no player's text, name or id.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

# Stage -> budget in seconds (docs/architecture.md, budgets). The reserve of a snapshot is its way between the rooms.
BUDGETS = {
    "parse": 0.004,
    "state": 0.005,
    "cluster": 0.006,
    "commit": 0.002,
    "snapshot": 0.020,
    "decision": 0.002,
    "utterance_to_model": 0.020,
}
# Finished spans kept for `earshot trace`, and links of one span.
KEPT = 4096
LINKS_MAX = 16
# At least one request of each kind is sampled within this, so that a quiet server has traces too.
FLOOR_S = 1.0
# Callers that bring their own sampled trace are followed this often; more could make tracing a load.
FOLLOWED_PER_S = 10
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")

Attributes = Mapping[str, str | bool | int | float]


class _Here:
    """Where the code runs: a span that is open, or one elsewhere that is carried on. over: ended, nothing belongs to it
    any more (a task that was made meanwhile may still stand here).
    """

    __slots__ = ("context", "over", "span")

    def __init__(self, context: SpanContext, span: Span | None = None) -> None:
        self.context = context
        self.span = span
        self.over = False


_here: ContextVar[_Here | None] = ContextVar("earshot_trace", default=None)
_active: Tracing | None = None


class Tracing:
    """The process's recorder: a ring of finished spans, and the export where an endpoint is set."""

    def __init__(
        self,
        service: str,
        sample: float,
        *,
        endpoint: str = "",
        choose: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ring: deque[ReadableSpan] = deque(maxlen=KEPT)
        self._sample = sample
        self._choose = choose
        self._monotonic = monotonic
        self._floors: dict[str, float] = {}
        self._followed = deque[float](maxlen=FOLLOWED_PER_S)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service}), sampler=ALWAYS_ON, shutdown_on_exit=False
        )
        self._provider.add_span_processor(_Ring(self.ring))
        if endpoint:
            # Imported here: an exporter that nobody wants costs a third of the start.
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("earshot")

    def sampled(self, name: str, *, floor: bool) -> bool:
        """Whether a request that brings no decision is recorded. name: of a bounded set."""
        if self._choose() < self._sample:
            return True
        if not floor or not self._sample:
            return False
        now = self._monotonic()
        if now - self._floors.get(name, float("-inf")) < FLOOR_S:
            return False
        self._floors[name] = now
        return True

    def follows(self) -> bool:
        """Whether a caller's own decision to sample is followed now."""
        now = self._monotonic()
        if len(self._followed) == FOLLOWED_PER_S and now - self._followed[0] < 1.0:
            return False
        self._followed.append(now)
        return True

    def close(self) -> None:
        """Export what waits; the process records no more. Blocks up to the exporter's timeout."""
        global _active
        if _active is self:
            _active = None
        self._provider.shutdown()


class _Ring(SpanProcessor):
    def __init__(self, ring: deque[ReadableSpan]) -> None:
        self._ring = ring

    def on_end(self, span: ReadableSpan) -> None:
        self._ring.append(span)


def configure(service: str, sample: float, endpoint: str = "", **more: Any) -> Tracing | None:
    """Record this process's traces from now on; None and no cost when `sample` is 0."""
    global _active
    _active = Tracing(service, sample, endpoint=endpoint, **more) if sample > 0 else None
    return _active


class _Open:
    """A span as a context manager; errors that leave it are its status, without their text."""

    __slots__ = ("_here", "_started", "_token")

    def __init__(self, here: _Here) -> None:
        self._here = here
        self._started = time.perf_counter()

    def __enter__(self) -> Span | None:
        self._token: Token[_Here | None] = _here.set(self._here)
        return self._here.span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(ValueError):  # an asynchronous generator that was closed from another task
            _here.reset(self._token)
        span = self._here.span
        if span is None:
            return
        self._here.over = True
        _close(span, time.perf_counter() - self._started, kind)
        span.end()


class _Nothing:
    """The span of what is not sampled."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


NOTHING = _Nothing()


def span(
    name: str, *, stage: str = "", kind: SpanKind = SpanKind.INTERNAL, links: Iterable[str] = ()
) -> _Open | _Nothing:
    """A part of what is sampled here, else nothing. stage: the budget that it counts against, or its name."""
    here = _here.get()
    if here is None or here.over or _active is None:
        return NOTHING
    return _Open(_begin(_active, name, here.context, stage, kind, links))


def entered(name: str, parent: str = "", *, floor: bool = True) -> _Open | _Nothing:
    """A request from outside: decides whether it is sampled. parent: the caller's W3C traceparent."""
    if _active is None:
        return NOTHING
    context = _parsed(parent) if parent else None
    follow = context is not None and _active.follows()
    if not follow and not _active.sampled(name, floor=floor):
        return NOTHING
    return _Open(_begin(_active, name, context if follow else None, "", SpanKind.SERVER, ()))


def received(name: str, parent: str) -> _Open | _Nothing:
    """A call from another room, sampled where its caller is."""
    context = _parsed(parent) if parent and _active is not None else None
    if context is None or _active is None:
        return NOTHING
    return _Open(_begin(_active, name, context, "", SpanKind.SERVER, ()))


def linked(name: str, causes: Iterable[str]) -> _Open | _Nothing:
    """Work that several requests caused: a trace of its own, linked to those that are sampled; nothing when none is."""
    if _active is None or not (causes := tuple(causes)):
        return NOTHING
    return _Open(_begin(_active, name, None, "", SpanKind.INTERNAL, causes))


def carried(parent: str) -> _Open | _Nothing:
    """Go on where `parent` was noted, in another task, although its span may have ended."""
    context = _parsed(parent) if parent else None
    return NOTHING if context is None else _Open(_Here(context))


def record(
    name: str,
    seconds: float,
    *,
    stage: str = "",
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> None:
    """A part that ended just now and lasted so long; nothing where nothing is sampled."""
    here = _here.get()
    if here is None or here.over or _active is None:
        return
    end = time.time_ns()
    made = _begin(_active, name, here.context, stage, kind, (), start=end - round(seconds * 1e9)).span
    assert made is not None, "only what is carried has no span of its own"
    if attributes:
        made.set_attributes(attributes)
    _close(made, seconds, None)
    made.end(end)


def recorded() -> tuple[ReadableSpan, ...]:
    """Finished spans of this process, oldest first."""
    return tuple(_active.ring) if _active is not None else ()


def traceparent() -> str:
    """W3C trace context of what is sampled here, "" where nothing is."""
    here = _here.get()
    if here is None or here.over:
        return ""
    return f"00-{format_trace_id(here.context.trace_id)}-{format_span_id(here.context.span_id)}-01"


def exemplar() -> dict[str, str] | None:
    """The label that ties a measurement to its trace, None where nothing is sampled."""
    here = _here.get()
    if here is None or here.over:
        return None
    return {"trace_id": format_trace_id(here.context.trace_id)}


def _begin(
    tracing: Tracing, name: str, parent: SpanContext | None, stage: str, kind: SpanKind, links: Iterable[str],
    start: int | None = None,
) -> _Here:  # fmt: skip
    context = set_span_in_context(NonRecordingSpan(parent)) if parent is not None else _ROOT
    causes = [Link(found) for one in tuple(links)[-LINKS_MAX:] if (found := _parsed(one)) is not None]
    attributes: dict[str, Any] = {}
    if stage:
        attributes["earshot.stage"] = stage
        if stage in BUDGETS:
            attributes["earshot.budget_ms"] = BUDGETS[stage] * 1000
    made = tracing.tracer.start_span(name, context, kind, attributes, causes, start)
    assert isinstance(made, Span), "everything that is begun is recorded"
    return _Here(made.get_span_context(), made)


_ROOT = set_span_in_context(NonRecordingSpan(SpanContext(0, 0, is_remote=False)))


def _close(span: Span, seconds: float, error: type[BaseException] | None) -> None:
    stage = (span.attributes or {}).get("earshot.stage")
    budget = BUDGETS.get(str(stage)) if stage else None
    if budget is not None:
        span.set_attribute("earshot.left_ms", round((budget - seconds) * 1000, 3))
    if error is None:
        return
    if issubclass(error, Exception):
        span.set_status(Status(StatusCode.ERROR, error.__name__))
    else:
        span.set_attribute("earshot.cancelled", True)


def _parsed(parent: str) -> SpanContext | None:
    """The context of a sampled traceparent; None for one that is not sampled, or is none."""
    match = _PARENT.fullmatch(parent)
    if match is None or not int(match[3], 16) & TraceFlags.SAMPLED:
        return None
    context = SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(1))
    return context if context.is_valid else None
