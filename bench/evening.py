"""`earshot bench load`: an evening in real time - 50, 100 and 200 NPCs with 30 players who talk, over HTTP.

One world as the Roblox module drives it: a session, positions every SYNC_S, words at once with one request in flight,
events by polls that begin POLL_GAP_S apart. A model that takes a second answers. From word to first sentence is told
twice: until the sentence stands in the world's log (clocks of one machine), and until the game server has it. Lines are
counted that name an NPC while nobody of the conversation has the floor: all other waits are the policy's own.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.catalogue import Options, progress
from bench.figures import percentile
from bench.floors import Floors
from bench.result import Result
from bench.target import Target, earshot
from bench.wire import Client, Model

SIZES = (50, 100, 200)
PLAYERS, TABLES = 30, 10
SECONDS = 10.0
MODEL_S = 1.0
# As the module paces them.
SYNC_S, POLL_GAP_S, HOLD_S, CALL_S = 2.0, 1.0, 20.0, 30.0
# Seconds between two lines of a player; how many name an NPC; chance to go to another table at each sync.
SPEAKS_S, NAMED, MOVES_ON = 12.0, 0.7, 0.03
TABLE_STUDS = 100.0
# A sync that is refused is sent again with its number, so often and after so long.
TRIES, AGAIN_S = 8, 0.25
BUSY = frozenset({429, 503, 504})
# What is under way at the end gets this long to come in.
GRACE_S = 3.0
NAMES = (
    "Mara", "Brom", "Wynna", "Tess", "Odo", "Una", "Vick", "Zed", "Ida", "Kai",
    "Lorna", "Fenn", "Dunstan", "Sil", "Perrin", "Greta", "Hob", "Jory", "Nell", "Rusk",
)  # fmt: skip
QUESTIONS = ("what do you think?", "have you heard?", "is that so?", "how is the ale?", "who was here yesterday?")
REMARKS = ("It was a long day.", "The road is wet again.", "So much for the harvest.", "They say it will snow.")
REQUESTS_PER_MINUTE, WRITES_PER_S, CALLS_PER_LINE = 500.0, 10.0, 2.0
OVER = frozenset({"ended", "declined", "cancelled", "failed"})
PROCESSES: Mapping[str, tuple[str, ...]] = {
    "one process": ("all",),
    "four processes": ("edge", "state,cluster", "sync", "chat"),
}
_WRITES = re.compile(r'^earshot_block_writes_total\{[^}]*outcome="ok"[^}]*\} (\S+)', re.MULTILINE)

Event = Mapping[str, Any]


class Refused(RuntimeError):
    """The evening could not be set up, or a request failed."""


@dataclass(slots=True)
class Evening:
    """One world and what its game server saw.

    said: a line's text -> when (Unix seconds); got: an entry's number -> when the game server had it.
    """

    client: Client
    npcs: int
    chance: random.Random
    token: str = ""
    world: str = ""
    events: list[Event] = field(default_factory=list)
    said: dict[str, float] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    got: dict[int, float] = field(default_factory=dict)
    requests: int = 0
    refused: int = 0
    _seats: list[int] = field(default_factory=lambda: [number % TABLES for number in range(PLAYERS)])
    _words: list[dict[str, str]] = field(default_factory=list)
    _spoken: asyncio.Event = field(default_factory=asyncio.Event)
    _cursor: int = 0
    _seq: int = 0

    async def open(self) -> None:
        """Begin the session and show everybody. Raises Refused."""
        status, told = await self.client.post("/v1/sessions", {"job": f"evening-{self.npcs}", "boot": "1"}, CALL_S)
        if status != 200:
            raise Refused(f"a session was answered {status}: {told}")
        self.token, self.world, self._cursor = told["token"], told["world"], told["cursor"]
        await self.sync()

    async def play(self, seconds: float) -> None:
        """Sync, poll and talk. Raises Refused."""
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(loop) for loop in (self._syncs(), self._polls())]
            began = time.monotonic()
            while (left := began + seconds - time.monotonic()) > 0:
                await asyncio.sleep(min(left, self.chance.expovariate(PLAYERS / SPEAKS_S)))
                self._say(self.chance.randrange(PLAYERS))
            await asyncio.sleep(MODEL_S + GRACE_S)
            for task in loops:
                task.cancel()

    async def sync(self, *, positions: bool = True) -> None:
        """One request with what was said and, now and then, where everybody is."""
        self._seq += 1
        words, self._words = self._words, []
        body: dict[str, Any] = {"seq": self._seq, "cursor": self._cursor, "utterances": words}
        if positions:
            body["entities"] = self._entities()
        for _ in range(TRIES):
            status, told = await self._counted(self.client.post("/v1/sync", body, CALL_S, self.token))
            if status == 200:
                self._take(told)
                return
            if status not in BUSY:
                break
            self.refused += 1
            await asyncio.sleep(AGAIN_S)
        raise Refused(f"a sync was answered {status}: {told}")

    async def _syncs(self) -> None:
        due = 0.0
        while True:
            self._spoken.clear()
            positions = time.monotonic() >= due
            if positions:
                due = time.monotonic() + SYNC_S
            if positions or self._words:
                await self.sync(positions=positions)
            try:
                async with asyncio.timeout(0 if self._words else max(due - time.monotonic(), 0)):
                    await self._spoken.wait()
            except TimeoutError:
                continue

    async def _polls(self) -> None:
        while True:
            began = time.monotonic()
            path = f"/v1/events?cursor={self._cursor}&hold={HOLD_S:g}"
            status, told = await self._counted(self.client.get(path, HOLD_S + CALL_S, self.token))
            if status in BUSY:
                self.refused += 1
                told = None
            elif status not in (200, 204):
                raise Refused(f"a poll was answered {status}: {told}")
            if told is not None:
                self._take(told)
            await asyncio.sleep(max(0.0, began + POLL_GAP_S - time.monotonic()))

    async def _counted(self, request: Any) -> tuple[int, Any]:
        self.requests += 1
        answer: tuple[int, Any] = await request
        return answer

    def _take(self, told: Mapping[str, Any]) -> None:
        now = time.time()
        for event in told.get("events") or ():
            if event["seq"] not in self.got:
                self.got[event["seq"]] = now
                self.events.append(event)
        self._cursor = max(self._cursor, told.get("cursor") or 0)

    def _say(self, player: int) -> None:
        number = len(self.said)
        named = self.chance.random() < NAMED
        text = f"{self.chance.choice(QUESTIONS if named else REMARKS)} ({number})"
        if named:
            table = self._seats[player]
            text = f"{NAMES[self.chance.randrange(self._at(table))]}, {text}"
            self.named.add(text)
        self.said[text] = time.time()
        self._words.append({"player_id": f"p{player}", "player_name": f"Player{player}", "text": text})
        self._spoken.set()

    def _at(self, table: int) -> int:
        """NPCs at a table."""
        return len(range(table, self.npcs, TABLES))

    def _entities(self) -> list[dict[str, Any]]:
        for player in range(PLAYERS):
            if self.chance.random() < MOVES_ON:
                self._seats[player] = self.chance.randrange(TABLES)
        entities = []
        for npc in range(self.npcs):
            x, z = self._place(npc % TABLES, npc // TABLES / self._at(npc % TABLES), 4.0)
            entities.append(_entity(f"npc-{npc}", "npc", NAMES[npc // TABLES % len(NAMES)], x, z))
        for player, table in enumerate(self._seats):
            x, z = self._place(table, player / PLAYERS, 2.0)
            entities.append(_entity(f"p{player}", "player", f"Player{player}", x, z))
        return entities

    def _place(self, table: int, turn: float, studs: float) -> tuple[float, float]:
        angle = 2 * math.pi * turn
        shift = self.chance.uniform(-0.3, 0.3)
        return table * TABLE_STUDS + studs * math.cos(angle) + shift, studs * math.sin(angle)


def _entity(who: str, kind: str, name: str, x: float, z: float) -> dict[str, Any]:
    health = {"current": 100, "max": 100}
    return {"id": who, "kind": kind, "name": name, "position": {"x": x, "y": 0.0, "z": z}, "health": health}


@dataclass(slots=True)
class Judged:
    """What the log says.

    log_ms, game_ms: from a line that names an NPC while the floor is free to its first sentence, without the model.
    free: such lines; answered, interrupted: those followed by a sentence, or by a line that cut it off before.
    overlaps: turns that began while the floor of their conversation was taken.
    """

    free: int = 0
    answered: int = 0
    interrupted: int = 0
    turns: int = 0
    overlaps: int = 0
    failed: int = 0
    log_ms: list[float] = field(default_factory=list)
    game_ms: list[float] = field(default_factory=list)


def judge(events: Iterable[Event], said: Mapping[str, float], named: set[str], got: Mapping[int, float]) -> Judged:
    """Go through a world's log. Pure."""
    found = Judged()
    floors = Floors()
    cause: dict[str, str] = {}
    waiting: dict[str, float] = {}
    for event in sorted(events, key=lambda one: one["seq"]):
        place = event["conversation_id"]
        if event["type"] == "turn" and event["phase"] == "started":
            found.turns += 1
            found.overlaps += floors.begin(event["turn_id"], place, event["npc_id"])
            cause[event["turn_id"]] = event.get("cause_utterance_id", "")
        elif event["type"] == "turn" and event["phase"] in OVER:
            found.failed += event["phase"] == "failed" and event["reason"] != "SUPERSEDED"
            if event["phase"] == "cancelled":
                found.interrupted += waiting.pop(cause.get(event["turn_id"], ""), None) is not None
            floors.end(event["turn_id"])
        elif event["type"] == "membership":
            floors.moved(place, event["change"], event["members_changed"])
        elif event["type"] == "utterance" and event["text"] in said and not event.get("ai"):
            if event["text"] in named and not floors.taken(place):
                found.free += 1
                waiting[event["utterance_id"]] = said[event["text"]]
        elif event["type"] == "utterance" and event.get("turn_id"):
            began = waiting.pop(cause.get(event["turn_id"], ""), None)
            if began is not None:
                found.answered += 1
                found.log_ms.append((event["at"] - began - MODEL_S) * 1000)
                found.game_ms.append((got[event["seq"]] - began - MODEL_S) * 1000)
    return found


