"""What is told: a golden evening, and the rules behind it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.demo.frame import Utterance
from services.demo.narrator import (
    Answered,
    Applied,
    Caption,
    Happening,
    Heard,
    Synced,
    Trouble,
    begin,
    gathered,
    tell,
)
from services.demo.telling import KEPT, Telling
from services.demo.terminal import PLAIN, Look, paint

ROSTER = {
    "npcs": [{"id": "mira", "display_name": "Mira"}, {"id": "odette", "display_name": "Captain Odette"}],
    "players": [{"id": "1", "name": "Ravi"}, {"id": "2", "name": "Juno"}],
}


def snapshot(*transitions: dict[str, Any], clusters: dict[str, list[str]]) -> Applied:
    listed = [{"id": id, "members": members} for id, members in clusters.items()]
    return Applied({"revision": 1, "outcome": "applied", "clusters": listed, "transitions": list(transitions)})


def said(id: str, speaker: str, name: str, text: str, turn: str = "") -> Heard:
    kind = "npc" if turn else "player"
    event = {"type": "utterance", "utterance_id": id, "speaker": {"id": speaker, "name": name, "kind": kind}}
    return Heard({**event, "text": text, **({"turn_id": turn, "sentence": 0} if turn else {})})


def turn(id: str, npc: str, phase: str, reason: str = "", **more: Any) -> Heard:
    return Heard({"type": "turn", "turn_id": id, "npc_id": npc, "phase": phase, "reason": reason, **more})


EVENING: list[tuple[float, Happening]] = [
    (0, Caption("Evening at the Sleepy Badger.")),
    (2, snapshot({"type": "formed", "cluster": "c1", "members": ["1", "mira"]}, clusters={"c1": ["1", "mira"]})),
    (4, snapshot({"type": "joined", "cluster": "c1", "members": ["2"]}, clusters={"c1": ["1", "2", "mira"]})),
    (5, said("u1", "1", "Ravi", "Mira, what is in the soup tonight?")),
    (5, turn("t1", "mira", "started", "VOCATIVE", cause_utterance_id="u1")),
    (5, said("t1-0", "mira", "Mira", "Leek and potato.", "t1")),
    (5.2, said("t1-1", "mira", "Mira", "Bram says it is art.", "t1")),
    (
        5.3,
        turn("t1", "mira", "ended", revision_seen=6, age_ms=14, runtime="offline", first_sentence_ms=42, total_ms=60),
    ),
    (5.4, Heard({"type": "action", "npc_id": "mira", "action": "emote", "data": {"type": "wave", "at": None}})),
    (9, said("u2", "1", "Ravi", "Juno, did you bring the map?")),
    (9, turn("t2", "", "silent", "ADDRESSED_PLAYER", cause_utterance_id="u2")),
    (9, Answered(Utterance(2, "1", "Ravi", "Juno, ..."), {"outcome": "silent", "utterance_id": "u2", "reason": "X"})),
    (12, snapshot({"type": "left", "cluster": "c1", "members": ["2"]}, clusters={"c1": ["1", "mira"]})),
    (13, Answered(Utterance(3, "2", "Juno", "Anybody?"), {"outcome": "unheard", "utterance_id": "u3"})),
    (14, Synced({"sync": {"npcs": []}})),
    (16, Synced({"sync": {"npcs": [{"npc_id": "odette", "writes": 1, "turns": 0, "confirmed_revision": 17}]}})),
    (20, turn("t4", "odette", "started", "GATE")),
    (20, turn("t4", "odette", "declined", "PASSED")),
    (21, turn("t7", "odette", "started", "DECIDE")),
    (21, turn("t7", "odette", "declined", "PASSED")),
    (30, turn("t5", "odette", "started", "GATE")),
    (30, said("t5-0", "odette", "Captain Odette", "Halt!", "t5")),
    (31, turn("t5", "odette", "cancelled", "BARGE_IN")),
    (40, turn("t6", "mira", "failed", "SOMETHING_NEW")),
    (41, Trouble("http://127.0.0.1:8080 cannot be reached (connection refused); trying again until it answers")),
    (75, snapshot({"type": "dissolved", "cluster": "c1", "members": ["1", "mira"]}, clusters={})),
]

GOLDEN = """\
  0:00                  Evening at the Sleepy Badger.
  0:02  * earshot       + Mira and Ravi hear each other
  0:04  * earshot       + Juno joins Mira and Ravi
  0:05  Ravi            Mira, what is in the soup tonight?
  0:05  Mira            Leek and potato.
  0:05                  Bram says it is art.
  0:05  ~ refreshed     Mira called by name | revision 6, 14 ms old | after 42 ms | offline
  0:05  > action        Mira emote (wave)
  0:09  Ravi            Juno, did you bring the map?
  0:09  . silence       it was said to another player
  0:12  * earshot       - Juno leaves Mira and Ravi
  0:13  Juno            Anybody?
  0:13  . unheard       no NPC is within earshot
  0:16  ~ refreshed     Captain Odette now holds revision 17 | written at once
  0:20  . silence       Captain Odette had nothing to add
  0:30  Captain Odette  Halt!
  0:31  . stopped       Captain Odette stops: a player spoke
  0:40  ! failed        Mira could not answer: something new
  0:41  ! trouble       http://127.0.0.1:8080 cannot be reached (connection refused); trying again until it
                        answers
  1:15  * earshot       - Mira and Ravi part"""


def run(happenings: Iterable[tuple[float, Happening]], look: Look = PLAIN) -> tuple[Telling, str]:
    telling = begin(ROSTER)
    rows: list[str] = []
    for at, happening in happenings:
        telling, lines = tell(telling, at, happening)
        rows.extend(paint(line, look) for line in lines)
    return telling, "\n".join(rows)


def test_the_golden_evening() -> None:
    telling, text = run(EVENING)
    assert text == GOLDEN
    tally = telling.tally
    assert (tally.turns, tally.silences, tally.unheard, tally.failures) == (1, 2, 1, 1)
    assert (tally.runtime_calls, tally.actions, tally.pushes) == (4, 1, 1)
    assert (tally.first_sentence_ms, tally.first_sentences) == (42, 1)


def test_the_golden_evening_in_colour() -> None:
    _, text = run(EVENING[:2], Look(colour=True, unicode=True))
    dim, off = "\x1b[2m", "\x1b[0m"
    mira, ravi = f"\x1b[38;5;173;1mMira{off}", f"\x1b[1mRavi{off}"
    assert text == (
        f"{dim}  0:00  {off}                \x1b[2;3mEvening at the Sleepy Badger.{off}\n"
        f"{dim}  0:02  {off}\x1b[32m● earshot{off}       + {mira} and {ravi} {dim}hear each other{off}"
    )


def test_a_turn_that_knows_its_revision_at_the_start_is_told_before_it_speaks() -> None:
    _, text = run(
        [
            (1, turn("t", "mira", "started", "GREETING", revision_seen=3, age_ms=1500)),
            (2, said("x", "mira", "Mira", "Welcome!", "t")),
            (2, turn("t", "mira", "ended", "GREETING", revision_seen=3, age_ms=1500)),
        ]
    )
    assert text.splitlines() == [
        "  0:01  ~ refreshed     Mira greets who came | revision 3, 1.5 s old",
        "  0:02  Mira            Welcome!",
    ]


def test_why_nobody_speaks_is_told_once_whatever_comes_first() -> None:
    utterance = Utterance(1, "1", "Ravi", "Hm.")
    answer = Answered(utterance, {"outcome": "silent", "utterance_id": "u", "reason": "GATE"})
    event = turn("t", "", "silent", "GATE", cause_utterance_id="u")
    line = said("u", "1", "Ravi", "Hm.")
    told = [run([(1, one) for one in order])[1] for order in ((line, answer, event), (line, event, answer))]
    told.append(run([(1, one) for one in (answer, line, event)])[1])
    assert set(told) == {"  0:01  Ravi            Hm.\n  0:01  . silence       no NPC felt spoken to"}


def test_a_line_that_is_repeated_by_the_log_is_told_once() -> None:
    line = said("u", "1", "Ravi", "Hm.")
    unheard = Answered(Utterance(1, "1", "Ravi", "Hm."), {"outcome": "unheard", "utterance_id": "u"})
    assert run([(1, line), (1, line)])[1].count("Hm.") == 1
    assert run([(1, unheard), (1, line)])[1].count("Hm.") == 1


def test_a_stranger_gets_the_name_that_came_along() -> None:
    _, text = run([(1, said("u", "77", "Zoe", "Hi!")), (2, said("v", "77", "", "Me again."))])
    assert text == "  0:01  Zoe             Hi!\n  0:02  Zoe             Me again."


def test_many_members_become_a_number() -> None:
    crowd = [f"p{i}" for i in range(9)]
    change = {"type": "joined", "cluster": "c", "members": ["mira"]}
    _, text = run([(1, snapshot(change, clusters={"c": ["mira", *crowd]}))])
    assert text.endswith("+ Mira joins p0, p1, p2, p3 and 5 more")


def test_merging_and_splitting() -> None:
    members = {"c": ["1", "mira", "odette"], "d": ["2", "x"]}
    changes = [
        {"type": "merged", "cluster": "c", "members": ["odette"], "other": "e"},
        {"type": "split", "cluster": "d", "members": ["2", "x"], "other": "c"},
        {"type": "joined", "cluster": "c", "members": ["1", "odette"]},
        {"type": "left", "cluster": "gone", "members": ["1"]},
        {"type": "split", "cluster": "d", "members": ["1"], "other": "gone"},
        {"type": "something new", "members": ["1"]},
    ]
    _, text = run([(1, snapshot(*changes, clusters=members))])
    assert [line.partition("earshot       ")[2] for line in text.splitlines()] == [
        "+ Captain Odette merges with Mira and Ravi",
        "- Juno and x split off from Captain Odette, Mira and Ravi",
        "+ Captain Odette and Ravi join Mira",
        "- Ravi leaves",
        "- Ravi splits off",
    ]


def test_sentences_that_come_together_are_one_line() -> None:
    events = [
        said("a0", "mira", "Mira", "One.", "a"), said("b0", "odette", "Captain Odette", "Eins.", "b"),
        said("a1", "mira", "Mira", "Two.", "a"), said("b1", "odette", "Captain Odette", "Zwei.", "b"),
        said("u", "1", "Ravi", "Stop!"), said("a2", "mira", "Mira", "Three.", "a"),
    ]  # fmt: skip
    page = gathered([heard.event for heard in events])
    assert [event["text"] for event in page] == ["One. Two.", "Eins. Zwei.", "Stop!", "Three."]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", ""]), st.sampled_from(["utterance", "turn"])), max_size=12))
def test_gathering_loses_nothing(page: list[tuple[str, str]]) -> None:
    events = [{"type": kind, "turn_id": turn, "text": f"{i}"} for i, (turn, kind) in enumerate(page)]
    told = gathered(events)
    assert sorted(" ".join(event["text"] for event in told).split(), key=int) == [event["text"] for event in events]
    assert [event for event in told if event["type"] == "turn"] == [one for one in events if one["type"] == "turn"]


def test_a_refused_field_is_told_once() -> None:
    answer = Applied({"refused": [{"path": "entities[3].position.x", "reason": "NOT_FINITE"}]})
    assert run([(1, answer), (2, answer)])[1] == "  0:01  ! refused       entities[3].position.x: not finite"


def test_a_write_during_a_turn_belongs_to_the_turn() -> None:
    def looked(writes: int, turns: int) -> Synced:
        status = {"npc_id": "mira", "writes": writes, "turns": turns, "confirmed_revision": 9}
        return Synced({"sync": {"npcs": [status]}})

    started, ended = turn("t", "mira", "started", "GATE"), turn("t", "mira", "ended", revision_seen=9)
    _, text = run([(0, looked(1, 0)), (1, started), (1, looked(2, 0)), (2, ended), (3, looked(2, 1))])
    assert "at once" not in text
    assert "now holds" in run([(0, looked(1, 0)), (3, looked(2, 0))])[1]


def test_what_is_remembered_is_bounded() -> None:
    happenings: list[tuple[float, Happening]] = []
    for i in range(3 * KEPT):
        happenings.append((i, said(f"u{i}", "1", "Ravi", "Hm.")))
        happenings.append((i, turn(f"t{i}", "mira", "started", "GATE")))
        happenings.append((i, said(f"s{i}", "mira", "Mira", "Hm?", f"t{i}")))
        happenings.append((i, turn(f"x{i}", "", "silent", "GATE", cause_utterance_id=f"u{i}")))
        happenings.append((i, Answered(Utterance(i, "1", "R", "x"), {"outcome": "silent", "utterance_id": f"w{i}"})))
        happenings.append((i, Applied({"refused": [{"path": f"p{i}"}]})))
    telling, _ = run(happenings)
    kept = (telling.turns, telling.asked, telling.spoke, telling.said, telling.silent, telling.waiting, telling.refused)
    assert [len(one) for one in kept] == [KEPT] * len(kept)
    assert telling.tally.runtime_calls == 3 * KEPT


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    [
        "type", "phase", "reason", "turn_id", "npc_id", "npc_name", "utterance_id", "speaker", "text",
        "revision_seen", "age_ms", "first_sentence_ms", "clusters", "transitions", "members", "cluster", "refused",
        "sync", "npcs", "data", "action", "outcome", "cause_utterance_id",
    ]
)  # fmt: skip
kinds = st.sampled_from(["utterance", "turn", "action", "membership", "notice"])
phases = st.sampled_from(["started", "ended", "declined", "cancelled", "failed", "silent"])
answers = st.builds(
    lambda odd, kind, phase: {**odd, "type": kind, "phase": phase}, st.dictionaries(names, json), kinds, phases
)


@settings(max_examples=60)
@given(st.lists(answers, max_size=4))
def test_no_answer_however_odd_stops_the_telling(odd: list[dict[str, Any]]) -> None:
    utterance = Utterance(1, "1", "Ravi", "Hm.")
    happenings: list[tuple[float, Happening]] = []
    for one in odd:
        happenings += [(1, Heard(one)), (1, Applied(one)), (1, Answered(utterance, one)), (1, Synced(one))]
    _, text = run(happenings)
    assert "\x1b" not in text
