"""Compiled code gives exactly what numpy gives, for whole documents and everything told about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.state import cold, compiled
from services.state.blob import encode
from services.state.change import Change
from services.state.cold import NOTHING, Cold
from services.state.columns import Sent
from services.state.document import Document, Input, Rules, blank, commit, prepare
from services.state.membership import Transition
from services.state.roster import Location, Roster
from tests.unit.state.test_document import assigned

NAMES = tuple(f"e{n}" for n in range(12))
PLACES = (0.0, 4.9, 5.0, 5.5, 6.0, 6.1, 29.9, 30.0, 33.0, 33.1, 100.0, -3.0, float("nan"))
STEPS = (0.0, 0.1, 0.2, 3.0, -3.0)
HEALTHS = (0.0, 0.4, 5.0, 44.9, 55.0, 62.0, 67.0, 53.0, 89.9, 90.0, 100.0, 140.0, -5.0, float("nan"))
WELL, GATE = Location("well", "Well", (0.0, 0.0, 0.0)), Location("gate", "Gate", (8.0, 1.0, 0.0))
ROSTERS = (
    Roster(),
    Roster(1, {}, {"well": WELL}),
    Roster(2, {}, {"well": WELL, "gate": GATE}),
    Roster(3),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _ready() -> Iterator[None]:
    pytest.importorskip("numba")
    compiled.warm_up()
    yield
    compiled.kernels = None


@contextmanager
def in_numpy() -> Iterator[None]:
    """As in a process without compiled code."""
    kernels, compiled.kernels = compiled.kernels, None
    try:
        yield
    finally:
        compiled.kernels = kernels


def sent_by(rng: np.random.Generator, x: dict[str, float]) -> Sent:
    """Some entities, in any order, a step of any size from where they were, with anything unknown."""
    ids = tuple(rng.permutation(NAMES)[: rng.integers(0, 2 * len(NAMES))].tolist())
    count = len(ids)

    def column(values: tuple[float, ...], kind: Any = np.float32) -> Any:
        return rng.choice(np.array(values), count).astype(kind)

    for entity in ids:
        far = rng.random() < 0.3
        x[entity] = rng.choice(PLACES) if far else x.get(entity, 4.0) + rng.choice(STEPS) * rng.random()
    there = np.array([x[entity] for entity in ids])
    y, z = (np.where(there == there, column(values), np.nan) for values in ((0.0, 1.0), (0.0, 0.07, 2.0)))
    return Sent(
        ids=ids,
        names=[] if rng.random() < 0.5 else [f"n {entity}" for entity in ids],
        kinds=column((0, 1, 1, 1, 2), np.uint8),
        xyz=np.array([there, y, z], np.float32).reshape(3, count),
        vitals=np.array([column(HEALTHS), column((100.0, 100.0, 60.0, 0.0, np.nan))], np.float32).reshape(2, count),
        actions=[["Idle"] * count, ["Combat"] * count, []][rng.integers(3)],
        locations=[],
        last_seen=column((1.0, 2.0, np.nan), np.float64),
        looks=cold_by(rng, count, b'{"appearance":"%d"}'),
        details=cold_by(rng, count, b'{"velocity":%d}'),
    )


def cold_by(rng: np.random.Generator, count: int, form: bytes) -> Cold:
    """A column that is not there, or says something of most rows."""
    if rng.random() < 0.3:
        return NOTHING
    return cold.of(form % value if value < 8 else b"" for value in rng.integers(9, size=count).tolist())


def inputs_by(seed: int) -> list[tuple[Sent, bool, int]]:
    """A stream: (rows, full, roster)."""
    rng = np.random.default_rng(seed)
    x: dict[str, float] = {}
    roster = int(rng.integers(len(ROSTERS)))
    inputs = []
    for _ in range(8):
        if rng.random() < 0.1:
            roster = int(rng.integers(len(ROSTERS)))
        inputs.append((sent_by(rng, x), bool(rng.random() < 0.7), roster))
    return inputs


def stream(inputs: list[tuple[Sent, bool, int]]) -> list[tuple[Document, tuple[Transition, ...], tuple[Change, ...]]]:
    document, seen = blank(), []
    for sent, full, roster in inputs:
        revision, tick = document.revision + 1, 4_000 * (document.revision + 1)
        draft = prepare(document, Input(sent=sent, full=full), revision, tick, Rules())
        answer = assigned(draft.ask) if draft.ask else None
        after = commit(
            document, draft, answer, ROSTERS[roster], revision=revision, at_ms=tick + 5, tick=tick, rules=Rules()
        )
        document = after.document
        seen.append((document, after.transitions, tuple(after.changes)))
    return seen


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32))
def test_compiled_equals_numpy(seed: int) -> None:
    inputs = inputs_by(seed)
    fast = stream(inputs)
    with in_numpy():
        plain = stream(inputs)
    for (document, transitions, changes), (expected, transitions_expected, changes_expected) in zip(
        fast, plain, strict=True
    ):
        # Unknown alarms and positions are NaN: compared as what is stored, which is everything but history.
        assert encode(document) == encode(expected)
        assert transitions == transitions_expected
        assert changes == changes_expected
        assert document.combat_log == expected.combat_log


def test_columns_may_be_views_that_cannot_be_written() -> None:
    """As decoded from a message or a stored blob."""
    xyz = np.frombuffer(np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 50.0]], "<f4").tobytes(), "<f4").reshape(3, 2)
    base = Sent(
        ("a", "b"), ("A", "B"), np.frombuffer(b"\1\2", np.uint8), xyz, np.full((2, 2), 7, np.float32), (), (),
        np.frombuffer(np.zeros(2).tobytes()),
    )  # fmt: skip
    ((first, _, _), (second, _, changes)) = stream([(base, True, 1), (replace(base, xyz=xyz[:, ::-1]), True, 1)])
    assert first.columns.xyz.tolist() == xyz.tolist()
    assert second.columns.xyz.tolist() == xyz[:, ::-1].tolist()
    assert [change.npc for change in changes] == ["a"]
