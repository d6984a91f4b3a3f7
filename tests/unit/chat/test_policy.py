"""The turn policy: obligations, gate, pick, limits; the model behind it; the cost of a decision."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chat import cues, model, policy, predict, vocative
from services.chat.features import CONTEXT, FEATURES, rows
from services.chat.policy import NPC, PLAYER, Participant, Scene, decide
from services.chat.predict import Recording, predict_lines, recording_of
from services.chat.rhythm import STRETCH, Rhythm, hear, knows, without
from services.chat.rules import Rules
from services.common.errors import BadInput

RULES = Rules()
PEOPLE = (
    Participant("ada", "Ada", PLAYER, ("Ada",)),
    Participant("ben", "Ben", PLAYER, ("Ben",)),
    Participant("mara", "Mara", NPC, ("Mara", "barkeep")),
    Participant("brom", "Brom", NPC, ("Brom",)),
    Participant("wyn", "Wyn", NPC, ("Wyn",)),
)


def talk(*lines: tuple[str, str], people: tuple[Participant, ...] = PEOPLE) -> tuple[Rhythm, tuple[str, ...]]:
    """The rhythm after some lines, and whom the last one addresses."""
    rhythm = Rhythm()
    addressed: tuple[str, ...] = ()
    ids = [person.id for person in people]
    for who, text in lines:
        address = vocative.parse(text, [person.names for person in people], ids.index(who))
        addressed = tuple(ids[i] for i in address.addressed)
        rhythm = hear(rhythm, who, address, ids, cues.read(text))
    return rhythm, addressed


def scene_of(*lines: tuple[str, str], people: tuple[Participant, ...] = PEOPLE, **fields: object) -> Scene:
    rhythm, addressed = talk(*lines, people=people)
    return Scene(people, rhythm, lines[-1][0], addressed, **fields)  # type: ignore[arg-type]  # fields of Scene


def judged(scene: Scene, rules: Rules = RULES) -> policy.Decision:
    return decide(rules, scene, model.default())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PEOPLE), st.text(max_size=40)), min_size=1, max_size=30), st.booleans())
def test_a_player_s_address_to_one_npc_always_decides(history: list[tuple[Participant, str]], hot: bool) -> None:
    lines = [(person.id, text or "Hm.") for person, text in history]
    scene = scene_of(
        *lines, ("ada", "Brom, what now?"), npc_turns=9 if hot else 0, excluded={"brom": "COOLDOWN"} if hot else {}
    )
    decision = judged(scene)
    assert (decision.speakers, decision.reason, decision.obligation) == (("brom",), "VOCATIVE", "VOCATIVE")


def test_obligations() -> None:
    assert judged(scene_of(("ada", "Wyn, Mara, Brom: well?"))).speakers == ("wyn", "mara")
    assert judged(scene_of(("ada", "Ben, and you?"))).reason == "ADDRESSED_PLAYER"
    clicked = judged(scene_of(("ada", "Ben, and you?"), direct="mara"))
    assert (clicked.speakers, clicked.reason) == (("mara",), "DIRECT")
    assert judged(scene_of(("mara", "Ada, what will it be?"))).reason == "ADDRESSED_PLAYER"
    # An NPC's words oblige nobody: they are only a strong hint.
    assert judged(scene_of(("mara", "Brom, fetch wood."))).obligation == ""
    uncalled = judged(scene_of(("ada", "Brom?"), excluded={"brom": policy.NOT_WAITING}))
    assert (uncalled.speakers, uncalled.reason) == ((), "NOT_WAITING")


def test_the_gate_and_its_thresholds() -> None:
    lines = (("ada", "Nice weather."), ("ben", "It is."), ("ada", "I like rain more."), ("ben", "Me too.")) * 3
    decision = judged(scene_of(*lines))
    assert (decision.speakers, decision.reason) == ((), "GATE")
    # Ada and three NPCs could speak next.
    assert decision.tau == pytest.approx(RULES.tau * (1 - RULES.tau_crowd / 4))
    assert policy.threshold(RULES, 1, 0) == RULES.tau
    assert policy.threshold(RULES, 1, 9) < policy.threshold(RULES, 9, 1) < RULES.tau
    assert policy.threshold(Rules(tau=0.0), 1, 9) == policy.threshold(RULES, 0, 0) - RULES.tau == 0
    open_gate = Rules(tau=decision.p_any_npc - 0.01)
    assert judged(scene_of(*lines), open_gate).speakers
    assert judged(scene_of(*lines, npc_turns=2), open_gate).reason == "GATE"
    assert judged(scene_of(*lines, npc_turns=3), Rules(tau=0.0)).reason == "CHAIN_LIMIT"
    silent = judged(scene_of(*lines, silence=True), Rules(tau=1.0, tau_silence=decision.p_any_npc - 0.01))
    assert silent.reason == "SILENCE"
    everyone = {"mara": "COOLDOWN", "brom": "COOLDOWN", "wyn": "COOLDOWN"}
    assert judged(scene_of(*lines, excluded=everyone), Rules(tau=0.0)).reason == "COOLDOWN"
    assert judged(scene_of(*lines, people=PEOPLE[:2]), Rules(tau=0.0)).reason == "NO_NPC"


def test_one_player_and_one_npc_always_talk() -> None:
    pair = (PEOPLE[0], PEOPLE[2])
    decision = judged(scene_of(("ada", "Nice weather."), people=pair))
    assert decision.speakers == ("mara",)
    assert decision.p_any_npc == pytest.approx(1)


def test_every_decision_explains_itself() -> None:
    decision = judged(scene_of(("ada", "Hello."), ("mara", "Good evening, Ada."), ("ada", "What news?")))
    assert {candidate.id for candidate in decision.candidates} == {"ben", "mara", "brom", "wyn"}
    assert math.fsum(candidate.probability for candidate in decision.candidates) == pytest.approx(1)
    best = max(decision.candidates, key=lambda candidate: candidate.probability)
    assert best.id == "mara"
    assert best.features
    assert all(name in FEATURES for name, _ in best.features)


def test_variety_is_seeded_and_follows_the_odds() -> None:
    lines = (("ada", "Anyone hungry?"),)
    drawn = [judged(scene_of(*lines, seed=f"L1/{n}"), Rules(tau=0.0)).speakers[0] for n in range(300)]
    again = [judged(scene_of(*lines, seed=f"L1/{n}"), Rules(tau=0.0)).speakers[0] for n in range(300)]
    assert drawn == again
    assert set(drawn) == {"mara", "brom", "wyn"}
    steady = {judged(scene_of(*lines, seed=f"L1/{n}"), Rules(tau=0.0, sharpness=0.0)).speakers[0] for n in range(20)}
    assert len(steady) == 1


def test_a_talkative_persona_speaks_more_often() -> None:
    def share(talkativeness: float) -> float:
        people = (*PEOPLE[:2], Participant("mara", "Mara", NPC, ("Mara",), talkativeness), *PEOPLE[3:])
        decision = judged(scene_of(("ada", "Anyone hungry?"), people=people))
        return next(candidate.probability for candidate in decision.candidates if candidate.id == "mara")

    assert share(0.1) < share(0.5) < share(0.9) < 1
    assert share(0.0) > 0


def test_a_pair_that_goes_on_for_ever_makes_room() -> None:
    lines = [("ada", "And then?") if n % 2 == 0 else ("mara", "Then it rained.") for n in range(15)]
    locked = judged(scene_of(*lines), Rules(tau=0.0, dyad_penalty=0.0))
    broken = judged(scene_of(*lines), Rules(tau=0.0, dyad_penalty=3.0))

    def mara(decision: policy.Decision) -> float:
        return next(candidate.probability for candidate in decision.candidates if candidate.id == "mara")

    assert mara(locked) > 0.5 > mara(broken)


# -- the model ---------------------------------------------------------------------------------------------------------


def weights_of(**more: float) -> str:
    hidden = {
        "bias": [0.1],
        "out": [0.5],
        "features": {f: [0.0] for f in FEATURES},
        "context": {c: [0] for c in CONTEXT},
    }
    return json.dumps({"talkativeness": 0.3, "linear": {**dict.fromkeys(FEATURES, 0.0), **more}, "hidden": hidden})


def test_weights_must_fit_the_features() -> None:
    read = model.parse(weights_of())
    assert read.linear == (0.0,) * len(FEATURES)
    assert (len(read.units[0]), len(read.shared[0])) == (len(FEATURES), len(CONTEXT))
    with pytest.raises(ValueError, match="surprise"):
        model.parse(weights_of(surprise=1.0))


def test_an_explanation_names_what_moved_the_score() -> None:
    weights = model.parse(weights_of(previous=2.0, share=0.1))
    rhythm, _ = talk(("ada", "Hm."), ("mara", "Well."), ("ada", "And then?"))
    scores = model.score(weights, rhythm, ["mara", "brom"])
    assert model.contributions(weights, scores, 0, 2) == [("previous", 2.0), ("share", pytest.approx(0.1 / 3))]
    assert model.contributions(weights, scores, 1, 2) == []
    assert scores.probabilities[0] > scores.probabilities[1]


lines_of_four = st.lists(st.tuples(st.integers(0, 3), st.text(max_size=60)), min_size=2, max_size=25)


@settings(max_examples=50, deadline=None)
@given(lines_of_four)
def test_predictions_are_causal_and_sum_to_one(turns: list[tuple[int, str]]) -> None:
    recording = Recording("c", ("Ada", "Mara", "Brom", "Will"), tuple(turns))
    table = predict.predict(recording)
    assert len(table) == len(turns) - 1
    for (speaker, _), row in zip(turns, table, strict=False):
        assert row[speaker] == 0
        assert math.fsum(row) == pytest.approx(1)
        assert all(0 <= p <= 1 for p in row)
    # What comes later changes nothing before it.
    cut = predict.predict(Recording("c", recording.speakers, (*recording.turns[:2], (0, "Brom, Mara, what?"))))
    assert cut[0] == table[0]


@settings(max_examples=30, deadline=None)
@given(lines_of_four, st.permutations(range(4)))
def test_the_order_in_which_speakers_are_listed_tells_nothing(turns: list[tuple[int, str]], order: list[int]) -> None:
    names = ("Ada", "Mara", "Brom", "Will")
    table = predict.predict(Recording("c", names, tuple(turns)))
    place = {old: new for new, old in enumerate(order)}
    moved = predict.predict(
        Recording("c", tuple(names[old] for old in order), tuple((place[s], text) for s, text in turns))
    )
    for row, other in zip(table, moved, strict=True):
        assert [other[place[i]] for i in range(4)] == pytest.approx(row)


def test_what_profiles_say_counts() -> None:
    turns = [{"s": 0, "t": "Barkeep, one ale!"}, {"s": 1, "t": "Here."}]
    plain = {"id": "x", "speakers": ["Ada", "Brom", "Mara"], "turns": turns}
    named = {**plain, "aliases": [[], [], ["barkeep"]]}
    chatty = {**plain, "talkativeness": [0.5, 0.5, 0.9]}
    p, by_alias, by_talk = (json.loads(line)["p"][0] for line in predict_lines(map(json.dumps, (plain, named, chatty))))
    assert by_alias[2] > p[2] < by_talk[2]
    wrongs: list[dict[str, object]] = [
        {"aliases": [[]]}, {"aliases": 5}, {"talkativeness": [0.5, "x", 1]}, {"talkativeness": [1]},
    ]  # fmt: skip
    for wrong in wrongs:
        assert "error" in json.loads(next(iter(predict_lines([json.dumps({**plain, **wrong})]))))


def test_predict_reads_and_answers_lines() -> None:
    good = json.dumps({"id": "x", "speakers": ["A", "B"], "turns": [{"s": 0, "t": "hi"}, {"s": 1, "t": "yo"}]})
    answers = [json.loads(line) for line in predict_lines([good, "", "{nonsense", '{"id": 1}', good])]
    assert answers[0] == {"id": "x", "p": [[0.0, 1.0]]}
    assert ["error" in answer for answer in answers] == [False, True, True, False]
    with pytest.raises(BadInput):
        recording_of({"id": "x", "speakers": ["A"], "turns": [{"s": 1, "t": "hi"}]})


def test_a_rhythm_forgets_who_left_and_never_grows_without_bound() -> None:
    rhythm, _ = talk(*[(PEOPLE[n % 5].id, f"Mara, line {n}") for n in range(1000)])
    assert rhythm.lines < STRETCH
    assert sum(seat.count for seat in rhythm.seats.values()) == rhythm.lines
    left = without(rhythm, ["brom"])
    assert "brom" not in left.seats
    assert knows(rhythm, "brom")
    assert not knows(rhythm, "nobody")
    table = rows(left, ["ada", "ben", "brom"])
    never = FEATURES.index("never_spoken")
    assert [row[never] for row in table] == [0.0, 0.0, 1.0]
    assert all(math.isfinite(value) for row in table for value in row)
