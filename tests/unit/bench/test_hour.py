"""The tavern hour: it plays, and its judge sees what must not be."""

from __future__ import annotations

from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from bench.hour import Stage, played, results
from bench.troupe import troupe
from services.common.settings import Settings


def turn(
    seq: int, turn_id: str, phase: chat_pb2.TurnPhase.ValueType, conversation: str = "1.0", seen: int = 0
) -> chat_pb2.Event:
    return chat_pb2.Event(
        seq=seq, conversation_id=conversation,
        turn=chat_pb2.TurnEvent(
            turn_id=turn_id, npc_id=f"npc-{turn_id}", phase=phase, cause_utterance_id="u", revision_seen=seen
        ),
    )  # fmt: skip


def judged(*events: chat_pb2.Event, said_at: int = 5) -> Stage:
    stage = Stage([], Settings())
    stage._said["u"] = (0.0, said_at)
    stage._judge(events)
    return stage


def test_two_turns_at_once_are_seen() -> None:
    one, two = turn(1, "a", chat_pb2.TURN_PHASE_STARTED), turn(2, "b", chat_pb2.TURN_PHASE_STARTED)
    assert judged(one, two).hour.overlaps == 1
    assert judged(one, turn(2, "a", chat_pb2.TURN_PHASE_ENDED), two).hour.overlaps == 0


def test_a_turn_that_is_led_away_ends_where_it_came_to() -> None:
    one, two = turn(1, "a", chat_pb2.TURN_PHASE_STARTED), turn(3, "b", chat_pb2.TURN_PHASE_STARTED)
    assert judged(one, turn(2, "a", chat_pb2.TURN_PHASE_CANCELLED, "2.0"), two).hour.overlaps == 0


def test_a_turn_goes_where_its_speaker_goes() -> None:
    change = chat_pb2.MembershipEvent(type=type_pb2.TRANSITION_TYPE_SPLIT, member_ids=["npc-a"])
    went = chat_pb2.Event(seq=2, conversation_id="2.0", membership=change)
    one, here = turn(1, "a", chat_pb2.TURN_PHASE_STARTED), turn(3, "b", chat_pb2.TURN_PHASE_STARTED)
    assert judged(one, went, here).hour.overlaps == 0
    assert judged(one, went, turn(3, "b", chat_pb2.TURN_PHASE_STARTED, "2.0")).hour.overlaps == 1


def test_memory_older_than_the_words_is_seen() -> None:
    one = turn(1, "a", chat_pb2.TURN_PHASE_STARTED)
    assert judged(one, turn(2, "a", chat_pb2.TURN_PHASE_ENDED, seen=3)).hour.behind == [2]
    assert judged(one, turn(2, "a", chat_pb2.TURN_PHASE_ENDED, seen=6)).hour.behind == [0]


def test_a_notice_before_the_change_that_it_speaks_of_is_seen() -> None:
    moved = chat_pb2.Event(seq=1, revision=4, membership=chat_pb2.MembershipEvent())
    assert judged(moved, chat_pb2.Event(seq=2, revision=4, notice=chat_pb2.NoticeEvent())).hour.early == 0
    assert judged(moved, chat_pb2.Event(seq=2, revision=5, notice=chat_pb2.NoticeEvent())).hour.early == 1


def test_some_seconds_of_the_hour_are_played() -> None:
    hour = played([troupe("market_day")], 6.0)
    assert hour.snapshots == 6
    assert hour.turns
    assert hour.calls
    assert (hour.overlaps, hour.early) == (0, 0)
    figures = {one.name: one for one in results({"market_day": hour})}
    assert figures["runtime writes, in sum"].peers["naive calls"] == hour.naive > 0
    assert figures["turns on memory older than the words"].ok
