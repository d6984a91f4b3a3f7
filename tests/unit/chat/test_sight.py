"""Revisions that change nothing for chat: no input, no append; and nothing that does change is ever missed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.chat import inputs
from services.chat.sight import Sight, unchanged
from services.chat.store import ChatStore
from tests.unit.chat.neighbours import Line, Tavern, tavern
from tests.unit.chat.test_recovery import KEY, database_of


def observations(room: Tavern) -> list[int]:
    """Revisions that the input log holds as observed."""
    stored = ChatStore(database_of(room)).load(KEY)
    items = [inputs.decode(body) for body in stored.inputs]
    return [item.revision for item in items if isinstance(item, inputs.Observed)]


async def test_a_revision_that_changes_nothing_is_no_input_and_still_the_turns_own(tmp_path: Path) -> None:
    async with tavern(data=str(tmp_path)) as room:
        room.state.move({"L1": ["mara", "p1"]})
        await room.say("p1", "Mara, hello.")
        seen = observations(room)
        for number in range(20):
            room.state.place().revision += 1
            room.state.doorbell()
            await asyncio.sleep(1)
            answer = await room.say("p1", f"Mara, number {number}?")
            assert answer.revision == room.state.place().revision
        assert observations(room) == seen
        assert [ask.min_revision for ask in room.sync.requests][-1] == room.state.place().revision
        last = [event for event in await room.events() if event.utterance.speaker_id == "p1"][-1]
        assert last.revision == room.state.place().revision


async def test_what_changes_is_observed_at_once_whatever_went_before(tmp_path: Path) -> None:
    async with tavern(data=str(tmp_path)) as room:
        room.state.ring = False
        room.state.move({"L1": ["mara", "p1"]})
        await room.say("p1", "Mara, hello.")
        room.state.place().revision += 1
        await room.say("p1", "Mara, again.")
        # There and back again, and a place, each between two lines.
        for clusters in ({"L1": ["mara", "p1", "p2"]}, {"L1": ["mara", "p1"]}):
            revision = room.state.move(clusters)
            answer = await room.say("p1", f"Mara, who is here at {revision}?")
            assert observations(room)[-1] == answer.revision == revision
        room.state.place().locations["L1"] = "well"
        room.state.place().revision += 1
        await room.say("p1", "Mara, where are we?")
        assert observations(room)[-1] == room.state.place().revision
        room.state.place().revision += 1
        room.state.roster_version += 1
        await room.say("p1", "Mara, who are you?")
        assert observations(room)[-1] == room.state.place().revision


async def test_looks_that_cross_end_with_the_newest() -> None:
    async with tavern(lambda _: Line(first_s=0.2), player_messages_per_10s=1000) as room:
        room.state.move({"L1": ["mara", "p1"]})
        await room.say("p1", "Mara, hello.")
        for turn in range(6):
            members = ["mara", "p1", *(["p2"] if turn % 2 else [])]
            room.state.move({"L1": members})
            lines = [room.say("p1", f"Well, {turn} and {number}.", wait=0) for number in range(4)]
            await asyncio.gather(*lines)
            page = await room.events()
            moved = [event.membership for event in page if event.WhichOneof("event") == "membership"]
            assert [member.id for member in moved[-1].members] == members


SIGHTS = st.builds(
    Sight,
    revision=st.integers(1, 3),
    epoch=st.integers(0, 1),
    closed=st.booleans(),
    roster_version=st.integers(0, 1),
    clusters=st.lists(st.sampled_from([b"a", b"b"]), max_size=2).map(tuple),
)


@given(SIGHTS, SIGHTS, st.booleans())
def test_only_a_later_look_at_the_same_is_unchanged(before: Sight, now: Sight, happened: bool) -> None:
    same = (before.epoch, before.closed, before.roster_version, before.clusters) == (
        now.epoch, now.closed, now.roster_version, now.clusters,
    )  # fmt: skip
    assert unchanged(before, now, happened=happened) == (same and not happened and now.revision >= before.revision)
    assert not unchanged(None, now, happened=happened)
