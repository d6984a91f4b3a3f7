"""The page of results and the comparison with earlier ones say what was measured, and nothing else."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import catalogue, comparison, everything, page
from bench.everything import Part
from bench.peers import environment


def record(
    value: float, *, goal: float | None = None, ok: bool | None = None, unit: str = "/s", **peers: float
) -> dict[str, Any]:
    return {"name": "snapshots a second", "value": value, "unit": unit, "goal": goal, "ok": ok, "peers": peers}


def report(*records: dict[str, Any], bench: str = "ingest") -> dict[str, Any]:
    return {"bench": bench, "machine": "m", "results": list(records), "command": f"earshot bench {bench}", "s": 3}


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (record(100, scipy=50), record(80, scipy=50), True),  # 2.0 -> 1.6
        (record(100, scipy=50), record(90, scipy=50), False),
        (record(100, scipy=50), record(50, scipy=25), False),  # the machine was busy: the peer fell too
        (record(10, unit="ms", scipy=10), record(12, unit="ms", scipy=10), True),
        (record(10, unit="ms", scipy=10), record(8, unit="ms", scipy=10), False),
        (record(10, unit="ms", goal=15, ok=True, scipy=10), record(14, unit="ms", goal=15, ok=True, scipy=10), True),
        (record(10, unit="%", goal=15, ok=True, scipy=10), record(14, unit="%", goal=15, ok=True, scipy=10), True),
        (record(100), record(1), False),  # without peers nothing is compared
        (record(100, scipy=50), record(1, DBSCAN=50), False),
        (record(100, scipy=0), record(1, scipy=0), False),
        (record(100, lines=50), record(1, lines=50), False),  # what only explains a figure is no peer
        (record(3, unit="x"), record(2, unit="x"), True),  # a ratio as it stands
        (record(2, unit="x", goal=3, ok=True), record(2.9, unit="x", goal=3, ok=True), True),
        (record(2, unit="x", goal=1, ok=True), record(2.9, unit="x", goal=1, ok=True), False),
    ],
)  # fmt: skip
def test_what_counts_as_worse(before: dict[str, Any], after: dict[str, Any], worse: bool) -> None:
    lines = comparison.worse([report(before)], [report(after)])
    assert bool(lines) is worse
    assert all("snapshots a second" in line and "it was" in line for line in lines)


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6), st.floats(0.1, 10))
def test_a_slower_machine_is_not_a_regression(value: float, peer: float, speed: float) -> None:
    assert not comparison.worse(
        [report(record(value, scipy=peer))], [report(record(value * speed, scipy=peer * speed))]
    )


def test_the_page_holds_every_figure_under_its_command() -> None:
    results = {
        "machine": "two cores",
        "versions": {"earshot": "1"},
        "benches": [
            report(record(1234.5, goal=2000, ok=False, zero_hop=3000), record(5, goal=4, ok=True)),
            report(record(7), bench="chat"),
            {**report(bench="edge"), "error": "exit status 1"},
        ],
    }
    text = page.markdown(results, {"bench-ingest.svg"})
    assert "3 figures, 2 with a goal, 1 of them reached" in text
    ingest, chat, edge = text.split("\n## ")[1:]
    assert "`earshot bench ingest`" in ingest
    assert "1,234" in ingest
    assert "**missed**" in ingest
    assert "zero_hop 3,000" in ingest
    assert "pictures/bench-ingest.svg" in ingest
    assert "pictures/" not in chat
    assert "Not measured: exit status 1" in edge


def test_the_picture_is_well_formed_and_to_scale() -> None:
    tree = ElementTree.fromstring(page.picture(report({**record(50, goal=75, ok=False), "peers": {"scipy": 100}})))
    bars = [float(bar.get("width", "0")) for bar in tree.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars[0] * 2 == pytest.approx(bars[1])
    (goal,) = tree.iter("{http://www.w3.org/2000/svg}line")
    assert float(goal.get("x1", "0")) == pytest.approx(page.LABEL + bars[1] * 0.75, abs=0.2)
    assert page.picture(report(record(5))) == ""
    assert page.picture(report(record(5, goal=0, ok=False, lines=7))) == ""
    assert "&lt;of 7&gt;" in page.picture(report({**record(5, goal=7, ok=False), "name": "<of 7>"}))


def test_a_bench_that_fails_says_why_and_does_not_stop_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    failed = everything.one("absent", Part(("no-such-bench",), 60), None)
    assert failed["error"].startswith("exit status 1, last words: ")
    assert "no bench no-such-bench" in failed["error"]
    assert failed["results"] == []
    assert failed["command"] == "earshot bench no-such-bench"
    assert "absent was not measured: " in capfd.readouterr().err


def test_a_bench_that_takes_too_long_is_ended() -> None:
    assert everything.one("cluster", Part(("cluster",), 0.01), None)["error"] == "not done after 0 s"


def test_without_conversations_a_part_that_needs_them_is_not_run() -> None:
    told = everything.one("turns", everything.PARTS["turns"], None)
    assert "CORPUS" in told["error"]
    assert told["command"] == "earshot bench turns --corpus=DIRECTORY"


def test_every_part_is_a_bench_and_every_bench_a_part() -> None:
    assert {part.arguments[0] for part in everything.PARTS.values()} == set(catalogue.BENCHES)


def test_only_and_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(everything, "RESULTS", tmp_path / "results" / "latest.json")
    monkeypatch.setattr(everything, "PAGE", everything.ROOT / "docs" / "not-written.md")
    pages: list[dict[str, Any]] = []
    monkeypatch.setattr(everything, "write", pages.append)
    values = iter([100.0, 100.0, 50.0])
    monkeypatch.setattr(everything, "one", lambda name, *_: report(record(next(values), scipy=50), bench=name))
    monkeypatch.setattr(environment, "python", lambda: None)

    assert everything.main(["--only", "cluster"]) == 0
    assert everything.main(["--only", "ingest"]) == 0
    stored = json.loads((tmp_path / "results" / "latest.json").read_text())
    assert [one["bench"] for one in stored["benches"]] == ["cluster", "ingest"]
    assert pages[-1] == stored
    assert "load before" not in stored["machine"]
    assert everything.main(["--only", "ingest", "--check"]) == 1
    assert "worse: ingest" in capsys.readouterr().out
    assert json.loads((tmp_path / "results" / "latest.json").read_text()) == stored


def test_many_figures_without_a_goal_are_folded_away() -> None:
    results = {"machine": "m", "versions": {}, "benches": [report(record(1, goal=1, ok=True), *[record(7)] * 13)]}
    before, folded = page.markdown(results, set()).split("<details>")
    assert before.count("| snapshots a second |") == 1
    assert "13 figures without a goal" in folded
    assert folded.count("| snapshots a second |") == 13
    assert page.markdown({**results, "benches": [report(*[record(7)] * 13)]}, set()).count("<details>") == 0


def test_a_profile_is_told_by_process_without_its_lines() -> None:
    def us(name: str, value: float) -> dict[str, Any]:
        return {**record(value, unit="us"), "name": f"[edge] {name}"}

    rows = [us("all", 400), *(us(f"own time of part{n}", 50 - n) for n in range(15)), us("in services/x.py run", 70)]
    profile = report(*rows, us("at services/x.py:3 run", 9), bench="profile of a snapshot")
    text = page.markdown({"machine": "m", "versions": {}, "benches": [profile]}, set())
    assert "| all | 400 |" in text
    assert "| edge: own time of | us |" in text
    assert "| `part9` | 41 |" in text
    assert "part10" not in text
    assert "| `services/x.py run` | 70 |" in text
    assert ":3 run" not in text
    assert page.picture(profile) == ""


def test_what_became_worse_stands_on_the_page() -> None:
    results = {"machine": "m", "versions": {}, "worse": ["ingest: rate: 0.1 of 0-hop, it was 0.2"], "benches": []}
    assert "ingest: rate: 0.1 of 0-hop" in page.markdown(results, set())


@pytest.mark.parametrize(("load", "busy"), [("0.31", False), ("3.90", False), ("8.20", True)])
def test_a_busy_machine_is_named(load: str, busy: bool) -> None:
    told = {**report(record(1)), "machine": f"cpu, 2 cores, load before {load}"}
    text = page.markdown({"machine": "m", "versions": {}, "benches": [told]}, set())
    assert ("The machine was busy" in text) is busy
    assert (f"ingest {load}" in text) is busy
