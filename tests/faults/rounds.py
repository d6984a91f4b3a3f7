"""Rounds of kill -9 under load, over one data directory, and the judgement of all of them together (R1).

    python -m tests.faults.rounds [--rounds 100] [--topology embedded|split] [--seed N]

Every named point is met at least once before chance decides; a round counts when enough writes were acknowledged in it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.stack import EMBEDDED, SPLIT, Stack
from tests.faults.bed import arm, bed, cast, judge
from tests.faults.failing import POINTS
from tests.faults.game import Troupe

TOPOLOGIES = {"embedded": EMBEDDED, "split": SPLIT}
WRITERS = 32
# Between two snapshots of one writer: some 30 writes a second in all, which a busy machine still answers.
PACE_S = 1.0
# Acknowledged writes of a round that counts.
LOAD = 32
# How long a process may live on before it is killed wherever it is.
LIFE_S = 300.0
# How often a point is passed before the process dies there; others: after some load.
PASSED = {"sync.embodied": (8, 20), "opening.claimed": (1, 2), "checkpoint.begun": (20, 40), "sync.confirmed": (1, 4)}
# Passed only while agents are made and first written: these come first, and are not left to chance later.
FIRST = ("sync.embodied", "sync.confirmed")
# Sync and chat's turns pass theirs less often than state its own.
SELDOM = (8, 25)


@dataclass(frozen=True, slots=True)
class Round:
    """One death. fell: at its point; otherwise it was killed at some moment."""

    point: str
    target: str
    fell: bool
    acknowledged: int
    ready_s: float


@dataclass
class Rounds:
    """Plays rounds; `wrong` says what cannot have happened."""

    data: Path
    topology: str
    rng: random.Random
    tell: Callable[[Round], None] = lambda _: None
    wrong: list[str] = field(default_factory=list)

    def play(self, points: Sequence[str]) -> list[Round]:
        """One round for each point; "" = at some moment."""
        stack = bed(self.data, TOPOLOGIES[self.topology])
        played: list[Round] = []
        with stack:
            cast(stack)
            with Troupe([stack.url], WRITERS, PACE_S) as troupe:
                for number, point in enumerate(points):
                    played.append(self._round(stack, troupe, point, number))
                    self.tell(played[-1])
                stack.extra = {}
                stack.start()
                troupe.wait_for(LOAD)
            self.wrong = judge(troupe, stack.http)
        return played

    def _round(self, stack: Stack, troupe: Troupe, point: str, number: int) -> Round:
        """Bring up what is down, armed; play until it dies."""
        before, began = troupe.history.acknowledged(), time.monotonic()
        names = list(stack.processes)
        target = names[number % len(names)]
        if point:
            often = (20, 60) if point.startswith(("state", "edge", "transaction")) else SELDOM
            target = arm(stack, point, self.rng.randrange(*PASSED.get(point, often)))
            if stack.processes[target].poll() is None:
                stack.kill(target)
        else:
            stack.extra = {}
        fell = self._up(stack, point)
        ready_s = time.monotonic() - began
        if point:
            fell = fell or self._dies(stack, target)
        else:
            troupe.wait_for(LOAD + self.rng.randrange(LOAD))
        acknowledged = troupe.history.acknowledged() - before
        if stack.processes[target].poll() is None:
            stack.processes[target].kill()
            stack.processes[target].wait(10)
        if acknowledged < LOAD:  # too early: the load comes after it
            stack.extra = {}
            stack.start()
            acknowledged += troupe.wait_for(LOAD)
        return Round(point, target, fell, acknowledged, ready_s)

    def _up(self, stack: Stack, point: str) -> bool:
        """Start what is down; whether it died of its point at once."""
        try:
            stack.start()
        except AssertionError:
            if not point:
                raise
            return True
        return False

    def _dies(self, stack: Stack, target: str) -> bool:
        until = time.monotonic() + LIFE_S
        while stack.processes[target].poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return stack.processes[target].poll() is not None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rounds")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default="embedded")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    others = [point for point in POINTS if point not in FIRST]
    points = [*FIRST, *others, *(rng.choice([*others, "", ""]) for _ in range(options.rounds))][: options.rounds]
    with tempfile.TemporaryDirectory() as folder:
        rounds = Rounds(
            Path(folder) / "data", options.topology, rng, lambda one: print(one, file=sys.stderr, flush=True)
        )
        played = rounds.play(points)
    counted = [one for one in played if one.acknowledged >= LOAD]
    fell, writes = sum(one.fell for one in played), sum(one.acknowledged for one in played)
    print(f"{len(played)} rounds ({options.topology}), {len(counted)} of them with {LOAD} acknowledged writes or more")
    print(f"{fell} died at their point; {writes} writes were acknowledged in all")
    ready = sorted(one.ready_s for one in played)
    print(f"ready again after {ready[len(ready) // 2]:.1f} s (median), {ready[-1]:.1f} s (slowest)")
    for line in rounds.wrong:
        print(f"IMPOSSIBLE: {line}")
    return 1 if rounds.wrong or len(counted) < len(played) else 0


if __name__ == "__main__":
    sys.exit(main())
