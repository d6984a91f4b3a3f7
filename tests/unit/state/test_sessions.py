"""Epochs, closing, expiry, and numbers that are never used twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common.clock import LoopClock
from services.common.errors import from_rpc
from tests.unit.state.room import NPC, PLAYER, WORLD, Room, Rows, clusters, running, told

PAIR: Rows = {"pete": (NPC, 0, 0), "ann": (PLAYER, 5, 0)}
STALE = "STALE_EPOCH"


async def close(room: Room, epoch: int) -> bool:
    request = state_pb2.CloseSessionRequest(world=WORLD, epoch=epoch)
    return (await room.stub.CloseSession(request, timeout=5)).closed


async def test_epochs_increase_and_are_idempotent_on_job_and_boot() -> None:
    async with running() as room:
        assert [await room.open("a"), await room.open("a"), await room.open("b"), await room.open("a")] == [1, 1, 2, 1]
        assert await room.open("a", job="other") == 3


async def test_concurrent_opens_of_one_boot_get_one_epoch() -> None:
    async with running() as room:
        assert await asyncio.gather(*(room.open("a") for _ in range(5))) == [1] * 5


@pytest.mark.parametrize(("job", "boot"), [("", "b"), ("j", ""), ("j" * 201, "b")])
async def test_a_session_needs_names(job: str, boot: str) -> None:
    async with running() as room:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await room.open(boot, job)
        assert from_rpc(failure.value).reason == "BAD_SESSION"
        assert await room.open() == 1


async def test_closing_the_newest_epoch_closes_the_world() -> None:
    async with running() as room:
        epoch = await room.open()
        await room.snapshot(PAIR, epoch=epoch, seq=1)
        assert await close(room, epoch)
        answer = await room.earshot(after_revision=1)
        assert (answer.closed, answer.entity_count, clusters(answer)) == (True, 0, [])
        assert told(answer.transitions) == [("dissolved", {"pete", "ann"})]
        assert await close(room, epoch)  # again is no error
        assert (await room.snapshot(PAIR, epoch=epoch, seq=2)).status.reason == STALE


async def test_closing_an_older_epoch_closes_nothing() -> None:
    async with running() as room:
        old, new = await room.open("a"), await room.open("b")
        await room.snapshot(PAIR, epoch=new, seq=1)
        assert not await close(room, old)
        assert not (await room.earshot()).closed


async def test_closing_what_was_never_opened() -> None:
    async with running() as room:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await close(room, 1)
        assert from_rpc(failure.value).reason == "UNKNOWN_EPOCH"


async def test_a_new_session_reopens_a_closed_world() -> None:
    async with running() as room:
        await room.snapshot(PAIR, epoch=await room.open("a"), seq=1)
        await close(room, 1)
        result = await room.snapshot(PAIR, epoch=await room.open("b"), seq=1)
        assert result.revision == 3
        assert not (await room.earshot()).closed


async def test_a_quiet_world_closes_and_its_session_may_go_on() -> None:
    async with running(world_expiry_s=60) as room:
        epoch = await room.open()
        await room.snapshot(PAIR, epoch=epoch, seq=1)
        await asyncio.sleep(59)
        assert not (await room.earshot()).closed
        await asyncio.sleep(2)
        assert (await room.earshot()).closed
        result = await room.snapshot(PAIR, epoch=epoch, seq=2)
        assert (result.outcome, result.revision) == (state_pb2.INGEST_OUTCOME_APPLIED, 3)


async def test_a_world_closed_for_long_is_forgotten_but_its_numbers_are_not() -> None:
    async with running(world_expiry_s=60) as room:
        await room.snapshot(PAIR, epoch=await room.open(), seq=1)
        await asyncio.sleep(200)
        for revision in (0, 7):
            started = asyncio.get_running_loop().time()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await room.world(revision)
            assert from_rpc(failure.value).reason == "UNKNOWN_WORLD"
            assert asyncio.get_running_loop().time() == started, "at once: nobody was told a revision of it"
        assert await room.open() == 2
        assert (await room.snapshot(PAIR, epoch=2, seq=1)).revision == 3


@pytest.mark.real_time
async def test_a_restart_loads_worlds_and_skips_numbers(tmp_path: Path) -> None:
    async with running(str(tmp_path), LoopClock()) as room:
        epoch = await room.open("a")
        await room.snapshot(PAIR, epoch=epoch, seq=1)
        (lineage,) = [c.lineage for c in (await room.earshot()).clusters]
    async with running(str(tmp_path), LoopClock()) as room:
        answer = await room.earshot(min_revision=1, after_revision=1)
        assert (answer.revision, answer.transitions_gap) == (65_537, True)
        assert [(c.lineage, c.formed_revision) for c in answer.clusters] == [(lineage, 1)]
        assert await room.open("a") == epoch
        assert await room.open("b") == epoch + 1
        same = await room.snapshot(PAIR, epoch=epoch + 1, seq=1)
        assert (same.revision, told(same.transitions)) == (65_538, [])


@pytest.mark.real_time
async def test_a_restart_goes_on_with_the_session(tmp_path: Path) -> None:
    async with running(str(tmp_path), LoopClock()) as room:
        epoch = await room.open()
        await room.snapshot(PAIR, epoch=epoch, seq=1)
    async with running(str(tmp_path), LoopClock()) as room:
        assert (await room.snapshot(PAIR, epoch=epoch, seq=1)).outcome == state_pb2.INGEST_OUTCOME_DUPLICATE
        delta = await room.snapshot({"ann": (PLAYER, 90, 0)}, epoch=epoch, seq=2, delta=True, base_seq=1)
        assert told(delta.transitions) == [("dissolved", {"pete", "ann"})]


@pytest.mark.real_time
async def test_lives_without_a_write_still_skip(tmp_path: Path) -> None:
    """A revision that was shown and never stored is not shown again as another one."""
    async with running(str(tmp_path), LoopClock()) as room:
        await room.snapshot(PAIR)
    for life in (1, 2, 3):
        async with running(str(tmp_path), LoopClock()) as room:
            assert (await room.earshot()).revision == 1 + life * 65_536
    async with running(str(tmp_path), LoopClock()) as room:
        fresh = await room.stub.OpenSession(
            state_pb2.OpenSessionRequest(world=type_pb2.WorldRef(tenant="t", world="new"), job="j", boot="b"), timeout=5
        )
        assert fresh.revision == 0


class TestReads:
    async def test_a_read_above_the_current_revision_waits_for_it(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            waiting = asyncio.create_task(room.earshot(min_revision=2))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            await room.snapshot(PAIR)
            assert (await waiting).revision == 2

    @pytest.mark.parametrize("known", [True, False])
    async def test_then_the_revision_is_unknown(self, known: bool) -> None:
        async with running() as room:
            if known:
                await room.snapshot(PAIR)
            started = asyncio.get_running_loop().time()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await room.earshot(min_revision=2)
            assert from_rpc(failure.value).reason == "REVISION_UNKNOWN"
            assert asyncio.get_running_loop().time() - started == pytest.approx(1.0, abs=0.01)
            assert (await room.earshot()).revision == int(known)

    async def test_earshot_of_one_entity(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR | {"bob": (NPC, 50, 0), "eve": (PLAYER, 51, 0), "lone": (NPC, 99, 0)})
            assert clusters(await room.earshot(entity_id="eve")) == [{"bob", "eve"}]
            assert clusters(await room.earshot(entity_id="lone")) == []
            assert clusters(await room.earshot(entity_id="nobody")) == []

    async def test_members_know_since_when(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.snapshot(PAIR | {"eve": (PLAYER, 6, 0)})
            (cluster,) = (await room.earshot()).clusters
            assert {m.id: m.since_revision for m in cluster.members} == {"pete": 1, "ann": 1, "eve": 2}

    async def test_transitions_since_a_revision(self) -> None:
        async with running() as room:
            await room.snapshot(PAIR)
            await room.snapshot(PAIR | {"eve": (PLAYER, 6, 0)})
            await room.snapshot(PAIR)
            answer = await room.earshot(after_revision=1)
            assert told(answer.transitions) == [("joined", {"eve"}), ("left", {"eve"})]
            assert not answer.transitions_gap
            assert [t.revision for t in answer.transitions] == [2, 3]

    async def test_a_reader_far_behind_learns_of_the_gap(self) -> None:
        async with running() as room:
            for step in range(130):
                await room.snapshot(PAIR if step % 2 else {"pete": (NPC, 0, 0)})
            assert (await room.earshot(after_revision=5)).transitions_gap
            assert not (await room.earshot(after_revision=125)).transitions_gap

    async def test_list_worlds_in_pages(self) -> None:
        async with running() as room:
            for name in ("c", "a", "b"):
                request = state_pb2.OpenSessionRequest(
                    world=type_pb2.WorldRef(tenant="t", world=name), job="j", boot="b"
                )
                await room.stub.OpenSession(request, timeout=5)
            seen, token = [], ""
            while True:
                page = await room.stub.ListWorlds(
                    state_pb2.ListWorldsRequest(tenant="t", page_size=2, page_token=token), timeout=5
                )
                seen += [summary.world.world for summary in page.worlds]
                token = page.next_page_token
                if not token:
                    break
            assert seen == ["a", "b", "c"]
            other = await room.stub.ListWorlds(state_pb2.ListWorldsRequest(tenant="u"), timeout=5)
            assert len(other.worlds) == 0
