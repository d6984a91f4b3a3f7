"""What a bench found: figures beside their goals and their peers, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Result:
    """One figure. goal: None when there is none to reach; `better` says on which side of it is good."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    better: Literal["more", "less"] = "more"
    peers: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool | None:
        """Whether the goal is reached; None without one. A figure that is not a number reaches nothing."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "more" else self.value <= self.goal

    def record(self) -> dict[str, Any]:
        """The figure as `--json` prints it."""
        return {
            "name": self.name,
            "value": rounded(self.value),
            "unit": self.unit,
            "goal": self.goal,
            "ok": self.ok,
            "peers": {name: rounded(value) for name, value in self.peers.items()},
        }


def rounded(value: float) -> float:
    """Four significant digits: more is noise."""
    return float(f"{value:.4g}")


def report(bench: str, machine: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The one object of a bench."""
    return {"bench": bench, "machine": machine, "results": list(records)}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The results for people; a missed goal stands out."""
    rows = [("", "value", "unit", "goal", "", "beside it")]
    for record in records:
        goal = "" if record["goal"] is None else f"{record['goal']:g}"
        verdict = {True: "ok", False: "MISSED", None: ""}[record["ok"]]
        peers = ", ".join(f"{name} {shown(value)}" for name, value in record["peers"].items())
        rows.append((record["name"], shown(record["value"]), record["unit"], goal, verdict, peers))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(
            (
                row[0].ljust(widths[0]),
                row[1].rjust(widths[1]),
                row[2].ljust(widths[2]),
                row[3].rjust(widths[3]),
                row[4].ljust(widths[4]),
                row[5],
            )
        ).rstrip()
        for row in rows
    )


def shown(value: float) -> str:
    """A figure as people read it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
