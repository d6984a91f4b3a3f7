"""Documents as pure values: what a stream of snapshots comes to, however it arrives."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.cluster.lineage import Ended, Lineage, evolve
from services.cluster.proximity import Batch, components_in_python
from services.state import cold
from services.state.bands import NPC, PLAYER
from services.state.blob import Unreadable, decode, encode
from services.state.cold import Cold
from services.state.columns import Sent
from services.state.document import Document, Input, Rules, TooMany, blank, close, commit, prepare
from services.state.event import Event, unheard
from services.state.membership import Assignment, Change, Move, Points
from services.state.observation import LinkReport, Observed, Status, gather
from services.state.roster import Location, Roster
from services.state.sequence import Base, Verdict, judge

RULES = Rules()
ROSTER = Roster(1, {}, {"well": Location("well", "Well", (0.0, 0.0, 0.0))})
Place = dict[str, tuple[float, float]]


def assigned(points: Points) -> Assignment:
    """What the cluster room answers."""
    count = points.xyz.shape[1]
    pairs = np.array(points.links, np.int32).reshape(-1, 2)
    x, y, z = points.xyz.astype(np.float64)
    before = points.previous_of.astype(np.int32) - 1
    batch = Batch(
        np.array([0, count]), x, y, z, before, np.array([0, len(pairs)]), pairs[:, 0].copy(), pairs[:, 1].copy(),
        np.array([10.0]), np.array([12.0]), np.array([1.0]),
    )  # fmt: skip
    evolution = evolve(
        components_in_python(batch).tolist(),
        before.tolist(),
        list(map(Lineage, points.lineages, points.formed)),
        [Ended(Lineage(lineage, formed), rows) for lineage, formed, _, rows in points.ended],
        points.revision,
        f"{points.revision}.{{}}".format,
    )
    return Assignment(
        tuple(lineage.id for lineage in evolution.lineages),
        tuple(lineage.born for lineage in evolution.lineages),
        np.array(evolution.rows, np.int32),
        tuple(Move(Change[t.change.name], t.lineage, t.members, t.other) for t in evolution.transitions),
    )


def step(document: Document, entry: Input, tick: int = 0) -> Document:
    """The next revision."""
    revision = document.revision + 1
    draft = prepare(document, entry, revision, tick, RULES)
    answer = None if draft.ask is None else assigned(draft.ask)
    return commit(document, draft, answer, ROSTER, revision=revision, at_ms=tick, tick=tick, rules=RULES).document


def sent(rows: Place) -> Sent:
    """Rows in the order of the mapping; ids that start with p are players."""
    x, z = ([at[axis] for at in rows.values()] for axis in (0, 1))
    return Sent(
        ids=tuple(rows),
        names=[f"name of {entity}" for entity in rows],
        kinds=np.array([PLAYER if entity[0] == "p" else NPC for entity in rows], np.uint8),
        xyz=np.array([x, [0.0] * len(rows), z], np.float32).reshape(3, -1),
        vitals=np.full((2, len(rows)), 100, np.float32),
        actions=[f"at {value:.1f}" for value in x],
        locations=(),
        last_seen=np.full(len(rows), np.nan),
        details=cold.of(b'{"of":%d}' % len(entity) for entity in rows),
    )


def places(document: Document) -> Place:
    x, _, z = document.columns.xyz.tolist()
    return {entity: (x[row], z[row]) for entity, row in document.columns.index.items()}


def partition(document: Document) -> set[frozenset[str]]:
    ids = document.columns.ids
    return {frozenset(ids[row] for row in members) for members in document.membership.members}


@dataclass(frozen=True)
class Item:
    """A snapshot in its stream."""

    seq: int
    base_seq: int | None
    rows: Place
    left: frozenset[str] = frozenset()


entities = st.sampled_from(["n1", "n2", "n3", "p1", "p2", "p3"])
# Steps of a stud: never below the movement threshold, so a model needs no memory of smaller ones.
coordinate = st.integers(-20, 20).map(float)
placed = st.dictionaries(entities, st.tuples(coordinate, coordinate), max_size=6)


@st.composite
def streams(draw: st.DrawFn) -> list[Item]:
    """A game's stream: full snapshots and deltas on the seq before."""
    items = [Item(1, None, draw(placed))]
    for seq in range(2, draw(st.integers(2, 8))):
        if draw(st.booleans()):
            items.append(Item(seq, None, draw(placed)))
        else:
            items.append(Item(seq, seq - 1, draw(placed), draw(st.frozensets(entities, max_size=2))))
    return items


