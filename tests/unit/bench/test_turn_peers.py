"""The turn-taking peers do what their authors say, for the same question: who speaks next."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.peers import turn_taking
from bench.turns import evaluate
from services.chat.predict import Recording

CAST = ("Ada", "Mara Vale", "Brom", "Old Wyn")


def recording(*texts: str, speakers: tuple[int, ...] = (), talk: tuple[float, ...] = ()) -> Recording:
    order = speakers or tuple(i % len(CAST) for i in range(len(texts)))
    return Recording("r", CAST, tuple(zip(order, texts, strict=True)), talkativeness=talk)


@pytest.mark.parametrize("name", [name for name in evaluate.RULES if name != "earshot"])
def test_a_row_is_a_distribution_over_all_but_the_last_speaker(name: str) -> None:
    found = evaluate.RULES[name](recording("Hello", "Brom?", "vale, hm", "no", talk=(0.9, 0.1, 0.5, 1.0)))
    assert len(found) == 3
    for row, speaker in zip(found, (0, 1, 2), strict=True):
        assert sum(row) == pytest.approx(1)
        assert row[speaker] == 0
        assert min(row) >= 0


def best(row: list[float]) -> int:
    return row.index(max(row))


def test_round_robin_asks_the_next_and_a_b_a_the_one_before() -> None:
    told = recording("a", "b", "a", "c", speakers=(0, 1, 0, 3))
    assert [best(row) for row in turn_taking.round_robin(told)] == [1, 2, 1]
    assert [best(row) for row in turn_taking.give_back(told)[1:]] == [0, 1]


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("Brom, are you there?", [2]),
        ("mara and BROM", [1, 2]),
        ("brom and Vale", [2, 1]),
        ("The old bromide", [3]),  # a word of a name counts, a part of a word does not
        ("Ada asks herself", []),  # nobody answers themselves
        ("", []),
    ],
)
def test_natural_order_reads_names_by_whole_words(text: str, who: list[int]) -> None:
    assert turn_taking.mentioned(text, CAST, 0) == who


def test_natural_order_lets_the_first_named_speak_first() -> None:
    row, _ = turn_taking.natural_order(recording("Wyn, ask Brom", "x", "y"))
    assert best(row) == 3


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(0, 5))
def test_the_dice_are_a_distribution(talk: list[float], speaker: int) -> None:
    speaker %= len(talk)
    row = turn_taking.first_of_dice(tuple(talk), speaker)
    assert sum(row) == pytest.approx(1)
    assert row[speaker] == 0


@pytest.mark.parametrize("talk", [(0.5, 0.9, 0.1, 0.5), (0.5, 0.0, 0.0, 0.0), (0.3, 1.0, 1.0, 0.2)])
def test_the_dice_come_out_as_when_they_are_thrown(talk: tuple[float, ...]) -> None:
    chance, first, spoke = random.Random(7), Counter[int](), 0
    throws = 20_000
    for _ in range(throws):
        order = [1, 2, 3]
        chance.shuffle(order)
        chosen = [i for i in order if chance.random() < talk[i]] or [chance.choice(order)]
        first[chosen[0]] += 1
        spoke += len(chosen)
    for i, share in enumerate(turn_taking.first_of_dice(talk, 0)):
        assert first[i] / throws == pytest.approx(share, abs=0.015)
    told = recording("Hm", "x", talk=talk)
    assert spoke / throws == pytest.approx(turn_taking.asked(told, 0, {1, 2, 3}), abs=0.03)


def test_after_a_player_somebody_always_speaks_and_after_an_npc_nobody() -> None:
    told = recording("Hm", "x", "Brom!", talk=(0.5, 0.0, 0.0, 0.0))
    assert turn_taking.asked(told, 0, {1, 2}) == 1
    assert turn_taking.asked(told, 1, {1, 2}) == 0
    assert turn_taking.asked(recording("Brom and Wyn", "x"), 0, {1, 2, 3}) == pytest.approx(2.5)


def test_the_gate_counts_what_such_a_rule_asks() -> None:
    told = [recording("Hm", "x", "y", "z")]
    outcome = evaluate.measure(told, turn_taking.natural_order, lambda *_: 1.5)
    assert outcome.service.calls / outcome.service.players == pytest.approx(1.5)
