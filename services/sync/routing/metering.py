"""What models cost: tokens and estimated dollars per tenant and runtime, and a budget per tenant and UTC day (G1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.common.logs import get_logger
from services.common.telemetry import Metrics
from services.sync.routing.provider import Provider
from services.sync.routing.providers import Budget

DAY_MS = 24 * 3600 * 1000

_log = get_logger("sync")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant used on one day (days since 1970, UTC)."""

    tenant: str
    day: int
    tokens: int = 0
    usd: float = 0.0


class Meter:
    """Counts what was used and says whether more may be. Memory decides; `keep` remembers over restarts.

    Calls that are under way count with their estimate, so that many at once do not overrun the budget.
    """

    def __init__(
        self,
        budgets: Mapping[str, Budget],
        used: list[Usage],
        now_ms: Callable[[], int],
        metrics: Metrics,
        keep: Callable[[Usage], object],
    ) -> None:
        self._budgets = budgets
        self._used = {usage.tenant: usage for usage in used}
        self._promised: dict[str, int] = {}
        self._now_ms = now_ms
        self._metrics = metrics
        self._keep = keep
        for usage in used:
            self._show(usage)

    def budget(self, tenant: str) -> Budget:
        return self._budgets.get(tenant) or self._budgets.get("*") or Budget()

    def used(self, tenant: str) -> Usage:
        """Of today."""
        today = self._now_ms() // DAY_MS
        usage = self._used.get(tenant)
        return usage if usage is not None and usage.day == today else Usage(tenant, today)

    def spent(self, tenant: str) -> bool:
        """Whether no model may be asked for this tenant until the day is over."""
        budget, usage = self.budget(tenant), self.used(tenant)
        promised = self._promised.get(tenant, 0)
        over = bool(budget.tokens) and usage.tokens + promised >= budget.tokens
        return over or (bool(budget.usd) and usage.usd >= budget.usd)

    def promise(self, tenant: str, tokens: int) -> None:
        """A call is under way; `promise(-tokens)` when it is over."""
        left = self._promised.get(tenant, 0) + tokens
        if left > 0:
            self._promised[tenant] = left
        else:
            self._promised.pop(tenant, None)

    def refused(self, tenant: str) -> None:
        self._metrics.budget_refused.labels(tenant).inc()

    def add(self, tenant: str, provider: Provider, prompt_tokens: int, completion_tokens: int) -> None:
        """A call was answered."""
        before, cost = self.used(tenant), provider.cost(prompt_tokens, completion_tokens)
        tokens = prompt_tokens + completion_tokens
        usage = Usage(tenant, before.day, before.tokens + tokens, before.usd + cost)
        was_spent = self.spent(tenant)
        self._used[tenant] = usage
        self._metrics.runtime_tokens.labels(provider.name, "prompt").inc(prompt_tokens)
        self._metrics.runtime_tokens.labels(provider.name, "completion").inc(completion_tokens)
        self._metrics.runtime_cost.labels(provider.name).inc(cost)
        self._metrics.tenant_tokens.labels(tenant, provider.name, "prompt").inc(prompt_tokens)
        self._metrics.tenant_tokens.labels(tenant, provider.name, "completion").inc(completion_tokens)
        self._metrics.tenant_cost.labels(tenant, provider.name).inc(cost)
        self._show(usage)
        self._keep(usage)
        if not was_spent and self.spent(tenant):
            _log.warning("budget_spent", day=usage.day)

    def _show(self, usage: Usage) -> None:
        budget = self.budget(usage.tenant)
        shares = [usage.tokens / budget.tokens] if budget.tokens else []
        shares += [usage.usd / budget.usd] if budget.usd else []
        if usage.day != self._now_ms() // DAY_MS:
            shares = [0.0 for _ in shares]
        if shares:
            self._metrics.budget_used.labels(usage.tenant).set(max(shares))
