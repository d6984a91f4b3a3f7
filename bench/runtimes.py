"""`earshot bench runtimes`: failover under random faults, degraded replies, a rate-limit storm, what the router costs.

The faults and the storm run on virtual time (their seconds are the providers', not this machine's) over the real sync
room with runtimes that fail on order; the rest is measured in real time. Seeded: the same faults every time.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from bench.catalogue import Options, progress
from bench.result import Result
from services.common.clock import SystemClock
from services.common.errors import from_rpc
from services.common.logs import configure
from services.common.store import Database
from services.common.telemetry import Metrics
from services.sync.agents.embodiment import Embodiment
from services.sync.agents.record import AgentRecord
from services.sync.blocks.desired import Desired
from services.sync.blocks.situation import NO_BANDS
from services.sync.context import Key
from services.sync.degraded.markov_store import Learnt, MarkovStore
from services.sync.routing.chain import Tier
from services.sync.routing.endpoint import Endpoint
from services.sync.routing.provider import Provider
from services.sync.routing.router import plan
from services.sync.runtimes.local import LocalAgents
from services.sync.runtimes.openai import OpenAIRuntime
from services.sync.runtimes.port import (
    AgentSpec,
    Block,
    Delta,
    Garbled,
    RateLimited,
    RuntimeFault,
    ServerFault,
    Turn,
    Unreachable,
)
from services.sync.schedule.due import Lane
from services.sync.server import TABLES
from services.sync.store import SyncStore
from tests.fakes import virtual_time
from tests.unit.sync.fake_key import Key as RateKey
from tests.unit.sync.fake_key import storm
from tests.unit.sync.fake_runtime import FakeRuntime, Plan
from tests.unit.sync.room import Room, room

TURNS = 10_000
NPCS = 50
SEED = 20
FIRST_S = 2.0
# Share of calls that fail in each way, and how often a provider is gone for a minute.
FAULTS: tuple[tuple[float, Callable[[random.Random], RuntimeFault]], ...] = (
    (0.03, lambda rng: Unreachable("refused")),
    (0.03, lambda rng: ServerFault("500")),
    # Each holds the key for seconds in which some thirty turns want it.
    (0.003, lambda rng: RateLimited("429", 1 + 4 * rng.random())),
    (0.02, lambda rng: Garbled("wrong JSON")),
)
HANGS, HANG_S = 0.02, 25.0
OUTAGE_EVERY_S, OUTAGE_S = 300.0, 60.0
DEGRADED = 400
LEARNT = 1000
PLANS = 20_000
STREAMS = 2000
DEAD = 200
STORM_S = 60.0


def run(options: Options) -> list[dict[str, Any]]:
    """Records of all figures."""
    configure("error", "console")
    found: list[Result] = []
    progress("runtimes: the first provider dead (virtual time)")
    for name, fault in DEATHS.items():
        found += virtual_time.run(first_dead(name, fault))
    progress(f"runtimes: {TURNS} turns with random faults (virtual time)")
    found += virtual_time.run(faults(TURNS))
    progress("runtimes: every provider dead")
    found += asyncio.run(all_dead())
    progress(f"runtimes: a storm at ten times the allowance, {STORM_S:g} virtual seconds")
    for headers in (True, False):
        found += virtual_time.run(stormed(headers))
    progress("runtimes: the router's own time, block writes")
    found += asyncio.run(overhead())
    found += asyncio.run(block_writes(options.rounds or 5))
    return [result.record() for result in found]


# -- the first provider dead -------------------------------------------------------------------------------------------

DEATHS = {
    "refuses": Plan(fault=Unreachable("refused")),
    "hangs": Plan(hang=True, lands=None),
    "says 429": Plan(fault=RateLimited("429", 20.0)),
    "says 500": Plan(wait=0.1, fault=ServerFault("500")),
}


async def first_dead(name: str, fault: Plan) -> list[Result]:
    """Letta dead from the start, beside a model that takes 0.4 s to its first words."""
    letta, gpt = FakeRuntime("letta"), FakeRuntime("gpt", stateful=False, remote=False)
    letta.chooser = lambda operation: fault if operation == "send" else Plan()
    gpt.chooser = lambda operation: Plan(wait=0.4) if operation == "send" else Plan()
    outcomes: Counter[str] = Counter()
    first: list[float] = []
    async with room(letta, gpt, chain=("letta", "gpt", "canned")) as sync:
        for number in range(DEAD):
            sync.state.put(npc := f"npc{number % NPCS}", players=["Ada"])
            await one_turn(sync, npc, outcomes, first)
            await asyncio.sleep(1.0)
    return [
        Result(f"first provider {name}: first sentence by the next, slowest", max(first), "s", FIRST_S, "less",
               {"p50": quantile(first, 50), "answered by gpt %": 100.0 * outcomes["gpt"] / DEAD}),
    ]  # fmt: skip


# -- faults ------------------------------------------------------------------------------------------------------------


class Unsteady(FakeRuntime):
    """Fails as `FAULTS` says; for a minute now and then it refuses, fails or hangs at every call."""

    def __init__(self, name: str, seed: int, *, stateful: bool, share: float) -> None:
        super().__init__(name, stateful=stateful, remote=stateful)
        self._rng = random.Random(f"{SEED}:{seed}")
        self._share = share
        self._offset = OUTAGE_EVERY_S * seed / 3
        self.chooser = self._choose

    def _choose(self, operation: str) -> Plan:
        if operation != "send" and not (self.capabilities.remote and operation in ("write", "create")):
            return Plan()  # what Earshot keeps itself does not fail with the provider
        if (now := asyncio.get_running_loop().time() - self._offset) % OUTAGE_EVERY_S < OUTAGE_S:
            kind = int(now // OUTAGE_EVERY_S) % 3
            return (Plan(fault=Unreachable("away")), Plan(fault=ServerFault("503")), Plan(hang=True, lands=None))[kind]
        took = 0.05 if operation != "send" else 0.2 + self._rng.expovariate(4.0)
        draw = self._rng.random() / self._share
        if operation == "send" and draw < HANGS:
            return Plan(hang=True, lands=HANG_S if self._rng.random() < 0.5 else None)
        draw -= HANGS
        for share, fault in FAULTS:
            if 0 <= draw < share:
                return Plan(wait=took, fault=fault(self._rng))
            draw -= share
        return Plan(wait=took)


async def faults(turns: int) -> list[Result]:
    """Turns of NPCS NPCs on three unsteady providers, then a canned line."""
    runtimes = [
        Unsteady("letta", 0, stateful=True, share=1.0),
        Unsteady("gpt", 1, stateful=False, share=1.0),
        Unsteady("local", 2, stateful=False, share=0.5),
    ]
    outcomes: Counter[str] = Counter()
    first: list[float] = []
    async with room(*runtimes, chain=("letta", "gpt", "local", "canned")) as sync:
        for number in range(NPCS):
            sync.state.put(f"npc{number}", players=["Ada"])
        left = iter(range(turns))

        async def npc(number: int) -> None:
            rng = random.Random(f"{SEED}:npc:{number}")
            for _ in left:
                await asyncio.sleep(rng.expovariate(0.2))
                await one_turn(sync, f"npc{number}", outcomes, first)

        async with asyncio.TaskGroup() as group:
            for number in range(NPCS):
                group.create_task(npc(number))
        await asyncio.sleep(60)
    asked = sum(outcomes.values())
    answered = asked - sum(count for name, count in outcomes.items() if name.startswith("failed"))
    twice = sum(executed_twice(runtime) for runtime in runtimes)
    in_time = sum(seconds <= FIRST_S for seconds in first)
    shares = {name: 100.0 * count / asked for name, count in sorted(outcomes.items())}
    return [
        Result("turns answered under random faults", 100.0 * answered / asked, "%", 99.9, "more", shares),
        Result("of these degraded (canned)", 100.0 * outcomes["canned"] / asked, "%"),
        Result("of all first sentences within 2 s", 100.0 * in_time / max(len(first), 1), "%", peers={
               "p50 s": quantile(first, 50), "p99 s": quantile(first, 99), "max s": max(first)}),
        Result("turns executed twice by one runtime", twice, "turns", 0.0, "less",
               {"two messages in flight for one agent": sum(len(one.violations) for one in runtimes)}),
    ]  # fmt: skip


async def one_turn(sync: Room, npc: str, outcomes: Counter[str], first: list[float]) -> None:
    began = asyncio.get_running_loop().time()
    heard = 0.0
    name = "failed"
    try:
        async for event in sync.stub.Converse(sync.request(npc), timeout=20.0):
            kind = event.WhichOneof("event")
            if kind == "sentence" and not heard:
                heard = asyncio.get_running_loop().time() - began
            elif kind == "finished":
                name = event.finished.runtime
    except grpc.aio.AioRpcError as error:
        # Broken off in the middle: it was heard, and nobody may go on for it.
        name = f"failed {from_rpc(error).reason}" if not heard else "broke off"
    outcomes[name] += 1
    if heard:
        first.append(heard)


def executed_twice(runtime: FakeRuntime) -> int:
    """Turn ids that one runtime carried out more than once."""
    if runtime.capabilities.stateful:
        return sum(len(agent.turns) - len(set(agent.turns)) for agent in runtime.agents.values())
    ids = [asked.turn.turn_id for asked in runtime.asked]
    return len(ids) - len(set(ids))


# -- degraded ----------------------------------------------------------------------------------------------------------


async def all_dead() -> list[Result]:
    """Whole turns, from the call to the first sentence, once every breaker is open; the store is a file."""
    results = []
    for voice in ("canned", "markov", "offline"):
        with tempfile.TemporaryDirectory() as data:
            results.append(await _dead(voice, data))
    return results


async def _dead(voice: str, data: str) -> Result:
    first, second = FakeRuntime("one"), FakeRuntime("two", stateful=False, remote=False)
    runtimes: list[Any] = [first, second]
    if voice == "offline":
        from services.sync.runtimes.offline import OfflineRuntime

        runtimes.append(OfflineRuntime())
    async with room(*runtimes, chain=("one", "two", voice), data=data) as sync:
        sync.state.put(players=["Ada"])
        if voice == "markov":
            lines = [Learnt(number, f"t{number}", text) for number, text in enumerate(sentences(LEARNT), start=1)]
            await MarkovStore(sync.store.database).learn(Key("t", "w", "mara"), lines)
        first.down = second.down = True
        for _ in range(12):
            await sync.converse(text="Tell me of the captain and the silver bells.")
        took, marked = [], 0
        for _ in range(DEGRADED):
            began = time.perf_counter()
            heard = await sync.converse(text="Tell me of the captain and the silver bells.")
            took.append(1000 * (time.perf_counter() - began))
            assert heard.finished is not None
            marked += heard.finished.degraded == voice and heard.started[-1].degraded == voice
    return Result(
        f"all providers dead: {voice} reply, p99", quantile(took, 99), "ms", 100.0, "less",
        {"p50": quantile(took, 50), "max": max(took), "marked %": 100.0 * marked / DEGRADED},
    )  # fmt: skip


def sentences(count: int) -> list[str]:
    """So many different sentences."""
    who = ("The harbour", "My lantern", "An old sailor", "The baker", "Our captain", "The lighthouse", "A grey cat")
    does = ("sleeps beside", "hums about", "waits behind", "never leaves", "remembers", "dreams of", "sings to")
    what = ("the mill", "the tide", "the bridge", "silver bells", "the winter road", "the quiet square", "the fair")
    end = ("at night", "in the rain", "every spring", "when nobody looks")
    every = [f"{a} {b} {c} {d}." for a in who for b in does for c in what for d in end]
    random.Random(SEED).shuffle(every)
    return every[:count]


# -- storm -------------------------------------------------------------------------------------------------------------


async def stormed(headers: bool) -> list[Result]:
    key = RateKey(rate=5.0, burst=10.0, headers=headers)
    answered = await storm(key, seconds=STORM_S, times=10.0)
    how = "with" if headers else "without"
    return [
        Result(
            f"storm {how} headers: calls to a key before its time", key.too_early, "calls", 0.0, "less",
            {"429s": key.refused},
        ),
        Result(f"storm {how} headers: goodput", 100.0 * answered / key.allowance(STORM_S), "% of the allowance", 95.0),
    ]  # fmt: skip


# -- the router's own time ---------------------------------------------------------------------------------------------


async def overhead() -> list[Result]:
    rng, metrics = random.Random(SEED), Metrics()
    endpoints = [
        Endpoint(
            FakeRuntime(f"e{number}", stateful=False, remote=False), 8, metrics, rng, provider=Provider(f"e{number}")
        )
        for number in range(6)
    ]
    now = asyncio.get_running_loop().time()
    for one in endpoints:
        for _ in range(64):
            one.latency.observe(0.2 + 0.3 * rng.random(), now)
    tiers = (Tier("letta", (endpoints[0],)), Tier("openai", tuple(endpoints[1:])), Tier("cached"), Tier("markov"))
    # The router's own time, by the CPU: a machine that does other things beside it makes any wall clock wait.
    took, wall = [], []
    for _ in range(PLANS):
        began, cpu = time.perf_counter(), time.thread_time()
        at = asyncio.get_running_loop().time()
        plan(tiers, model="", tokens=900, now=at, first_by=at + FIRST_S, rng=rng)
        took.append(1000 * (time.thread_time() - cpu))
        wall.append(1000 * (time.perf_counter() - began))
        # An answer between two choices, as in service.
        endpoints[rng.randrange(6)].latency.observe(0.2 + 0.3 * rng.random(), at)
    one = endpoints[1]

    def routed() -> AsyncIterator[Delta]:
        return one.stream("send", lambda left: one.runtime.send("a", NOTHING, left), timeout=5.0)

    bare = await timed(lambda: one.runtime.send("a", NOTHING, 5.0), one)
    around = await timed(routed, one)
    extra = [more - less for more, less in zip(sorted(around), sorted(bare), strict=True)]
    return [
        Result("router: choice among 6 endpoints, CPU p99", quantile(took, 99), "ms", 1.0, "less",
               {"p50": quantile(took, 50), "wall p99": quantile(wall, 99)}),
        Result("router: breaker, allowance, gate and metrics around a stream, CPU p99", quantile(extra, 99), "ms", 1.0,
               "less", {"p50": quantile(extra, 50), "bare stream p50": quantile(bare, 50)}),
    ]  # fmt: skip


NOTHING = Turn("t", "", "", ())


async def timed(begin: Callable[[], AsyncIterator[Delta]], endpoint: Endpoint) -> list[float]:
    """CPU milliseconds of many turns of an agent that answers at once."""
    runtime = endpoint.runtime
    assert isinstance(runtime, FakeRuntime)
    if "a" not in runtime.agents:
        await runtime.create_agent(AgentSpec("tag", "n", "", adopt="a"), 1.0)
    took = []
    for _ in range(STREAMS):
        cpu = time.thread_time()
        async for _ in begin():
            pass
        took.append(1000 * (time.thread_time() - cpu))
        runtime.asked.clear()
    return took


# -- block writes ------------------------------------------------------------------------------------------------------


async def block_writes(rounds: int) -> list[Result]:
    """Three changed blocks of 50 NPCs on `openai`: compared, written, recorded, and handed to the store (a file)."""
    with tempfile.TemporaryDirectory() as data:
        database = Database(Path(data) / "sync.db", TABLES)
        store = SyncStore(database)
        agents = LocalAgents("openai", store)
        runtime = OpenAIRuntime("http://127.0.0.1:9", "", "m", agents=agents)
        endpoint = Endpoint(runtime, 8, Metrics(), random.Random(SEED))
        npcs = [Embodiment(AgentRecord(Key("t", "w", f"npc{n}"), "openai"), endpoint, store, SystemClock().now_ms)
                for n in range(NPCS)]  # fmt: skip
        for npc in npcs:
            made = desired(1)
            spec = AgentSpec(npc.record.tag, "n", "", made.blocks)
            await npc.ensure(spec, made, forget=True, lane=Lane.HIGH, timeout=10.0)
        took, kept, busy = [], [], []
        for number in range(rounds):
            began, cpu = time.perf_counter(), time.thread_time()
            written = await asyncio.gather(
                *(npc.write(desired(number + 2), lane=Lane.HIGH, timeout=10.0) for npc in npcs)
            )
            took.append(1000 * (time.perf_counter() - began))
            busy.append(1000 * (time.thread_time() - cpu))
            assert sum(len(one.labels) for one in written) == 3 * NPCS
            await database.flush()
            kept.append(1000 * (time.perf_counter() - began))
        await database.close()
    return [
        Result(
            "150 block writes for 50 NPCs on openai", statistics.median(took), "ms", 50.0, "less",
            {"max": max(took), "CPU": statistics.median(busy), "and on disk": statistics.median(kept)},
        )
    ]  # fmt: skip


def desired(revision: int) -> Desired:
    labels = ("status", "group_members", "memory")
    blocks = tuple(Block(label, f"{label} as of {revision}. " * 8, 4000) for label in labels)
    return Desired(revision, 0, 0, blocks, NO_BANDS)


def quantile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))] if ordered else float("nan")