def deliver(document: Document, item: Item) -> tuple[Document, Verdict]:
    """What the room does with an item of epoch 1."""
    verdict = judge(1, item.seq, item.base_seq, 1, document.base)
    if verdict is Verdict.APPLY:
        document = step(
            document,
            Input(
                sent=sent(item.rows),
                full=item.base_seq is None,
                left=item.left - item.rows.keys(),
                base=Base(1, item.seq, intact=True),
            ),
        )
    return document, verdict


@settings(max_examples=60, deadline=None)
@given(streams(), st.data())
def test_any_delivery_gives_the_models_state(stream: list[Item], data: st.DataObject) -> None:
    """Lost, repeated and reordered items: what is applied is a prefix-consistent history, never a mixture."""
    arrivals = data.draw(st.lists(st.sampled_from(stream), max_size=16))
    document, model, last = blank(), Place(), 0
    for item in arrivals:
        document, verdict = deliver(document, item)
        if item.seq <= last:
            assert verdict is Verdict.DUPLICATE
        elif item.base_seq is not None and item.base_seq != last:
            assert verdict is Verdict.RESYNC
        else:
            assert verdict is Verdict.APPLY
            kept = {e: at for e, at in model.items() if e not in item.left} if item.base_seq is not None else {}
            model, last = kept | item.rows, item.seq
        assert places(document) == model
        assert document.base.seq == last


@settings(max_examples=60, deadline=None)
@given(streams(), st.randoms(use_true_random=False))
def test_a_game_that_answers_resync_with_a_full_snapshot_always_heals(stream: list[Item], rng: random.Random) -> None:
    truth: Place = {}
    document = blank()
    for item in stream:
        kept = {e: at for e, at in truth.items() if e not in item.left} if item.base_seq is not None else {}
        truth = kept | item.rows
        if rng.random() < 0.4:
            continue  # lost
        document, verdict = deliver(document, item)
        if verdict is Verdict.RESYNC:
            document, _ = deliver(document, Item(item.seq, None, truth))
        assert places(document) == truth
        if rng.random() < 0.4:
            document, verdict = deliver(document, item)
            assert verdict is Verdict.DUPLICATE


def sorted_cold(document: Document) -> Document:
    """The same with its cold columns, which are kept as they came, in the order of the rows."""
    columns = document.columns
    looks, details = (Cold(column.in_order(len(columns))) for column in (columns.looks, columns.details))
    return replace(document, columns=replace(columns, looks=looks, details=details))


