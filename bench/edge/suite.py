"""`earshot bench edge`: overload, a thousand held polls, and the existing game beside a Letta that hangs.

One process with every room, as a small studio runs it; wrk, the pollers and the probes share the machine with it.
"""

from __future__ import annotations

from typing import Any

from bench.catalogue import Options
from bench.edge import existing_game, held_polls, overload
from bench.ingest import own_folder


def run(options: Options) -> list[dict[str, Any]]:
    """Records of the bench. seconds: of each flood, and of the events to the polls. Raises TargetFailed."""
    with own_folder("edge") as folder:
        results = [
            *existing_game.run(folder, options.seconds),
            *held_polls.run(folder, options.seconds),
            *overload.run(folder, options.seconds),
        ]
    return [result.record() for result in results]
