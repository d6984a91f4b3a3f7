"""The chat room's metrics: entries before their revision are seen, and reasons stay labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chat import measures
from services.chat.events import Event, Noticed, Turned
from services.common.telemetry import Metrics


def entry(revision: int, body: Noticed | Turned | None = None) -> Event:
    return Event(1, 0, revision, "c", body or Noticed("[SYSTEM] Ada came within earshot."))


def test_an_entry_before_its_revision_is_counted() -> None:
    metrics = Metrics()
    measures.logged(metrics, [entry(7), entry(8)], revision=7)
    assert metrics.registry.get_sample_value("earshot_notices_early_total") == 1


def test_the_floor_is_counted_when_it_is_granted_and_when_it_ends() -> None:
    metrics = Metrics()
    measures.logged(
        metrics, [entry(1, Turned("t", "started", "VOCATIVE")), entry(1, Turned("t", "ended", "VOCATIVE"))], 1
    )
    for phase in ("started", "ended"):
        labels = {"phase": phase, "reason": "vocative"}
        assert metrics.registry.get_sample_value("earshot_turns_total", labels) == 1


@pytest.mark.parametrize("text", ["", "Ada said: go away", "x" * 41, "a b", 'q"'])
def test_what_is_no_word_of_ours_is_other(text: str) -> None:
    assert measures.reason(text) == "other"


@given(st.text())
def test_a_reason_is_always_a_short_label(text: str) -> None:
    label = measures.reason(text)
    assert 0 < len(label) <= measures.REASON_MAX
