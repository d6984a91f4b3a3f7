"""Every service of the compose file on a host of its own: cut off, restarted and paused while games play (R6, R7)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults.bed import CAST, ROOMY, judge
from tests.faults.composed import ORDERED, Composed
from tests.faults.game import Troupe
from tests.faults.network import unavailable

why_not = unavailable()
pytestmark = pytest.mark.skipif(bool(why_not), reason=why_not)
WRITERS = 8
LOAD = 16
CUT_S = 3.0


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    settings = {name: value for name, value in ROOMY.items() if name != "EARSHOT_SNAPSHOT_DEADLINE_S"}
    with Composed(tmp_path_factory.mktemp("composed"), {**settings, "EARSHOT_LAG_MAX_S": "5"}) as composed:
        assert composed.http.put("/v1/npcs", json=CAST).status_code == 200
        yield composed


def test_each_room_is_cut_off_and_comes_back(composed: Composed) -> None:
    """Its cable is pulled while calls are under way: they end in time, and go on when it is back."""
    with Troupe([composed.url], WRITERS, pace_s=0.2, key=composed.key, prefix="cut") as troupe:
        assert troupe.wait_for(LOAD) >= LOAD
        for room in ("cluster", "state", "chat", "sync"):
            composed.network.cut(room)
            time.sleep(CUT_S)
            began = time.monotonic()
            seen = composed.http.get("/v1/worlds/cut-0")
            # Whatever is away is said, and nobody waits for it for ever.
            assert seen.status_code in (200, 503, 504), seen.text
            assert time.monotonic() - began < 30
            composed.network.mend(room)
            assert troupe.wait_for(LOAD) >= LOAD, f"{room} did not come back:\n{composed.output('edge')}"
    assert judge(troupe, composed.http) == []


def test_each_room_restarts_in_turn_under_load(composed: Composed) -> None:
    """A rolling restart with one replica of each: it stops cleanly, in time, and what was acknowledged stays."""
    with Troupe([composed.url], WRITERS, pace_s=0.2, key=composed.key, prefix="rolled") as troupe:
        assert troupe.wait_for(LOAD) >= LOAD
        for room in ORDERED:
            assert composed.stop(room) == 0, composed.output(room)
            composed.start(room)
            assert troupe.wait_for(LOAD) >= LOAD, f"{room} did not come back:\n{composed.output('edge')}"
    assert judge(troupe, composed.http) == []


def test_a_room_that_was_paused_says_nothing_old(composed: Composed) -> None:
    """SIGSTOP in the middle of its work, longer than any deadline, then SIGCONT: what it says late changes nothing."""
    with Troupe([composed.url], WRITERS, pace_s=0.2, key=composed.key, prefix="paused") as troupe:
        assert troupe.wait_for(LOAD) >= LOAD
        for room in ("state", "chat", "sync"):
            composed.processes[room].send_signal(signal.SIGSTOP)
            time.sleep(CUT_S)
            composed.processes[room].send_signal(signal.SIGCONT)
            assert troupe.wait_for(LOAD) >= LOAD, f"{room} did not go on:\n{composed.output(room)}"
    assert judge(troupe, composed.http) == []
