"""Scenarios: seeded worlds that play themselves, step by step, for the demo, tests and benches.

A scenario is an endless iterator of steps. The same name and seed, and the same orders at the same steps, give the
same bytes; one with several worlds yields one step for each of them per tick. `repertoire.py` has them by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from services.demo.frame import Step
from services.demo.orders import Order, obey
from services.demo.stage import Stage

Roster = dict[str, Any]


class Director(Protocol):
    """Says what the bodies of a tick's stages do next. Called once per tick, before the moment is cut."""

    def __call__(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario before it runs. `roster` is what `PUT /v1/npcs` takes."""

    name: str
    title: str
    roster: Roster
    stages: Sequence[Stage]
    direct: Director
    # Executes an order on a stage; a scenario with a story of its own may refuse.
    perform: Callable[[Stage, Order], None]

    def __iter__(self) -> Run:
        return Run(self)


class Run(Iterator[Step]):
    """A scenario while it plays."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._cut: list[Step] = []
        # A server that asks for more than this in one step gets the newest.
        self._orders: deque[Order] = deque(maxlen=64)
        self._begun = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        if not self._cut:
            if self._begun:
                for stage in self.scenario.stages:
                    stage.advance()
            self._begun = True
            self._obey()
            self.scenario.direct()
            self._cut = [stage.cut() for stage in self.scenario.stages]
        return self._cut.pop(0)

    def order(self, order: Order) -> None:
        """Have an action executed in the next step; its result is in that step."""
        self._orders.append(order)

    def _obey(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            stages = [stage for stage in self.scenario.stages if order.npc_id in stage.bodies]
            for stage in stages or self.scenario.stages[:1]:
                self.scenario.perform(stage, order)


def obediently(stage: Stage, order: Order) -> None:
    """Execute an order and report it: what a scenario without a story of its own does."""
    stage.report(obey(stage, order))
