"""kill -9 in the middle of everything, again and again, under load: nothing acknowledged is lost (R1).

Points that stand for the others here; all of them, a hundred rounds, in `make soak` (`python -m tests.faults.rounds`).
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.e2e.stack import START_S
from tests.faults.failing import POINTS
from tests.faults.rounds import LOAD, Rounds

# Agents are made once for each world: that point comes first.
CHOSEN = (
    "sync.embodied", "state.committed", "state.told", "chat.begun", "chat.committed", "chat.told",
    "transaction.written", "chat.granted", "sync.intended", "sync.closed", "edge.answered", "opening.claimed",
)  # fmt: skip


def test_at_named_points_of_one_process(tmp_path: Path) -> None:
    """One after the other, over one data directory."""
    rounds = Rounds(tmp_path / "data", "embedded", random.Random(1))
    played = rounds.play(CHOSEN)
    assert set(CHOSEN) <= set(POINTS)
    assert rounds.wrong == []
    assert all(one.fell and one.acknowledged >= LOAD for one in played), played
    # R1 asks for 5 s, which `earshot bench scale` measures with 10,000 NPCs; a busy machine keeps this bound as well.
    assert all(one.ready_s < START_S / 2 for one in played), played


def test_any_process_at_any_moment(tmp_path: Path) -> None:
    """One process per room: each is killed once with writes in flight, wherever it is just then."""
    rounds = Rounds(tmp_path / "data", "split", random.Random(2))
    played = rounds.play([""] * 5)
    assert rounds.wrong == []
    assert {one.target for one in played} == {"edge", "chat", "sync", "state", "cluster"}
    assert all(one.acknowledged >= LOAD for one in played), played
