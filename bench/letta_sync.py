"""`earshot bench letta`: block writes and messages on a real Letta server, beside the raw `letta-client` in one run.

State, cluster and sync in one process in real time; the raw client does the same by turns, so that a noisy machine is
noisy for both. The server is the one that LETTA_BASE_URL names, whose model should answer at 0 ms; where it names
none, one of the bench's own (`deploy/letta/run-tests.sh`), which is deleted again.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from earshot.sync.v1 import sync_pb2

from bench.catalogue import Options, progress
from bench.feed import TENANT, Disturbed
from bench.letta_rig import NPCS, Rig, crowd, percentile, rig, seconds
from bench.letta_siege import Siege, besiege, figures
from bench.result import Result
from services.common.logs import configure
from services.demo.frame import Row
from services.sync.context import Key
from services.sync.reader import to_proto

CONCURRENCY = 8
CHANGES, MESSAGES = 40, 120
# A siege of so long, then its writes once more by the raw client; so often.
SIEGE_S, SIEGES = 20.0, 2
ROOT = Path(__file__).parents[1]
# Of the bench beside a server of its own: the first time that is installed.
LONGEST_S = 900.0
# Goals: times the raw client's figure.
ONE_TIMES, ALL_TIMES, P50_TIMES, P99_TIMES = 1.3, 0.4, 1.10, 1.25


async def one_change(rig: Rig) -> list[Result]:
    """One combat change at a time, from the snapshot to the confirmed block, beside one raw update."""
    agent = rig.raw[0]
    ours, raw = [], []
    down: dict[str, Row] = crowd()
    for n in range(CHANGES):
        raw.append(await seconds(rig.client.agents.blocks.update("status", agent_id=agent, value=f"health {n}")))
        npc = f"npc-{n:03}"
        down[npc] = crowd(only=npc, health=50)[npc]
        while not rig.runtime.confirmed.empty():
            rig.runtime.confirmed.get_nowait()
        started = time.perf_counter()
        await rig.snapshot(down)
        async with asyncio.timeout(10):
            ours.append(await rig.runtime.confirmed.get() - started)
    times = statistics.median(ours) / statistics.median(raw)
    return [
        Result(
            "letta, combat change to confirmed block beside one raw update", times, "x", ONE_TIMES, "less",
            {"ours p50, ms": 1e3 * statistics.median(ours), "ours p95, ms": 1e3 * percentile(ours, 0.95),
             "raw p50, ms": 1e3 * statistics.median(raw), "raw p95, ms": 1e3 * percentile(raw, 0.95)},
        )
    ]  # fmt: skip


async def all_at_once(rig: Rig) -> list[Result]:
    """Place, status and company of every NPC change in one snapshot; all confirmed, beside three raw updates each."""
    ours, raw = [], []
    for number in range(2):
        gate = asyncio.Semaphore(CONCURRENCY)

        async def patch(agent: str, label: str, text: str, gate: asyncio.Semaphore = gate) -> None:
            async with gate:
                await rig.client.agents.blocks.update(label, agent_id=agent, value=text)

        labels = ("status", "group_members", "location")
        raw.append(
            await seconds(
                asyncio.gather(
                    *(patch(a, label, f"{label} {number} {uuid.uuid4()}") for a in rig.raw for label in labels)
                )
            )
        )
        rows = crowd(action=f"Task {number}", z=8.0 * (number + 1), health=90 - 20 * number)
        rows |= {f"bo-{n}": Row(f"bo-{n}", f"Bo{n}{number}", "player", 60.0 * n + 3, 0, 8.0 * (number + 1), 100, 100,
                                "Idle", "") for n in range(NPCS)}  # fmt: skip
        started = time.perf_counter()
        revision = await rig.snapshot(rows)
        npcs = [to_proto(Key(TENANT, rig.world, f"npc-{n:03}")) for n in range(NPCS)]
        answer = await rig.sync.Refresh(
            sync_pb2.RefreshRequest(npcs=npcs, min_revision=revision, wait=True), timeout=60
        )
        ours.append(time.perf_counter() - started)
        if any(one.outcome != sync_pb2.REFRESH_OUTCOME_CONFIRMED for one in answer.results):
            raise Disturbed("not every NPC was confirmed")
    return [
        Result(
            "letta, 50 NPCs, place, status and company changed, beside 150 raw updates", sum(ours) / sum(raw), "x",
            ALL_TIMES, "less", {"ours, ms": 1e3 * sum(ours) / 2, "raw, ms": 1e3 * sum(raw) / 2},
        )
    ]  # fmt: skip


async def one_message(rig: Rig) -> list[Result]:
    """A turn whose blocks are fresh, beside the raw client's message with the same two messages in it."""
    revision = await rig.snapshot(crowd())
    agent, ours, raw = rig.raw[1], list[float](), list[float]()
    await rig.converse("npc-000", 1, revision)

    async def message(number: int) -> None:
        stream = await rig.client.agents.messages.create(
            agent, streaming=True, stream_tokens=True, include_pings=False,
            messages=[{"role": "system", "content": "Answer what was said last."},
                      {"role": "user", "content": f'{{"speaker": "Ada", "text": "Well? {number}"}}'}],
        )  # fmt: skip
        async for _ in stream:
            pass

    await message(0)
    for number in range(MESSAGES):
        # By turns first, so that neither always meets the other's echo.
        steps: list[tuple[list[float], Callable[[], Awaitable[None]]]] = [
            (raw, lambda number=number: message(number)),  # type: ignore[misc]  # a default binds it now
            (ours, lambda number=number: rig.converse("npc-000", number + 2, revision)),  # type: ignore[misc]  # as above
        ]
        for kept, step in steps if number % 2 else reversed(steps):
            kept.append(await seconds(step()))
    peers = {
        "ours p50, ms": 1e3 * statistics.median(ours), "raw p50, ms": 1e3 * statistics.median(raw),
        "ours p99, ms": 1e3 * percentile(ours, 0.99), "raw p99, ms": 1e3 * percentile(raw, 0.99),
    }  # fmt: skip
    p50 = peers["ours p50, ms"] / peers["raw p50, ms"]
    p99 = peers["ours p99, ms"] / peers["raw p99, ms"]
    return [
        Result("letta, one message beside the raw client, p50", p50, "x", P50_TIMES, "less", peers),
        Result("letta, one message beside the raw client, p99", p99, "x", P99_TIMES, "less", peers),
    ]


