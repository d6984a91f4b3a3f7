"""`earshot bench sync`: block writes of both schedules on the scenario library, beside the naive client's calls.

State, cluster and sync in one process on virtual time (an hour is `--seconds 3600`), a runtime at 0 ms that counts.
Percentages are of the naive client's calls. The trace and the turns are seeded; sync's own chance (jitter, which agent
is read back) is not, so that a run differs from the next by a few writes. On a real Letta: `earshot bench letta`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench import aggregation, burden
from bench.catalogue import Options, progress
from bench.rehearsal import Outcome, Rehearsal
from bench.result import Result
from bench.troupe import CALM, COMBAT, troupe
from services.common.logs import configure
from services.common.settings import Settings
from tests.fakes import virtual_time

SECONDS = 120.0
SCHEDULES = ("lazy", "documented")
# Goals: percent of the naive calls, writes per turn, times the clairvoyant minimum, writes per second.
CALM_PERCENT, COMBAT_PERCENT, SUM_PERCENT, DOCUMENTED_PERCENT = 3.0, 5.0, 3.5, 15.0
PER_TURN, CLAIRVOYANT_TIMES, PEAK_PER_S = 0.85, 1.02, 10.0
# Lines of a player to one NPC where players do not only call out to changing ones.
EXCHANGE = 3
# Causes that are shown.
CAUSES = 12

Outcomes = Mapping[str, Outcome]


def run(options: Options) -> list[dict[str, Any]]:
    """Records of all scenarios. Raises Disturbed when a snapshot or a turn failed."""
    seconds = options.seconds or SECONDS
    configure("error", "console")
    found: dict[str, dict[str, Outcome]] = {schedule: {} for schedule in SCHEDULES}
    for schedule in SCHEDULES:
        for name in (*CALM, *COMBAT):
            progress(f"sync: {name}, {schedule}, {seconds:g} virtual seconds")
            found[schedule][name] = rehearse(name, schedule, seconds, versions=schedule == "lazy")
    exchanges = {}
    for name in (*CALM, *COMBAT):
        progress(f"sync: {name}, lazy, exchanges of {EXCHANGE} lines, {seconds:g} virtual seconds")
        exchanges[name] = rehearse(name, "lazy", seconds, exchange=EXCHANGE)
    relaxed = []
    for name in (*CALM, *COMBAT):
        progress(f"sync: {name}, relaxed, exchanges of {EXCHANGE} lines, {seconds / 2:g} virtual seconds")
        relaxed.append(rehearse(name, "lazy", seconds / 2, exchange=EXCHANGE, freshness="relaxed"))
    ages = [stale(f"relaxed, exchanges of {EXCHANGE} lines", relaxed)]
    every = [*results(found["lazy"], found["documented"], exchanges), *ages]
    every += [*burden.run(), *aggregation.run()]
    return [result.record() for result in every]


def rehearse(
    name: str, schedule: str, seconds: float, *, versions: bool = False, exchange: int = 1, freshness: str = "strict"
) -> Outcome:
    """One scenario under one schedule, on a loop of its own."""
    # Said here so that no environment changes what is measured.
    settings = Settings.model_validate(
        {
            "data": ":memory:",
            "runtimes": "offline",
            "schedule": schedule,
            "freshness": freshness,
            "blocks": "situation",
            "otlp_endpoint": "",
        }
    )
    return virtual_time.run(Rehearsal(troupe(name), settings, versions, exchange).play(seconds))


def results(lazy: Outcomes, documented: Outcomes, exchanges: Outcomes) -> list[Result]:
    """Every figure with its goal."""
    calm, combat = [lazy[name] for name in CALM], [lazy[name] for name in COMBAT]
    every = [*calm, *combat]
    return [
        *(share(f"lazy, {name}", [lazy[name]], CALM_PERCENT) for name in CALM),
        share("lazy, calm", calm, CALM_PERCENT),
        *(share(f"lazy, {name}", [lazy[name]], COMBAT_PERCENT) for name in COMBAT),
        share("lazy, combat", combat, COMBAT_PERCENT),
        share("lazy, in sum", every, SUM_PERCENT),
        *(share(f"documented, {name}", [one], DOCUMENTED_PERCENT) for name, one in documented.items()),
        share("documented, in sum", list(documented.values()), DOCUMENTED_PERCENT),
        *on_demand(lazy, "lazy"),
        *on_demand(exchanges, f"lazy, exchanges of {EXCHANGE} lines"),
        share(f"lazy, in sum, exchanges of {EXCHANGE} lines", list(exchanges.values()), SUM_PERCENT),
        Result("peak over 10 s, siege", lazy["siege"].peak_per_s, "writes/s", PEAK_PER_S, "less", peaks(lazy)),
        stale("lazy", every),
        stale(f"lazy, exchanges of {EXCHANGE} lines", exchanges.values()),
        stale("documented", documented.values()),
        *why("on demand", [one.causes - one.background for one in every], every),
        *why("in the background", [one.background for one in every], every),
    ]


def share(name: str, outcomes: Sequence[Outcome], goal: float) -> Result:
    """Writes as a percentage of the naive client's calls; beside it the same against others, and what it is made of."""
    writes = sum(one.writes for one in outcomes)

    def percent(calls: int) -> float:
        return 100.0 * writes / calls if calls else float("nan")

    peers = {
        "writes": float(writes),
        "naive calls": float(sum(one.naive.calls for one in outcomes)),
        "of these status": float(sum(one.naive.statuses for one in outcomes)),
        "turns": float(sum(one.turns for one in outcomes)),
        "% of players-only pairs": percent(sum(one.naive.calls_with_players for one in outcomes)),
        "% of the existing script's calls": percent(sum(one.naive.calls_of_script for one in outcomes)),
    }
    if any(one.versions for one in outcomes):
        peers["% of one call per text version (sample)"] = percent(sum(one.versions for one in outcomes))
    return Result(name, percent(sum(one.naive.calls for one in outcomes)), "%", goal, "less", peers)


