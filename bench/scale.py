"""`earshot bench scale`: what one game server costs each process, in processor time, memory and bytes on the disk.

Earshot runs as the rooms are spread over machines: edge, state with cluster, sync, chat. Differences of processor time
over a known number of snapshots, polls and lines are taken, so what the load generator needs is not in them, and a busy
machine changes them little. `python -m bench.capacity --measure` keeps them and makes docs/capacity.md of them.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import crowd
from bench.catalogue import Options, progress
from bench.hall import Hall
from bench.result import Result
from bench.target import Command, Target, cpu_seconds, earshot, free_ports, resident_bytes
from bench.wire import Client, Model

ROOMS = ("edge", "state", "sync", "chat", "another edge")
PROCESSES = ("edge", "state,cluster", "sync", "chat")
WORLDS, FRAMES = 32, 8
SNAPSHOTS, POLLS, LINES, MORE_WORLDS = 800, 2000, 240, 200
TABLES = 4
AT_ONCE, TRIES = 8, 5
NPCS, AGAIN_S = 50, 5.0
SETTLE_S = 6.0
SETTLE_FIRST_S = 30.0
IDLE_S, IDLE_LOOKS = 3.0, 4


@dataclass(frozen=True, slots=True)
class Use:
    """What processes have used: processor seconds, resident bytes, bytes written, by room; in how many seconds."""

    cpu: tuple[float, ...]
    memory: tuple[int, ...]
    written: tuple[int, ...]
    seconds: float = 0.0


def run(options: Options) -> list[dict[str, Any]]:
    """Costs of one operation, by room."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measured(Path(folder), options.rounds or 1))


async def _measured(folder: Path, rounds: int) -> list[dict[str, Any]]:
    limits = httpx.Limits(max_connections=64)
    async with Model(20.0) as model, httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:
        target = earshot("scale", folder, *PROCESSES, environment=_settings(model))
        # An edge that nobody calls: what it does is what every edge is told.
        (port,) = free_ports(1)
        edge = target.commands[0]
        apart = {"EARSHOT_LISTEN": f"127.0.0.1:{port}", "EARSHOT_DATA": str(folder / "another")}
        target.commands = [*target.commands, Command(edge.arguments, {**edge.environment, **apart})]
        await asyncio.to_thread(target.start, folder)
        try:
            return await _costs(target, client, model, rounds, folder)
        finally:
            await asyncio.to_thread(target.stop)


def _settings(model: Model) -> dict[str, str]:
    return {
        "EARSHOT_RUNTIMES": "openai",
        "EARSHOT_OPENAI_BASE_URL": model.base_url,
        "EARSHOT_OPENAI_API_KEY": "unused",
        "EARSHOT_GREETINGS": "false",
        "EARSHOT_LAG_MAX_S": "5",
        "EARSHOT_SNAPSHOT_DEADLINE_S": "20",
    }


