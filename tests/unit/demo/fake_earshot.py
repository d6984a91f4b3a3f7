"""A small Earshot for the demo's tests: the public HTTP contract in memory, with faults on demand.

It hears as `hearing` says and answers with one fixed policy: an NPC named at the start of a line speaks, a player named
there means silence, else the first NPC by id speaks. Not a model of the product; a peer that keeps to the contract.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.demo.frame import Row
from tests.unit.demo.hearing import groups

Body = dict[str, Any]


class FakeEarshot(httpx.AsyncBaseTransport):
    """Use it as the transport of an httpx client."""

    def __init__(self, *, think_s: float = 0.05, hold: bool = True, action: Body | None = None) -> None:
        self.think_s, self.hold, self.action = think_s, hold, action
        # Set while nobody listens on the port; answers to give instead of the real one, by method and path.
        self.down = False
        self.faults: dict[str, list[Response]] = {}
        self.rosters: list[Body] = []
        self.snapshots: list[tuple[float, Body]] = []
        self.messages: list[Body] = []
        self.log: list[Body] = []
        self.sync: list[Body] = []
        self.worlds_asked: set[str] = set()
        self.in_flight: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self._clusters: dict[str, frozenset[str]] = {}
        self._rows: dict[str, Row] = {}
        self._rung = asyncio.Event()
        self._app = httpx.ASGITransport(
            Starlette(
                routes=[
                    Route("/v1/npcs", self._roster, methods=["PUT"]),
                    Route("/v1/snapshots", self._snapshot, methods=["POST"]),
                    Route("/v1/messages", self._message, methods=["POST"]),
                    Route("/v1/events", self._events),
                    Route("/v1/worlds/{world}", self._world),
                ]
            )
        )

    @property
    def revision(self) -> int:
        return len(self.snapshots)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("connection refused")
        with self._counted(request.url.path):
            return await self._app.handle_async_request(request)

    def append(self, **event: Any) -> None:
        """Add an event to the log and wake who waits for it."""
        self.log.append({"seq": len(self.log) + 1, "at": 0.0, "revision": self.revision, **event})
        self._rung.set()
        self._rung = asyncio.Event()

    async def _roster(self, request: Request) -> Response:
        if fault := self._fault(request):
            return fault
        roster = await request.json()
        self.rosters.append(roster)
        return JSONResponse({kind: len(roster[kind]) for kind in ("npcs", "locations", "players")} | {"refused": []})

    async def _snapshot(self, request: Request) -> Response:
        if fault := self._fault(request):
            return fault
        body = await request.json()
        self.snapshots.append((asyncio.get_running_loop().time(), body))
        self._rows = {entity["id"]: row_of(entity) for entity in body["entities"]}
        transitions = self._regroup()
        clusters = [{"id": id, "members": sorted(members)} for id, members in self._clusters.items()]
        return JSONResponse(
            {"world": body["world"], "revision": self.revision, "outcome": "applied", "clusters": clusters,
             "transitions": transitions, "refused": []}
        )  # fmt: skip

    async def _message(self, request: Request) -> Response:
        if fault := self._fault(request):
            return fault
        body = await request.json()
        self.messages.append(body)
        speaker = self._rows[body["player_id"]]
        group = next((members for members in self._clusters.values() if speaker.id in members), frozenset({speaker.id}))
        id = f"u{len(self.messages)}"
        npcs = sorted(one for one in group if self._rows[one].kind == "npc")
        if not npcs:
            return JSONResponse({"outcome": "unheard", "utterance_id": id, "revision": self.revision, "replies": []})
        self.append(
            type="utterance", utterance_id=id, text=body["text"], ai=False,
            speaker={"id": speaker.id, "name": speaker.name, "kind": "player"},
        )  # fmt: skip
        named = self._named(body["text"], group)
        if named is not None and self._rows[named].kind == "player":
            self.append(type="turn", turn_id=f"t{id}", phase="silent", reason="ADDRESSED_PLAYER", cause_utterance_id=id)
            return self._answer(id, "silent", [], reason="ADDRESSED_PLAYER")
        return await self._turn(id, named or npcs[0], "VOCATIVE" if named else "GATE")

    async def _turn(self, id: str, npc: str, reason: str) -> Response:
        row, turn = self._rows[npc], f"t{id}"
        common = {"turn_id": turn, "npc_id": npc, "npc_name": row.name}
        self.append(type="turn", phase="started", reason=reason, cause_utterance_id=id, **common)
        await asyncio.sleep(self.think_s)
        for number, text in enumerate(("Here I am.", "And that is that.")):
            self.append(
                type="utterance", utterance_id=f"{turn}-{number}", text=text, ai=True, turn_id=turn, sentence=number,
                speaker={"id": npc, "name": row.name, "kind": "npc"},
            )  # fmt: skip
        if self.action:
            self.append(type="action", turn_id=turn, npc_id=npc, **self.action)
        self.append(
            type="turn", phase="ended", reason=reason, revision_seen=self.revision, age_ms=20, runtime="fake",
            first_sentence_ms=round(self.think_s * 1000), total_ms=round(self.think_s * 1000), **common,
        )  # fmt: skip
        return self._answer(id, "replied", [{"turn_id": turn, "npc_id": npc, "npc_name": row.name, "ai": True}])

    async def _events(self, request: Request) -> Response:
        if fault := self._fault(request):
            return fault
        self.worlds_asked.add(request.query_params["world"])
        if "cursor" not in request.query_params:
            return JSONResponse({"events": [], "cursor": len(self.log)})
        cursor, hold = int(request.query_params["cursor"]), float(request.query_params.get("hold", 0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(hold if self.hold else 0):
                while len(self.log) <= cursor:
                    await self._rung.wait()
        events = self.log[cursor : cursor + 64]
        if not events and self.hold:
            return Response(status_code=204)
        return JSONResponse({"events": events, "cursor": cursor + len(events)})

    async def _world(self, request: Request) -> Response:
        self.worlds_asked.add(request.path_params["world"])
        return JSONResponse({"id": request.path_params["world"], "sync": {"npcs": self.sync, "runtimes": []}})

    def _regroup(self) -> list[Body]:
        """Name the new clusters after the old ones with which they share most, and say what changed."""
        now = groups(self._rows, frozenset(self._clusters.values()))
        before, self._clusters = self._clusters, {}
        changes: list[Body] = []
        for members in sorted(now, key=sorted):
            heirs = [id for id in before if id not in self._clusters and before[id] & members]
            id = max(heirs, key=lambda one: len(before[one] & members), default="")
            if not id:
                id = f"c{self.revision}-{min(members)}"
                changes.append({"type": "formed", "cluster": id, "members": sorted(members)})
            else:
                for kind, who in (("joined", members - before[id]), ("left", before[id] - members)):
                    if who:
                        changes.append({"type": kind, "cluster": id, "members": sorted(who)})
            self._clusters[id] = members
        gone = [id for id in before if id not in self._clusters]
        return changes + [{"type": "dissolved", "cluster": id, "members": sorted(before[id])} for id in gone]

    def _named(self, text: str, group: frozenset[str]) -> str | None:
        """Whom the first words of a line name, the way these players put it: "Mira, ..."."""
        for id in sorted(group):
            names = {self._rows[id].name, *self._rows[id].name.split()}
            if any(f"{name}," in text or text.endswith(f"{name}.") for name in names):
                return id
        return None

    def _answer(self, id: str, outcome: str, replies: list[Body], reason: str = "") -> Response:
        body = {"utterance_id": id, "conversation_id": "c", "revision": self.revision, "outcome": outcome}
        return JSONResponse({**body, "replies": replies, **({"reason": reason} if reason else {})})

    def _fault(self, request: Request) -> Response | None:
        waiting = self.faults.get(f"{request.method} {request.url.path}")
        return waiting.pop(0) if waiting else None

    @contextlib.contextmanager
    def _counted(self, path: str) -> Iterator[None]:
        self.in_flight[path] = self.in_flight.get(path, 0) + 1
        self.most[path] = max(self.most.get(path, 0), self.in_flight[path])
        try:
            yield
        finally:
            self.in_flight[path] -= 1


def error(status: int, reason: str, *, retryable: bool, after: int | None = None) -> Response:
    """An error of the contract."""
    headers = {} if after is None else {"retry-after": str(after)}
    body = {"code": "some_code", "reason": reason, "message": "because of a test", "retryable": retryable}
    return JSONResponse({"error": body}, status, headers)


def row_of(entity: Body) -> Row:
    """An entity of the contract, read back."""
    at, health = entity["position"], entity["health"]
    return Row(
        entity["id"], entity["name"], entity["kind"], at["x"], at["y"], at["z"], health["current"], health["max"],
        entity["action"], entity["location"], entity.get("appearance", ""),
    )  # fmt: skip
