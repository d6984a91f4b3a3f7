"""Sentences out of a stream, and what an NPC says out of what a model writes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sync.speech.reply import SENTENCES_MAX, SPOKEN_MAX, ReplyReader
from services.sync.speech.sentences import SENTENCE_MAX, SentenceSplitter

TEXTS = st.text(alphabet=st.sampled_from("aB .!?…,;\n\"'*)(1。é-"), max_size=400) | st.text(max_size=200)


def split(text: str, *cuts: int) -> list[str]:
    splitter = SentenceSplitter()
    bounds = [0, *sorted(cuts), len(text)]
    done = [one for start, end in pairwise(bounds) for one in splitter.feed(text[start:end])]
    return done + splitter.flush()


def spoken(*pieces: str, name: str = "Mara") -> list[str]:
    reader = ReplyReader(name)
    said = [sentence for piece in pieces for sentence in reader.feed(piece)]
    return said + reader.finish()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello there. I am well.", ["Hello there.", "I am well."]),
        ("Hm! Really?! Yes…", ["Hm!", "Really?!", "Yes…"]),
        ("Well... no. Dr. Brom, J. Smith: 3.5 coins. Ok", ["Well... no.", "Dr. Brom, J. Smith: 3.5 coins.", "Ok"]),
        ("It was I. You know it.", ["It was I.", "You know it."]),
        ('"Go away!" she said. Then silence.', ['"Go away!"', "she said.", "Then silence."]),
        ("one line\nanother line", ["one line", "another line"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("hello. how are you", ["hello.", "how are you"]),
        ("", []),
        ("   \n ", []),
    ],
)  # fmt: skip
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


def test_a_sentence_is_given_as_soon_as_the_next_one_begins() -> None:
    splitter = SentenceSplitter()
    assert splitter.feed("Hello there.") == []
    assert splitter.feed(" I") == ["Hello there."]


def test_a_long_sentence_breaks_at_a_comma_then_at_a_blank_then_hard() -> None:
    comma = "word " * 30 + "end, " + "more " * 30
    assert split(comma)[0].endswith("end,")
    assert all(len(part) <= SENTENCE_MAX for part in split("x" * 450))
    assert split("x" * 450) == ["x" * 200, "x" * 200, "x" * 50]


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 400), max_size=6))
def test_how_the_stream_is_cut_changes_nothing_and_nothing_is_lost(text: str, cuts: list[int]) -> None:
    whole = split(text)
    assert split(text, *(min(cut, len(text)) for cut in cuts)) == whole
    assert "".join("".join(whole).split()) == "".join(text.split())
    assert all(part and len(part) <= SENTENCE_MAX and part == part.strip() for part in whole)


@pytest.mark.parametrize(
    ("pieces", "sentences"),
    [
        (["Mara: Hello."], ["Hello."]),
        (["mara", ": ", "Hello. Mara: twice."], ["Hello.", "Mara: twice."]),
        (['{"speaker": "Mara", "te', 'xt": "Hello there. Come in."}'], ["Hello there.", "Come in."]),
        (['[{"text": "One."}, {"text": "Two."}]'], ["One.", "Two."]),
        (["```json\n", '{"text": "Hi."}\n```'], ["Hi."]),
        (['{"text": "Hi."} And more.'], ["Hi.", "And more."]),
        (["{curly talk"], ["{curly talk"]),
        (["*waves* Hello. *bows*"], ["Hello."]),
        (['"Hello there."'], ["Hello there."]),
        (['"Hello there. How are you?"'], ["Hello there.", "How are you?"]),
        (["...", " !!"], []),
        (["Short"], ["Short"]),
    ],
)
def test_wrappers_are_taken_off(pieces: list[str], sentences: list[str]) -> None:
    assert spoken(*pieces) == sentences


@pytest.mark.parametrize("text", ["PASS", "PASS.", " (PASS) ", '"PASS"', "Mara: PASS", '{"text": "PASS"}', "*PASS*"])
def test_declining(text: str) -> None:
    reader = ReplyReader("Mara")
    assert reader.feed(text) + reader.finish() == []
    assert reader.passed


@pytest.mark.parametrize("text", ["PASSage is free.", "Pass me the salt.", "I PASS on that.", "Hello. PASS"])
def test_talk_about_passing_is_talk(text: str) -> None:
    reader = ReplyReader("Mara")
    assert reader.feed(text) + reader.finish()
    assert not reader.passed


def test_a_model_that_rambles_is_cut() -> None:
    reader = ReplyReader("Mara")
    said = reader.feed("One more thing. " * 500)
    assert len(said) == SENTENCES_MAX
    assert reader.full
    assert reader.finish() == []
    reader = ReplyReader("Mara")
    said = reader.feed("x" * 50_000)
    assert sum(map(len, said)) <= SPOKEN_MAX + SENTENCE_MAX


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.booleans())
def test_any_text_in_any_pieces_is_bounded_speech(text: str, cuts: list[int], wrapped: bool) -> None:
    body = json.dumps({"speaker": "Mara", "text": text}) if wrapped else text
    bounds = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(bounds)]
    said = spoken(*pieces)
    assert said == spoken(body)
    assert all(0 < len(sentence) <= SENTENCE_MAX for sentence in said)
