"""What the benches found, for people: a page of tables, and a picture of bars for each bench. Pure.

Nothing is added to what was measured: each table stands under the command that made it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench.comparison import PEERS
from bench.result import shown

WIDTH, BAR, GAP, LABEL, FIGURE = 760, 16, 6, 330, 110
# Bars of one picture; a bench with more figures shows those that have peers first.
BARS = 16
# Rows of each table of a profile; latest.json has the rest.
PROFILED = 10
# So many figures without a goal stand among the others; more are folded away.
UNFOLDED = 12
# Load above which something else ran: a part leaves no more behind it on two cores.
BUSY_LOAD = 4.5
_LOAD = re.compile(r"load before ([\d.]+)")
_STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#333}.u{fill:#2f7d6b}.p{fill:#b9c4cc}.g{stroke:#c2410c;"
    "stroke-width:2}.h{font-weight:600}@media(prefers-color-scheme:dark){text{fill:#ddd}.u{fill:#4fb89e}"
    ".p{fill:#55626b}.g{stroke:#fb923c}}</style>"
)
_VERDICT = {True: "ok", False: "**missed**", None: ""}
_INTRODUCTION = """# Benchmarks

Made by `make bench`; do not edit. Every figure stands under the command that made it, beside its peers of the same
run on the same machine: compare ratios, not absolute figures. A missed goal says so, and so does a bench that could not
be measured. [bench/README.md](../bench/README.md) says how each is measured, and what the peers are; these are the
short forms that `make bench` takes. To repeat all of it: `make bench CORPUS=DIRECTORY`; one part: the command above its
table; to see only what became worse than these: `python -m bench.everything --check`.

"""


def markdown(results: Mapping[str, Any], pictures: set[str]) -> str:
    """The page. results: as `latest.json`; pictures: names of the pictures that exist."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    figures = [record for report in results["benches"] for record in report["results"]]
    goals = [record["ok"] for record in figures if record["ok"] is not None]
    parts = [
        _INTRODUCTION,
        f"* Machine: {results['machine']}\n* Versions: {versions}\n"
        f"* {len(figures)} figures, {len(goals)} with a goal, {sum(goals)} of them reached\n",
        _busy(results["benches"]),
        _worse(results.get("worse", ())),
    ]
    return "".join([*parts, *(_section(report, pictures) for report in results["benches"])])


def _busy(reports: Sequence[Mapping[str, Any]]) -> str:
    """Which parts began while the machine had other work than one bench makes."""
    loads = {report["bench"]: _LOAD.search(report["machine"]) for report in reports}
    busy = {name: found[1] for name, found in loads.items() if found and float(found[1]) > BUSY_LOAD}
    if not busy:
        return ""
    named = ", ".join(f"{name} {load}" for name, load in busy.items())
    return f"* **The machine was busy** (load before: {named}): trust ratios at most, and repeat it\n"


def _worse(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return "* Worse than the results before, by more than 15 % of the ratio:\n" + "".join(
        f"  * {one}\n" for one in lines
    )


def picture_of(report: Mapping[str, Any]) -> str:
    """Name of a report's picture."""
    return f"bench-{report['bench'].replace(' ', '-')}.svg"


def _section(report: Mapping[str, Any], pictures: set[str]) -> str:
    name = report["bench"]
    spent = f", {report['processor_s']} s of processor" if "processor_s" in report else ""
    head = f"\n## {name}\n\n`{report['command']}` ({report['s']} s{spent})\n\n"
    if report.get("error"):
        return f"{head}Not measured: {report['error']}.\n"
    if name.startswith("profile"):
        return f"{head}{_profile(report['results'])}"
    picture = picture_of(report)
    shown_picture = (
        f"![{name}: bars of each figure beside its peers](pictures/{picture})\n\n" if picture in pictures else ""
    )
    return f"{head}{shown_picture}{_tables(report['results'])}"


def _tables(records: Sequence[Mapping[str, Any]]) -> str:
    """Figures with a goal or a peer first where there are many."""
    plain = [record for record in records if record["goal"] is None]
    if len(plain) <= UNFOLDED or len(plain) == len(records):
        return _table(records)
    first = _table([record for record in records if record["goal"] is not None])
    return f"{first}\n<details><summary>{len(plain)} figures without a goal</summary>\n\n{_table(plain)}\n</details>\n"


def _table(records: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| figure | value | unit | goal | | beside it |", "|---|---:|---|---:|---|---|"]
    for record in records:
        goal = "" if record["goal"] is None else f"{record['goal']:g}"
        peers = ", ".join(f"{name} {shown(value)}" for name, value in record["peers"].items())
        cells = (record["name"], shown(record["value"]), record["unit"], goal, _VERDICT[record["ok"]], peers)
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _profile(records: Sequence[Mapping[str, Any]]) -> str:
    """Of each process the parts by their own time, and the functions by all that they call."""
    tables: dict[str, list[str]] = {}
    for record in records:
        process, _, rest = record["name"].partition("] ")
        for kind in ("own time of ", "in "):
            if rest.startswith(kind):
                rows = tables.setdefault(f"{process[1:]}: {kind.strip()}", [])
                rows.append(f"| `{rest.removeprefix(kind)}` | {shown(record['value'])} |\n")
        if rest == "all":
            tables[f"{process[1:]}: processor time"] = [f"| all | {shown(record['value'])} |\n"]
    return "".join(f"| {title} | us |\n|---|---:|\n{''.join(rows[:PROFILED])}\n" for title, rows in tables.items())


def picture(report: Mapping[str, Any]) -> str:
    """Bars of the figures that have a peer or a goal, each on a scale of its own; "" when there are none.

    Counts that must be 0 are no picture, and what only explains a figure is no bar beside it.
    """
    if report.get("error"):
        return ""
    records = [
        {**record, "peers": {name: value for name, value in record["peers"].items() if name in PEERS}}
        for record in report["results"]
    ]
    records = [record for record in records if record["peers"] or record["goal"]]
    records = sorted(records, key=lambda record: not record["peers"])[:BARS]
    rows: list[str] = []
    top = GAP
    for record in records:
        drawn, height = _bars(record, top)
        rows.append(drawn)
        top += height + 2 * GAP
    if not rows:
        return ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img">'
        f"<title>{escape(report['bench'])}</title>{_STYLE}{''.join(rows)}</svg>\n"
    )


def _bars(record: Mapping[str, Any], top: int) -> tuple[str, int]:
    bars = [("Earshot", record["value"], "u"), *((name, value, "p") for name, value in record["peers"].items())]
    goal = record["goal"]
    longest = max([abs(value) for _, value, _ in bars] + ([abs(goal)] if goal is not None else [])) or 1.0
    room = WIDTH - LABEL - FIGURE
    drawn = [f'<text class="h" x="4" y="{top + 12}">{escape(_short(record["name"]))} ({escape(record["unit"])})</text>']
    y = top + BAR
    for name, value, kind in bars:
        width = max(1.0, room * abs(value) / longest)
        drawn.append(
            f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR - 3}" rx="2"/>'
            f'<text x="{LABEL + width + 6:.1f}" y="{y + 12}">{escape(shown(value))}</text>'
        )
        y += BAR
    if goal is not None:
        x = LABEL + room * abs(goal) / longest
        drawn.append(f'<line class="g" x1="{x:.1f}" y1="{top + BAR - 2}" x2="{x:.1f}" y2="{y - 1}"/>')
    return "".join(drawn), y - top


def _short(text: str) -> str:
    return text if len(text) <= 48 else text[:47] + "…"
