"""Crowds of 50 NPCs and more through documents: who is within earshot is what the definition says, step after step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from services.demo.frame import Frame, Row
from services.demo.repertoire import SCENARIOS, play
from services.state import cold
from services.state.bands import NPC, PLAYER
from services.state.blob import encode
from services.state.columns import Sent
from services.state.document import Document, Input, Rules, blank, commit, prepare
from services.state.membership import Change, Transition
from services.state.roster import Roster
from tests.unit.state.test_document import assigned, sorted_cold

RULES = Rules()
CROWDS = tuple(name for name in SCENARIOS if name != "tavern")
STEPS = 40
JOIN, LEAVE = 10.0, 12.0
Partition = set[frozenset[str]]


def sent(rows: Sequence[Row]) -> Sent:
    """The rows as a game sends them."""
    return Sent(
        ids=tuple(row.id for row in rows),
        names=[row.name for row in rows],
        kinds=np.array([NPC if row.kind == "npc" else PLAYER for row in rows], np.uint8),
        xyz=np.array([[row.x for row in rows], [row.y for row in rows], [row.z for row in rows]], np.float32),
        vitals=np.array([[row.health for row in rows], [row.max_health for row in rows]], np.float32),
        actions=[row.action for row in rows],
        locations=[row.location for row in rows],
        last_seen=np.full(len(rows), np.nan),
        looks=cold.of(b'{"appearance":"%d"}' % len(row.appearance) for row in rows),
    )


def advance(document: Document, entry: Input) -> tuple[Document, tuple[Transition, ...]]:
    revision, tick = document.revision + 1, 1000 * (document.revision + 1)
    draft = prepare(document, entry, revision, tick, RULES)
    answer = None if draft.ask is None else assigned(draft.ask)
    after = commit(document, draft, answer, Roster(), revision=revision, at_ms=tick, tick=tick, rules=RULES)
    return after.document, after.transitions


def defined(document: Document, before: Partition) -> Partition:
    """Components by the definition: within JOIN, or within LEAVE of one who was in the same cluster."""
    ids, xyz = document.columns.ids, document.columns.xyz.astype(np.float64)
    away = np.sqrt(((xyz[:, :, None] - xyz[:, None, :]) ** 2).sum(axis=0))
    home = {who: number for number, members in enumerate(before) for who in members}
    root = list(range(len(ids)))

    def find(row: int) -> int:
        while root[row] != row:
            row = root[row]
        return row

    for i, j in itertools.combinations(range(len(ids)), 2):
        together = ids[i] in home and home.get(ids[i]) == home.get(ids[j])
        if away[i, j] <= (LEAVE if together else JOIN):
            root[find(i)] = find(j)
    groups: dict[int, set[str]] = {}
    for row, who in enumerate(ids):
        groups.setdefault(find(row), set()).add(who)
    return {frozenset(members) for members in groups.values() if len(members) > 1}


def partition(document: Document) -> Partition:
    ids = document.columns.ids
    return {frozenset(ids[row] for row in members) for members in document.membership.members}


def lineages(document: Document) -> dict[str, frozenset[str]]:
    ids, membership = document.columns.ids, document.membership
    return {
        lineage: frozenset(ids[row] for row in rows)
        for lineage, rows in zip(membership.lineages, membership.members, strict=True)
    }


def told(before: dict[str, frozenset[str]], transitions: Sequence[Transition]) -> dict[str, frozenset[str]]:
    """The lineages that transitions lead to."""
    now = {lineage: set(members) for lineage, members in before.items()}
    for change, lineage, members, other, _, _ in transitions:
        match change:
            case Change.FORMED:
                now[lineage] = set(members)
            case Change.JOINED:
                now[lineage] |= set(members)
            case Change.LEFT:
                now[lineage] -= set(members)
            case Change.DISSOLVED:
                del now[lineage]
            case Change.MERGED:
                now[lineage] |= set(members)
                now.pop(other, None)
            case Change.SPLIT:
                now[lineage] = set(members)
                now[other] -= set(members)
    return {lineage: frozenset(members) for lineage, members in now.items()}


@pytest.mark.parametrize("name", CROWDS)
def test_a_crowd_is_clustered_by_the_definition_however_it_is_sent(name: str) -> None:
    fulls: dict[str, Document] = {}
    deltas: dict[str, Document] = {}
    frames: dict[str, Frame] = {}
    changes = 0
    for step in itertools.islice(play(name, 11), STEPS):
        world, rows = step.frame.world, step.frame.rows
        before = fulls.get(world, blank())
        fulls[world], transitions = advance(before, Input(sent=sent([*rows.values()]), full=True))
        assert partition(fulls[world]) == defined(fulls[world], partition(before))
        assert told(lineages(before), transitions) == lineages(fulls[world])
        changes += len(transitions)

        known = frames[world].rows if world in frames else {}
        moved = [row for row in rows.values() if known.get(row.id) != row]
        left = frozenset(known.keys() - rows.keys())
        deltas[world], _ = advance(deltas.get(world, blank()), Input(sent=sent(moved), left=left))
        assert encode(sorted_cold(deltas[world])) == encode(sorted_cold(fulls[world]))
        frames[world] = step.frame
    assert changes, "a crowd in which nothing happens tests nothing"
    assert all(len(frame.rows) >= 50 for frame in frames.values())
