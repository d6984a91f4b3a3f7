"""kill -9 in the middle of everything, again and again, under load: nothing acknowledged is lost (R1).

`make soak` plays the same rounds a hundred times (`python -m tests.faults.rounds`).
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.failing import POINTS
from tests.faults.rounds import LOAD, Rounds


def test_every_point_once(tmp_path: Path) -> None:
    """Each named point of one process, one after the other, over one data directory."""
    rounds = Rounds(tmp_path / "data", "embedded", random.Random(1))
    # Agents are made once for each world: that point comes first.
    played = rounds.play(sorted(POINTS, key=lambda point: point != "sync.embodied"))
    assert rounds.wrong == []
    assert all(one.fell and one.acknowledged >= LOAD for one in played), played


@pytest.mark.parametrize("topology", ["split"])
def test_any_process_at_any_moment(tmp_path: Path, topology: str) -> None:
    """One process per room: each is killed once with writes in flight, wherever it is just then."""
    rounds = Rounds(tmp_path / "data", topology, random.Random(2))
    played = rounds.play([""] * 5)
    assert rounds.wrong == []
    assert {one.target for one in played} == {"edge", "chat", "sync", "state", "cluster"}
    assert all(one.acknowledged >= LOAD for one in played), played
