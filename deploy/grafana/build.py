"""Writes dashboards/*.json from the description in boards.py: `python deploy/grafana/build.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from boards import BOARDS, Board, Panel  # noqa: E402 # it lies beside this file

SELECTED = 'job=~"$job", instance=~"$instance"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 8


def expression(text: str) -> str:
    """A query with its selectors: `@` stands for the chosen jobs and instances."""
    return text.replace("@", SELECTED)


def panel(one: Panel, number: int) -> dict[str, Any]:
    """A panel of Grafana's."""
    kind = "stat" if one.single else "timeseries"
    defaults: dict[str, Any] = {"unit": one.unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}}
    if one.budget is not None:
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"color": "green", "value": None}, {"color": "red", "value": one.budget}],
        }
        defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
    if one.single:
        del defaults["custom"]
    column, row = (number % 3) * WIDTH, (number // 3) * HEIGHT
    return {
        "id": number + 1,
        "title": one.title,
        "description": one.says,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"x": column, "y": row, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}} if not one.single else {},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": expression(query),
                "legendFormat": legend,
                "exemplar": "_bucket" in query,
            }
            for place, (query, legend) in enumerate(one.queries)
        ],
    }


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice at the top of a dashboard."""
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "query": query, "definition": query,
        "includeAll": True, "allValue": ".+", "multi": True, "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def dashboard(board: Board) -> dict[str, Any]:
    """A dashboard of Grafana's."""
    return {
        "uid": board.uid,
        "title": f"Earshot / {board.title}",
        "description": board.says,
        "tags": ["earshot"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "links": [
            {"type": "dashboards", "tags": ["earshot"], "title": "Earshot", "asDropdown": True, "keepTime": True}
        ],
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                variable("job", "Job", "label_values(earshot_build_info, job)"),
                variable("instance", "Instance", 'label_values(earshot_build_info{job=~"$job"}, instance)'),
            ]
        },
        "panels": [panel(one, number) for number, one in enumerate(board.panels)],
    }


def files() -> dict[str, str]:
    """Name -> text of what is generated."""
    return {f"{board.uid}.json": json.dumps(dashboard(board), indent=1) + "\n" for board in BOARDS}


def main() -> int:
    """Write the files."""
    for name, text in files().items():
        (HERE / "dashboards" / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
