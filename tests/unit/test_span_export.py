"""Export of spans: what OpenTelemetry gets, in batches; a collector in trouble costs its batch and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from services.common import span_export, tracing
from services.common.span_export import BATCH, Export
from services.common.tracing import Span

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector:
    """Takes batches; refuses the first `failing`."""

    def __init__(self, failing: int = 0) -> None:
        self.batches: list[list[ReadableSpan]] = []
        self.failing = failing
        self.closed = False
        self.came = threading.Event()

    def export(self, spans: list[ReadableSpan], /) -> None:
        self.came.set()
        if self.failing:
            self.failing -= 1
            raise ConnectionError("the collector is away")
        self.batches.append(spans)

    def shutdown(self) -> None:
        self.closed = True


@contextmanager
def spans() -> Iterator[None]:
    tracing.configure("test", 1.0)
    yield
    tracing.configure("", 0)


def finished(count: int) -> list[Span]:
    with spans():
        for number in range(count):
            with tracing.entered(f"request {number}"):
                pass
        return list(tracing.recorded())


def _fail() -> None:
    tracing.record("state", 0.007, stage="state", kind="client", attributes={"earshot.more": 3})
    raise KeyError


def test_a_span_is_exported_with_all_that_is_known_of_it() -> None:
    with spans():
        with pytest.raises(KeyError), tracing.entered("request", PARENT):
            _fail()
        with tracing.linked("refresh", [PARENT, "no parent"]):
            pass
        known = list(tracing.recorded())
    collector = Collector()
    with closing(Export("earshot-test", "", lambda _: collector)) as export:
        for span in known:
            export.take(span)
    (batch,) = collector.batches
    state, request, refresh = batch
    assert state.context is not None
    assert request.context is not None
    assert request.parent is not None
    assert state.parent is not None
    assert state.context.trace_id == request.context.trace_id == 0x4BF92F3577B34DA6A3CE929D0E0E4736
    assert state.parent.span_id == request.context.span_id
    assert request.parent.span_id == 0x00F067AA0BA902B7
    assert state.kind is SpanKind.CLIENT
    assert dict(state.attributes or {}) == {
        "earshot.stage": "state", "earshot.budget_ms": 5.0, "earshot.left_ms": -2.0, "earshot.more": 3,
    }  # fmt: skip
    assert (request.kind, request.status.status_code, request.status.description) == (
        SpanKind.SERVER, StatusCode.ERROR, "KeyError",
    )  # fmt: skip
    assert [link.context.span_id for link in refresh.links] == [0x00F067AA0BA902B7]
    assert refresh.parent is None
    assert request.resource.attributes["service.name"] == "earshot-test"
    assert collector.closed


def test_many_spans_go_in_batches_and_in_order() -> None:
    known, collector = finished(BATCH + 7), Collector()
    with closing(Export("t", "", lambda _: collector)) as export:
        for span in known:
            export.take(span)
    assert [len(batch) for batch in collector.batches] == [BATCH, 7]
    assert [span.name for batch in collector.batches for span in batch] == [span.name for span in known]


def test_a_collector_that_fails_costs_its_batch_and_nothing_else() -> None:
    collector = Collector(failing=1)
    first, second = finished(2)
    with closing(Export("t", "", lambda _: collector, every_s=0.001)) as export:
        export.take(first)
        assert collector.came.wait(10)
        export.take(second)
    assert [[span.name for span in batch] for batch in collector.batches] == [[second.name]]


def test_what_waits_is_bounded_and_the_oldest_make_room() -> None:
    known, collector = finished(3), Collector()
    with closing(Export("t", "", lambda _: collector, every_s=3600)) as export:
        for _ in range(span_export.WAITING_MAX):
            export.take(known[0])
        export.take(known[1])
        export.take(known[2])
    sent = [span.name for batch in collector.batches for span in batch]
    assert len(sent) == span_export.WAITING_MAX
    assert sent[-2:] == [known[1].name, known[2].name]
