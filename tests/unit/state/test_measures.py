"""What the room tells of its worlds at a scrape, and the game's own groups against clusters."""

from __future__ import annotations

import pytest
from earshot.state.v1 import state_pb2

from tests.unit.state.room import NPC, PLAYER, Room, running

# The room compiles on a thread, which such short tests would not wait for in virtual time.
pytestmark = pytest.mark.real_time


def value(running: Room, name: str, /, **labels: str) -> float:
    found = running.app.metrics.registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


async def test_worlds_entities_and_clusters_are_counted_when_somebody_asks() -> None:
    async with running() as room:
        assert value(room, "earshot_worlds") == 0
        await room.snapshot({"mara": (NPC, 0, 0), "p1": (PLAYER, 3, 0), "far": (NPC, 500, 0)})
        assert value(room, "earshot_worlds") == 1
        assert value(room, "earshot_entities") == 3
        assert value(room, "earshot_clusters") == 1
        assert value(room, "earshot_members_unplaced_ratio") == 0


async def test_members_that_only_links_place_are_told() -> None:
    async with running() as room:
        group = state_pb2.GroupReport(member_ids=["mara", "p1"])
        await room.snapshot({"mara": (NPC, 0, 0), "p1": (PLAYER,)}, groups=[group])
        assert value(room, "earshot_members_unplaced_ratio") == 0.5


async def test_the_game_s_groups_are_compared_with_clusters() -> None:
    async with running() as room:
        groups = [
            state_pb2.GroupReport(member_ids=["mara", "p1"]),
            state_pb2.GroupReport(member_ids=["mara", "far", "nobody"]),
        ]
        await room.snapshot({"mara": (NPC, 0, 0), "p1": (PLAYER, 3, 0), "far": (NPC, 500, 0)}, groups=groups)
        assert value(room, "earshot_game_pairs_total", verdict="agrees") == 1
        assert value(room, "earshot_game_pairs_total", verdict="differs") == 1


async def test_a_group_commit_is_timed_and_its_writes_are_counted() -> None:
    async with running() as room:
        await room.snapshot({"mara": (NPC, 0, 0)})
        assert value(room, "earshot_store_commit_seconds_count", room="state") >= 1
        assert value(room, "earshot_store_writes_total", room="state", outcome="committed") >= 1
        assert value(room, "earshot_store_writes_total", room="state", outcome="failed") == 0
