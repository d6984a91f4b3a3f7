"""The wall clock jumps an hour ahead and back while games play: nothing is lost, early or late (R8)."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.stack import Stack
from tests.faults.bed import ROOMY, cast, judge
from tests.faults.game import Troupe

HOUR_S = 3600
WRITERS = 4
LOAD = 16


def test_an_hour_ahead_and_two_back(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    more = {**ROOMY, "CLOCK": str(clock)}
    with Stack(tmp_path / "data", environment=more, program=("tests.faults.skewed", "up")) as stack:
        cast(stack)
        with Troupe([stack.url], WRITERS, pace_s=0.1) as troupe:
            assert troupe.wait_for(LOAD) >= LOAD
            for ahead in (HOUR_S - 60, -HOUR_S, 0):
                clock.write_text(str(ahead))
                assert troupe.wait_for(LOAD) >= LOAD, f"it stands still {ahead} s from now"
                world = stack.http.get("/v1/worlds/world-0").json()
                assert world["closed"] is False  # no world ends early
                assert world["sync"]["npcs"], "agents stay"
        assert judge(troupe, stack.http) == []
        assert troupe.failed == []
        # Across a restart, too: what is stored with later times than now stays.
        clock.write_text(str(-HOUR_S))
        stack.stop()
        stack.start()
        assert judge(troupe, stack.http) == []
        answered = stack.say("world-0", "5001", "Mara, what time is it?")
        assert answered["outcome"] == "replied", answered
