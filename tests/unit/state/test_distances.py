"""Distances of the worlds of some places."""

from __future__ import annotations

import pytest

from services.common.errors import BadInput
from services.state.distances import Distances, places
from tests.unit.state.room import PLAYER, WORLD, Rows, clusters, running

USUAL = Distances(10.0, 12.0, 1.0)


def test_the_longest_beginning_counts() -> None:
    known = places(USUAL, "place:1=5/6, place:12=20/25/0,arena=30/30/0.5 ")
    assert known.of("place:1:job") == Distances(5.0, 6.0, 1.0)
    assert known.of("place:12:job") == Distances(20.0, 25.0, 0.0)
    assert known.of("arena-7") == Distances(30.0, 30.0, 0.5)
    assert known.of("elsewhere") == USUAL


@pytest.mark.parametrize(
    "text", ["a", "a=", "a=5", "=5/6", "a=6/5", "a=0/5", "a=nan/5", "a=5/inf", "a=5/6/-1", "a=5/6/1/1", "a=x/y"]
)
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(BadInput, match="join") as failure:
        places(USUAL, f"fine=1/2,{text}")
    assert failure.value.reason == "BAD_DISTANCES"


async def test_a_world_of_a_place_has_its_own_distances() -> None:
    rows: Rows = {"ann": (PLAYER, 0, 0), "bob": (PLAYER, 8, 0)}
    for text, heard in (("", True), (f"{WORLD.world}=5/6", False), ("other=5/6", True)):
        async with running(distances=text) as room:
            await room.snapshot(rows)
            assert bool(clusters(await room.earshot())) is heard
