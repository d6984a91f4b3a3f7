"""Every scenario: the same bytes from the same seed, bounded, and deltas that give back the fulls."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.demo.frame import Frame, Row, Step, delta, encode, full
from services.demo.repertoire import SCENARIOS, play
from tests.unit.demo.fake_earshot import row_of

NAMES = tuple(SCENARIOS)
CROWDS = tuple(name for name in NAMES if name != "tavern")
STEPS = 45


def steps(name: str, seed: int, count: int = STEPS) -> list[Step]:
    return list(itertools.islice(play(name, seed), count))


def apply(rows: dict[str, Row], body: dict[str, Any]) -> dict[str, Row]:
    """What a server holds after a snapshot, in the plainest way."""
    if not body.get("delta"):
        return {entity["id"]: row_of(entity) for entity in body["entities"]}
    kept = {id: row for id, row in rows.items() if id not in body["left"]}
    return {**kept, **{entity["id"]: row_of(entity) for entity in body["entities"]}}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    one, two, other = (b"".join(encode(full(step)) for step in steps(name, seed)) for seed in (7, 7, 8))
    assert one == two
    assert one != other


@settings(max_examples=16)
@given(st.sampled_from(NAMES), st.integers(0, 2**32))
def test_entities_are_bounded(name: str, seed: int) -> None:
    run = play(name, seed)
    half = max(stage.half for stage in run.scenario.stages)
    known = {npc["id"] for npc in run.scenario.roster["npcs"]}
    for step in itertools.islice(run, 40):
        rows = step.frame.rows.values()
        assert len(rows) <= 200
        for row in rows:
            assert abs(row.x) <= half
            assert abs(row.z) <= half
            assert 0 <= row.health <= row.max_health
            assert row.kind == "player" or row.id in known
            assert row.id.isdecimal() == (row.kind == "player"), "players go by their user ids"
        assert len({row.name for row in rows}) == len(rows)
        for utterance in step.utterances:
            assert utterance.speaker_id in step.frame.rows
            assert len(utterance.text) <= 200
            assert all(id in step.frame.rows for id in utterance.answers or ())


@settings(max_examples=16)
@given(st.sampled_from(NAMES), st.integers(0, 2**32), st.sets(st.integers(1, 59)))
def test_deltas_reproduce_fulls(name: str, seed: int, fulls: set[int]) -> None:
    before: dict[str, Frame] = {}
    held: dict[str, dict[str, Row]] = {}
    for number, step in enumerate(steps(name, seed, 60)):
        world = step.frame.world
        if world not in before or number in fulls:
            body = full(step, epoch=1, seq=number + 1)
        else:
            body = delta(before[world], step, epoch=1, seq=number + 1, base_seq=number)
        held[world] = apply(held.get(world, {}), body)
        before[world] = step.frame
        assert held[world] == dict(step.frame.rows)


@pytest.mark.parametrize("name", CROWDS)
def test_a_crowd_is_a_crowd(name: str) -> None:
    run = play(name, 7)
    frames = [step.frame.rows.values() for step in itertools.islice(run, STEPS)]
    assert all(sum(row.kind == "npc" for row in rows) >= 50 for rows in frames)
    assert max(sum(row.kind == "player" for row in rows) for rows in frames) >= 8
    assert len(run.scenario.roster["npcs"]) >= 50


@pytest.mark.parametrize("name", NAMES)
def test_a_delta_is_smaller_and_says_what_it_builds_on(name: str) -> None:
    first, *_, last = [step for step in steps(name, 7, 3) if step.frame.world == steps(name, 7, 1)[0].frame.world]
    body = delta(first.frame, last, base_seq=4, seq=5, epoch=2)
    assert (body["epoch"], body["seq"], body["base_seq"], body["delta"]) == (2, 5, 4, True)
    assert len(encode(delta(last.frame, last, base_seq=5, seq=6, epoch=2))) < len(encode(full(last))) / 4


def test_a_delta_across_worlds_is_refused() -> None:
    one, two = steps("server_migration", 7, 2)
    with pytest.raises(ValueError, match="within its world"):
        delta(one.frame, two, base_seq=1, seq=2, epoch=1)


def test_an_unknown_scenario_names_those_that_exist() -> None:
    with pytest.raises(KeyError, match="market_day"):
        play("picnic", 7)


# -- what each crowd is for --------------------------------------------------------------------------------------------


def actions(name: str, count: int = STEPS) -> list[dict[str, str]]:
    return [{row.id: row.action for row in step.frame.rows.values()} for step in steps(name, 7, count)]


def test_escalation_goes_from_patrol_to_combat_within_three_seconds() -> None:
    seen = actions("escalation", 60)
    order = ["Patrolling", "Hunting", "Following", "Combat"]
    for npc in (id for id in seen[0] if id.startswith("npc")):
        told = [one[npc] for one in seen]
        start = next(i for i in range(40) if told[i] == "Patrolling" and told[i - 1 if i else 0] != "Hunting")
        while told[start + 1] == "Patrolling":
            start += 1
        changes = [action for action, _ in itertools.groupby(told[max(0, start - 1) : start + 7])]
        assert changes[:4] == order, npc


def test_a_long_patrol_has_twenty_waypoints() -> None:
    run = play("long_patrol", 7)
    next(run)
    (stage,) = run.scenario.stages
    assert {len(body.path) for body in stage.of("npc")} == {20}
    assert {row.location for step in itertools.islice(run, 60) for row in step.frame.rows.values()} > {"", "waypoint-1"}


def test_a_combat_storm_enters_and_leaves_combat_and_hurts_by_a_tenth() -> None:
    told = steps("combat_storm", 7, 90)
    pairs = [(a.frame.rows[id], b.frame.rows[id]) for a, b in itertools.pairwise(told) for id in a.frame.rows]
    turned = sum((one.action == "Combat") != (two.action == "Combat") for one, two in pairs)
    hurt = sum(one.health - two.health >= 10 for one, two in pairs)
    assert turned > 1000
    assert hurt > 400


def test_a_siege_comes_in_waves_and_nobody_stays_out() -> None:
    seen = actions("siege", 120)
    assert sum("Combat" in one.values() for one in seen) > 20
    resting = {id for one in seen for id, action in one.items() if action == "Resting"}
    assert resting
    assert any(seen[-1][id] != "Resting" for id in resting)


def test_a_teleport_storm_jumps() -> None:
    told = steps("teleport_storm", 7, 40)
    far = [
        sum(abs(b.frame.rows[id].x - row.x) > 20 for id, row in a.frame.rows.items())
        for a, b in itertools.pairwise(told)
    ]
    assert max(far) > 30
    assert sum(far) / len(far) > 5


def test_a_parade_passes_everybody_in_file() -> None:
    told = steps("parade", 7, 80)
    marchers = [id for id, row in told[-1].frame.rows.items() if row.action == "Parading"]
    assert len(marchers) == 25
    xs = [told[40].frame.rows[id].x for id in marchers if id.startswith("npc")]
    assert xs == sorted(xs, reverse=True), "in file"


def test_guards_catch_the_thief_and_another_runs() -> None:
    told = steps("chase", 7, 400)
    assert sum(event.type == "caught" for step in told for event in step.events) > 1
    runners = {id for step in told for id, row in step.frame.rows.items() if row.action == "Running"}
    assert len(runners) > 1


def test_on_a_market_day_people_come_buy_and_go() -> None:
    told = steps("market_day", 7, 200)
    kinds = [event.type for step in told for event in step.events]
    assert min(kinds.count("player_joined"), kinds.count("player_left"), kinds.count("trade")) > 5
    said = [utterance.answers for step in told for utterance in step.utterances]
    assert None in said
    assert () in said
    assert any(said)


def test_a_migration_moves_every_player_and_leaves_the_npcs_in_both_worlds() -> None:
    told = steps("server_migration", 7, 2 * 80)
    players = [{id for id, row in step.frame.rows.items() if row.kind == "player"} for step in told]
    npcs = [{id for id, row in step.frame.rows.items() if row.kind == "npc"} for step in told]
    assert len({step.frame.world for step in told}) == 2
    assert all(npcs[0] == one for one in npcs)
    for here, there in zip(players[::2], players[1::2], strict=True):
        assert not here & there, "nobody is in two worlds"
        assert len(here | there) == 40
    assert min(len(here) for here in players[::2]) == 0
