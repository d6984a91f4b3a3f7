"""Finished spans as traces: grouped, in order, in the words of the public contract. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from services.edge.contract.trace import SpanAnswer, TraceAnswer


def traces(spans: Iterable[ReadableSpan], most: int) -> list[TraceAnswer]:
    """The last traces whose first span has ended, newest first."""
    grouped: dict[int, list[ReadableSpan]] = defaultdict(list)
    for span in spans:
        if span.context is not None:
            grouped[span.context.trace_id].append(span)
    whole = [parts for parts in grouped.values() if _root(parts) is not None]
    whole.sort(key=lambda parts: max(part.end_time or 0 for part in parts), reverse=True)
    return [_trace(parts) for parts in whole[:most]]


def _root(parts: list[ReadableSpan]) -> ReadableSpan | None:
    """The span that the others hang from: it has no parent, or one that is not here."""
    here = {part.context.span_id for part in parts if part.context is not None}
    roots = [part for part in parts if part.parent is None or part.parent.span_id not in here]
    return roots[0] if len(roots) == 1 else None


def _trace(parts: list[ReadableSpan]) -> TraceAnswer:
    root = _root(parts)
    assert root is not None, "only whole traces are shown"
    assert root.context is not None, "a finished span has its identity"
    start = root.start_time or 0
    ordered = sorted(parts, key=lambda part: (part.start_time or 0, -(part.end_time or 0)))
    return TraceAnswer(
        format_trace_id(root.context.trace_id),
        root.name,
        start / 1e9,
        _us((root.end_time or start) - start),
        [_span(part, start) for part in ordered],
    )


def _span(part: ReadableSpan, start: int) -> SpanAnswer:
    assert part.context is not None, "a finished span has its identity"
    attributes: dict[str, Any] = dict(part.attributes or {})
    stage = str(attributes.pop("earshot.stage", ""))
    failed = part.status.status_code is StatusCode.ERROR
    return SpanAnswer(
        format_span_id(part.context.span_id),
        part.name,
        _us((part.start_time or start) - start),
        _us((part.end_time or 0) - (part.start_time or 0)),
        format_span_id(part.parent.span_id) if part.parent is not None else "",
        stage,
        (part.status.description or "error") if failed else "",
        attributes,
        [format_trace_id(link.context.trace_id) for link in part.links],
    )


def _us(nanoseconds: int) -> int:
    return round(nanoseconds / 1000)
