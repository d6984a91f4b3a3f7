"""The state and cluster rooms over real gRPC on loopback, in a process of their own that is killed.

What was acknowledged must be there afterwards: rosters and epochs (durable), world documents (soft: kill -9
is no power loss).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.errors import from_rpc
from tests.unit.state.room import NPC, PLAYER, WORLD, Rows, clusters, item, members

ROOT = Path(__file__).parents[2]
PROCESS = """
import asyncio, sys
from services.cluster import server as cluster
from services.common.app import App
from services.common.settings import Settings
from services.state import server as state

async def main():
    app = App(Settings(), ("state", "cluster"), network=True)
    await cluster.bind(app)
    await state.bind(app)
    async with app:
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
PAIR: Rows = {"pete": (NPC, 0, 0), "ann": (PLAYER, 5, 0)}


class Process:
    """A process of both rooms and a stub of its state room."""

    def __init__(self, data: Path, port: int) -> None:
        self._data = data
        self._port = port
        self._process: asyncio.subprocess.Process | None = None
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub: state_pb2_grpc.StateServiceAsyncStub = state_pb2_grpc.StateServiceStub(self._channel)

    async def start(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
            "EARSHOT_DATA": str(self._data),
            "EARSHOT_STATE_ADDR": f"127.0.0.1:{self._port}",
            "EARSHOT_CLUSTER_ADDR": f"127.0.0.1:{free_port()}",
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n"

    async def kill(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    async def end(self) -> None:
        await self._channel.close()
        await self.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(data: Path) -> AsyncIterator[Process]:
    process = Process(data, free_port())
    try:
        await process.start()
        yield process
    finally:
        await process.end()


async def ingest(process: Process, *items: state_pb2.SnapshotItem) -> list[state_pb2.SnapshotResult]:
    stream = process.stub.Ingest(timeout=20)
    await stream.write(state_pb2.IngestRequest(items=items))
    await stream.done_writing()
    results = [result async for response in stream for result in response.results]
    return sorted(results, key=lambda result: result.id)


async def test_one_stream_serves_many_worlds_and_errors_stay_with_their_item(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        items = [item(PAIR, id=number, budget_ms=5000) for number in range(50)]
        for number, each in enumerate(items):
            each.world.world = f"w{number}"
        items[7].entities.x = b"bad"
        results = await ingest(room, *items)
        assert [r.status.reason for r in results] == ["MALFORMED_COLUMNS" if n == 7 else "" for n in range(50)]
        assert all(members(r.clusters) == [{"pete", "ann"}] for n, r in enumerate(results) if n != 7)
        listed = await room.stub.ListWorlds(state_pb2.ListWorldsRequest(tenant="t"), timeout=5)
        assert len(listed.worlds) == 49


async def test_the_informer_follows_over_the_wire(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        listed = await room.stub.ListNpcs(state_pb2.ListNpcsRequest(tenant="t"), timeout=5)
        watch = room.stub.WatchNpcs(
            state_pb2.WatchNpcsRequest(tenant="t", resume_token=listed.resume_token), timeout=20
        )
        await ingest(room, item(PAIR, id=1))
        response = await watch.read()
        assert isinstance(response, state_pb2.WatchNpcsResponse)
        assert [(c.key.npc_id, c.heard) for c in response.changes] == [("pete", True)]
        watch.cancel()


async def test_errors_keep_their_reason_over_the_wire(tmp_path: Path) -> None:
    async with running(tmp_path) as room:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await room.stub.GetEarshot(state_pb2.GetEarshotRequest(world=WORLD, min_revision=9), timeout=5)
        error = from_rpc(failure.value)
        assert (error.reason, error.retryable) == ("REVISION_UNKNOWN", True)


async def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    """Writers run until the kill; whatever was answered before it is found after it, round after round."""
    rng = random.Random(5)
    epochs: dict[str, int] = {}
    revisions: dict[str, int] = {}
    sequences: dict[str, int] = {}
    profiles: set[str] = set()

    async def open_and_post(room: Process, world: str, round_: int) -> None:
        ref = type_pb2.WorldRef(tenant="t", world=world)
        opened = await room.stub.OpenSession(
            state_pb2.OpenSessionRequest(world=ref, job="j", boot=f"b{round_}"), timeout=5
        )
        assert opened.epoch > epochs.get(world, 0)
        epochs[world], sequences[world] = opened.epoch, 0
        while True:
            seq = sequences[world] + 1
            snapshot = item({"pete": (NPC, seq, 0), "ann": (PLAYER, seq + 3, 0)}, epoch=opened.epoch, seq=seq)
            snapshot.world.world = world
            (result,) = await ingest(room, snapshot)
            if result.status.code == 0:
                assert result.revision > revisions.get(world, 0)
                revisions[world], sequences[world] = result.revision, seq

    async def import_profiles(room: Process, round_: int) -> None:
        number = 0
        while True:
            npc = f"n{round_}.{number}"
            await room.stub.ImportRoster(
                state_pb2.ImportRosterRequest(tenant="t", npcs=[type_pb2.NpcProfile(id=npc)]), timeout=5
            )
            profiles.add(npc)
            number += 1

    async def until_killed(work: Coroutine[Any, Any, None]) -> None:
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await work

    process = Process(tmp_path, free_port())
    try:
        for round_ in range(3):
            await process.start()
            await check(process, revisions, sequences, profiles)
            async with asyncio.TaskGroup() as group:
                for world in ("w1", "w2", "w3"):
                    group.create_task(until_killed(open_and_post(process, world, round_)))
                group.create_task(until_killed(import_profiles(process, round_)))
                await asyncio.sleep(rng.uniform(0.3, 0.6))
                await process.kill()
        assert min(sequences.values()) > 1, "the writers must have got somewhere before the kill"
        assert len(profiles) > 3
        await process.start()
        await check(process, revisions, sequences, profiles)
    finally:
        await process.end()


async def check(room: Process, revisions: dict[str, int], sequences: dict[str, int], profiles: set[str]) -> None:
    """Everything acknowledged is there, and numbers went on."""
    stored = await room.stub.ListNpcProfiles(
        state_pb2.ListNpcProfilesRequest(tenant="t"), timeout=5, wait_for_ready=True
    )
    assert profiles <= {npc.id for npc in stored.npcs}
    for world, revision in revisions.items():
        ref = type_pb2.WorldRef(tenant="t", world=world)
        answer = await room.stub.GetEarshot(state_pb2.GetEarshotRequest(world=ref), timeout=5)
        assert answer.revision > revision
        assert clusters(answer) == [{"ann", "pete"}]
        found = await room.stub.BatchGetNpcContext(
            state_pb2.BatchGetNpcContextRequest(npcs=[state_pb2.NpcKey(world=ref, npc_id="pete")]), timeout=5
        )
        # A snapshot that was never answered may be there too: newer, never older.
        assert found.contexts[0].self.position.x >= sequences[world]


async def test_compiled_code_needs_no_place_to_be_kept(tmp_path: Path) -> None:
    """A read-only install without a home: compiled at every start instead of once, and nothing else is
    different.
    """
    (tmp_path / "blocked").touch()
    code = (
        "from services.cluster.compiled import CompiledMethod\n"
        "import sys; assert 'numba' not in sys.modules\n"
        "method = CompiledMethod(); method.warm_up(); assert method.ready\n"
    )
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        "XDG_CACHE_HOME": str(tmp_path / "blocked"),
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=environment)
    assert await process.wait() == 0
