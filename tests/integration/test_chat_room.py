"""Chat over real gRPC and a real SQLite file, killed with -9 in the middle of turns."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from earshot.chat.v1 import chat_pb2, chat_pb2_grpc

from services.chat import inputs, recording_store, reducer, replay
from services.chat.conversation import World
from services.chat.store import SCHEMA, SEQ_SKIP, ChatStore
from services.common.errors import from_rpc
from services.common.store import Database
from tests.unit.chat.neighbours import NAMES, TENANT, WORLD, ref

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@asynccontextmanager
async def room(data: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """The room's process and a stub to it; killed at the end if it still runs."""
    chat, state, sync = free_ports(3)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.chat_room", str(data), str(chat), str(state), str(sync),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), 60)).strip() == b"ready"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{chat}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 10)
        try:
            yield process, chat_pb2_grpc.ChatServiceStub(channel)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()


async def say(stub: Any, speaker: str, text: str, message: str, wait_ms: int = 0) -> Any:
    request = chat_pb2.SayRequest(
        world=ref(), speaker_id=speaker, speaker_name=NAMES[speaker], text=text, message_id=message, wait_ms=wait_ms
    )
    return await stub.Say(request, timeout=20)


async def events(stub: Any, cursor: int = 0) -> list[Any]:
    found: list[Any] = []
    while True:
        page = await stub.ListEvents(chat_pb2.ListEventsRequest(world=ref(), cursor=cursor, page_size=500), timeout=10)
        if not page.events:
            return found
        found.extend(page.events)
        cursor = page.next_cursor


async def longer(stub: Any, length: int) -> list[Any]:
    """The log once it has more than `length` entries, or as it is after a while."""
    for _ in range(100):
        told = await events(stub)
        if len(told) > length:
            break
        await asyncio.sleep(0.05)
    return told


async def test_killed_in_the_middle_of_turns_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    acknowledged: dict[str, str] = {}
    seen: list[Any] = []
    for round_number in range(3):
        async with room(tmp_path) as (process, stub):
            told = await longer(stub, len(seen)) if round_number else []
            lost = [e for e in told if e.turn.reason == "OWNER_LOST"]
            assert [e.SerializeToString() for e in told[: len(seen)]] == [e.SerializeToString() for e in seen]
            if round_number:
                assert len(lost) >= round_number, "the turn that was open at the kill is closed"
                assert told[len(seen)].seq > seen[-1].seq + SEQ_SKIP or told[len(seen)].seq == seen[-1].seq + 1
            for message, utterance in acknowledged.items():
                again = await say(stub, "p1", "Mara, whatever.", message)
                assert (again.outcome, again.utterance_id) == (chat_pb2.SAY_OUTCOME_DUPLICATE, utterance)
            for number in range(6):
                message = f"r{round_number}-{number}"
                answer = await say(stub, "p1", f"Mara, round {round_number} number {number}?", message)
                acknowledged[message] = answer.utterance_id
            whole = await say(stub, "p2", "Brom, are you done?", f"r{round_number}-whole", 15_000)
            assert "brom" in [reply.npc_id for reply in whole.replies]
            acknowledged[f"r{round_number}-whole"] = whole.utterance_id
            await say(stub, "p1", "Mara, a long tale please.", f"r{round_number}-last")
            acknowledged[f"r{round_number}-last"] = ""
            await asyncio.sleep(0.3)
            seen = await events(stub)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        acknowledged.pop(f"r{round_number}-last")
    said = {event.utterance.utterance_id for event in seen if event.WhichOneof("event") == "utterance"}
    assert set(acknowledged.values()) <= said
    ((_, rows),) = list(recording_store.read(tmp_path / "chat.db"))
    recorded = replay.replay(rows)
    assert (recorded.differs, recorded.gaps) == ((), 0)
    assert recorded.states >= 2, "each recovery came to the bytes that the replay comes to"
    assert {reply.utterance.turn_id for reply in seen if reply.utterance.turn_id} <= {
        why.turn_id for why in recorded.decisions
    }
    # What the dead process left replays to the same bytes, twice.
    database = Database(tmp_path / "chat.db", SCHEMA)
    try:
        stored = ChatStore(database).load((TENANT, WORLD))
        items = [inputs.decode(body) for body in stored.inputs]
        start = reducer.decode(stored.state) if stored.state else World()
        (one, log, _), (two, again, _) = reducer.replay(start, items), reducer.replay(start, items)
        assert reducer.encode(one) == reducer.encode(two)
        written = {event.seq: event for event in ChatStore(database).newest((TENANT, WORLD), 10_000)}
        assert log == again == [written[event.seq] for event in log]
    finally:
        await database.close()


async def test_over_sockets_as_in_process(tmp_path: Path) -> None:
    async with room(tmp_path) as (_, stub):
        end = (await stub.ListEvents(chat_pb2.ListEventsRequest(world=ref(), cursor=-1), timeout=5)).next_cursor
        rung = stub.WatchEvents()
        await rung.write(chat_pb2.WatchEventsRequest(listen=[ref()]))
        assert (await asyncio.wait_for(rung.read(), 5)).last_seq == end
        ringing = asyncio.ensure_future(rung.read())
        poll = asyncio.ensure_future(
            stub.ListEvents(chat_pb2.ListEventsRequest(world=ref(), cursor=end, wait_ms=5000), timeout=10)
        )
        answer = await say(stub, "p1", "Mara, good evening.", "m1", 15_000)
        assert (answer.replies[0].npc_id, answer.replies[0].text) == ("mara", "One. Two. Three.")
        assert (await poll).events
        assert (await asyncio.wait_for(ringing, 5)).world.world == WORLD
        rung.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(stub, "p1", "x" * 300, "m2")
        assert from_rpc(caught.value).reason == "TOO_LONG"
        explained = await stub.ExplainTurn(
            chat_pb2.ExplainTurnRequest(world=ref(), turn_id=answer.replies[0].turn_id), timeout=5
        )
        assert explained.obligation == "VOCATIVE"
        assert explained.turn.phase == chat_pb2.TURN_PHASE_ENDED
