"""What an NPC knows: place in bands, health in tens, combat that lingers, company, and what of it changed
when.
"""

from __future__ import annotations

import asyncio

import pytest
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from tests.unit.state.room import NPC, PLAYER, WORLD, Room, Rows, running

AT, NEAR, FAR = state_pb2.DISTANCE_BAND_AT, state_pb2.DISTANCE_BAND_NEAR, state_pb2.DISTANCE_BAND_FAR
PETE: Rows = {"pete": (NPC, 0, 0)}
PAIR: Rows = PETE | {"ann": (PLAYER, 5, 0)}


def place(slug: str, x: float) -> type_pb2.Location:
    return type_pb2.Location(slug=slug, name=slug.title(), position=type_pb2.Vector3(x=x))


def status(npc: str = "pete", **fields: object) -> state_pb2.StatusObservation:
    return state_pb2.StatusObservation(npc_id=npc, **fields)  # type: ignore[arg-type]  # spelled out by each test


async def test_members_with_positions_kinds_and_looks() -> None:
    async with running() as room:
        await room.roster(
            npcs=[type_pb2.NpcProfile(id="pete", display_name="Pete", appearance="a tall man")],
            players=[type_pb2.PlayerProfile(id="ann", description="a knight")],
        )
        await room.snapshot(
            PAIR | {"bob": (NPC, 3, 4)},
            names=["", "Ann", "Bob"],
            looks=[b"{}", b"{}", b'{"appearance": "in red"}'],
            details=[b"{}", b"{}", b'{"velocity": 3}'],
            health=[50, 100, 80],
            max_health=[100, 100, 100],
        )
        found = await room.context("pete")
        assert (found.present, found.self.name, found.self.appearance) == (True, "Pete", "a tall man")
        assert (found.heard, found.lineage, found.revision) == (True, "1.0", 1)
        members = {m.entity.id: m for m in found.members}
        assert members.keys() == {"ann", "bob"}
        assert (members["bob"].distance, members["bob"].entity.appearance) == (5.0, "in red")
        assert (members["ann"].entity.position.x, members["ann"].entity.description) == (5.0, "a knight")
        assert (members["ann"].entity.kind, members["ann"].since_revision) == (PLAYER, 1)
        assert found.profile.id == "pete"


async def test_an_npc_of_the_roster_that_is_elsewhere_and_one_that_nobody_knows() -> None:
    async with running() as room:
        await room.roster(npcs=[type_pb2.NpcProfile(id="pete", persona="a cook")])
        elsewhere, unknown = await room.context("pete"), await room.context("ghost")
        assert (elsewhere.present, elsewhere.profile.persona, elsewhere.status.code) == (False, "a cook", 0)
        assert unknown.status.reason == "UNKNOWN_NPC"


async def test_one_missing_revision_does_not_fail_the_other_worlds() -> None:
    async with running() as room:
        await room.snapshot(PETE)
        keys = [
            state_pb2.NpcKey(world=WORLD, npc_id="pete"),
            state_pb2.NpcKey(world=type_pb2.WorldRef(tenant="t", world="new"), npc_id="pete"),
        ]
        request = state_pb2.BatchGetNpcContextRequest(npcs=keys, min_revision=1)
        fine, late = (await room.stub.BatchGetNpcContext(request, timeout=5)).contexts
        assert (fine.status.code, late.status.reason) == (0, "REVISION_UNKNOWN")


async def test_odd_details_are_no_details() -> None:
    async with running() as room:
        for details in (b"[1]", b"{", b'{"appearance": 5}', b"\xff", b"[" * 3000):
            await room.snapshot(PETE, looks=[details])
            assert (await room.context("pete")).self.appearance == ""


class TestPlace:
    async def test_bands_are_sticky(self) -> None:
        async with running() as room:
            await room.roster(locations=[place("well", 0)])
            seen = []
            for x in (40, 31, 30, 32.9, 33.1, 31, 29, 5, 5.9, 6.1, 5.5, 4):
                await room.snapshot({"pete": (NPC, x, 0)})
                found = await room.context("pete")
                assert found.location.slug == "well"
                seen.append(found.location_band)
            assert seen == [FAR, FAR, NEAR, NEAR, FAR, FAR, NEAR, AT, AT, NEAR, NEAR, AT]

    async def test_the_nearest_place_changes_only_when_clearly_nearer(self) -> None:
        async with running() as room:
            await room.roster(locations=[place("mill", 0), place("well", 20)])
            seen = []
            for x in (9, 11, 11.6, 9, 8.4):
                await room.snapshot({"pete": (NPC, x, 0)})
                seen.append((await room.context("pete")).location.slug)
            assert seen == ["mill", "mill", "well", "well", "mill"]

    async def test_where_positions_lack_the_game_says_where(self) -> None:
        async with running() as room:
            await room.roster(npcs=[type_pb2.NpcProfile(id="pete")], locations=[place("well", 0)])
            await room.observe(status(location="well"))
            found = await room.context("pete")
            assert (found.location.name, found.location_band) == ("Well", AT)
            await room.observe(status(location="chipotle"))
            assert (await room.context("pete")).location.slug == "chipotle"
            await room.observe(status(location="Unknown"))
            assert not (await room.context("pete")).HasField("location")

    async def test_a_cluster_is_where_its_first_npc_is(self) -> None:
        async with running() as room:
            people = {"ann": (PLAYER, 1, 0), "pete": (NPC, 0, 0), "tom": (NPC, 500, 0), "zoe": (PLAYER, 501, 0)}
            await room.snapshot(people)
            assert [cluster.location for cluster in (await room.earshot()).clusters] == ["", ""]
            await room.roster(locations=[place("well", 0)])
            await room.snapshot(people)
            told = {"pete" in [m.id for m in c.members]: c.location for c in (await room.earshot()).clusters}
            assert told[True] == "well"

    async def test_new_locations_show_without_a_snapshot(self) -> None:
        async with running() as room:
            await room.snapshot(PETE)
            await room.roster(locations=[place("well", 0)])
            await asyncio.sleep(0.1)
            found = await room.context("pete")
            assert (found.location.slug, found.revision, found.status_revision) == ("well", 2, 2)


