"""The tavern: what a newcomer sees in the first 45 seconds is there, evening after evening."""

from __future__ import annotations

import itertools
from functools import cache

import pytest

from services.demo import storyline
from services.demo.frame import Step
from services.demo.orders import Order
from services.demo.repertoire import play
from services.demo.roster import problems
from services.demo.storyline import LENGTH_S, STORY
from services.demo.tavern import load_roster
from tests.unit.demo.hearing import groups

Groups = frozenset[frozenset[str]]
SEEDS = (1, 7, 99)


def evening(seed: int, start: int = 0, seconds: int = 45) -> list[tuple[Step, Groups]]:
    """Steps with who hears whom in them."""
    return three_rounds(seed)[start : start + seconds + 1]


@cache
def three_rounds(seed: int) -> list[tuple[Step, Groups]]:
    told: list[tuple[Step, Groups]] = []
    heard: Groups = frozenset()
    for step in itertools.islice(play("tavern", seed), 3 * int(LENGTH_S) + 1):
        heard = groups(step.frame.rows, heard)
        told.append((step, heard))
    return told


def test_the_roster_is_a_good_sample() -> None:
    roster = load_roster()
    assert list(problems(roster)) == []
    assert [len(roster[kind]) for kind in ("npcs", "locations", "players")] == [8, 12, 5]
    for npc in roster["npcs"]:
        assert len(npc["lines"]) >= 12
        assert len(set(npc["lines"])) == len(npc["lines"])
        assert max(map(len, npc["lines"])) <= 200
        assert len(npc["persona"]) > 200
        assert 0 <= npc["talkativeness"] <= 1
    names = [name.casefold() for npc in roster["npcs"] for name in (npc["display_name"], *npc["aliases"])]
    names += [player["name"].casefold() for player in roster["players"]]
    assert len(set(names)) == len(names), "no name means two people"


def test_the_story_speaks_of_people_and_places_that_exist() -> None:
    roster = load_roster()
    people = {one["id"] for one in (*roster["npcs"], *roster["players"])}
    places = {place["slug"] for place in roster["locations"]}
    for cue in STORY:
        assert 0 <= cue.at < LENGTH_S
        assert cue.at == int(cue.at), "the stage moves in whole seconds"
        assert cue.who in people or cue.verb == "caption"
        assert cue.verb not in ("walk", "enter") or places.issuperset(cue.to)
        assert cue.verb not in ("say", "caption") or cue.texts
        assert people.issuperset(cue.answers or ())


