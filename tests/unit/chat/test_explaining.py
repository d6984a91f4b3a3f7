"""Explanations survive the store to the digits that are shown, and keep what an erasure looks for readable."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.chat import explaining
from services.chat.effects import Explain
from services.chat.policy import NPC, PLAYER, Candidate

NAMES = st.sampled_from(("previous", "share", "addressed", "wordy"))
CANDIDATES = st.builds(
    Candidate,
    id=st.text(max_size=8),
    name=st.text(max_size=8),
    kind=st.sampled_from((NPC, PLAYER)),
    probability=st.integers(0, 10_000).map(lambda share: share / 10_000),
    features=st.lists(st.tuples(NAMES, st.integers(-900, 900).map(lambda moved: moved / 100)), max_size=4).map(tuple),
    excluded=st.sampled_from(("", "BUSY")),
)


@given(candidates=st.lists(CANDIDATES, max_size=5), notes=st.lists(st.text(max_size=4), max_size=2))
def test_an_explanation_comes_back(candidates: list[Candidate], notes: list[str]) -> None:
    why = Explain("t-1", "L1", "VOCATIVE", 0.25, 0.5, tuple(candidates), {"queue": 3}, tuple(notes))
    assert explaining.unpack(explaining.pack(why)) == why


def test_it_is_small_and_ids_can_be_found_in_it() -> None:
    shown = tuple((f"a_feature_with_a_name_{number}", 0.1 * number) for number in range(6))
    crowd = tuple(Candidate(f"id-{number}", f"Name {number}", PLAYER, 0.125, shown) for number in range(8))
    why = Explain("t-1", "L1", "", 0.5, 0.5, crowd, {"queue": 3}, ())
    packed = explaining.pack(why)
    assert len(packed) * 3 < len(msgspec.msgpack.encode(why))
    assert b"id-7" in packed
    assert b"Name 7" in packed
