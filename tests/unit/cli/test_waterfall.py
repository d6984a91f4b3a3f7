"""Waterfalls: what hangs from what, whose time is whose, and how it is drawn."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.waterfall import BAR, page, tree, unattributed, waterfall


def span(id: str, start: int, length: int, parent: str = "", stage: str = "", **more: Any) -> dict[str, Any]:
    return {"id": id, "name": id, "start_us": start, "duration_us": length, "parent": parent, "stage": stage, **more}


def trace(*spans: dict[str, Any]) -> dict[str, Any]:
    return {
        "trace_id": "a" * 32,
        "name": "POST /v1/x",
        "at": 0.0,
        "duration_us": spans[0]["duration_us"],
        "spans": spans,
    }


def test_a_span_hangs_from_its_parent_whatever_their_order() -> None:
    root = tree(trace(span("a", 0, 10, "b"), span("c", 1, 2, "a"), span("b", 0, 100)))
    assert root.span["id"] == "b"
    assert [part.span["id"] for part in root.parts] == ["a"]
    assert [part.span["id"] for part in root.parts[0].parts] == ["c"]


@pytest.mark.parametrize(
    ("spans", "share"),
    [
        ([span("root", 0, 100), span("s", 0, 100, "root", "state")], 0.0),
        ([span("root", 0, 100), span("s", 0, 75, "root", "state")], 0.25),
        # Two at once count once.
        ([span("root", 0, 100), span("s", 0, 60, "root", "a"), span("t", 10, 60, "root", "b")], 0.3),
        # A stage answers for its own time only: what hangs from it is no stage and has a part, so it must say itself.
        ([span("root", 0, 100), span("hop", 0, 100, "root", "hop"), span("rpc", 20, 60, "hop"),
          span("s", 20, 30, "rpc", "state")], 0.3),
        # A span without parts is the finest that is known.
        ([span("root", 0, 100), span("rpc", 0, 90, "root")], 0.1),
        # What goes on after the root has ended is nobody's wait.
        ([span("root", 0, 100), span("s", 50, 500, "root", "state")], 0.5),
    ],
)  # fmt: skip
def test_whose_time_is_whose(spans: list[dict[str, Any]], share: float) -> None:
    assert unattributed(trace(*spans)) == pytest.approx(share)


def test_a_budget_that_was_missed_stands_out() -> None:
    over = {"earshot.budget_ms": 5.0, "earshot.left_ms": -3.0}
    text = waterfall(trace(span("root", 0, 9000), span("state", 0, 8000, "root", "state", attributes=over)))
    assert "over its budget of 5 ms" in text
    assert "8.0 ms" in text


def test_what_caused_a_trace_is_told() -> None:
    text = waterfall(trace(span("sync.refresh", 0, 10, links=["b" * 32])))
    assert "caused by bbbbbbbbbbbb" in text


def test_the_newest_is_last() -> None:
    older, newer = trace(span("old", 0, 1)), trace(span("new", 0, 1))
    text = page([newer, older])
    assert text.index("old") < text.index("new")


@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 5), st.sampled_from(["", "state"])),
        max_size=8,
    )
)
def test_any_trace_is_drawn_within_its_width(parts: list[tuple[int, int, int, str]]) -> None:
    spans = [span("0", 0, 10_000)]
    for number, (start, length, parent, stage) in enumerate(parts, 1):
        spans.append(span(str(number), start, length, str(min(parent, number - 1)), stage))
    drawn = trace(*spans)
    assert 0 <= unattributed(drawn) <= 1
    for line in waterfall(drawn).splitlines()[1:-1]:
        assert "█" in line or any(one in line for one in "▏▎▍▌▋▊▉"), line
        assert len(line) < 2 + 44 + 1 + BAR + 60