async def _writes(port: int, seconds: float) -> float:
    """Most block writes in one second, of a process that has all rooms."""
    most, before = 0.0, await asyncio.to_thread(_written, port)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        await asyncio.sleep(1.0)
        now = await asyncio.to_thread(_written, port)
        most, before = max(most, (now - before) / (time.monotonic() - began)), now
    return most


def _written(port: int) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=CALL_S).text
    return sum(float(value) for value in _WRITES.findall(text))


def run(options: Options) -> list[dict[str, Any]]:
    """Records of every size in one process, and of the largest with the rooms apart. Raises Refused, TargetFailed."""
    seconds = options.seconds or SECONDS
    runs = [("one process", npcs) for npcs in SIZES] + [("four processes", SIZES[-1])]
    records: list[dict[str, Any]] = []
    for topology, npcs in runs:
        progress(f"load: {npcs} NPCs, {PLAYERS} players, {topology}, {seconds:g} s")
        with tempfile.TemporaryDirectory() as folder:
            records += asyncio.run(_evening(Path(folder), npcs, topology, seconds))
    return records


async def _evening(folder: Path, npcs: int, topology: str, seconds: float) -> list[dict[str, Any]]:
    async with Model(MODEL_S * 1000) as model:
        target = _target(folder, model, PROCESSES[topology])
        await asyncio.to_thread(target.start, folder)
        try:
            evening = Evening(Client(target.port), npcs, random.Random(f"evening/{npcs}"))
            await evening.open()
            writes = asyncio.create_task(_writes(target.port, seconds)) if len(target.commands) == 1 else None
            cpu, calls, began = sum(target.cpu_seconds()), model.calls, time.monotonic()
            await evening.play(seconds)
            took, calls = time.monotonic() - began, model.calls - calls
            cpu = (sum(target.cpu_seconds()) - cpu) / took
            peak = await writes if writes is not None else None
            evening.client.close()
            memory = target.resident_bytes() / (1 << 20)
        finally:
            await asyncio.to_thread(target.stop)
    judged = judge(evening.events, evening.said, evening.named, evening.got)
    progress(
        f"load: {len(evening.said)} lines, {judged.turns} turns, {judged.failed} failed; named into a free floor "
        f"{judged.free}, answered {judged.answered}, cut off {judged.interrupted}"
    )
    name = f"{npcs} NPCs, {PLAYERS} players" + ("" if topology == "one process" else f", {topology}")
    return [result.record() for result in results(name, evening, judged, calls, took, cpu, memory, peak)]