async def measured(url: str, options: Options) -> list[Result]:
    found: list[Result] = []
    async with rig(url) as calm:
        for _ in range(NPCS):
            await calm.raw_agent()
        await calm.enrol(npc for npc, row in crowd().items() if row.kind == "npc")
        await calm.snapshot(crowd())
        await calm.settled()
        for measure in (one_change, one_message, all_at_once):
            progress(f"letta: {measure.__name__}")
            found += await measure(calm)
    sieges, long, often = Siege(), options.seconds or SIEGE_S, options.rounds or SIEGES
    for number in range(often):
        progress(f"letta: siege {number + 1} of {often}, {long:g} s and once more by the raw client")
        async with rig(url) as wild:
            await besiege(wild, sieges, long)
    return [*found, *figures(sieges, long * often)]


def run(options: Options) -> list[dict[str, Any]]:
    """Records of everything. Raises Disturbed."""
    url = os.environ.get("LETTA_BASE_URL", "")
    if not url:
        return on_own_server(options)
    configure("error", "console")
    return [result.record() for result in asyncio.run(measured(url, options))]


def on_own_server(options: Options) -> list[dict[str, Any]]:
    """The same in a process beside a server with a fake model, which both end with it."""
    progress("letta: no LETTA_BASE_URL: starts a server of its own (the first time it is installed, 1.1 GB)")
    given = {"--seconds": options.seconds, "--rounds": options.rounds}
    command = [str(ROOT / "deploy" / "letta" / "run-tests.sh"), sys.executable, "-m", "services", "bench", "letta",
               "--json", *(f"{name}={value}" for name, value in given.items() if value is not None)]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            told, _ = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            raise Disturbed(f"the bench beside its own Letta server was not done after {LONGEST_S:.0f} s") from None
        finally:
            # Whatever ended it here: it takes its server down with it, and is waited for.
            process.terminate()
    if process.returncode:
        raise Disturbed(f"the bench beside its own Letta server ended with {process.returncode}")
    records: list[dict[str, Any]] = json.loads(told)["results"]
    return records