@settings(max_examples=40, deadline=None)
@given(st.lists(placed, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_rows_is_of_no_account(snapshots: list[Place], rng: random.Random) -> None:
    """Luau tables have no order: equal sets give byte-equal documents, lineage ids included."""
    one = two = blank()
    for tick, rows in enumerate(snapshots):
        shuffled = list(rows.items())
        rng.shuffle(shuffled)
        one = step(one, Input(sent=sent(rows), full=True), tick)
        two = step(two, Input(sent=sent(dict(shuffled)), full=True), tick)
    assert encode(sorted_cold(one)) == encode(sorted_cold(two))


@settings(max_examples=40, deadline=None)
@given(placed, placed, st.randoms(use_true_random=False))
def test_a_snapshot_in_parts_is_the_whole(first: Place, second: Place, rng: random.Random) -> None:
    start = step(blank(), Input(sent=sent(first), full=True))
    whole = step(start, Input(sent=sent(second), full=True))
    parts = step(start, Input(left=frozenset(first.keys() - second.keys())))
    rows = list(second.items())
    rng.shuffle(rows)
    while rows:
        size = rng.randint(1, len(rows))
        parts = step(parts, Input(sent=sent(dict(rows[:size]))))
        del rows[:size]
    assert places(parts) == places(whole) == second
    assert parts.columns.actions == whole.columns.actions


@settings(max_examples=40, deadline=None)
@given(st.lists(placed, min_size=1, max_size=6))
def test_positions_and_clusters_are_of_one_revision(snapshots: list[Place]) -> None:
    """Clusters of a document are those of its own positions: no link of 10 studs crosses them, none spans
    12.
    """
    document = blank()
    for rows in snapshots:
        document = step(document, Input(sent=sent(rows), full=True))
        together = partition(document)
        for a, (xa, za) in rows.items():
            for b, (xb, zb) in rows.items():
                if a < b and (xa - xb) ** 2 + (za - zb) ** 2 <= 100:
                    assert any({a, b} <= cluster for cluster in together)
        for cluster in together:
            for a in cluster:
                near = [b for b in cluster - {a} if np.hypot(*np.subtract(rows[a], rows[b])) <= 12]
                assert near
        assert [len(m) for m in document.membership.members] == [
            int((document.membership.of == k).sum()) for k in range(len(document.membership.lineages))
        ]


def rich() -> Document:
    """A document with something in every field."""
    document = blank()
    for tick, x in enumerate((0.0, 60.0, 0.0, 60.0), 1):
        facts = gather(
            [LinkReport("n9", "p9", "Ann"), Status("n1", action="Combat", expires_ms=50, action_id="a")],
            document.observed,
            document.columns,
            ROSTER,
            tick,
            1000,
        )
        document = step(
            document,
            Input(
                sent=sent({"n1": (0.0, 0.0), "n2": (1.0, 0.0), "p1": (x, 0.0)}),
                full=True,
                observed=facts.observed,
                copresent=(("n1", "n2"),),
                base=Base(1, tick, intact=True),
                events=(Event(f"e{tick}", "hit", "p1", "n1", "ouch", b"{}", 5),),
            ),
            tick,
        )
        document = step(document, Input(sent=facts.sent, observed=facts.observed), tick)
    return document


class TestBlob:
    def test_a_document_survives_its_blob(self) -> None:
        document = rich()
        assert document.membership.departed
        assert document.observed.links
        assert document.seen
        loaded = decode(encode(document), document.revision, document.tick)
        assert encode(loaded) == encode(document)
        assert loaded.columns.index == document.columns.index
        assert loaded.membership.members == document.membership.members
        again = replace(loaded, history=document.history, combat_log=document.combat_log, floor=document.floor)
        one, two = (step(d, Input(sent=sent({"n1": (3.0, 0.0)}), full=True), 9) for d in (document, again))
        assert encode(sorted_cold(one)) == encode(sorted_cold(two))

    def test_time_stands_still_while_nobody_runs(self) -> None:
        document = rich()
        (pair,) = document.observed.links
        left = document.observed.links[pair] - document.tick
        loaded = decode(encode(document), 70_000, document.tick + 1_000_000)
        assert loaded.observed.links[pair] - loaded.tick == left
        assert (loaded.revision, loaded.floor) == (70_000, 70_000)

    @pytest.mark.parametrize("data", [b"", b"\x93\x01", b"\xc0", b"not a document"])
    def test_damage_is_told(self, data: bytes) -> None:
        with pytest.raises(Unreadable):
            decode(data, 1, 1)

    def test_a_short_column_is_damage(self) -> None:
        data = encode(rich())
        document = decode(data, 1, 1)
        shorter = replace(document.columns, kinds=document.columns.kinds[:-1])
        with pytest.raises(Unreadable):
            decode(encode(replace(document, columns=shorter)), 1, 1)


def test_a_closed_world_is_empty_and_says_who_was_there() -> None:
    document = step(blank(), Input(sent=sent({"n1": (0.0, 0.0), "p1": (1.0, 0.0)}), full=True))
    ending = close(document, 2, 0, 0, ended_epoch=3)
    assert len(ending.document.columns) == 0
    assert [(t.change, t.members) for t in ending.transitions] == [(Change.DISSOLVED, ("n1", "p1"))]
    assert [(c.npc, c.gone) for c in ending.changes] == [("n1", True)]
    assert judge(3, 9, None, 3, ending.document.base) is Verdict.STALE


def test_a_world_over_its_bound_may_still_shrink() -> None:
    rows = {f"n{k}": (float(k * 20), 0.0) for k in range(5)}
    document = step(blank(), Input(sent=sent(rows), full=True))
    rules = replace(RULES, entities_max=3)
    with pytest.raises(TooMany):
        prepare(document, Input(sent=sent({"new": (0.0, 0.0)})), 2, 0, rules)
    assert len(prepare(document, Input(left=frozenset(["n1"])), 2, 0, rules).merge.columns) == 4


def test_columns_that_did_not_change_are_shared() -> None:
    rows = {"n1": (0.0, 0.0), "p1": (1.0, 0.0)}
    first = step(blank(), Input(sent=sent(rows), full=True))
    second = step(first, Input(sent=sent(rows), full=True))
    for name in ("ids", "index", "names", "kinds", "xyz", "vitals", "actions", "looks", "details"):
        assert getattr(second.columns, name) is getattr(first.columns, name), name
    assert second.membership is first.membership


def test_the_memory_of_events_is_bounded_and_renewed() -> None:
    def tell(*names: int) -> list[Event]:
        return [Event(str(name), "x", "", "", "", b"", 0) for name in names]

    memory: dict[int, None] = {}
    memory, new = unheard(memory, tell(*range(2048)))
    assert len(new) == 2048
    memory, new = unheard(memory, tell(0, 5000))  # 0 is told again: remembered longer
    assert [event.id for event in new] == ["5000"]
    assert len(memory) == 2048
    assert [event.id for event in unheard(memory, tell(0, 1, 2))[1]] == ["1"]


def test_observed_is_shared_when_nothing_ends() -> None:
    assert prepare(blank(), Input(), 1, 0, RULES).observed == Observed()