async def _costs(
    target: Target, client: httpx.AsyncClient, model: Model, rounds: int, folder: Path
) -> list[dict[str, Any]]:
    base = f"http://127.0.0.1:{target.port}"
    bodies = [crowd.frames(world, FRAMES) for world in range(WORLDS)]

    async def snapshot(number: int) -> None:
        body = bodies[number % WORLDS][number // WORLDS % FRAMES]
        await _taken(client, base, body)

    async def poll(number: int) -> None:
        query = f"world={crowd.world_name(number % WORLDS)}&cursor={1 << 40}&hold=0"
        (await client.get(f"{base}/v1/events?{query}")).raise_for_status()

    speaker = Client(target.port)
    hall = Hall(speaker, WORLDS, TABLES)

    async def talk(_: int) -> None:
        """Lines while every world's log is listened to, as a game server does: handing on the events is in it."""
        listening = [asyncio.create_task(_listen(client, base, world)) for world in range(WORLDS)]
        try:
            await hall.alone(LINES)
        finally:
            for one in listening:
                one.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    progress(f"scale: {WORLDS} worlds of 80 entities open")
    await _times(snapshot, 2 * WORLDS)
    idle = await _idle(target)
    records = [
        Result(f"idle: {room}", 100 * share, "% of a core", better="less").record()
        for room, share in zip(ROOMS, idle, strict=True)
    ]
    progress(f"scale: {POLLS * rounds} empty polls")
    used = await _used(target, idle, poll, POLLS * rounds)
    records += _shares("an empty poll", used, POLLS * rounds)
    # A poll concerns no other edge: what that one did is what it costs to be there while the machine is busy.
    idle = (*idle[:-1], idle[-1] + used.cpu[-1] / used.seconds)
    progress(f"scale: {SNAPSHOTS * rounds} snapshots of 80 entities")
    used = await _used(target, idle, snapshot, SNAPSHOTS * rounds)
    records += _shares("a snapshot of 80 entities", used, SNAPSHOTS * rounds)
    await hall.open()
    await hall.greet()
    asked = model.calls
    progress(f"scale: {LINES} lines to NPCs by name")
    records += _shares("a line and its turn", await _used(target, idle, talk, 1), LINES)
    records.append(Result("model calls a line, to an NPC by name", (model.calls - asked) / LINES, "calls").record())
    speaker.close()
    progress(f"scale: {MORE_WORLDS} more worlds")
    records += await _memory(target, client, base)
    progress("scale: kill -9 of all, and up again")
    return [*records, await _again(target, folder)]


async def _taken(client: httpx.AsyncClient, base: str, body: bytes) -> None:
    """A snapshot, sent again as it is told to while a busy machine keeps the rooms from answering in time."""
    for _ in range(TRIES):
        response = await client.post(f"{base}/v1/snapshots", content=body)
        if response.status_code not in (429, 503, 504):
            break
        await asyncio.sleep(float(response.headers.get("retry-after", "1")))
    response.raise_for_status()


async def _listen(client: httpx.AsyncClient, base: str, world: int) -> None:
    """A game server's poll, held again as soon as it was answered."""
    events, cursor = f"{base}/v1/events?world={crowd.world_name(world)}", ""
    while True:
        response = await client.get(f"{events}&hold=20{cursor}")
        if response.status_code == 200:
            cursor = f"&cursor={response.json()['cursor']}"


async def _again(target: Target, folder: Path) -> dict[str, Any]:
    """From kill -9 of every process to the first snapshot that is applied, with what the worlds of before hold."""
    target.kill()
    began = time.monotonic()
    await asyncio.to_thread(target.start, folder)
    name = f"up again after kill -9, with {NPCS * (WORLDS + MORE_WORLDS):,} NPCs"
    return Result(name, time.monotonic() - began, "s", AGAIN_S, "less").record()


async def _idle(target: Target) -> tuple[float, ...]:
    """Processor seconds a second that each process uses for nothing: the least of a few looks."""
    await asyncio.to_thread(target.settle, SETTLE_FIRST_S)
    looks = []
    for _ in range(IDLE_LOOKS):
        before = _use(target)
        await asyncio.sleep(IDLE_S)
        looks.append([(late - early) / IDLE_S for early, late in zip(before.cpu, _use(target).cpu, strict=True)])
    return tuple(map(min, zip(*looks, strict=True)))


async def _used(target: Target, idle: Sequence[float], work: Callable[[int], Awaitable[None]], count: int) -> Use:
    await asyncio.to_thread(target.settle, SETTLE_S)
    before, began = _use(target), time.monotonic()
    await _times(work, count)
    # What is done about them after the answers is part of what they cost.
    await asyncio.to_thread(target.settle, SETTLE_S)
    after, took = _use(target), time.monotonic() - began
    spent = zip(before.cpu, after.cpu, idle, strict=True)
    return Use(
        tuple(max(late - early - nothing * took, 0.0) for early, late, nothing in spent),
        tuple(late - early for early, late in zip(before.memory, after.memory, strict=True)),
        tuple(late - early for early, late in zip(before.written, after.written, strict=True)),
        took,
    )


async def _times(work: Callable[[int], Awaitable[None]], count: int) -> None:
    """So often, AT_ONCE at a time; no world twice at once."""
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, count)):
            group.create_task(some())


def _use(target: Target) -> Use:
    pids = target.pids
    return Use(tuple(map(cpu_seconds, pids)), tuple(map(resident_bytes, pids)), tuple(map(_written_bytes, pids)))


def _written_bytes(pid: int) -> int:
    """What a process gave to be written; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def _shares(what: str, used: Use, count: int) -> list[dict[str, Any]]:
    records = [
        Result(f"{what}: {room}", 1e6 * cpu / count, "us CPU", better="less").record()
        for room, cpu in zip(ROOMS, used.cpu, strict=True)
    ]
    written = sum(used.written) / count / 1024
    return [*records, Result(f"{what}: written", written, "KiB", better="less").record()]


async def _memory(target: Target, client: httpx.AsyncClient, base: str) -> list[dict[str, Any]]:
    body = crowd.frames(0, 1)[0]
    before = _use(target)
    for number in range(MORE_WORLDS):
        told = crowd.retold(body, WORLDS + number)
        await _taken(client, base, told)
    await asyncio.to_thread(target.settle, SETTLE_S)
    after = _use(target)
    return [
        Result(f"a world of 80 entities: {room}", (late - early) / MORE_WORLDS / 1024, "KiB", better="less").record()
        for room, early, late in zip(ROOMS, before.memory, after.memory, strict=True)
    ]
