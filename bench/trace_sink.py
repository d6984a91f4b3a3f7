"""Takes the spans that servers under test export, and counts them: tracing must cost what it costs in use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class TraceSink(grpc.GenericRpcHandler):
    """An OTLP endpoint that keeps nothing; a context."""

    def __init__(self) -> None:
        self.exports = 0
        self._server = grpc.server(ThreadPoolExecutor(max_workers=1), handlers=[self])
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, details: Any) -> Any:
        """Serve the export call only."""
        return grpc.unary_unary_rpc_method_handler(self._export) if details.method == EXPORT else None

    def _export(self, request: bytes, context: Any) -> bytes:
        self.exports += 1
        return b""  # an empty ExportTraceServiceResponse

    def __enter__(self) -> TraceSink:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0.5).wait()