class TestHealth:
    async def test_tens_are_sticky(self) -> None:
        async with running() as room:
            seen = []
            for health in (100, 94, 92, 86, 84, 99, 3, 0.2, 0, 50):
                await room.snapshot(PETE, health=[health], max_health=[100])
                seen.append((await room.context("pete")).health_percent)
            assert seen == [100, 100, 90, 90, 90, 100, 10, 10, 0, 50]

    async def test_unknown_stays_as_it_was(self) -> None:
        async with running() as room:
            await room.snapshot(PETE)
            assert (await room.context("pete")).health_percent == -1
            await room.snapshot(PETE, health=[30], max_health=[60])
            await room.snapshot(PETE)
            assert (await room.context("pete")).health_percent == 50


class TestCombat:
    async def test_it_lingers(self) -> None:
        async with running() as room:
            await room.snapshot(PETE, actions=["Combat"])
            await asyncio.sleep(60)
            assert (await room.context("pete")).combat  # still fights, however long
            await room.snapshot(PETE, actions=["Idle"])
            await asyncio.sleep(9.9)
            assert (await room.context("pete")).combat
            await asyncio.sleep(0.2)
            found = await room.context("pete")
            assert (found.combat, found.revision, found.status_revision) == (False, 3, 3)
            answer = await room.earshot(after_revision=1)
            assert dict(answer.combat_changes) == {"pete": False}

    async def test_a_blow_is_a_sign(self) -> None:
        async with running() as room:
            hit = type_pb2.GameEvent(type="damage", actor_id="ann", target_id="pete")
            await room.snapshot(PAIR, events=[hit])
            assert (await room.context("pete")).combat
            answer = await room.earshot(after_revision=0)
            assert len(answer.events) == 0  # not asked
            assert [e.type for e in (await room.context("pete")).recent_events] == ["damage"]


