"""Degraded speech: what is learnt, what comes of it, what is taken back exactly."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.store import Database
from services.sync.context import Key, Profile
from services.sync.degraded.canned import PLAIN, canned
from services.sync.degraded.markov import START, generate, learnable, norm, trigrams
from services.sync.degraded.markov_store import LINES_MAX, SCHEMA, Learnt, MarkovStore
from services.sync.speech.prompt import Reason
from tests.fakes import virtual_time

KEY = Key("t", "w", "mara")
LINES = [
    f"{who} {does} {what}."
    for who in ("The harbour", "My lantern", "An old sailor", "The baker")
    for does in ("sleeps beside", "hums about", "waits behind", "remembers")
    for what in ("the mill", "the tide", "silver bells", "the winter road")
]


@pytest.fixture
def store() -> MarkovStore:
    return MarkovStore(Database(":memory:", SCHEMA))


def rows(store: MarkovStore) -> dict[str, list[Any]]:
    tables = ("markov", "markov_word", "markov_line")
    return {table: sorted(store._database.read(f"SELECT * FROM {table}")) for table in tables}


async def taught(store: MarkovStore, lines: list[str], key: Key = KEY) -> None:
    await store.learn(key, [Learnt(number, f"t{number}", text) for number, text in enumerate(lines, start=1)])


def test_three_words_in_a_row() -> None:
    assert trigrams("Mind the step.") == [
        (START, START, "Mind"), (START, "Mind", "the"), ("Mind", "the", "step."), ("the", "step.", "\x03"),
    ]  # fmt: skip
    assert norm('  "Mind the STEP!"  ') == "mind the step"


@pytest.mark.parametrize(
    ("text", "heard", "fit"),
    [
        ("The mill is old.", [], True),
        ("Hm.", [], False),
        ("Come at 9 in the evening.", [], False),
        ("See www.example.com for more.", [], False),
        ("Write to me@home please.", [], False),
        ("Well met, my dear Ada.", [], False),
        ("Ah, your dog is called Biscuit then.", ["My dog is called Biscuit"], False),
        ("Welcome to the Lantern again.", ["I like the lantern"], True),
    ],
)
def test_what_may_be_learnt(text: str, heard: list[str], fit: bool) -> None:
    own = ("Mara", "You keep the Lantern, an inn.")
    assert learnable(text, heard, own, ("Ada",)) is fit


async def test_it_speaks_of_the_rarest_known_word_and_never_verbatim(store: MarkovStore) -> None:
    await taught(store, [line for number, line in enumerate(LINES) if number % 5])
    counts = store.counts("t", "mara")
    said = {generate(counts, "Do you know of silver bells?", random.Random(seed)) for seed in range(40)}
    said.discard(None)
    assert said
    learnt = {norm(line) for number, line in enumerate(LINES) if number % 5}
    for text in said:
        assert text is not None
        assert norm(text) not in learnt
        assert not any(f" {norm(text)} " in f" {line} " for line in learnt)
    assert sum("bells" in (text or "") for text in said) >= len(said) / 2


async def test_the_same_seed_says_the_same(store: MarkovStore) -> None:
    await taught(store, LINES)
    counts = store.counts("t", "mara")
    first = generate(counts, "tide", random.Random(5))
    assert first is None or generate(counts, "tide", random.Random(5)) == first


async def test_one_line_alone_is_never_repeated(store: MarkovStore) -> None:
    await taught(store, ["The mill sleeps beside the tide."])
    assert generate(store.counts("t", "mara"), "mill", random.Random(1)) is None
    assert generate(store.counts("t", "nobody"), "mill", random.Random(1)) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=12), st.lists(st.sampled_from(LINES), max_size=12))
def test_what_is_taken_back_leaves_no_trace(kept: list[str], gone: list[str]) -> None:
    async def play() -> None:
        plain, both = MarkovStore(Database(":memory:", SCHEMA)), MarkovStore(Database(":memory:", SCHEMA))
        await taught(plain, kept)
        await taught(both, kept)
        other = Key("t", "v", "mara")
        await taught(both, gone, other)
        await both.forget_npcs([other])
        # Lines of both worlds count once, for the world that said them first.
        assert rows(both) == rows(plain)
        await both.forget_npcs([KEY])
        assert rows(both) == {"markov": [], "markov_word": [], "markov_line": []}

    virtual_time.run(play())


async def test_messages_are_forgotten_by_text_and_by_turn(store: MarkovStore) -> None:
    await taught(store, LINES[:6])
    assert await store.forget_lines("other", [LINES[0]], ["t2"]) == 0
    assert await store.forget_lines("t", [LINES[0].lower().rstrip("."), ""], ["t2", ""]) == 2
    assert store.lines("t", "mara") == 4


async def test_two_tenants_share_nothing(store: MarkovStore) -> None:
    await taught(store, LINES)
    await taught(store, LINES[:3], Key("u", "w", "mara"))
    assert (store.lines("t", "mara"), store.lines("u", "mara")) == (len(LINES), 3)
    assert generate(store.counts("v", "mara"), "mill", random.Random(1)) is None


async def test_the_authors_lines_follow_the_profile(store: MarkovStore) -> None:
    await store.author(KEY, ["Mind the old step.", "The ale is good."])
    await store.author(KEY, ["Mind the old step."])
    assert [row[5] for row in rows(store)["markov_line"]] == ["Mind the old step."]
    assert store.upto(KEY) == 0


async def test_the_oldest_lines_make_room(store: MarkovStore) -> None:
    letters = "abcdefghijklmn"
    words = [f"word{a}{b}{c}" for a in letters for b in letters for c in letters]
    lines = [
        Learnt(number, "t", f"The {word} is here.") for number, word in enumerate(words[: LINES_MAX + 50], start=1)
    ]
    await store.learn(KEY, lines)
    assert store.lines("t", "mara") == LINES_MAX
    assert min(row[3] for row in rows(store)["markov_line"]) == 51


@pytest.mark.parametrize(
    ("reason", "prompt", "said", "expected"),
    [
        (Reason.REPLY, "Hello there!", [], {"Welcome to the Lantern!"}),
        (Reason.GREETING, "", [], {"Welcome to the Lantern!"}),
        (Reason.REPLY, "Goodbye, Mara", [], {"Safe roads, friend."}),
        (Reason.REPLY, "What of the war?", [], {"The stew is honest.", "Mind the step."}),
        (Reason.REPLY, "What of the war?", ["Mind the step."], {"The stew is honest."}),
        (Reason.SILENCE, "", ["Mind the step.", "The stew is honest."], set(PLAIN)),
    ],
)
def test_canned_lines_fit_the_moment(reason: Reason, prompt: str, said: list[str], expected: set[str]) -> None:
    lines = ("Welcome to the Lantern!", "Safe roads, friend.", "The stew is honest.", "Mind the step.")
    found = {canned(Profile("Mara", lines=lines), reason, prompt, said, random.Random(seed)) for seed in range(40)}
    assert found == expected


def test_without_lines_there_is_still_something_to_say() -> None:
    assert canned(Profile("Mara"), Reason.REPLY, "x", PLAIN, random.Random(1)) in PLAIN
