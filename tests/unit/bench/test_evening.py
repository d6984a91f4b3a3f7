"""What the real-time bench says of a log."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench import evening
from bench.evening import Evening, judge
from bench.wire import Client


def said(seq: int, at: float, text: str, place: str = "c1") -> dict[str, Any]:
    return {
        "type": "utterance",
        "seq": seq,
        "at": at,
        "conversation_id": place,
        "text": text,
        "utterance_id": f"u{seq}",
    }


def turn(seq: int, phase: str, turn_id: str, cause: str = "", place: str = "c1", reason: str = "") -> dict[str, Any]:
    return {
        "type": "turn", "seq": seq, "at": 0.0, "conversation_id": place, "phase": phase, "turn_id": turn_id,
        "npc_id": f"npc-{turn_id}", "cause_utterance_id": cause, "reason": reason,
    }  # fmt: skip


def spoke(seq: int, at: float, turn_id: str, place: str = "c1") -> dict[str, Any]:
    return {**said(seq, at, "Indeed.", place), "ai": True, "turn_id": turn_id}


def test_the_wait_of_a_named_line_is_told_without_the_model() -> None:
    events = [
        said(1, 10.02, "Mara, hello"),
        turn(2, "started", "t1", "u1"),
        spoke(3, 11.07, "t1"),
        spoke(4, 11.2, "t1"),
    ]
    found = judge(events, {"Mara, hello": 10.0}, {"Mara, hello"}, {3: 11.3, 4: 11.4})
    assert (found.free, found.answered, found.interrupted, found.turns, found.overlaps) == (1, 1, 0, 1, 0)
    assert found.log_ms == [pytest.approx(70)]
    assert found.game_ms == [pytest.approx(300)]


def test_a_line_into_a_taken_floor_or_to_nobody_is_not_timed() -> None:
    events = [
        said(1, 1.0, "It rains"), turn(2, "started", "t1", "u1"), said(3, 1.5, "Mara, hello"), spoke(4, 2.0, "t1"),
        turn(5, "ended", "t1"), turn(6, "started", "t2", "u3"), spoke(7, 3.2, "t2"),
    ]  # fmt: skip
    found = judge(events, {"It rains": 0.9, "Mara, hello": 1.4}, {"Mara, hello"}, {4: 2.0, 7: 3.3})
    assert (found.free, found.log_ms, found.turns, found.overlaps) == (0, [], 2, 0)


def test_a_line_that_is_cut_off_is_told_apart_from_one_without_an_answer() -> None:
    lines = {"Mara, one": 1.0, "Mara, two": 2.0, "Brom, three": 3.0}
    events = [
        said(1, 1.0, "Mara, one"), turn(2, "started", "t1", "u1"), turn(3, "cancelled", "t1", "u1", reason="BARGE_IN"),
        said(4, 2.0, "Mara, two"), turn(5, "started", "t2", "u4"), turn(6, "failed", "t2", "u4", reason="OVERLOADED"),
        said(7, 3.0, "Brom, three"),
    ]  # fmt: skip
    found = judge(events, lines, set(lines), {})
    assert (found.free, found.answered, found.interrupted, found.failed) == (3, 0, 1, 1)


def test_two_turns_at_once_in_one_conversation_are_seen_and_in_two_are_not() -> None:
    apart = [turn(1, "started", "t1"), turn(2, "started", "t2", place="c2")]
    assert judge(apart, {}, set(), {}).overlaps == 0
    assert judge([*apart, turn(3, "started", "t3")], {}, set(), {}).overlaps == 1


def test_a_turn_goes_where_its_speaker_goes() -> None:
    def came(change: str) -> dict[str, Any]:
        return {
            "type": "membership", "seq": 2, "at": 0.0, "conversation_id": "c2", "change": change,
            "members_changed": ["npc-t1"],
        }  # fmt: skip

    began, there, here = turn(1, "started", "t1"), turn(3, "started", "t3", place="c2"), turn(4, "started", "t4")
    assert judge([began, came("joined"), here], {}, set(), {}).overlaps == 0
    assert judge([began, came("joined"), there], {}, set(), {}).overlaps == 1
    assert judge([began, came("left"), here], {}, set(), {}).overlaps == 1


@pytest.mark.parametrize("npcs", evening.SIZES)
def test_everybody_sits_within_earshot_of_their_table_and_names_are_unique_there(npcs: int) -> None:
    entities = Evening(Client(0), npcs, random.Random(1))._entities()
    assert sum(one["kind"] == "npc" for one in entities) == npcs
    assert sum(one["kind"] == "player" for one in entities) == evening.PLAYERS
    tables: dict[int, list[dict[str, Any]]] = {}
    for one in entities:
        tables.setdefault(round(one["position"]["x"] / evening.TABLE_STUDS), []).append(one)
    assert len(tables) == evening.TABLES
    for own in tables.values():
        names = [one["name"] for one in own if one["kind"] == "npc"]
        assert len(set(names)) == len(names) == npcs // evening.TABLES
        xs, zs = ([one["position"][axis] for one in own] for axis in "xz")
        assert max(xs) - min(xs) < 10
        assert max(zs) - min(zs) < 10


def test_an_evening_in_which_nobody_was_answered_has_no_times() -> None:
    here = Evening(Client(0), 50, random.Random(1))
    found = evening.results("x", here, judge([], {}, set(), {}), calls=0, took=1.0, cpu=0.1, memory=9.0, peak=2.5)
    assert not [one for one in found if "first sentence" in one.name]
    assert all(one.value == one.value for one in found)  # no NaN: it is no JSON
    assert found[-1].ok