def results(
    name: str, evening: Evening, judged: Judged, calls: int, took: float, cpu: float, memory: float, peak: float | None
) -> Sequence[Result]:
    """The figures of one evening."""
    until = "word to first sentence without the model"
    waits = {"in the log": sorted(judged.log_ms), "at a game that polls": sorted(judged.game_ms)}
    found = [
        *(
            Result(f"{name}: {until}, {where}, {title}", percentile(ordered, share), "ms", better="less")
            for where, ordered in waits.items()
            for title, share in (("p50", 0.5), ("p95", 0.95))
            if ordered
        ),
        Result(
            f"{name}: such lines not answered", judged.free - judged.answered - judged.interrupted, "lines", 0, "less",
            peers={"lines": float(judged.free), "cut off by another line": float(judged.interrupted)},
        ),
        Result(
            f"{name}: turns that failed", judged.failed, "turns", 0, "less", peers={"turns": float(judged.turns)}
        ),
        Result(
            f"{name}: turns at once in one conversation", judged.overlaps, "turns", 0, "less",
            peers={"turns": float(judged.turns)},
        ),
        Result(
            f"{name}: model calls per line", calls / max(len(evening.said), 1), "calls", CALLS_PER_LINE, "less",
            peers={"lines": float(len(evening.said))},
        ),
        Result(
            f"{name}: the game's requests", 60 * evening.requests / took, "a minute", REQUESTS_PER_MINUTE, "less",
            peers={"refused": 60 * evening.refused / took},
        ),
        Result(f"{name}: processor", 100 * cpu, "% of a core", better="less"),
        Result(f"{name}: memory", memory, "MiB", better="less"),
    ]  # fmt: skip
    if peak is not None:
        found.append(Result(f"{name}: block writes in the busiest second", peak, "/s", WRITES_PER_S, "less"))
    return found


def _target(folder: Path, model: Model, processes: Sequence[str]) -> Target:
    environment = {
        "EARSHOT_RUNTIMES": "openai",
        "EARSHOT_OPENAI_BASE_URL": model.base_url,
        "EARSHOT_OPENAI_API_KEY": "unused",
        "EARSHOT_GREETINGS": "false",
    }
    return earshot("load", folder, *processes, environment=environment)
