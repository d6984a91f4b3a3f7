"""The scenario library at one size: every crowd cut or filled to 50 NPCs and 30 players, so that figures compare.

Of too many NPCs every n-th stays out; of too few players the rest are visitors who walk from NPC to NPC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.demo.cast import players
from services.demo.frame import Frame, GameEvent, Step, Utterance
from services.demo.repertoire import SCENARIOS
from services.demo.scenario import Roster, Scenario
from services.demo.stage import Body, Stage

NPCS, PLAYERS = 50, 30
SEED = 7
CALM = ("market_day", "long_patrol", "parade")
COMBAT = ("chase", "siege", "combat_storm", "teleport_storm")
# Chance per second that a visitor who stands goes to another NPC, and how near, in studs.
MOVES_ON = 0.05
VISIT_STUDS = 6.0


@dataclass(frozen=True, slots=True)
class Troupe:
    """A scenario at that size. `cast` are the ids of its NPCs."""

    scenario: Scenario
    cast: frozenset[str]

    @property
    def roster(self) -> Roster:
        """The profiles of those NPCs, and the places."""
        own = self.scenario.roster
        return {**own, "npcs": [npc for npc in own["npcs"] if npc["id"] in self.cast]}

    def steps(self, seconds: float) -> Iterator[Step]:
        """The scenario's steps of that time, without those who stay out."""
        absent = {body.id for body in self.scenario.stages[0].of("npc")} - self.cast
        for step in self.scenario:
            if step.at >= seconds:
                return
            yield cut(step, absent)


def troupe(name: str, seed: int = SEED) -> Troupe:
    """The scenario of that name. Raises KeyError."""
    scenario = SCENARIOS[name](seed)
    (stage,) = scenario.stages
    npcs = [body.id for body in stage.of("npc")]
    cast = frozenset(npcs[i * len(npcs) // NPCS] for i in range(NPCS))
    hosts = [stage.bodies[npc] for npc in npcs if npc in cast]
    missing = max(PLAYERS - len(stage.of("player")), 0)
    visitors = players(stage, [stage.around(stage.random.choice(hosts).point, VISIT_STUDS) for _ in range(missing)])

    def direct() -> None:
        scenario.direct()
        visit(stage, visitors, hosts)

    return Troupe(replace(scenario, direct=direct), cast)


def visit(stage: Stage, visitors: list[Body], hosts: list[Body]) -> None:
    """Let some visitors who stand go to another NPC."""
    for visitor in visitors:
        if not visitor.path and stage.random.random() < MOVES_ON * stage.step_s:
            stage.walk(visitor.id, stage.around(stage.random.choice(hosts).point, VISIT_STUDS))


def cut(step: Step, absent: set[str]) -> Step:
    """The step without the absent NPCs, players beyond PLAYERS, and what either said, did or was told."""
    kept = {id: row for id, row in step.frame.rows.items() if row.kind == "npc" and id not in absent}
    kept |= dict([(id, row) for id, row in step.frame.rows.items() if row.kind == "player"][:PLAYERS])
    out = absent | (step.frame.rows.keys() - kept.keys())
    rows = {id: row for id, row in step.frame.rows.items() if id in kept}
    return replace(
        step,
        frame=Frame(step.frame.world, rows),
        events=tuple(event for event in step.events if _within(event, out)),
        utterances=tuple(one for one in step.utterances if _spoken(one, out)),
    )


def _within(event: GameEvent, out: set[str]) -> bool:
    return event.actor not in out and event.target not in out


def _spoken(utterance: Utterance, out: set[str]) -> bool:
    return utterance.speaker_id not in out and not out.intersection(utterance.answers or ())
