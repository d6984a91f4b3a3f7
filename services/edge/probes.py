"""Probes and metrics: open to whoever can reach the port, and they tell nothing of a tenant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from services.common import tracing
from services.common.app import serves
from services.edge import recent
from services.edge.admission import Admission
from services.edge.answer import Answer, json_answer
from services.edge.contract.trace import TracesAnswer
from services.edge.request import Request
from services.edge.routes import Route

# Traces of one answer: by default, and at most.
TRACES, TRACES_MAX = 50, 500

Check = Callable[[], Awaitable[dict[str, str]]]


class Probes:
    """The endpoints."""

    def __init__(self, check_ready: Check, registry: CollectorRegistry, admission: Admission) -> None:
        self._check_ready = check_ready
        self._registry = registry
        self._admission = admission

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/healthz", self.health, open=True),
            Route("GET", "/readyz", self.ready, open=True),
            Route("GET", "/metrics", self.metrics, open=True),
            Route("GET", "/traces", self.traces, gives=TracesAnswer, query=("page_size",), open=True),
        ]

    async def health(self, _: Request) -> Answer:
        """200 while the process serves."""
        return json_answer({"status": "ok"})

    async def ready(self, _: Request) -> Answer:
        """200 when every room of the process can serve, 503 when one cannot or the edge drains.

        A room elsewhere that went away is told as `away`: what does not need it is served.
        """
        checks = {"edge": "draining"} if self._admission.draining else await self._check_ready()
        ready = serves(checks)
        return json_answer({"ready": ready, "checks": checks}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Answer:
        """Prometheus text; OpenMetrics, with exemplars, for who accepts it."""
        encode, kind = choose_encoder(request.headers.get(b"accept", b"").decode("latin-1"))
        return Answer(200, encode(self._registry), kind.encode())

    async def traces(self, request: Request) -> Answer:
        """The last traces of this process: names, times and measured attributes, nothing of any tenant."""
        most = request.whole("page_size", TRACES, TRACES_MAX)
        return json_answer(TracesAnswer(recent.traces(tracing.recorded(), most or TRACES)))
