"""Random schedules against the floor, as many as wanted, on every core.

    python -m bench.turns.schedules [COUNT] [FIRST SEED]

Each is a seeded world on virtual time: players talk, interrupt and move (joins, leaves, merges, splits), turns take 0.5
to 5 s a step, pass, fail and come late, owners crash and recover by replay. Exits 1 when any promise is broken.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.unit.chat.schedule import Schedule

COUNT = 10_000
STEPS = 60
CHUNK = 50


def broken(seeds: range) -> list[str]:
    """What any of these schedules breaks; an assertion within one counts."""
    return [f"seed {seed}: {what}" for seed in seeds for what in _broken(seed)]


def _broken(seed: int) -> Iterator[str]:
    schedule = Schedule(seed)
    try:
        schedule.run(STEPS)
    except AssertionError as error:
        yield str(error)
    yield from schedule.promises()


def main(arguments: list[str]) -> int:
    """0 = every promise held."""
    count = int(arguments[0]) if arguments else COUNT
    first = int(arguments[1]) if len(arguments) > 1 else 0
    began = time.monotonic()
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    with ProcessPoolExecutor() as pool:
        found = [what for some in pool.map(broken, chunks) for what in some]
    for what in found[:20]:
        print(what)
    print(f"{count} schedules, {len(found)} promises broken, {time.monotonic() - began:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
