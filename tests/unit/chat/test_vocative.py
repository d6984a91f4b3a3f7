"""Addresses and mentions: a name used to speak to somebody, and one only spoken about."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chat.vocative import aliases_of, find_mentions, parse

CAST = [("Ada",), ("Mara", "barkeep"), ("Old Brom",), ("Will",), ("Captain Rhea Voss",), ("Ben",)]
MARA, BROM, WILL, RHEA, BEN = 1, 2, 3, 4, 5


@pytest.mark.parametrize(
    ("text", "addressed", "mentioned"),
    [
        ("Mara, one soup", (MARA,), (MARA,)),
        ("mara one soup please", (), (MARA,)),
        ("Mara can you help?", (MARA,), (MARA,)),
        ("Mara can swim", (), (MARA,)),
        ("hey Mara!", (MARA,), (MARA,)),
        ("What is it, Mara?", (MARA,), (MARA,)),
        ("I think, Mara, that we should go", (MARA,), (MARA,)),
        ("Mara", (MARA,), (MARA,)),
        ("@Mara hello", (MARA,), (MARA,)),
        ("Mara: two ales", (MARA,), (MARA,)),
        ("I met Mara yesterday", (), (MARA,)),
        ("Mara's soup is cold", (), (MARA,)),
        ("Mara’s soup is cold", (), (MARA,)),
        ("Give it to Mara.", (), (MARA,)),
        ("Thanks Mara", (MARA,), (MARA,)),
        ("Barkeep, another!", (MARA,), (MARA,)),
        ("Brom, is it ready?", (BROM,), (BROM,)),
        ("Old Brom, is it ready?", (BROM,), (BROM,)),
        ("Captain, look!", (RHEA,), (RHEA,)),
        ("Rhea! Voss!", (RHEA,), (RHEA,)),
        ("Mara, Brom, come here", (MARA, BROM), (MARA, BROM)),
        ("Mara and Brom went home", (), (MARA, BROM)),
        ("Brom and Mara, come here", (BROM, MARA), (BROM, MARA)),
        ("will you come?", (), ()),
        ("Will you come?", (), ()),
        ("Will, come here!", (WILL,), (WILL,)),
        ("Well, Will, what now", (WILL,), (WILL,)),
        ("Fine. Mara, your turn.", (MARA,), (MARA,)),
        ("Ben? Ada is here.", (BEN,), (BEN,)),
        ("Maranda, hello", (), ()),
        ("Tell Ben I am here", (), (BEN,)),
        ("(laughs) Mara, your turn.", (MARA,), (MARA,)),
        ("*waves* Mara can you hear me", (MARA,), (MARA,)),
        ("Who told you, Ben, of all people", (BEN,), (BEN,)),
        ("It swings at you Ben, and misses", (BEN,), (BEN,)),
        ("Oh, come on Mara.", (MARA,), (MARA,)),
        ("He would come home on Mara.", (), (MARA,)),
        ("mar: two ales", (MARA,), (MARA,)),
        ("Bark, another", (MARA,), (MARA,)),
        ("Mar, that was close", (), ()),
        ("Anyone, really", (), ()),
        ("wil: over here", (WILL,), (WILL,)),
        ("Well, over here", (), ()),
        ("", (), ()),
    ],
)
def test_what_people_say(text: str, addressed: tuple[int, ...], mentioned: tuple[int, ...]) -> None:
    found = parse(text, CAST, 0)
    assert (found.addressed, found.mentioned) == (addressed, mentioned)


def test_a_name_of_two_is_nobody_s_but_the_speaker_does_not_count() -> None:
    twins = [("Pete",), ("Pete",), ("Mara",)]
    assert parse("Pete, hello", twins, 2).addressed == ()
    # A player called as the NPC is: it does not speak to itself.
    assert parse("Pete, hello", twins, 0).addressed == (1,)


def test_a_name_cut_short_is_nobody_s_when_two_could_be_meant() -> None:
    cast = [("Ada",), ("Marabel",), ("Marius",), ("Light-",), ("rmd_",), ("xX_Theo_Xx",)]
    assert parse("Mar: hello", cast, 0).addressed == ()
    assert parse("Mari: hello", cast, 0).addressed == (2,)
    assert parse("Mari: hello", cast, 2).addressed == ()
    assert parse("Light: hello", cast, 0).addressed == (3,)
    assert parse("rmd: hello", cast, 0).addressed == (4,)
    assert parse("the: hello", cast, 0).addressed == ()
    assert parse("http://example.org", [("Ada",), ("Httpd",)], 0).addressed == ()


def test_aliases_leave_titles_and_everyday_words_out() -> None:
    assert aliases_of(("Old Tom", "the Smith")) == ("old tom", "the smith")
    assert aliases_of(("Captain Rhea",)) == ("captain rhea", "captain", "rhea")
    assert aliases_of(("  ", "x")) == ()


names = st.lists(st.text(string.ascii_letters + "ßİ |[]*.-_", min_size=1, max_size=12), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(cast=names, text=st.text(max_size=200), speaker=st.integers(-1, 5))
def test_any_text_and_names(cast: list[str], text: str, speaker: int) -> None:
    named = f"{cast[0]}, {text}"
    for said in (text, named):
        for mention in find_mentions(said, [(name,) for name in cast], speaker):
            assert 0 <= mention.who < len(cast)
            assert mention.who != speaker
            assert 0 <= mention.start < mention.end <= len(said)
