"""Traces: spans where a request is sampled, nothing at all where it is not.

The decision falls once, where a request enters (`entered`); whatever it causes follows it (`span`, `received`), and
work that many requests caused is a trace of its own with links (`linked`). Where nothing is sampled no object is made:
the cost of a span is one look at a context variable. Where something is, a span is one small object of ours; what
OpenTelemetry needs is made of it when it is exported, elsewhere and later (`span_export`). Span names and attributes
hold no player's text, name or id.
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
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from services.common.span_export import Export

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
SAMPLED = 1
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")

Value = str | bool | int | float
Kind = Literal["internal", "server", "client"]


class Place:
    """Where the code runs in a trace: a context that goes on there, although the span may have ended.

    over: ended, nothing belongs to it any more (a task that was made meanwhile may still stand here).
    """

    __slots__ = ("_token", "over", "span_id", "trace_id")

    def __init__(self, trace_id: int, span_id: int) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.over = False

    def __enter__(self) -> Span | None:
        self._token: Token[Place | None] = _here.set(self)
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(ValueError):  # an asynchronous generator that was closed from another task
            _here.reset(self._token)
        # A finished span is kept for a while; the whole context in which it ran need not be.
        del self._token


class Span(Place):
    """A part of a trace, and the context in which it runs. Errors that leave it are its status, without their text.

    parent_id: 0 for a trace's first. Times are nanoseconds since 1970; end_ns is 0 until it ended. error: the name of
    an exception. links: (trace, span) that caused it.
    """

    __slots__ = (
        "_extra", "_tracing", "cancelled", "end_ns", "error", "kind", "links", "name", "parent_id", "stage", "start_ns",
    )  # fmt: skip

    def __init__(
        self, tracing: Tracing, name: str, parent: Place | None, stage: str, kind: Kind, causes: Iterable[str] = ()
    ) -> None:
        if parent is None:
            self.trace_id, self.parent_id = random.getrandbits(128) or 1, 0
        else:
            self.trace_id, self.parent_id = parent.trace_id, parent.span_id
        self.span_id = random.getrandbits(64) or 1
        self.over = False
        self.name, self.stage, self.kind = name, stage, kind
        self.links = tuple(_places(causes)) if causes else ()
        self.end_ns = 0
        self.error = ""
        self.cancelled = False
        self._extra: Mapping[str, Value] | None = None
        self._tracing = tracing
        self.start_ns = time.time_ns()

    def describe(self, attributes: Mapping[str, Value]) -> None:
        """What is measured of it; replaces what was told before."""
        self._extra = attributes

    @property
    def attributes(self) -> dict[str, Value]:
        """What else is known of it: its stage, the stage's budget and what was left of it, in milliseconds."""
        found: dict[str, Value] = {}
        if self.stage:
            found["earshot.stage"] = self.stage
            budget = BUDGETS.get(self.stage)
            if budget is not None:
                found["earshot.budget_ms"] = budget * 1000
                found["earshot.left_ms"] = round(budget * 1000 - (self.end_ns - self.start_ns) / 1e6, 3)
        if self.cancelled:
            found["earshot.cancelled"] = True
        return {**found, **(self._extra or {})}

    def __enter__(self) -> Span:
        self._token = _here.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        self.over = True
        if kind is not None:
            if issubclass(kind, Exception):
                self.error = kind.__name__
            else:
                self.cancelled = True
        self.end_ns = time.time_ns()
        self._tracing.take(self)


