"""Game servers that play through failures and write down what they were told.

Each has a world of its own: a session, full snapshots that count up, lines that players say, a held poll, now and
then a look at the world. A request that fails is sent once more, as the SDK does; what stays without an answer is
recorded as such. They run in a thread, so that a test can kill and start processes meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.history import End, Event, History, Page, Read, Session, Snapshot, Utterance

NPCS = ("mara", "brom")
# Out of everybody's earshot; where it stands says which snapshot this is.
BEACON = "beacon"
TIMEOUT_S = 5.0
RETRY_S = 0.5
LOOK_S = 240.0
# A log of which nothing is kept.
EVERYTHING = 1 << 63


@dataclass
class Game:
    """One game server."""

    world: str
    history: History
    http: httpx.AsyncClient
    pace_s: float
    key: str = ""
    token: str = ""
    epoch: int = 0
    seq: int = 0
    mark: int = 0
    cursor: int = 0
    said: int = 0
    # Worlds end here after a short silence, which a busy machine may cause: one that says so shows nothing any more.
    expires: bool = False
    # Requests that failed twice, by what was answered.
    failed: list[str] = field(default_factory=list)
    retried: int = 0

    @property
    def headers(self) -> dict[str, str]:
        bearer = self.token or self.key
        return {"authorization": f"Bearer {bearer}"} if bearer else {}

    async def open(self) -> None:
        """A session, tried until there is one."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        while True:
            began = time.monotonic()
            with contextlib.suppress(httpx.TransportError):
                # Every opening is a boot of its own: an epoch of its own.
                body = {"job": self.world, "boot": f"{self.world}-{began}"}
                answer = await self.http.post("/v1/sessions", json=body, headers=headers)
                if answer.status_code == 200:
                    told = answer.json()
                    self.token, self.epoch, self.seq = told["token"], int(told["epoch"]), 0
                    self.history.add(Session(self.world, began, time.monotonic(), self.epoch))
                    return
            self.history.add(Session(self.world, began))
            await asyncio.sleep(RETRY_S)

    async def play(self, stop: asyncio.Event) -> None:
        await self.open()
        while not stop.is_set():
            self.seq += 1
            self.mark += 1
            lines = []
            if self.mark % 3 == 0:
                self.said += 1
                lines = [f"Mara, this is line {self.said} of {self.world}, do you hear?"]
            if not await self._sync(lines):
                self.failed.append("sync")
                if self.token == "":
                    await self.open()
            if self.mark % 4 == 0:
                await self._look()
            await asyncio.sleep(self.pace_s)

    async def _sync(self, lines: Sequence[str]) -> bool:
        """Send the next snapshot, once more when it fails; whether it was answered."""
        body = {
            "seq": self.seq,
            "entities": entities(self.mark),
            "utterances": [{"player_id": "5001", "player_name": "Ada", "text": line} for line in lines],
        }
        for attempt in range(2):
            began = time.monotonic()
            answer = await self._ask("POST", "/v1/sync", json=body)
            if answer is not None and answer.status_code == 200:
                self._note(answer.json(), lines, began)
                return True
            self.history.add(Snapshot(self.world, self.epoch, self.seq, self.mark, began))
            for line in lines:
                self.history.add(Utterance(self.world, line, began))
            if answer is not None and answer.status_code in (401, 409):
                self.token = ""
                return False
            if not attempt:
                self.retried += 1
                await asyncio.sleep(_pause(answer))
        return False

    def _note(self, told: Mapping[str, Any], lines: Sequence[str], began: float) -> None:
        ended = time.monotonic()
        outcome = str(told["outcome"])
        self.history.add(
            Snapshot(self.world, self.epoch, self.seq, self.mark, began, ended, outcome, int(told["revision"]))
        )
        answers = told.get("utterances") or [{}] * len(lines)
        for line, one in zip(lines, answers, strict=True):
            kept = one.get("outcome") in ("accepted", "duplicate")
            self.history.add(Utterance(self.world, line, began, ended, str(one["utterance_id"]) if kept else ""))

    async def _look(self) -> None:
        began = time.monotonic()
        answer = await self._ask("GET", f"/v1/worlds/{self.world}")
        if answer is None or answer.status_code != 200 or (self.expires and answer.json().get("closed")):
            return
        if (seen := shown(answer.json())) is not None:
            self.history.add(Read(self.world, began, time.monotonic(), *seen))

    async def listen(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if self.token:
                await self._poll()
            else:
                await asyncio.sleep(RETRY_S)

    async def _poll(self) -> None:
        query = {"cursor": self.cursor, "hold": 3}
        for attempt in range(2):
            answer = await self._ask("GET", "/v1/events", params=query)
            if answer is not None and answer.status_code in (200, 204):
                break
            if not attempt:
                self.retried += 1
            await asyncio.sleep(_pause(answer))
        else:
            self.failed.append("poll")
            return
        if answer.status_code == 200:
            told = answer.json()
            page = tuple(event(one) for one in told["events"])
            self.history.add(Page(self.world, self.cursor, page, int(told["cursor"]), bool(told.get("resync"))))
            self.cursor = int(told["cursor"])

    async def _ask(self, method: str, path: str, **what: Any) -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return await self.http.request(method, path, headers=self.headers, **what)
        return None


def entities(mark: int) -> list[dict[str, Any]]:
    """NPCs around a player, and the beacon."""
    places = [(name, "npc", [number * 3, 0, 0]) for number, name in enumerate(NPCS)]
    places += [("5001", "player", [2, 0, 2]), (BEACON, "npc", [5000, 0, mark])]
    return [{"id": name, "kind": kind, "name": name.capitalize(), "position": where} for name, kind, where in places]


def _pause(answer: httpx.Response | None) -> float:
    asked = answer.headers.get("retry-after", "") if answer is not None else ""
    return float(asked) if asked.isdigit() else RETRY_S


def shown(world: Mapping[str, Any]) -> tuple[int, int] | None:
    """(revision, mark) of a world as the edge shows it; None when state did not answer."""
    if "state" in (world.get("missing") or ()) or "entities" not in world:
        return None
    beacon = next((one for one in world["entities"] if one["id"] == BEACON), None)
    return int(world["revision"]), round(beacon["position"]["z"]) if beacon else 0


def event(told: Mapping[str, Any]) -> Event:
    return Event(
        seq=int(told["seq"]),
        type=str(told["type"]),
        revision=int(told.get("revision", 0)),
        conversation=str(told.get("conversation_id", "")),
        utterance_id=str(told.get("utterance_id", "")),
        text=str(told.get("text", "")),
        turn_id=str(told.get("turn_id", "")),
        npc=str(told.get("npc_id", "")),
        phase=str(told.get("phase", "")),
        sentence=int(told.get("sentence", 0)),
        cause=str(told.get("cause_utterance_id", "")),
    )


@dataclass
class Troupe:
    """Game servers in a thread. Use as a context manager: they play inside it."""

    urls: Sequence[str]
    count: int
    pace_s: float = 0.05
    key: str = ""
    prefix: str = "world"
    history: History = field(default_factory=History)
    games: list[Game] = field(default_factory=list)

    def __enter__(self) -> Troupe:
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="troupe", daemon=True)
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(120)
        assert not self._thread.is_alive(), "the games did not stop"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._play())
        except BaseException as error:
            self._failure = error

    async def _play(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.count * 2)
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)
                )
                for url in self.urls
            ]
            self.games = [
                Game(f"{self.prefix}-{n}", self.history, clients[n % len(clients)], self.pace_s, self.key)
                for n in range(self.count)
            ]
            async with asyncio.TaskGroup() as playing:
                for game in self.games:
                    playing.create_task(game.play(self._stop))
                    playing.create_task(game.listen(self._stop))

    def wait_for(self, acknowledged: int, seconds: float = LOOK_S) -> int:
        """Wait until so many more writes were acknowledged; how many were, in time or not."""
        before, until = self.history.acknowledged(), time.monotonic() + seconds
        while (done := self.history.acknowledged() - before) < acknowledged and time.monotonic() < until:
            if self._failure is not None:
                raise self._failure
            time.sleep(0.05)
        return done

    @property
    def failed(self) -> list[str]:
        return [f"{game.world}: {what}" for game in self.games for what in game.failed]


