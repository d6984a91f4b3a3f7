"""`earshot bench sync`: who counts what, on traces small enough to count by hand, and on a short run of the rooms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import aggregation, sync
from bench.ledger import LedgerRuntime, causes
from bench.naive import Naive
from bench.rehearsal import Outcome, Rehearsal, peak
from bench.troupe import CALM, COMBAT, NPCS, PLAYERS, troupe
from services.common.settings import Settings
from services.demo.frame import Row
from services.sync.runtimes.port import Block


def row(id: str, kind: str = "npc", health: int = 100, location: str = "", action: str = "Idle") -> Row:
    return Row(id, id, "npc" if kind == "npc" else "player", 0, 0, 0, health, 100, action, location)


def rows(*some: Row) -> dict[str, Row]:
    return {one.id: one for one in some}


def configured(schedule: str = "lazy") -> Settings:
    return Settings.model_validate({"data": ":memory:", "runtimes": "offline", "schedule": schedule})


def test_a_pair_costs_a_call_when_it_meets_and_when_it_parts() -> None:
    naive, world = Naive(), rows(row("mara"), row("tom"), row("ada", "player"))
    for second in range(61):
        naive.see(float(second), world, [["mara", "tom", "ada"]])
    # Each NPC with the other and with the player; one status each at the start.
    assert (naive.groups, naive.with_players, naive.statuses) == (4, 2, 2)
    naive.see(61.0, world, [["mara", "tom"]])
    assert (naive.groups, naive.with_players) == (6, 4)
    assert (naive.calls, naive.calls_with_players) == (8, 6)
    # The existing script: every pair with a player at 0, 30 and 60 s, nothing when they part.
    assert (naive.script, naive.calls_of_script) == (6, 8)


def test_who_comes_back_within_thirty_seconds_costs_again_but_not_in_the_existing_game() -> None:
    naive, world = Naive(), rows(row("mara"), row("ada", "player"))
    for second, clusters in ((0.0, [["mara", "ada"]]), (1.0, []), (2.0, [["mara", "ada"]])):
        naive.see(second, world, clusters)
    assert (naive.with_players, naive.script) == (3, 1)


def test_a_status_costs_a_call_for_each_location_reached_action_taken_and_ten_points_of_health() -> None:
    naive = Naive()
    for health, location in ((100, ""), (95, ""), (91, "mill"), (90, "mill"), (99, ""), (100, "mill")):
        naive.see(0.0, rows(row("mara", health=health, location=location)), [])
    # The start; mill twice; 100 -> 90 and 90 -> 100.
    assert (naive.statuses, naive.actions) == (5, 0)
    for action in ("Idle", "Combat", "Combat", "Idle"):
        naive.see(0.0, rows(row("mara", location="mill", action=action)), [])
    assert (naive.statuses, naive.actions) == (7, 2)


def test_a_write_is_named_by_what_its_lines_tell() -> None:
    old = "I am near the mill.\nMy health is about 90 percent.\nWithin earshot of me (1 other):\n- Ada, a player, near"
    assert causes("situation", old, old.replace("90", "80")) == {"health"}
    assert causes("situation", old, old.replace("player, near", "player, right beside me")) == {"distance"}
    joined = old.replace("(1 other)", "(2 others)") + "\n- Tom, an NPC, near"
    assert causes("situation", old, joined) == {"member"}
    assert causes("memory", "a", "b") == {"memory"}


@settings(max_examples=50)
@given(st.lists(st.integers(0, 60), max_size=40))
def test_the_peak_is_the_fullest_window(seconds: list[int]) -> None:
    times = sorted(float(second) for second in seconds)
    fullest = max((sum(at - 10 < other <= at for other in times) for at in times), default=0)
    assert peak(times) == fullest / 10


@pytest.mark.parametrize("name", [*CALM, *COMBAT])
def test_every_scenario_has_the_same_size(name: str) -> None:
    for step in troupe(name).steps(3):
        kinds = [one.kind for one in step.frame.rows.values()]
        assert (kinds.count("npc"), kinds.count("player")) == (NPCS, PLAYERS)
        present = step.frame.rows.keys()
        assert {one.speaker_id for one in step.utterances} <= present
        assert {npc for one in step.utterances for npc in one.answers or ()} <= present


async def test_every_write_is_counted_once_and_no_turn_is_stale() -> None:
    rehearsal = Rehearsal(troupe("siege"), configured(), versions=True)
    outcome = await rehearsal.play(12)
    assert outcome.turns > 0
    assert outcome.naive.calls > outcome.writes > 0
    assert outcome.versions >= outcome.writes
    assert outcome.stale == 0
    assert sum(outcome.causes.values()) == sum(outcome.labels.values()) == outcome.writes
    assert sum(outcome.background.values()) == outcome.writes - outcome.on_demand


class Forgetful(LedgerRuntime):
    """Says that it wrote, and did not."""

    async def write_block(self, agent_id: str, block: Block, timeout: float) -> None:
        held = dict(self.blocks[agent_id])
        await super().write_block(agent_id, block, timeout)
        self.blocks[agent_id] = held


async def test_a_turn_on_an_older_text_is_found_stale_whatever_its_record_says() -> None:
    outcome = await Rehearsal(troupe("chase"), configured(), runtime=Forgetful()).play(25)
    assert outcome.behind_max == 0
    assert outcome.stale > 0


def test_results_name_the_goals_and_say_which_are_missed() -> None:
    lazy = {name: Outcome(writes=4, turns=10, on_demand=8, clairvoyant=8) for name in (*CALM, *COMBAT)}
    for one in lazy.values():
        one.naive.groups = 100
    records = {result.name: result.record() for result in sync.results(lazy, lazy, lazy)}
    assert records["lazy, calm"]["ok"] is False
    assert records["lazy, combat"]["ok"] is True
    assert records["lazy, in sum"]["value"] == 4.0
    assert records["lazy, in sum"]["ok"] is False
    assert records["documented, in sum"]["ok"] is True
    assert records["lazy, writes on demand per turn"]["ok"] is True
    assert records["lazy, stale decisions"]["ok"] is True


def test_without_calls_there_is_no_percentage() -> None:
    assert math.isnan(sync.share("nobody", [Outcome()], 3.0).value)


async def test_what_arrives_for_a_busy_npc_goes_into_its_next_call() -> None:
    """Five lines in a second, at a model that takes one: the first alone, the other four together."""
    ours = await aggregation.play(aggregated=True, parallel=True)
    assert (ours.messages, ours.calls) == (500, 200)
    assert 1.0 <= ours.p95_s < 2.0
