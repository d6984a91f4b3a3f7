"""Completions without an agent (summaries, vision): by any provider that runs them, counted against the budget."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.errors import Overloaded, Unavailable
from services.sync.routing.chain import Chain
from services.sync.routing.endpoint import Endpoint
from services.sync.routing.metering import Meter
from services.sync.runtimes.port import Completion, RuntimeFault
from services.sync.schedule.due import Lane


@dataclass(frozen=True, slots=True)
class Completed:
    """The text, what it cost, and who wrote it."""

    completion: Completion
    runtime: str


class Completions:
    """Asks one provider after the other."""

    def __init__(self, chain: Chain, meter: Meter) -> None:
        self._chain = chain
        self._meter = meter

    def possible(self, *, vision: bool = False) -> bool:
        return bool(self._endpoints(vision))

    async def run(
        self, tenant: str, system: str, text: str, image_url: str, *, most: int, lane: Lane, timeout: float
    ) -> Completed:
        """Raises Unavailable RUNTIME_FAILED or NO_COMPLETION_RUNTIME, Overloaded BUDGET_SPENT."""
        if self._meter.spent(tenant):
            self._meter.refused(tenant)
            raise Overloaded("the tenant's budget of today is spent", reason="BUDGET_SPENT", retryable=False)
        failed: RuntimeFault | None = None
        for endpoint in self._endpoints(bool(image_url)):
            runtime, provider = endpoint.runtime, endpoint.provider
            try:
                answer = await endpoint.call(
                    "complete",
                    lambda left: runtime.complete(system, text, image_url, most, left),  # noqa: B023 - called at once
                    lane=lane,
                    timeout=timeout,
                    model=True,
                )
            except RuntimeFault as fault:
                failed = fault
                continue
            self._meter.add(tenant, provider, answer.prompt_tokens, answer.completion_tokens)
            return Completed(answer, endpoint.name)
        if failed is not None:
            raise Unavailable("the completion failed", reason="RUNTIME_FAILED") from failed
        what = "sees pictures" if image_url else "runs completions"
        raise Unavailable(f"no runtime here {what}", reason="NO_COMPLETION_RUNTIME", retryable=False)

    def _endpoints(self, vision: bool) -> list[Endpoint]:
        able = [one for one in self._chain.endpoints.values() if one.capabilities.completes]
        return [one for one in able if one.provider.vision] if vision else able
