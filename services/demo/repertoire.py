"""Every scenario by name: the tavern, and the crowds of 50 NPCs and more (B4, H3). ::

for step in itertools.islice(play("tavern", seed=7), 45):
    body = full(step, started=time.time())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from services.demo.crowds import CROWDS
from services.demo.scenario import Run, Scenario
from services.demo.tavern import tavern

SCENARIOS: Final[Mapping[str, Callable[[int], Scenario]]] = {"tavern": tavern, **CROWDS}


def play(name: str, seed: int) -> Run:
    """Start a scenario by name. Raises KeyError with the names that exist."""
    if name not in SCENARIOS:
        raise KeyError(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return iter(SCENARIOS[name](seed))