class TestCompany:
    async def test_who_left_a_moment_ago(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR | {"eve": (PLAYER, 6, 0)}, names=["", "", "Eve"])
            await room.snapshot(PAIR)
            (gone,) = (await room.context("pete")).departed
            assert (gone.id, gone.name, gone.kind) == ("eve", "Eve", PLAYER)
            await room.snapshot(PAIR | {"eve": (PLAYER, 6, 0)})
            assert len((await room.context("pete")).departed) == 0

    async def test_the_company_of_a_lineage_that_just_dissolved(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.snapshot({"pete": (NPC, 0, 0), "ann": (PLAYER, 90, 0)})
            found = await room.context("pete")
            assert (found.lineage, [gone.id for gone in found.departed]) == ("", ["ann"])

    async def test_departures_fade(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR | {"eve": (PLAYER, 6, 0)})
            await room.snapshot(PAIR)
            await asyncio.sleep(61)
            await room.snapshot({"pete": (NPC, 1, 0), "ann": (PLAYER, 5, 0)})
            found = await room.context("pete")
            assert (len(found.departed), found.group_revision) == (0, 3)

    async def test_clusters_nearby(self) -> None:
        async with running() as room:
            await room.snapshot(
                PAIR | {"bob": (NPC, 30, 0), "eve": (PLAYER, 36, 0), "x": (NPC, 80, 0), "y": (NPC, 81, 0)},
                names=["", "", "Bob", "Eve", "", ""],
            )
            (nearby,) = (await room.context("pete")).nearby
            assert (list(nearby.member_names), nearby.distance) == (["Bob", "Eve"], 30.0)


class TestRevisions:
    """The revision of a block is that of the last commit that could change its text."""

    async def revisions(self, room: Room) -> tuple[int, int, int]:
        found = await room.context("pete")
        return found.status_revision, found.group_revision, found.events_revision

    async def test_what_text_cannot_say_changes_none(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR, health=[100, 100], max_health=[100, 100], last_seen=[1.0, 1.0])
            await room.snapshot(
                {"pete": (NPC, 2, 0), "ann": (PLAYER, 6, 0)},
                health=[97, 10],
                max_health=[100, 100],
                last_seen=[2.0, 2.0],
                details=[b'{"velocity": 3}', b'{"velocity": 4}'],
            )
            assert await self.revisions(room) == (1, 1, 1)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"actions": ["Patrolling", ""]}, (2, 1, 1)),
            ({"actions": ["", "Dancing"]}, (1, 1, 1)),
            ({"health": [40, 100], "max_health": [100, 100]}, (2, 1, 1)),
            ({"names": ["", "Annie"]}, (1, 2, 1)),
            ({"looks": [b"{}", b'{"appearance": "red"}']}, (1, 2, 1)),
            ({"events": [type_pb2.GameEvent(type="cheer", actor_id="ann")]}, (1, 1, 2)),
            ({"events": [type_pb2.GameEvent(type="rain")]}, (1, 1, 2)),
            ({"events": [type_pb2.GameEvent(type="cheer", actor_id="far")]}, (1, 1, 1)),
        ],
    )
    async def test_each_change_marks_its_block(self, change: dict[str, object], expected: tuple[int, ...]) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.snapshot(PAIR, **change)
            assert await self.revisions(room) == expected

    async def test_company_marks_the_group(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.snapshot(PAIR | {"eve": (PLAYER, 6, 0)})
            assert await self.revisions(room) == (1, 2, 1)

    async def test_a_profile_marks_the_status_of_its_npc(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.roster(npcs=[type_pb2.NpcProfile(id="pete", persona="a cook")])
            await asyncio.sleep(0.1)
            assert await self.revisions(room) == (2, 1, 1)
            await room.roster(npcs=[type_pb2.NpcProfile(id="pete", persona="a cook")])  # nothing new
            await asyncio.sleep(0.1)
            assert (await room.context("pete")).revision == 2


class TestEvents:
    async def test_a_list_that_is_never_cleared_is_told_once(self) -> None:
        async with running() as room:
            events = [type_pb2.GameEvent(id=f"e{n}", type="cheer", actor_id="pete") for n in range(3)]
            await room.snapshot(PETE, events=events[:2])
            await room.snapshot(PETE, events=events)
            answer = await room.earshot(after_revision=1)
            assert [e.id for e in answer.events] == ["e2"]
            assert [e.id for e in (await room.context("pete")).recent_events] == ["e0", "e1", "e2"]

    async def test_an_npc_remembers_what_it_witnessed_and_nothing_else(self) -> None:
        far, near = {"mara": (NPC, 100, 0)}, {"mara": (NPC, 3, 0)}

        async def remembered(room: Room, npc: str) -> list[str]:
            return [event.id for event in (await room.context(npc)).recent_events]

        async with running() as room:
            await room.snapshot(PAIR | far)
            await room.snapshot(
                PAIR | far,
                events=[
                    type_pb2.GameEvent(id="trade", type="trade", actor_id="ann"),
                    type_pb2.GameEvent(id="rain", type="rain"),
                ],
            )
            assert (await remembered(room, "pete"), await remembered(room, "mara")) == (["trade", "rain"], ["rain"])
            # Who comes later was not there; who goes away was.
            await room.snapshot(PAIR | near)
            assert await remembered(room, "mara") == ["rain"]
            await room.snapshot({"pete": (NPC, 200, 0), "mara": (NPC, 3, 0), "ann": (PLAYER, 5, 0)})
            assert await remembered(room, "pete") == ["trade", "rain"]
            # The one who takes part may be gone with the snapshot that tells of it.
            gone = [type_pb2.GameEvent(id="left", type="player_left", actor_id="ann")]
            revision = (await room.snapshot({"pete": (NPC, 200, 0), "mara": (NPC, 3, 0)}, events=gone)).revision
            assert await remembered(room, "mara") == ["rain", "left"]
            assert await remembered(room, "pete") == ["trade", "rain"]
            assert (await room.context("mara")).events_revision == revision

    async def test_without_ids_content_tells_them_apart(self) -> None:
        async with running() as room:
            one = type_pb2.GameEvent(type="cheer", actor_id="pete", at_ms=1)
            two = type_pb2.GameEvent(type="cheer", actor_id="pete", at_ms=2)
            await room.snapshot(PETE, events=[one, one, two])
            assert [e.at_ms for e in (await room.context("pete")).recent_events] == [1, 2]

    async def test_they_are_bounded_and_the_gap_is_told(self) -> None:
        async with running(events_kept=4) as room:
            for n in range(4):
                events = [type_pb2.GameEvent(id=f"{n}.{k}", type="cheer") for k in range(2)]
                await room.snapshot(PETE, events=events)
            assert len((await room.world()).recent_events) == 4
            assert (await room.earshot(after_revision=1)).transitions_gap
            assert not (await room.earshot(after_revision=2)).transitions_gap

    async def test_over_long_ones_are_refused_alone(self) -> None:
        async with running() as room:
            events = [type_pb2.GameEvent(type="a", text="x" * 201), type_pb2.GameEvent(type="b")]
            result = await room.snapshot(PETE, events=events)
            assert [(r.path, r.reason) for r in result.refused] == [("events[0].text", "TOO_LONG")]
            assert [e.type for e in (await room.world()).recent_events] == ["b"]
