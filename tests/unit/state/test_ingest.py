"""Snapshots through the stream: order, refusals, one apply at a time, one revision for positions and
clusters.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from earshot.state.v1 import state_pb2

from tests.unit.state.room import NPC, PLAYER, Rows, clusters, item, members, running, told

APPLIED = state_pb2.INGEST_OUTCOME_APPLIED
DUPLICATE = state_pb2.INGEST_OUTCOME_DUPLICATE
RESYNC = state_pb2.INGEST_OUTCOME_RESYNC
SUPERSEDED = state_pb2.INGEST_OUTCOME_SUPERSEDED

PAIR: Rows = {"pete": (NPC, 0, 0), "ann": (PLAYER, 5, 0)}


async def test_a_first_snapshot_makes_the_first_revision() -> None:
    async with running() as room:
        result = await room.snapshot(PAIR | {"far": (PLAYER, 100, 0)})
        assert (result.outcome, result.revision, result.status.code) == (APPLIED, 1, 0)
        assert members(result.clusters) == [{"pete", "ann"}]
        assert list(result.clusters.npcs) == [1]
        assert told(result.transitions) == [("formed", {"pete", "ann"})]
        assert result.clusters.x == b""
        answer = await room.earshot()
        assert (answer.revision, clusters(answer), answer.entity_count) == (1, [{"pete", "ann"}], 3)


async def test_positions_of_every_member_when_wanted() -> None:
    async with running() as room:
        result = await room.snapshot(PAIR, want_positions=True)
        at = dict(zip(result.clusters.member_ids, np.frombuffer(result.clusters.x, "<f4").tolist(), strict=True))
        assert at == {"pete": 0.0, "ann": 5.0}


async def test_who_is_not_named_has_left() -> None:
    async with running() as room:
        await room.snapshot(PAIR | {"eve": (PLAYER, 6, 0)})
        result = await room.snapshot(PAIR)
        assert told(result.transitions) == [("left", {"eve"})]
        result = await room.snapshot({"pete": (NPC, 0, 0)})
        assert told(result.transitions) == [("dissolved", {"pete", "ann"})]


async def test_an_empty_first_snapshot_is_a_world_of_nobody() -> None:
    async with running() as room:
        result = await room.snapshot()
        assert (result.outcome, result.revision) == (APPLIED, 1)
        assert (await room.world()).revision == 1


async def test_movement_below_the_threshold_is_none_and_does_not_add_up_unseen() -> None:
    async with running() as room:
        await room.snapshot({"pete": (NPC, 0, 0)})
        for step in range(1, 4):
            await room.snapshot({"pete": (NPC, step * 0.04, 0)})
            moved = np.frombuffer((await room.world()).entities.x, "<f4")[0]
            assert moved == pytest.approx(0.0 if step < 3 else 0.12)


class TestSequence:
    async def test_duplicates_and_reordering_are_ignored(self) -> None:
        async with running() as room:
            epoch = await room.open()
            assert (await room.snapshot(PAIR, epoch=epoch, seq=2)).outcome == APPLIED
            again = await room.snapshot({"pete": (NPC, 50, 0)}, epoch=epoch, seq=2)
            late = await room.snapshot({"pete": (NPC, 90, 0)}, epoch=epoch, seq=1)
            assert (again.outcome, late.outcome, again.revision) == (DUPLICATE, DUPLICATE, 1)
            assert members(again.clusters) == [{"pete", "ann"}]

    async def test_deltas_build_on_their_base(self) -> None:
        async with running() as room:
            epoch = await room.open()
            await room.snapshot(PAIR, epoch=epoch, seq=1)
            result = await room.snapshot(
                {"eve": (PLAYER, 3, 0)}, epoch=epoch, seq=2, delta=True, base_seq=1, left_ids=["ann"]
            )
            assert (result.outcome, told(result.transitions)) == (APPLIED, [("left", {"ann"}), ("joined", {"eve"})])

    async def test_a_delta_after_an_abandoned_seq_asks_for_a_resync(self) -> None:
        """The game gave up on seq 2, which never arrived; 3 builds on it."""
        async with running() as room:
            epoch = await room.open()
            await room.snapshot(PAIR, epoch=epoch, seq=1)
            lost = await room.snapshot({"ann": (PLAYER, 90, 0)}, epoch=epoch, seq=3, delta=True, base_seq=2)
            assert (lost.outcome, lost.revision) == (RESYNC, 1)
            assert members(lost.clusters) == [{"pete", "ann"}]
            assert (await room.snapshot(PAIR, epoch=epoch, seq=4)).outcome == APPLIED
            healed = await room.snapshot({"ann": (PLAYER, 9, 0)}, epoch=epoch, seq=5, delta=True, base_seq=4)
            assert healed.outcome == APPLIED

    async def test_a_delta_never_builds_on_an_unsequenced_snapshot(self) -> None:
        async with running() as room:
            epoch = await room.open()
            await room.snapshot(PAIR, epoch=epoch, seq=1)
            assert (await room.snapshot({"pete": (NPC, 0, 0)}, epoch=epoch)).outcome == APPLIED
            result = await room.snapshot({"ann": (PLAYER, 9, 0)}, epoch=epoch, seq=2, delta=True, base_seq=1)
            assert result.outcome == RESYNC
            assert (await room.snapshot(PAIR, epoch=epoch, seq=1)).outcome == DUPLICATE

    async def test_an_older_epoch_is_stale(self) -> None:
        async with running() as room:
            old = await room.open("one")
            new = await room.open("two")
            assert new > old
            assert await room.open("one") == old
            stale = await room.snapshot(PAIR, epoch=old, seq=1)
            assert (stale.status.reason, stale.status.code) == ("STALE_EPOCH", 10)
            assert (await room.snapshot(PAIR, epoch=new, seq=1)).outcome == APPLIED
            unknown = await room.snapshot(PAIR, epoch=new + 1, seq=1)
            assert unknown.status.reason == "STALE_EPOCH"

    async def test_a_new_epoch_counts_from_the_start(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR, epoch=await room.open("one"), seq=50)
            epoch = await room.open("two")
            delta = await room.snapshot({}, epoch=epoch, seq=1, delta=True, base_seq=50)
            assert delta.outcome == RESYNC
            assert (await room.snapshot(PAIR, epoch=epoch, seq=1)).outcome == APPLIED

    async def test_an_epoch_of_a_world_that_is_not_known_makes_none(self) -> None:
        async with running() as room:
            assert (await room.snapshot(PAIR, epoch=7, seq=1)).status.reason == "STALE_EPOCH"
            assert (await room.earshot()).revision == 0


class TestTurns:
    async def test_two_snapshots_of_one_world_interleaving_in_assign(self) -> None:
        """The second waits for the first: it is compared with what the first made, not with what was before."""
        async with running() as room:
            room.cluster.gate.clear()
            first = asyncio.create_task(room.snapshot(PAIR, epoch=await room.open(), seq=1))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(room.snapshot({"pete": (NPC, 0, 0), "eve": (PLAYER, 1, 0)}, epoch=1, seq=2))
            await asyncio.sleep(0.1)
            assert room.cluster.calls == 1
            room.cluster.gate.set()
            one, two = await first, await second
            assert (one.revision, two.revision) == (1, 2)
            assert told(two.transitions) == [("left", {"ann"}), ("joined", {"eve"})]

    async def test_a_world_that_waits_holds_up_no_other(self) -> None:
        async with running() as room:
            room.cluster.gate.clear()
            slow = asyncio.create_task(room.snapshot(PAIR))
            await asyncio.sleep(0.1)
            room.cluster.gate.set()
            other = item(PAIR)
            other.world.world = "other"
            (result,) = await room.send(other)
            assert result.outcome == APPLIED
            assert (await slow).outcome == APPLIED

    async def test_a_waiting_full_snapshot_is_replaced_by_a_newer_one(self) -> None:
        async with running() as room:
            room.cluster.gate.clear()
            sent = []
            for x in range(4):
                sent.append(asyncio.create_task(room.snapshot({"pete": (NPC, x * 10, 0)})))
                await asyncio.sleep(0.01)
            room.cluster.gate.set()
            outcomes = [result.outcome for result in await asyncio.gather(*sent)]
            assert outcomes == [APPLIED, SUPERSEDED, SUPERSEDED, APPLIED]
            assert np.frombuffer((await room.world()).entities.x, "<f4").tolist() == [30.0]

    async def test_more_than_four_waiting_are_refused(self) -> None:
        async with running() as room:
            epoch = await room.open()
            room.cluster.gate.clear()
            sent = []
            for seq in range(1, 8):
                sent.append(asyncio.create_task(room.snapshot({"pete": (NPC, seq, 0)}, epoch=epoch, seq=seq)))
                await asyncio.sleep(0.01)
            room.cluster.gate.set()
            reasons = [result.status.reason for result in await asyncio.gather(*sent)]
            assert reasons == [""] * 5 + ["OVERLOADED"] * 2

    async def test_nothing_is_applied_when_assign_fails(self) -> None:
        async with running() as room:
            epoch = await room.open()
            await room.snapshot(PAIR, epoch=epoch, seq=1)
            room.cluster.broken = True
            failed = await room.snapshot({"pete": (NPC, 60, 0)}, epoch=epoch, seq=2)
            assert (failed.status.reason, failed.status.retryable) == ("CLUSTER_UNAVAILABLE", True)
            answer = await room.earshot()
            assert (answer.revision, clusters(answer)) == (1, [{"pete", "ann"}])
            room.cluster.broken = False
            retried = await room.snapshot({"pete": (NPC, 60, 0)}, epoch=epoch, seq=2)
            assert (retried.outcome, retried.revision) == (APPLIED, 2)

    async def test_an_item_past_its_budget_is_answered_so_and_applies_nothing(self) -> None:
        async with running() as room:
            room.cluster.gate.clear()
            result = await room.snapshot(PAIR, budget_ms=50)
            assert result.status.reason == "DEADLINE_EXCEEDED"
            room.cluster.gate.set()
            assert (await room.earshot()).revision == 0
            assert (await room.snapshot(PAIR)).outcome == APPLIED

    async def test_a_hung_cluster_room_is_given_up(self) -> None:
        async with running() as room:
            room.cluster.gate.clear()
            assert (await room.snapshot(PAIR)).status.reason == "CLUSTER_UNAVAILABLE"

    async def test_what_cannot_change_clusters_does_not_ask_for_them(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR, actions=["Idle", ""])
            result = await room.snapshot(PAIR, actions=["Patrolling", ""])
            assert (room.cluster.calls, result.revision) == (1, 2)
            assert members(result.clusters) == [{"pete", "ann"}]


class TestOddInput:
    async def test_an_entity_that_is_nowhere_is_named_and_the_rest_applies(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            result = await room.snapshot(
                {"pete": (NPC, float("inf"), 0), "ann": (PLAYER, 6, 0), "bad": (PLAYER, 1, float("-inf"))}
            )
            assert {(r.path, r.reason) for r in result.refused} == {
                ("entities[0].position.x", "NOT_FINITE"),
                ("entities[2].position.z", "NOT_FINITE"),
            }
            assert members(result.clusters) == [{"pete", "ann"}]  # pete stays as he was, bad never came
            assert set((await room.world()).entities.ids) == {"pete", "ann"}

    async def test_a_repeated_or_impossible_id_is_refused_alone(self) -> None:
        async with running() as room:
            sent = item({"pete": (NPC, 0, 0), "x": (PLAYER, 1, 0), "y": (PLAYER, 2, 0), "z": (PLAYER, 3, 0)})
            sent.entities.ids[1], sent.entities.ids[2], sent.entities.ids[3] = "pete", "", "i" * 65
            (result,) = await room.send(sent)
            assert [(r.path, r.reason) for r in result.refused] == [
                ("entities[1].id", "DUPLICATE_ID"),
                ("entities[2].id", "BAD_ID"),
                ("entities[3].id", "BAD_ID"),
            ]
            assert list((await room.world()).entities.ids) == ["pete"]

    async def test_infinite_health_costs_the_field(self) -> None:
        async with running() as room:
            result = await room.snapshot({"pete": (NPC, 0, 0)}, health=[float("inf")], max_health=[100])
            assert [(r.path, r.reason) for r in result.refused] == [("entities[0].health", "NOT_FINITE")]
            assert not (await room.context("pete")).self.HasField("health")

    async def test_stale_entries_are_gone(self) -> None:
        """The existing game never removes anybody: an old lastSeen is its way of saying so."""
        async with running() as room:
            rows: Rows = PAIR | {"eve": (PLAYER, 1, 1)}
            await room.snapshot(rows, last_seen=[1000.0, 1000.0, 1000.0])
            result = await room.snapshot(rows, last_seen=[1100.0, 1100.0, 1000.0])
            assert told(result.transitions) == [("left", {"eve"})]

    @pytest.mark.parametrize("column", ["kinds", "x", "health", "last_seen", "names"])
    async def test_columns_that_do_not_fit_are_refused_and_the_next_item_is_served(self, column: str) -> None:
        async with running() as room:
            bad = item(PAIR)
            value = ["a"] if column == "names" else b"12345"
            bad.entities.ClearField(column)  # type: ignore[arg-type]  # one of the names above
            if isinstance(value, list):
                getattr(bad.entities, column).extend(value)
            else:
                setattr(bad.entities, column, value)
            refused, fine = await room.send(bad, item(PAIR))
            assert refused.status.reason == "MALFORMED_COLUMNS"
            assert fine.outcome == APPLIED

    async def test_a_cold_column_of_another_length_says_nothing(self) -> None:
        async with running() as room:
            result = await room.snapshot(PAIR, looks=[b'{"appearance":"red"}'], details=[b'{"velocity":1}'] * 3)
            assert result.outcome == APPLIED
            assert (await room.context("pete")).self.appearance == ""
            await room.snapshot({"pete": (NPC, 1, 1)}, looks=[b'{"appearance":"red"}'], epoch=0)
            assert (await room.context("pete")).self.appearance == "red"

    async def test_too_many_entities(self) -> None:
        async with running(entities_max=3) as room:
            crowd: Rows = {f"p{n}": (PLAYER, n * 20, 0) for n in range(4)}
            result = await room.snapshot(crowd)
            assert (result.status.reason, result.status.code) == ("TOO_MANY_ENTITIES", 11)
            epoch = await room.open()
            await room.snapshot(dict(list(crowd.items())[:3]), epoch=epoch, seq=1)
            grown = await room.snapshot({"p3": (PLAYER, 0, 0)}, epoch=epoch, seq=2, delta=True, base_seq=1)
            assert grown.status.reason == "TOO_MANY_ENTITIES"

    async def test_too_many_worlds(self) -> None:
        async with running(worlds_max=1) as room:
            await room.snapshot(PAIR)
            second = item(PAIR)
            second.world.world = "second"
            (result,) = await room.send(second)
            assert (result.status.reason, result.status.code) == ("WORLDS_FULL", 8)

    @pytest.mark.parametrize("world", ["", "w" * 129])
    async def test_a_world_needs_a_name(self, world: str) -> None:
        async with running() as room:
            sent = item(PAIR)
            sent.world.world = world
            (result,) = await room.send(sent)
            assert result.status.reason == "BAD_WORLD"

    async def test_a_delta_without_a_session_is_refused(self) -> None:
        async with running() as room:
            assert (await room.snapshot(PAIR, delta=True)).status.reason == "DELTA_WITHOUT_BASE"
