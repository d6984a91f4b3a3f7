"""An OTLP endpoint in thirty lines: takes what processes export and hands on whole traces. For `earshot trace --listen`
and for tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

# Traces that are not whole yet; the oldest makes room.
OPEN_MAX = 1000


class Receiver(service_pb2_grpc.TraceServiceServicer):
    """A context: serves at `endpoint` while it lasts; `spans` keeps what came, by trace.

    told: called with a trace's id after each export that brought spans of it.
    """

    def __init__(self, address: str = "127.0.0.1:0", told: Callable[[str], None] | None = None) -> None:
        self.spans: dict[str, list[trace_pb2.Span]] = defaultdict(list)
        self._told = told
        self._server = grpc.server(ThreadPoolExecutor(max_workers=1))
        service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call] # generated
        port = self._server.add_insecure_port(address)
        self.endpoint = f"http://{address.rpartition(':')[0]}:{port}"

    def Export(self, request: Any, context: Any) -> Any:
        """Keep the spans."""
        batches = [scope for resource in request.resource_spans for scope in resource.scope_spans]
        came = {span.trace_id.hex(): None for batch in batches for span in batch.spans}
        for batch in batches:
            for span in batch.spans:
                self.spans[span.trace_id.hex()].append(span)
        while len(self.spans) > OPEN_MAX:
            del self.spans[next(iter(self.spans))]
        if self._told is not None:
            for trace in came:
                self._told(trace)
        return service_pb2.ExportTraceServiceResponse()

    def __enter__(self) -> Receiver:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0.5).wait()


def trace_of(trace_id: str, spans: list[trace_pb2.Span]) -> dict[str, Any] | None:
    """Exported spans in the words of `GET /traces`; None while their first one is missing."""
    here = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_span_id not in here]
    if len(roots) != 1:
        return None
    zero = roots[0].start_time_unix_nano
    ordered = sorted(spans, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))
    return {
        "trace_id": trace_id,
        "name": roots[0].name,
        "at": zero / 1e9,
        "duration_us": _us(roots[0].end_time_unix_nano - zero),
        "spans": [_span(span, zero) for span in ordered],
    }


def _span(span: trace_pb2.Span, zero: int) -> dict[str, Any]:
    attributes = {one.key: _value(one.value) for one in span.attributes}
    stage = str(attributes.pop("earshot.stage", ""))
    failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    return {
        "id": span.span_id.hex(),
        "name": span.name,
        "start_us": _us(span.start_time_unix_nano - zero),
        "duration_us": _us(span.end_time_unix_nano - span.start_time_unix_nano),
        "parent": span.parent_span_id.hex(),
        "stage": stage,
        "error": span.status.message if failed else "",
        "attributes": attributes,
        "links": [link.trace_id.hex() for link in span.links],
    }


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


def _us(nanoseconds: int) -> int:
    return round(nanoseconds / 1000)
