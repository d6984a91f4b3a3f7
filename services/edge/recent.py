"""Finished spans as traces: grouped, in order, in the words of the public contract. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from services.common.tracing import Span
from services.edge.contract.trace import SpanAnswer, TraceAnswer


def traces(spans: Iterable[Span], most: int) -> list[TraceAnswer]:
    """The last traces whose first span has ended, newest first."""
    grouped: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        grouped[span.trace_id].append(span)
    whole = [(root, parts) for parts in grouped.values() if (root := _root(parts)) is not None]
    whole.sort(key=lambda one: max(part.end_ns for part in one[1]), reverse=True)
    return [_trace(*one) for one in whole[:most]]


def _root(parts: list[Span]) -> Span | None:
    """The span that the others hang from: it has no parent, or one that is not here."""
    here = {part.span_id for part in parts}
    roots = [part for part in parts if part.parent_id not in here]
    return roots[0] if len(roots) == 1 else None


def _trace(root: Span, parts: list[Span]) -> TraceAnswer:
    ordered = sorted(parts, key=lambda part: (part.start_ns, -part.end_ns))
    return TraceAnswer(
        f"{root.trace_id:032x}",
        root.name,
        root.start_ns / 1e9,
        _us(root.end_ns - root.start_ns),
        [_span(part, root.start_ns) for part in ordered],
    )


def _span(part: Span, zero: int) -> SpanAnswer:
    attributes: dict[str, Any] = part.attributes
    attributes.pop("earshot.stage", None)
    return SpanAnswer(
        f"{part.span_id:016x}",
        part.name,
        _us(part.start_ns - zero),
        _us(part.end_ns - part.start_ns),
        f"{part.parent_id:016x}" if part.parent_id else "",
        part.stage,
        part.error,
        attributes,
        [f"{trace:032x}" for trace, _ in part.links],
    )


def _us(nanoseconds: int) -> int:
    return round(nanoseconds / 1000)
