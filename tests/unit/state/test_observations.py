"""Single facts: the old status call, links without positions, expected statuses and results."""

from __future__ import annotations

import asyncio

import pytest
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from tests.unit.state.room import NPC, PLAYER, Room, Rows, clusters, columns, running, told

PAIR: Rows = {"pete": (NPC, 0, 0), "ann": (PLAYER, 5, 0)}


def link(npc: str = "pete", player: str = "ann", **fields: object) -> state_pb2.Link:
    return state_pb2.Link(npc_id=npc, player_id=player, **fields)  # type: ignore[arg-type]  # spelled out by tests


def status(npc: str = "pete", **fields: object) -> state_pb2.StatusObservation:
    return state_pb2.StatusObservation(npc_id=npc, **fields)  # type: ignore[arg-type]  # spelled out by tests


def result(action: str, *, success: bool, **fields: object) -> state_pb2.ActionResult:
    return state_pb2.ActionResult(npc_id="pete", action_id=action, success=success, **fields)  # type: ignore[arg-type]  # spelled out by tests


async def action_of(room: Room, npc: str = "pete") -> str:
    return (await room.context(npc)).self.action


class TestLinks:
    async def test_a_world_without_snapshots(self) -> None:
        """The existing game's current version: group updates only, renewed every 30 s, never taken back."""
        async with running() as room:
            answer = await room.observe(link(player_name="Ann"), link("bob"))
            assert (answer.revision, list(answer.refused)) == (1, [])
            assert clusters(await room.earshot()) == [{"ann", "bob", "pete"}]
            found = await room.context("pete")
            assert (found.heard, {m.entity.name for m in found.members}) == (True, {"Ann", "bob"})

    async def test_a_link_ends_75_s_after_its_last_report_and_the_player_is_gone(self) -> None:
        async with running() as room:
            await room.observe(link())
            await asyncio.sleep(40)
            await room.observe(link())
            await asyncio.sleep(74)
            assert clusters(await room.earshot()) == [{"ann", "pete"}]
            await asyncio.sleep(2)
            answer = await room.earshot(after_revision=1)
            assert (clusters(answer), told(answer.transitions)) == ([], [("dissolved", {"ann", "pete"})])
            assert list((await room.world()).entities.ids) == ["pete"]

    async def test_leaving(self) -> None:
        async with running() as room:
            await room.observe(link(), link(player="eve"))
            await room.observe(link(leaving=True))
            answer = await room.earshot(after_revision=1)
            assert told(answer.transitions) == [("left", {"ann"})]

    async def test_positions_go_before_links(self) -> None:
        async with running() as room:
            await room.observe(link())
            await room.snapshot({"pete": (NPC, 0, 0), "ann": (PLAYER, 50, 0)})
            assert clusters(await room.earshot()) == []

    async def test_a_full_snapshot_keeps_those_whom_only_a_link_knows(self) -> None:
        async with running() as room:
            await room.observe(link())
            await room.snapshot({"pete": (NPC, 0, 0)})
            assert clusters(await room.earshot()) == [{"ann", "pete"}]

    async def test_a_player_with_a_position_leaves_with_the_snapshot_that_omits_them(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.observe(link())
            await room.snapshot({"pete": (NPC, 0, 0)})
            assert list((await room.world()).entities.ids) == ["pete"]

    @pytest.mark.parametrize(
        ("bad", "path", "reason"),
        [
            (link(""), "npc_id", "BAD_ID"),
            (link(player="p" * 65), "player_id", "BAD_ID"),
            (link("x", "x"), "player_id", "DUPLICATE_ID"),
            (link(player_name="n" * 201), "player_name", "TOO_LONG"),
        ],
    )
    async def test_a_bad_one_is_refused_alone(self, bad: state_pb2.Link, path: str, reason: str) -> None:
        async with running() as room:
            answer = await room.observe(bad, link("bob"))
            assert [(r.path, r.reason) for r in answer.refused] == [(f"observations[0].{path}", reason)]
            assert clusters(await room.earshot()) == [{"ann", "bob"}]


class TestStatus:
    async def test_the_old_status_call(self) -> None:
        async with running() as room:
            await room.roster(npcs=[type_pb2.NpcProfile(id="pete")])
            await room.observe(status(action="Idle", location="chipotle", health=65))
            await room.observe(status(action="Following"))
            found = (await room.context("pete")).self
            assert (found.action, found.location, found.health) == ("Following", "chipotle", 65)

    async def test_an_npc_that_nobody_knows_is_refused(self) -> None:
        async with running() as room:
            answer = await room.observe(status("ghost", action="Idle"))
            assert [(r.path, r.reason) for r in answer.refused] == [("observations[0].npc_id", "UNKNOWN_NPC")]
            assert list((await room.world()).entities.ids) == []

    async def test_infinite_health_is_refused(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            answer = await room.observe(status(health=float("inf")))
            assert [(r.path, r.reason) for r in answer.refused] == [("observations[0].health", "NOT_FINITE")]

    async def test_a_delta_still_builds_on_what_an_observation_did_not_touch(self) -> None:
        async with running() as room:
            epoch = await room.open()
            await room.snapshot(PAIR, epoch=epoch, seq=1)
            await room.observe(status(action="Idle"))
            delta = await room.snapshot({"ann": (PLAYER, 6, 0)}, epoch=epoch, seq=2, delta=True, base_seq=1)
            assert delta.outcome == state_pb2.INGEST_OUTCOME_APPLIED
            assert await action_of(room) == "Idle"

    async def test_an_empty_observation(self) -> None:
        async with running() as room:
            request = state_pb2.ReportObservationsRequest(
                world=type_pb2.WorldRef(tenant="t", world="w"), observations=[state_pb2.Observation()]
            )
            answer = await room.stub.ReportObservations(request, timeout=5)
            assert [(r.path, r.reason) for r in answer.refused] == [("observations[0]", "EMPTY")]


class TestExpected:
    """C9: what an action should bring about holds until its result, or until it expires."""

    async def test_it_covers_the_reported_status_and_reverts(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR, actions=["Idle", ""])
            await room.observe(status(action="Patrolling", expires_ms=10_000, action_id="a1"))
            found = await room.context("pete")
            assert (found.self.action, found.expected_action_id, found.status_revision) == ("Patrolling", "a1", 2)
            await room.snapshot(PAIR, actions=["Idle", ""])
            assert await action_of(room) == "Patrolling"
            await asyncio.sleep(10.1)
            found = await room.context("pete")
            assert (found.self.action, found.expected_action_id, found.status_revision) == ("Idle", "", 4)

    async def test_success_makes_it_true(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.observe(status(action="Following", location="well", expires_ms=10_000, action_id="a1"))
            await room.observe(result("a1", success=True, updates=status(action="Hunting")))
            await asyncio.sleep(20)
            found = (await room.context("pete")).self
            assert (found.action, found.location) == ("Hunting", "well")

    async def test_failure_reverts_it(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR, actions=["Idle", ""])
            await room.observe(status(action="Following", expires_ms=10_000, action_id="a1"))
            await room.observe(result("a1", success=False))
            assert await action_of(room) == "Idle"

    async def test_the_result_of_another_action_leaves_it(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.observe(status(action="Following", expires_ms=10_000, action_id="a2"))
            await room.observe(result("a1", success=False))
            assert await action_of(room) == "Following"

    async def test_it_brings_nobody_into_the_world(self) -> None:
        async with running() as room:
            await room.roster(npcs=[type_pb2.NpcProfile(id="pete")])
            answer = await room.observe(status(action="x", expires_ms=1000), result("a", success=True))
            assert [r.reason for r in answer.refused] == ["NOT_PRESENT", "NOT_PRESENT"]


class TestNames:
    """Snapshots of the existing game name everybody by display name."""

    NPCS = (type_pb2.NpcProfile(id="n-1", display_name="Pete"),)

    async def test_names_become_ids_by_the_roster(self) -> None:
        async with running() as room:
            await room.roster(npcs=self.NPCS, players=[type_pb2.PlayerProfile(id="42", name="Ann")])
            await room.snapshot({"Pete": (0, 0, 0), "Ann": (0, 5, 0), "Stranger": (0, 6, 0)}, ids_are_names=True)
            entities = (await room.world()).entities
            assert dict(zip(entities.ids, entities.kinds, strict=True)) == {"42": 2, "Stranger": 2, "n-1": 1}
            assert set(entities.names) == {"Ann", "Stranger", "Pete"}

    async def test_a_player_of_an_npcs_name_is_not_that_npc(self) -> None:
        async with running() as room:
            await room.roster(npcs=self.NPCS)
            await room.snapshot({"Pete": (PLAYER, 0, 0)}, ids_are_names=True)
            assert list((await room.world()).entities.ids) == ["Pete"]
            assert not (await room.context("n-1")).present

    async def test_a_link_teaches_a_players_id(self) -> None:
        async with running() as room:
            await room.roster(npcs=self.NPCS)
            await room.observe(link("n-1", "42", player_name="Ann"))
            await room.snapshot({"Pete": (0, 0, 0), "Ann": (0, 5, 0)}, ids_are_names=True)
            assert clusters(await room.earshot()) == [{"42", "n-1"}]

    async def test_two_rows_of_one_npc_are_one(self) -> None:
        async with running() as room:
            await room.roster(npcs=self.NPCS)
            answer = await room.snapshot({"Pete": (0, 0, 0), "pete": (0, 9, 0)}, ids_are_names=True)
            assert [(r.path, r.reason) for r in answer.refused] == [("entities[1].id", "DUPLICATE_ID")]


class TestGroups:
    async def test_positions_of_members_without_an_entry(self) -> None:
        async with running() as room:
            group = state_pb2.GroupReport(
                member_ids=["pete", "ann", "eve"],
                positions=columns({"eve": (PLAYER, 7, 0), "ann": (PLAYER, 90, 0)}),
            )
            answer = await room.snapshot(PAIR, groups=[group], want_positions=True)
            assert set(answer.clusters.member_ids) == {"pete", "ann", "eve"}  # ann's own entry counts

    async def test_groups_are_links_where_positions_lack(self) -> None:
        """The first version of the game reports no positions at all."""
        async with running() as room:
            group = state_pb2.GroupReport(member_ids=["pete", "ann"])
            await room.snapshot({"pete": (NPC,), "ann": (PLAYER,), "eve": (PLAYER,)}, groups=[group])
            assert clusters(await room.earshot()) == [{"pete", "ann"}]
            await room.snapshot({"pete": (NPC, 0, 0), "ann": (PLAYER, 90, 0)}, groups=[group])
            assert clusters(await room.earshot()) == []

    async def test_members_without_entry_or_position_are_together_all_the_same(self) -> None:
        async with running() as room:
            group = state_pb2.GroupReport(member_ids=["pete", "eve"], positions=columns({"eve": (PLAYER,)}))
            await room.snapshot({"pete": (NPC, 0, 0)}, groups=[group])
            assert clusters(await room.earshot()) == [{"eve", "pete"}]

    async def test_bad_positions_are_named(self) -> None:
        async with running() as room:
            group = state_pb2.GroupReport(positions=columns({"eve": (PLAYER, float("inf"), 0)}))
            answer = await room.snapshot(PAIR, groups=[group])
            assert [(r.path, r.reason) for r in answer.refused] == [("groups[0].positions[0].position.x", "NOT_FINITE")]