@pytest.mark.parametrize("round_", [0, 1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_everything_that_matters_happens_in_the_first_45_seconds(seed: int, round_: int) -> None:
    told = evening(seed, start=int(LENGTH_S) * round_)
    mira, juno, bram = storyline.MIRA, storyline.JUNO, storyline.BRAM
    joins = [(b - a) for (_, g), (_, h) in itertools.pairwise(told) for a in g for b in h if a < b]
    leaves = [(a - b) for (_, g), (_, h) in itertools.pairwise(told) for a in g for b in h if b < a]
    assert any(mira in group and storyline.RAVI in group for _, heard in told[:6] for group in heard), (
        "a cluster formed"
    )
    assert frozenset({bram}) in joins
    assert frozenset({juno}) in leaves, "Juno walks away"
    said = [utterance for step, _ in told for utterance in step.utterances]
    assert sum(one.answers == () for one in said) == 2, "players among themselves"
    assert sum(one.answers is None for one in said) == 2, "questions to everybody"
    assert len({one.answers for one in said if one.answers}) >= 4, "NPCs by name"
    fighting = [sum(row.action == "Combat" for row in step.frame.rows.values()) for step, _ in told]
    assert max(fighting) == 2
    assert fighting[0] == fighting[-1] == 0
    health = [step.frame.rows[storyline.ODETTE].health for step, _ in told]
    assert max(a - b for a, b in itertools.pairwise(health)) >= 10
    events = [event.type for step, _ in told for event in step.events]
    assert {"player_joined", "combat_started", "combat_ended"} <= set(events)


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_should_answer_is_within_earshot_and_is_named(seed: int) -> None:
    names = {npc["id"]: [npc["display_name"], *npc["aliases"]] for npc in load_roster()["npcs"]}
    heard_once: set[str] = set()
    for step, heard in evening(seed, seconds=3 * int(LENGTH_S)):
        for one in step.utterances:
            group = next(group for group in heard if one.speaker_id in group)
            heard_once |= group
            assert any(id in names for id in group), "a player speaks where an NPC hears it"
            for id in one.answers or ():
                assert id in group, one.text
                assert any(name in one.text for name in names[id])
            if one.answers == ():
                others = {step.frame.rows[id].name for id in group if id not in names} - {one.speaker_name}
                assert any(name in one.text for name in others), "said to a player who hears it"
    assert heard_once >= set(names), "every NPC gets to hear somebody"


def test_the_story_loops_and_everybody_is_back_in_place() -> None:
    told = evening(7, seconds=2 * int(LENGTH_S))
    first, again = told[0][0], told[int(LENGTH_S)][0]
    assert first.frame.rows.keys() == again.frame.rows.keys()
    for id, row in first.frame.rows.items():
        other = again.frame.rows[id]
        assert abs(row.x - other.x) < 2, row.name
        assert abs(row.z - other.z) < 2, row.name
        assert other.health == 100
    texts = [[one.text for step, _ in told[a : a + 180] for one in step.utterances] for a in (0, 180)]
    assert len(texts[0]) == len(texts[1])
    assert not set(texts[0]) & set(texts[1]), "with other words"


def test_people_who_stand_mostly_move_below_the_threshold() -> None:
    told = [step.frame.rows[storyline.TOCK] for step, _ in evening(7)]
    moves = [abs(a.x - b.x) + abs(a.z - b.z) for a, b in itertools.pairwise(told)]
    assert max(moves) <= 0.2
    assert any(moves)


def test_an_npc_does_what_it_is_asked_and_goes_home() -> None:
    run = play("tavern", 7)
    list(itertools.islice(run, 60))
    run.order(Order("a1", storyline.FENWICK, "navigate", {"destination_slug": "hearth"}))
    told = list(itertools.islice(run, 35))
    assert [one.success for one in told[0].results] == [True]
    assert "hearth" in [step.frame.rows[storyline.FENWICK].location for step in told]
    assert told[-1].frame.rows[storyline.FENWICK].location == "stage"


def test_the_opening_belongs_to_the_story() -> None:
    run = play("tavern", 7)
    list(itertools.islice(run, 11))
    run.order(Order("a1", storyline.MIRA, "follow", {"target": "Juno"}))
    run.order(Order("a2", storyline.MIRA, "emote", {"type": "wave"}))
    assert [(one.action_id, one.success, one.reason) for one in next(run).results] == [
        ("a1", False, "BUSY"),
        ("a2", True, ""),
    ]


def test_nobody_dances_out_of_a_fight() -> None:
    run = play("tavern", 7)
    list(itertools.islice(run, 32))
    run.order(Order("a1", storyline.ODETTE, "emote", {"type": "dance"}))
    step = next(run)
    assert [one.reason for one in step.results] == ["BUSY"]
    assert step.frame.rows[storyline.ODETTE].action == "Combat"


def test_an_npc_that_follows_is_not_called_away_and_takes_its_new_post_after() -> None:
    run = play("tavern", 7)
    list(itertools.islice(run, 81))
    run.order(Order("a1", storyline.PIP, "follow", {"target": "Juno"}))
    told = list(itertools.islice(run, 25))
    actions = [step.frame.rows[storyline.PIP].action for step in told]
    assert actions[:10] == ["Following"] * 10
    assert (actions[-1], told[-1].frame.rows[storyline.PIP].location) == ("Idle", "well")
