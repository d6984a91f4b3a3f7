"""What models cost, as metrics: bounded however many tenants there are, and of today."""

from __future__ import annotations

from collections.abc import Mapping

from services.common.telemetry import Metrics
from services.sync.routing.metering import DAY_MS, OTHER, TENANTS_SEEN, Meter, Usage
from services.sync.routing.provider import Provider
from services.sync.routing.providers import Budget

ONE = Provider("one", "openai")


class Day:
    """A meter with a clock that is set."""

    def __init__(self, budgets: Mapping[str, Budget], used: list[Usage] | None = None) -> None:
        self.now_ms = 100 * DAY_MS
        self.metrics = Metrics()
        self.kept: list[Usage] = []
        self.meter = Meter(budgets, used or [], lambda: self.now_ms, self.metrics, self.kept.append)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def used(self, tenant: str) -> float | None:
        return self.value("earshot_budget_used_ratio", tenant=tenant)

    def tenants(self) -> set[str]:
        return {
            sample.labels["tenant"]
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if "tenant" in sample.labels
        }


def test_a_thousand_tenants_have_series_of_a_few() -> None:
    day = Day({"big": Budget(tokens=1000), "*": Budget(tokens=100)})
    for number in range(1000):
        day.meter.add(f"t{number}", ONE, 1, 1)
        day.meter.refused(f"t{number}")
    day.meter.add("big", ONE, 100, 0)
    assert day.tenants() == {"big", OTHER, *(f"t{number}" for number in range(TENANTS_SEEN))}
    others = day.value("earshot_tenant_tokens_total", tenant=OTHER, runtime="one", kind="prompt")
    assert others == 1000 - TENANTS_SEEN
    assert day.value("earshot_budget_refused_total", tenant=OTHER) == 1000 - TENANTS_SEEN
    assert day.value("earshot_runtime_tokens_total", runtime="one", kind="completion") == 1000
    assert day.used("big") == 0.1


def test_of_the_others_the_one_that_used_most_is_shown_and_each_is_still_counted_alone() -> None:
    day = Day({"*": Budget(tokens=100)})
    for number in range(TENANTS_SEEN):
        day.meter.add(f"t{number}", ONE, 1, 0)
    day.meter.add("late", ONE, 90, 0)
    day.meter.add("later", ONE, 20, 0)
    assert day.used(OTHER) == 0.9
    day.meter.add("later", ONE, 80, 0)
    assert day.used(OTHER) == 1.0
    assert day.meter.spent("later")
    assert not day.meter.spent("late")


def test_a_day_that_is_over_leaves_no_share() -> None:
    day = Day({"*": Budget(tokens=100, usd=1.0)}, [Usage("t", 100, 100, 0.5)])
    assert day.used("t") == 1.0
    day.now_ms += DAY_MS
    assert day.used("t") == 0.0


def test_without_a_budget_there_is_no_share() -> None:
    day = Day({})
    day.meter.add("t", ONE, 5, 5)
    assert day.used("t") is None
    assert day.value("earshot_tenant_cost_dollars_total", tenant="t", runtime="one") == 0.0