class _Nothing:
    """The span of what is not sampled."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


NOTHING = _Nothing()
_here: ContextVar[Place | None] = ContextVar("earshot_trace", default=None)
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
        self.ring: deque[Span] = deque(maxlen=KEPT)
        self._sample = sample
        self._choose = choose
        self._monotonic = monotonic
        self._floors: dict[str, float] = {}
        self._followed = deque[float](maxlen=FOLLOWED_PER_S)
        self._export = _exporting(service, endpoint) if endpoint else None

    def take(self, span: Span) -> None:
        """A span that ended."""
        self.ring.append(span)
        if self._export is not None:
            self._export.take(span)

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
        if self._export is not None:
            self._export.close()


def _exporting(service: str, endpoint: str) -> Export:
    # Imported here: an exporter that nobody wants costs a third of the start.
    from services.common.span_export import Export

    return Export(service, endpoint)


def configure(service: str, sample: float, endpoint: str = "", **more: Any) -> Tracing | None:
    """Record this process's traces from now on; None and no cost when `sample` is 0."""
    global _active
    _active = Tracing(service, sample, endpoint=endpoint, **more) if sample > 0 else None
    return _active


def span(name: str, *, stage: str = "", kind: Kind = "internal", links: Iterable[str] = ()) -> Span | _Nothing:
    """A part of what is sampled here, else nothing. stage: the budget that it counts against, or its name."""
    here = _here.get()
    if here is None or here.over or _active is None:
        return NOTHING
    return Span(_active, name, here, stage, kind, links)


def entered(name: str, parent: str = "", *, floor: bool = True) -> Span | _Nothing:
    """A request from outside: decides whether it is sampled. parent: the caller's W3C traceparent."""
    if _active is None:
        return NOTHING
    place = _parsed(parent) if parent else None
    follow = place is not None and _active.follows()
    if not follow and not _active.sampled(name, floor=floor):
        return NOTHING
    return Span(_active, name, place if follow else None, "", "server")


def received(name: str, parent: str) -> Span | _Nothing:
    """A call from another room, sampled where its caller is."""
    place = _parsed(parent) if parent and _active is not None else None
    if place is None or _active is None:
        return NOTHING
    return Span(_active, name, place, "", "server")


def linked(name: str, causes: Iterable[str]) -> Span | _Nothing:
    """Work that several requests caused: a trace of its own, linked to those that are sampled; nothing when none is."""
    if _active is None or not (causes := tuple(causes)):
        return NOTHING
    return Span(_active, name, None, "", "internal", causes)


def carried(parent: str) -> Place | _Nothing:
    """Go on where `parent` was noted, in another task, although its span may have ended."""
    return (_parsed(parent) or NOTHING) if parent else NOTHING


def record(
    name: str,
    seconds: float,
    *,
    stage: str = "",
    kind: Kind = "internal",
    attributes: Mapping[str, Value] | None = None,
) -> None:
    """A part that ended just now and lasted so long; nothing where nothing is sampled."""
    here = _here.get()
    if here is None or here.over or _active is None:
        return
    made = Span(_active, name, here, stage, kind)
    made.end_ns = made.start_ns
    made.start_ns -= round(seconds * 1e9)
    if attributes is not None:
        made.describe(attributes)
    _active.take(made)


def recorded() -> tuple[Span, ...]:
    """Finished spans of this process, oldest first."""
    return tuple(_active.ring) if _active is not None else ()


def traceparent() -> str:
    """W3C trace context of what is sampled here, "" where nothing is."""
    here = _here.get()
    return "" if here is None or here.over else f"00-{here.trace_id:032x}-{here.span_id:016x}-01"


def exemplar() -> dict[str, str] | None:
    """The label that ties a measurement to its trace, None where nothing is sampled."""
    here = _here.get()
    return None if here is None or here.over else {"trace_id": f"{here.trace_id:032x}"}


def _places(causes: Iterable[str]) -> Iterable[tuple[int, int]]:
    for one in tuple(causes)[-LINKS_MAX:]:
        place = _parsed(one)
        if place is not None:
            yield place.trace_id, place.span_id


def _parsed(parent: str) -> Place | None:
    """The place of a sampled traceparent; None for one that is not sampled, or is none."""
    match = _PARENT.fullmatch(parent)
    if match is None or not int(match[3], 16) & SAMPLED:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    return Place(trace_id, span_id) if trace_id and span_id else None
