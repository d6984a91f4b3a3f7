"""The roster: upserts, refusals one by one, versions; players described and erased."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common.clock import LoopClock
from services.common.errors import from_rpc
from tests.unit.state.room import NPC, PLAYER, Room, Rows, running

PAIR: Rows = {"pete": (NPC, 0, 0), "ann": (PLAYER, 5, 0)}
PETE = type_pb2.NpcProfile(
    id="pete",
    display_name="Pete",
    aliases=["Cook"],
    persona="a cook",
    talkativeness=0.7,
    actions=["emote"],
    lines=["Hello."],
    runtimes=["offline"],
    agent_id="agent-1",
    decide_on=["combat"],
    memory_scope="session",
    blocks={"goals": "to cook"},
    appearance="tall",
    model_settings=b'{"temperature": 0.5}',
)


async def profiles(room: Room, **fields: object) -> state_pb2.ListNpcProfilesResponse:
    request = state_pb2.ListNpcProfilesRequest(tenant="t", **fields)  # type: ignore[arg-type]  # spelled out by tests
    return await room.stub.ListNpcProfiles(request, timeout=5)


async def describe(room: Room, player: str, world: str = "") -> tuple[str, str]:
    request = state_pb2.DescribePlayerRequest(tenant="t", player_id=player, world=world)
    answer = await room.stub.DescribePlayer(request, timeout=5)
    return answer.description, answer.source


@pytest.mark.real_time
async def test_everything_is_kept_durably(tmp_path: Path) -> None:
    async with running(str(tmp_path), LoopClock()) as room:
        answer = await room.roster(
            npcs=[PETE],
            locations=[type_pb2.Location(slug="well", name="Well", position=type_pb2.Vector3(x=1, y=2, z=3))],
            players=[type_pb2.PlayerProfile(id="ann", name="Ann", description="a knight")],
        )
        assert (answer.roster_version, answer.npcs, answer.locations, answer.players) == (1, 1, 1, 1)
    async with running(str(tmp_path), LoopClock()) as room:
        (stored,) = (await profiles(room)).npcs
        expected = type_pb2.NpcProfile(version=1)
        expected.MergeFrom(PETE)
        stored.talkativeness = expected.talkativeness = round(stored.talkativeness, 4)
        assert stored == expected
        listed = await room.stub.ListLocations(state_pb2.ListLocationsRequest(tenant="t"), timeout=5)
        assert [(place.slug, place.position.y) for place in listed.locations] == [("well", 2.0)]
        assert await describe(room, "ann") == ("a knight", "stored")


async def test_versions_tell_what_changed() -> None:
    async with running() as room:
        await room.roster(npcs=[PETE])
        again = await room.roster(npcs=[PETE])
        assert again.roster_version == 1  # nothing new
        await room.roster(npcs=[type_pb2.NpcProfile(id="bob")])
        found = await profiles(room)
        assert {npc.id: (npc.version, npc.display_name) for npc in found.npcs} == {
            "pete": (1, "Pete"),
            "bob": (2, "bob"),
        }
        assert (await profiles(room, known_version=2)).not_modified
        assert [npc.id for npc in (await profiles(room, ids=["bob", "nobody"])).npcs] == ["bob"]


async def test_locations_upsert_or_replace() -> None:
    async with running() as room:
        well, mill = type_pb2.Location(slug="well"), type_pb2.Location(slug="mill")
        await room.roster(locations=[well])
        assert (await room.roster(locations=[mill])).locations == 2
        assert (await room.roster(locations=[mill], replace_locations=True)).locations == 1
        assert (await room.roster(replace_locations=True)).locations == 0


LONG = "x" * 8193
BAD_NPCS = [
    (type_pb2.NpcProfile(), "npcs[1].id", "BAD_ID"),
    (type_pb2.NpcProfile(id="x" * 65), "npcs[1].id", "BAD_ID"),
    (type_pb2.NpcProfile(id="b", persona=LONG), "npcs[b].persona", "TOO_LONG"),
    (type_pb2.NpcProfile(id="b", display_name="x" * 201), "npcs[b].display_name", "TOO_LONG"),
    (type_pb2.NpcProfile(id="b", aliases=["a"] * 65), "npcs[b].aliases", "TOO_LONG"),
    (type_pb2.NpcProfile(id="b", lines=["x" * 201]), "npcs[b].lines", "TOO_LONG"),
    (type_pb2.NpcProfile(id="b", talkativeness=2), "npcs[b].talkativeness", "OUT_OF_RANGE"),
    (type_pb2.NpcProfile(id="b", talkativeness=float("nan")), "npcs[b].talkativeness", "OUT_OF_RANGE"),
    (type_pb2.NpcProfile(id="b", memory_scope="forever"), "npcs[b].memory_scope", "UNKNOWN_VALUE"),
    (type_pb2.NpcProfile(id="b", blocks={"a": LONG}), "npcs[b].blocks", "TOO_LONG"),
    (type_pb2.NpcProfile(id="b", appearance=LONG), "npcs[b].appearance", "TOO_LONG"),
    (type_pb2.NpcProfile(id="b", model_settings=b"{"), "npcs[b].model_settings", "NOT_JSON"),
    (type_pb2.NpcProfile(id="b", model_settings=b"[" * 8000), "npcs[b].model_settings", "NOT_JSON"),
]


@pytest.mark.parametrize(("bad", "path", "reason"), BAD_NPCS)
async def test_a_bad_profile_is_refused_alone(bad: type_pb2.NpcProfile, path: str, reason: str) -> None:
    async with running() as room:
        answer = await room.roster(npcs=[PETE, bad])
        assert [(r.path, r.reason) for r in answer.refused] == [(path, reason)]
        assert answer.npcs == 1


async def test_bad_places_and_players_are_refused_alone() -> None:
    async with running() as room:
        answer = await room.roster(
            locations=[
                type_pb2.Location(slug="a", position=type_pb2.Vector3(x=float("inf"))),
                type_pb2.Location(slug="b", name="x" * 201),
                type_pb2.Location(slug="c", description=LONG),
                type_pb2.Location(slug="fine"),
            ],
            players=[
                type_pb2.PlayerProfile(id="a", name="x" * 201),
                type_pb2.PlayerProfile(id="b", description=LONG),
            ],
        )
        assert [(r.path, r.reason) for r in answer.refused] == [
            ("locations[a].coordinates", "NOT_FINITE"),
            ("locations[b].name", "TOO_LONG"),
            ("locations[c].description", "TOO_LONG"),
            ("players[a].name", "TOO_LONG"),
            ("players[b].description", "TOO_LONG"),
        ]
        assert (answer.locations, answer.players) == (1, 0)


async def test_a_tenant_has_a_name() -> None:
    async with running() as room:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await room.stub.ImportRoster(state_pb2.ImportRosterRequest(), timeout=5)
        assert from_rpc(failure.value).reason == "BAD_TENANT"


async def test_deleting_a_profile() -> None:
    async with running() as room:
        await room.roster(npcs=[PETE])
        request = state_pb2.DeleteNpcProfileRequest(tenant="t", id="pete")
        first = await room.stub.DeleteNpcProfile(request, timeout=5)
        second = await room.stub.DeleteNpcProfile(request, timeout=5)
        assert (first.deleted, first.roster_version, second.deleted) == (True, 2, False)
        assert len((await profiles(room)).npcs) == 0


async def test_changes_of_one_roster_do_not_cross() -> None:
    async with running() as room:
        answers = await asyncio.gather(*(room.roster(npcs=[type_pb2.NpcProfile(id=f"n{n}")]) for n in range(20)))
        assert sorted(answer.roster_version for answer in answers) == list(range(1, 21))
        assert len((await profiles(room)).npcs) == 20


async def test_players_are_described_from_what_is_known() -> None:
    async with running() as room:
        await room.snapshot(PAIR, names=["", "Ann"], looks=[b"{}", b'{"description": "in green"}'])
        await room.roster(players=[type_pb2.PlayerProfile(id="eve", name="Eve")])
        assert await describe(room, "ann") == ("Ann: in green", "composed")
        assert (await describe(room, "ann", "elsewhere"))[1] == "unknown"
        assert await describe(room, "eve") == ("A player called Eve.", "composed")
        text, source = await describe(room, "nobody")
        assert (bool(text), source) == (True, "unknown")


PLAYER_ID = "player-90210"


@pytest.mark.real_time
async def test_erasing_a_player_leaves_nothing_of_them(tmp_path: Path) -> None:
    async with running(str(tmp_path), LoopClock()) as room:
        await room.roster(players=[type_pb2.PlayerProfile(id=PLAYER_ID, name="Ann", description="a knight")])
        crowd: Rows = {"pete": (NPC, 0, 0), PLAYER_ID: (PLAYER, 5, 0), "bob": (NPC, 6, 0)}
        hit = type_pb2.GameEvent(type="damage", actor_id=PLAYER_ID, target_id="pete")
        await room.snapshot(crowd, names=["Pete", "Ann", "Bob"], events=[hit])
        await room.observe(state_pb2.Link(npc_id="pete", player_id=PLAYER_ID, player_name="Ann"))
        await room.snapshot({"pete": (NPC, 0, 0), "bob": (NPC, 1, 0)})  # departed, remembered as such
        await room.snapshot(crowd)
        await room.snapshot({"pete": (NPC, 0, 0)})  # dissolved, might revive
        request = state_pb2.ErasePlayerRequest(tenant="t", player_id=PLAYER_ID)
        answer = await room.stub.ErasePlayer(request, timeout=5)
        assert {r.store: r.removed for r in answer.receipts} == {"state.worlds": 1, "state.roster": 1}
        everything = (
            await room.earshot(after_revision=1), await room.context("pete"), await room.world(),
            await describe(room, PLAYER_ID),
        )  # fmt: skip
        assert PLAYER_ID not in str(everything)
        for file in tmp_path.iterdir():  # while the room runs: the write-ahead log too
            assert PLAYER_ID.encode() not in file.read_bytes(), file.name
        again = await room.stub.ErasePlayer(request, timeout=5)
        assert [r.removed for r in again.receipts] == [0, 0]
