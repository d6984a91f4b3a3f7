"""What models cost: tokens and estimated dollars per tenant and runtime, and a budget per tenant and UTC day (G1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from services.common.logs import get_logger
from services.common.telemetry import Metrics
from services.sync.routing.provider import Provider
from services.sync.routing.providers import Budget

DAY_MS = 24 * 3600 * 1000
# Tenants that have series of their own beside those with a budget of their own; the others share OTHER's. Series last
# as long as the process, tenants do not.
TENANTS_SEEN = 20
OTHER = "(other)"

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
        self._seen = {tenant for tenant in budgets if tenant != "*"}
        self._shown: set[str] = set()
        self._seen_max = len(self._seen) + TENANTS_SEEN
        for usage in used:
            self._series(usage.tenant)

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
        self._metrics.budget_refused.labels(self._series(tenant)).inc()

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
        series = self._series(tenant)
        self._metrics.tenant_tokens.labels(series, provider.name, "prompt").inc(prompt_tokens)
        self._metrics.tenant_tokens.labels(series, provider.name, "completion").inc(completion_tokens)
        self._metrics.tenant_cost.labels(series, provider.name).inc(cost)
        self._keep(usage)
        if not was_spent and self.spent(tenant):
            _log.warning("budget_spent", day=usage.day)

    def _series(self, tenant: str) -> str:
        """The tenant's label: its own, or OTHER where there are too many for that.

        Its share is looked up at the scrape: a day that is over leaves no old figure.
        """
        series = tenant if tenant in self._seen or len(self._seen) < self._seen_max else OTHER
        if series not in self._shown:
            self._shown.add(series)
            if series != OTHER:
                self._seen.add(series)
            if self.budget(tenant) != Budget():
                self._metrics.budget_used.labels(series).set_function(partial(self._share, series))
        return series

    def _share(self, series: str) -> float:
        """Of today's budget used; of many tenants, who has used most of its own: that is what an alert asks."""
        tenants = [series] if series != OTHER else [tenant for tenant in self._used if tenant not in self._seen]
        return max((self._used_share(tenant) for tenant in tenants), default=0.0)

    def _used_share(self, tenant: str) -> float:
        budget, usage = self.budget(tenant), self.used(tenant)
        tokens = usage.tokens / budget.tokens if budget.tokens else 0.0
        return max(tokens, usage.usd / budget.usd if budget.usd else 0.0)
