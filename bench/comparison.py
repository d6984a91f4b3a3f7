"""Whether figures became worse than those of an earlier run. Pure.

A figure with peers is compared as its ratio to each peer of its own run, so that two machines, or a busy and an idle
one, can be compared; one that is a ratio of its own run already, as it stands. Others are not compared: their goals
speak for them, and what else stands beside a figure explains it. Which side is better follows from the figure's goal
and verdict, or from its unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

REGRESSION = 0.15
# What does the same job in the same run.
PEERS = frozenset(
    {
        "0-hop", "FastAPI unary", "gRPC unary, nested", "scipy", "scipy, worlds in one tree", "DBSCAN", "round robin",
        "A-B-A", "SillyTavern natural order", "vocative, else A-B-A", "without admission", "bm25() of FTS5, CPU",
    }
)  # fmt: skip
RATIO = "x"
# Units of which more is better; of all others (times, bytes, writes, shares missed) less is.
MORE = frozenset({"/s", "x", "%", "1/s", "snapshots/s", "messages/s"})


def more_is_better(record: Mapping[str, Any]) -> bool:
    """What the goal says, when it was measured beside one; else what the unit says."""
    goal, value, ok = record.get("goal"), record["value"], record.get("ok")
    if goal is not None and ok is not None and value != goal:
        return bool((value > goal) == ok)
    return record["unit"] in MORE


def ratios(record: Mapping[str, Any]) -> dict[str, float]:
    """Value over each peer's, where that is a number above zero; what is a ratio already, by itself."""
    if record["unit"] == RATIO:
        return {RATIO: record["value"]}
    found = record["peers"].items()
    return {name: record["value"] / peer for name, peer in found if name in PEERS and peer and peer > 0}


def worse(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each figure whose ratio to a peer fell behind by more than REGRESSION.

    before, after: reports as `earshot bench --json` prints them. Figures that only one side has are passed over.
    """
    old = {(report["bench"], record["name"]): record for report in before for record in report["results"]}
    lines = []
    for report in after:
        for record in report["results"]:
            known = old.get((report["bench"], record["name"]))
            if known is None:
                continue
            earlier = ratios(known)
            for peer, ratio in ratios(record).items():
                if peer in earlier and _fell(earlier[peer], ratio, more=more_is_better(record)):
                    of = "" if peer == RATIO else f" of {peer}"
                    lines.append(f"{report['bench']}: {record['name']}: {ratio:.3g}{of}, it was {earlier[peer]:.3g}")
    return lines


def _fell(old: float, new: float, *, more: bool) -> bool:
    return new < old * (1 - REGRESSION) if more else new > old * (1 + REGRESSION)
