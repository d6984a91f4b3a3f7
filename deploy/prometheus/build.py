"""Writes rules.yml and its tests from what is promised and what is watched: `python deploy/prometheus/build.py`.

A promise is a share of good events. Its error ratio is recorded over six windows; three alerts watch how fast the error
budget of 30 days burns (Google's SRE workbook, chapter 5): 14.4 times over 1 h and 5 min, 6 times over 6 h and 30 min,
1 time over 3 days and 6 h. Each alert has a case that fires and one that does not.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RUNBOOK = "docs/runbook.md"
WINDOWS = ("5m", "30m", "1h", "6h", "3d")
# Factor, long window, short window, severity, time to wait.
BURNS = ((14.4, "1h", "5m", "page"), (6.0, "6h", "30m", "page"), (1.0, "3d", "6h", "ticket"))


@dataclass(frozen=True, slots=True)
class Promise:
    """good and total are counters without a range; objective is the share of good ones."""

    name: str
    objective: float
    good: str
    total: str
    says: str


@dataclass(frozen=True, slots=True)
class Watch:
    """One condition that somebody should look at. fires, quiet: series for its two cases."""

    name: str
    expr: str
    wait: str
    severity: str
    says: str
    fires: tuple[tuple[str, str], ...]
    quiet: tuple[tuple[str, str], ...]


def stage(name: str, edge: str) -> tuple[str, str]:
    """Counters of a stage: those within the edge, and all."""
    metric = "earshot_stage_duration_seconds"
    return f'{metric}_bucket{{stage="{name}",le="{edge}"}}', f'{metric}_count{{stage="{name}"}}'


PROMISES = (
    Promise("snapshot_answered", 0.999, 'earshot_snapshots_total{outcome!="failed"}', "earshot_snapshots_total",
            "Snapshots get an answer"),
    Promise("snapshot_in_time", 0.99, *stage("snapshot", "0.02"), "Snapshots are answered within 20 ms"),
    Promise("model_asked_in_time", 0.99, *stage("utterance_to_model", "0.02"),
            "From an utterance to the model being asked takes at most 20 ms"),
    Promise("turn_completed", 0.99, 'earshot_turns_total{phase!~"failed|started"}',
            'earshot_turns_total{phase!="started"}', "Turns do not fail"),
    Promise("fresh_when_asked", 0.999, 'earshot_freshness_revisions_behind_bucket{le="0.0"}',
            "earshot_freshness_revisions_behind_count", "An NPC is asked as of the revision in which it was spoken to"),
    Promise("event_streamed_in_time", 0.99, 'earshot_events_lag_seconds_bucket{transport!="poll",le="0.05"}',
            'earshot_events_lag_seconds_count{transport!="poll"}', "Streams and sockets get events within 50 ms"),
    Promise("event_polled_in_time", 0.99, 'earshot_events_lag_seconds_bucket{transport="poll",le="0.25"}',
            'earshot_events_lag_seconds_count{transport="poll"}', "Long polls get events within 250 ms"),
)  # fmt: skip

WATCHES = (
    Watch("EarshotDown", 'up{job="earshot"} == 0', "2m", "page", "A process does not answer the scrape",
          (('up{job="earshot",instance="a"}', "0x20"),), (('up{job="earshot",instance="a"}', "1x20"),)),
    Watch("EarshotNoticeBeforeItsRevision", "increase(earshot_notices_early_total[10m]) > 0", "0m", "page",
          "A log entry spoke of a revision that was not known yet: this must never happen",
          (("earshot_notices_early_total", "0x5 1x20"),), (("earshot_notices_early_total", "0x30"),)),
    Watch("EarshotStoreFails", 'rate(earshot_store_writes_total{outcome="failed"}[5m]) > 0', "1m", "page",
          "Writes to disk fail",
          (('earshot_store_writes_total{outcome="failed",room="chat"}', "0+5x20"),),
          (('earshot_store_writes_total{outcome="failed",room="chat"}', "7x20"),)),
    Watch("EarshotBreakerOpen", "max by (runtime) (earshot_runtime_breaker_open) == 1", "2m", "ticket",
          "A runtime is not called because it fails",
          (('earshot_runtime_breaker_open{runtime="letta"}', "1x20"),),
          (('earshot_runtime_breaker_open{runtime="letta"}', "0 1 0x20"),)),
    Watch("EarshotBudgetSpent", "max by (tenant) (earshot_budget_used_ratio) >= 1", "0m", "ticket",
          "A tenant's budget of the day is spent: its NPCs answer without a model",
          (('earshot_budget_used_ratio{tenant="main"}', "0.9 1.02x20"),),
          (('earshot_budget_used_ratio{tenant="main"}', "0.99x20"),)),
    Watch("EarshotSyncBehind", "sum by (lane) (earshot_sync_pending) > 200", "10m", "ticket",
          "Many NPCs wait to be told what changed",
          (('earshot_sync_pending{lane="medium"}', "500x30"),), (('earshot_sync_pending{lane="medium"}', "20x30"),)),
    Watch("EarshotTurnsWait", "sum by (queue) (earshot_queue_depth) > 10", "5m", "ticket",
          "Turns wait for a worker", (('earshot_queue_depth{queue="conversation"}', "30x20"),),
          (('earshot_queue_depth{queue="conversation"}', "1x20"),)),
    Watch("EarshotSheds", "sum(rate(earshot_admission_refused_total[5m])) > 1", "5m", "ticket",
          "The edge refuses requests",
          (('earshot_admission_refused_total{gate="in_flight"}', "0+300x20"),),
          (('earshot_admission_refused_total{gate="in_flight"}', "0+1x20"),)),
    Watch("EarshotLoopLate",
          "histogram_quantile(0.99, sum by (le, instance) (rate(earshot_loop_lag_seconds_bucket[5m]))) > 0.1", "5m",
          "ticket", "A process's event loop wakes late",
          (('earshot_loop_lag_seconds_bucket{instance="a",le="0.1"}', "0+10x20"),
           ('earshot_loop_lag_seconds_bucket{instance="a",le="1.0"}', "0+600x20"),
           ('earshot_loop_lag_seconds_bucket{instance="a",le="+Inf"}', "0+600x20")),
          (('earshot_loop_lag_seconds_bucket{instance="a",le="0.1"}', "0+600x20"),
           ('earshot_loop_lag_seconds_bucket{instance="a",le="1.0"}', "0+600x20"),
           ('earshot_loop_lag_seconds_bucket{instance="a",le="+Inf"}', "0+600x20"))),
    Watch("EarshotClustersDisagree",
          'sum(rate(earshot_game_pairs_total{verdict="differs"}[15m])) '
          "/ sum(rate(earshot_game_pairs_total[15m])) > 0.2",
          "15m", "ticket", "The game groups entities that are out of earshot of each other",
          (('earshot_game_pairs_total{verdict="differs"}', "0+60x60"),
           ('earshot_game_pairs_total{verdict="agrees"}', "0+60x60")),
          (('earshot_game_pairs_total{verdict="differs"}', "0+1x60"),
           ('earshot_game_pairs_total{verdict="agrees"}', "0+99x60"))),
)  # fmt: skip


def rules() -> dict[str, Any]:
    """The content of rules.yml."""
    recorded = [
        {
            "record": f"earshot:{promise.name}:error_ratio_{window}",
            "expr": f"1 - sum(rate({promise.good}[{window}])) / sum(rate({promise.total}[{window}]))",
        }
        for promise in PROMISES
        for window in WINDOWS
    ]
    burns = [_burn(promise, *burn) for promise in PROMISES for burn in BURNS]
    watches = [
        _alert(watch.name, watch.expr, watch.wait, watch.severity, watch.says, watch.name.lower()) for watch in WATCHES
    ]
    return {
        "groups": [
            # One group: an alert reads what was recorded a moment before.
            {"name": "earshot-promises", "rules": [*recorded, *burns]},
            {"name": "earshot-watches", "rules": watches},
        ]
    }


def alert_name(promise: Promise, factor: float) -> str:
    """EarshotSnapshotInTimeBurns14x."""
    return f"Earshot{''.join(part.title() for part in promise.name.split('_'))}Burns{factor:.0f}x"


def _burn(promise: Promise, factor: float, long: str, short: str, severity: str) -> dict[str, Any]:
    limit = round(factor * (1 - promise.objective), 6)
    ratio = f"earshot:{promise.name}:error_ratio_"
    says = f"{promise.says}: the error budget burns {factor:g} times too fast"
    expr = f"{ratio}{long} > {limit} and {ratio}{short} > {limit}"
    return _alert(alert_name(promise, factor), expr, "0m", severity, says, promise.name)


def _alert(name: str, expr: str, wait: str, severity: str, says: str, anchor: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {"summary": says, "runbook_url": f"{RUNBOOK}#{anchor}"},
    }


def tests(window: str) -> dict[str, Any]:
    """The content of rules_test_{window}.yml: a short step for short windows, a coarse one where days are simulated."""
    cases: list[dict[str, Any]] = []
    minutes, step = {"1h": (75, 1), "6h": (390, 10), "3d": (4680, 60)}[window]
    for promise in PROMISES:
        for factor, long, _, severity in BURNS:
            if long != window:
                continue
            for burn, fires in ((factor * 1.5, True), (factor * 0.5, False)):
                bad = min(burn * (1 - promise.objective), 1.0)
                cases.append(_case(
                    alert_name(promise, factor), f"{minutes}m", f"{step}m",
                    _flow(promise, bad, minutes // step + 1), {"severity": severity} if fires else None,
                ))  # fmt: skip
    for watch in WATCHES if window == "1h" else ():
        labels = {"severity": watch.severity, **_kept(watch)}
        cases.append(_case(watch.name, "30m" if "15m" in watch.wait else "15m", "1m", watch.fires, labels))
        cases.append(_case(watch.name, "30m" if "15m" in watch.wait else "15m", "1m", watch.quiet, None))
    return {"rule_files": ["rules.yml"], "evaluation_interval": f"{step}m", "tests": cases}


def _flow(promise: Promise, bad: float, steps: int) -> tuple[tuple[str, str], ...]:
    """Counters in which the share `bad` of 100,000 events a step is not good."""
    good = _concrete(promise.good, good=True)
    total = _concrete(promise.total, good=False)
    failing = round(100_000 * bad)
    if promise.total.endswith("_count") or "_count{" in promise.total:
        return ((good, f"0+{100_000 - failing}x{steps}"), (total, f"0+100000x{steps}"))
    return ((good, f"0+{100_000 - failing}x{steps}"), (total, f"0+{failing}x{steps}"))


def _concrete(selector: str, *, good: bool) -> str:
    """A selector as one series that it selects: of the good ones, else of those that are not good."""
    stands = {
        'outcome!="failed"': 'outcome="applied"', 'phase!~"failed|started"': 'phase="ended"',
        'phase!="started"': 'phase="failed"', 'transport!="poll"': 'transport="sse"',
    }  # fmt: skip
    for pattern, value in stands.items():
        selector = selector.replace(pattern, value)
    return selector if good or "{" in selector else selector + '{outcome="failed"}'


def _kept(watch: Watch) -> dict[str, str]:
    """Labels that the alert keeps from its series: those that it groups by, or all where it does not group."""
    series = watch.fires[0][0]
    pairs = dict(part.split("=", 1) for part in series.partition("{")[2].rstrip("}").split(",") if "=" in part)
    labels = {name: value.strip('"') for name, value in pairs.items()}
    if " by (" in watch.expr:
        names = watch.expr.partition(" by (")[2].partition(")")[0].replace(" ", "").split(",")
        return {name: value for name, value in labels.items() if name in names and name != "le"}
    return {} if watch.expr.startswith("sum(") else labels


def _case(
    alert: str, at: str, step: str, series: tuple[tuple[str, str], ...], labels: dict[str, str] | None
) -> dict[str, Any]:
    expected = [{"exp_labels": labels}] if labels is not None else []
    return {
        "name": f"{alert} {'fires' if expected else 'is quiet'}",
        "interval": step,
        "input_series": [{"series": name, "values": values} for name, values in series],
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
    }


def annotated(built: dict[str, Any], rules: dict[str, Any]) -> dict[str, Any]:
    """promtool compares annotations too: the expected ones are the rule's own."""
    says = {
        rule["alert"]: rule["annotations"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    }
    for case in built["tests"]:
        for check in case["alert_rule_test"]:
            for expected in check["exp_alerts"]:
                expected["exp_annotations"] = says[check["alertname"]]
    return built


def files() -> dict[str, str]:
    """Name -> text of what is generated."""
    found = rules()
    return {
        "rules.yml": yaml.safe_dump(found, sort_keys=False, width=160),
        **{
            f"rules_test_{window}.yml": yaml.safe_dump(annotated(tests(window), found), sort_keys=False, width=160)
            for _, window, _, _ in BURNS
        },
    }


def main() -> int:
    """Write the files."""
    for name, text in files().items():
        (HERE / name).write_text("# Generated by build.py; do not edit.\n" + text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
