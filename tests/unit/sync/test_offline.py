"""NPCs without a model: deterministic, about what is there, and never a promise that no tool keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sync.runtimes.offline_lines import compose
from services.sync.runtimes.port import Scene
from services.sync.speech.tools import STANDARD

TOOLS = frozenset(STANDARD)
SCENE = Scene(
    "Mara", persona="You are Mara, keeper of the Lantern. You run it alone.",
    lines=("Soup is leek tonight.", "Welcome to the Lantern!", "Safe roads to you.", "My soup never burns."),
    place="at the Lantern", action="Cooking", players=("Ada", "Bo"), npcs=("Brom",), left=("Cleo",),
    happened=("The bell rang at noon",), places=("The Old Mill", "Market"), speaker="Ada",
)  # fmt: skip


def say(said: str, seed: str = "s", **fields: object) -> str:
    return compose(replace(SCENE, said=said, **fields), TOOLS, seed).text  # type: ignore[arg-type]  # Scene's own fields


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("Mara, where are we?", "at the Lantern"),
        ("who is here with us?", "Bo and Brom"),
        ("Who are you?", "I am Mara, keeper of the Lantern."),
        ("any news?", "The bell rang at noon."),
        ("What are you doing?", "cooking"),
        ("Hello Mara!", "Welcome to the Lantern!"),
        ("Goodbye!", "Safe roads to you."),
        ("Is the soup any good?", "oup"),
        ("and where are we now, and who is with us?", "Brom"),
    ],
)
def test_it_answers_what_was_asked(said: str, part: str) -> None:
    assert part in say(said)


def test_both_questions_of_a_line_are_answered() -> None:
    text = say("Where are we now, and who is with us?")
    assert "at the Lantern" in text
    assert "Bo and Brom" in text


@pytest.mark.parametrize(
    ("percent", "combat", "words"),
    [
        (20, False, "hurt|stand"),
        (60, False, "bruise|laugh"),
        (100, False, "enough|complain|company"),
        (50, True, "fight|alive"),
    ],
)
def test_how_it_fares(percent: int, combat: bool, words: str) -> None:
    text = say("How are you?", health_percent=percent, combat=combat)
    assert any(word in text for word in words.split("|"))


@pytest.mark.parametrize(
    ("said", "call"),
    [
        ("Follow me, Mara!", ("follow", {"target": "Ada"})),
        ("please stop following me", ("unfollow", {})),
        ("Take me to the old mill", ("navigate", {"location": "The Old Mill"})),
        ("Can you dance?", ("emote", {"type": "dance"})),
        ("Make your rounds.", ("patrol", {})),
        ("Hunt Brom!", ("hunt", {"target": "Brom"})),
        ("Stop hunting!", ("stop_hunt", {})),
    ],
)
def test_it_acts_on_what_it_is_told(said: str, call: tuple[str, dict[str, str]]) -> None:
    reply = compose(replace(SCENE, said=said), TOOLS, "s")
    assert reply.text
    assert reply.call is not None
    assert (reply.call[0], json.loads(reply.call[1])) == call
    # Without the tool it does not pretend.
    assert compose(replace(SCENE, said=said), frozenset(), "s").call is None


def test_the_same_seed_says_the_same_and_another_may_not() -> None:
    assert say("Hm.", "a") == say("Hm.", "a")
    assert len({say("Hm.", str(seed)) for seed in range(20)}) > 2


def test_a_line_said_lately_is_not_repeated() -> None:
    for seed in range(20):
        first = say("Tell me of the soup", str(seed))
        assert say("Tell me of the soup", str(seed), own_lines=(first,)) != first


@pytest.mark.parametrize("reason", ["greeting", "silence", "decide"])
def test_it_speaks_unasked(reason: str) -> None:
    assert say("", reason=reason)


def test_a_line_of_two_sentences_is_known_by_either() -> None:
    line = "Nine spoons I own. Gertrude is missing."
    for own in ("Nine spoons I own.", "Gertrude is missing."):
        for seed in range(20):
            assert line not in say("Well", str(seed), lines=(line, "Soup is leek."), own_lines=(own,))


def test_the_end_of_a_fight_is_a_relief_not_a_riddle() -> None:
    text = say("", "1", reason="decide", happened=("combat left",))
    assert "combat" not in text.lower()
    assert text != "PASS"


def test_in_combat_it_has_other_things_on_its_mind() -> None:
    calm = {say("Look out, behind you!", str(seed)) for seed in range(20)}
    fighting = {say("Look out, behind you!", str(seed), combat=True) for seed in range(20)}
    assert not calm & fighting


def test_it_has_nothing_to_decide_when_nothing_happened() -> None:
    assert compose(Scene("Mara", reason="decide"), TOOLS, "s").text == "PASS"


texts = st.text(max_size=60)
scenes = st.builds(
    Scene, name=st.text(min_size=1, max_size=20), persona=texts, lines=st.tuples(texts.filter(str.strip)) | st.just(()),
    place=texts, action=texts, combat=st.booleans(), health_percent=st.integers(-1, 100),
    players=st.lists(st.text(min_size=1, max_size=10), max_size=9).map(tuple), happened=st.tuples(texts) | st.just(()),
    speaker=texts, said=texts | st.sampled_from(["where are you", "who is here", "news?", "hi", "follow me", "{0}"]),
    reason=st.sampled_from(["reply", "greeting", "silence", "decide"]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(scenes, st.text(max_size=10))
def test_whatever_the_scene_there_is_an_answer(scene: Scene, seed: str) -> None:
    reply = compose(scene, TOOLS, seed)
    assert reply.text.strip()
    assert reply == compose(scene, TOOLS, seed)
    if reply.call is not None:
        assert reply.call[0] in STANDARD
        json.loads(reply.call[1])
