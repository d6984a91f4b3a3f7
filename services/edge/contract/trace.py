"""Traces of this process, for `earshot trace` and operators."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from services.edge.contract.event import UnixSeconds


class SpanAnswer(msgspec.Struct, omit_defaults=True):
    """A part of a trace."""

    id: str
    name: str
    start_us: Annotated[int, Meta(description="After the trace's start.")]
    duration_us: int
    parent: str = ""
    stage: str = ""
    error: str = ""
    attributes: dict[str, Any] = {}
    links: Annotated[list[str], Meta(description="Traces that caused it.")] = []


class TraceAnswer(msgspec.Struct):
    """One request, or one piece of work that requests caused."""

    trace_id: str
    name: str
    at: UnixSeconds
    duration_us: int
    spans: list[SpanAnswer]


class TracesAnswer(msgspec.Struct):
    """The last traces that ended, newest first."""

    traces: list[TraceAnswer]