def on_demand(lazy: Outcomes, name: str) -> list[Result]:
    """Writes that turns waited for."""
    every = list(lazy.values())
    turns, writes = sum(one.turns for one in every), sum(one.on_demand for one in every)
    minimum = sum(one.clairvoyant for one in every)
    waited = sum(one.waited for one in every)
    return [
        Result(
            f"{name}, writes on demand per turn", writes / max(turns, 1), "writes", PER_TURN, "less",
            {scenario: one.on_demand / max(one.turns, 1) for scenario, one in lazy.items()},
        ),
        Result(f"{name}, turns that waited for a write", 100.0 * waited / max(turns, 1), "%"),
        Result(
            f"{name}, on demand beside clairvoyant", writes / max(minimum, 1), "x", CLAIRVOYANT_TIMES, "less",
            {"writes": float(writes), "clairvoyant": float(minimum)},
        ),
    ]  # fmt: skip


def peaks(outcomes: Outcomes) -> dict[str, float]:
    """The same of every scenario."""
    return {name: one.peak_per_s for name, one in outcomes.items()}


def stale(schedule: str, outcomes: Iterable[Outcome]) -> Result:
    """Turns that answered on blocks older than the words that they answer."""
    ran = list(outcomes)
    peers = {
        "turns": float(sum(one.turns for one in ran)),
        "revisions behind at most": float(max((one.behind_max for one in ran), default=0)),
        "oldest status, ms": float(max((one.age_max_ms for one in ran), default=0)),
        "oldest status in combat, ms": float(max((one.age_max_combat_ms for one in ran), default=0)),
    }
    return Result(f"{schedule}, stale decisions", float(sum(one.stale for one in ran)), "turns", 0.0, "less", peers)


def why(name: str, counts: Iterable[Counter[str]], outcomes: Sequence[Outcome]) -> list[Result]:
    """Writes by what their text told anew, the most frequent ones."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    writes = max(sum(one.writes for one in outcomes), 1)
    return [
        Result(f"lazy, {name}: {cause}", 100.0 * count / writes, "% of writes", peers={"writes": float(count)})
        for cause, count in total.most_common(CAUSES)
    ]