def ends(
    http: httpx.Client, worlds: Sequence[str], headers: Mapping[str, str] | None = None, *, trimmed: bool = False
) -> dict[str, End]:
    """Every world once its turns are over, or a minute has passed. trimmed: logs may have lost their beginnings, and
    worlds may have ended by themselves.
    """
    return {world: end for world in worlds if (end := _end(http, world, dict(headers or {}), trimmed)) is not None}


def _end(http: httpx.Client, world: str, headers: dict[str, str], trimmed: bool) -> End | None:
    until = time.monotonic() + LOOK_S
    while True:
        answer = http.get(f"/v1/worlds/{world}", headers=headers)
        if answer.status_code == 404:
            return None
        seen = shown(answer.json()) if answer.status_code == 200 else None
        if seen is not None:
            log = tuple(_log(http, world, headers))
            if not _open_turns(log) or time.monotonic() > until:
                first = log[0].seq if log else EVERYTHING
                ended = trimmed and bool(answer.json().get("closed"))
                return End(*seen, log, kept_from=first if trimmed else 0, ended=ended)
        assert time.monotonic() < until + LOOK_S, f"{world}: {answer.status_code} {answer.text[:400]}"
        time.sleep(0.1)


def _open_turns(log: Sequence[Event]) -> set[str]:
    turns = [one for one in log if one.type == "turn"]
    return {one.turn_id for one in turns if one.phase == "started"} - {
        one.turn_id for one in turns if one.phase != "started"
    }


def _log(http: httpx.Client, world: str, headers: dict[str, str]) -> Iterator[Event]:
    cursor = 0
    while True:
        answer = http.get("/v1/events", params={"world": world, "cursor": cursor}, headers=headers)
        if answer.status_code != 200 or not (told := answer.json())["events"]:
            return
        yield from (event(one) for one in told["events"])
        cursor = told["cursor"]
