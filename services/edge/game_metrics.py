"""What game servers measure of themselves (POST /v1/sync), in bounded metrics: sums over all, no labels of theirs.

Estimates for operators: a sync that was recognised as a repetition does not count again, and no value stops a sync.
"""

from __future__ import annotations

from services.common.telemetry import Metrics
from services.edge.contract.session import SyncMetrics
from services.edge.contract.shared import Refusal

# In one sync: one game server may make 500 requests a minute, and waits 35 s for an answer at the longest.
COUNT_MAX = 10_000
ROUND_TRIP_MAX_MS = 60_000
COUNTED = ("requests", "failures", "throttled", "expired")


def count(told: SyncMetrics, metrics: Metrics) -> list[Refusal]:
    """Add what a game server told; what no game server can have measured is reported and left out."""
    refused = []
    for kind in COUNTED:
        value = getattr(told, kind)
        if value is None:
            continue
        # Not a number compares false with everything.
        if 0 <= value <= COUNT_MAX and value == int(value):
            metrics.sdk_events.labels(kind).inc(value)
        else:
            refused.append(Refusal(f"metrics.{kind}", "OUT_OF_RANGE"))
    if told.round_trip_ms is not None:
        if 0 <= told.round_trip_ms <= ROUND_TRIP_MAX_MS:
            metrics.sdk_round_trip_seconds.observe(told.round_trip_ms / 1000)
        else:
            refused.append(Refusal("metrics.round_trip_ms", "OUT_OF_RANGE"))
    return refused
