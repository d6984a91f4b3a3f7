"""Two tenants with the same worlds, NPCs and players: no answer, event, metric or log line shows one to the other.

Every operation of the published contract is asked, by each tenant, with its own ids and with the other one's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.edge.contract.examples import EXAMPLES
from tests.e2e.conftest import Keyed
from tests.e2e.stack import ROOT

CONTRACT = json.loads((ROOT / "docs" / "openapi.json").read_text())
OPERATIONS = sorted((method.upper(), path) for path, methods in CONTRACT["paths"].items() for method in methods)
# Ends the session that the others need: asked last.
LAST = ("DELETE", "/v1/sessions/current")
NPCS, PLAYERS = ("mara", "brom"), ("962483389", "5001")
# What the original game sends: the contract has no examples of it.
OLD_GAME: dict[str, Any] = {
    "/letta/v1/chat/v3": {
        "npc_id": "mara",
        "participant_id": "5001",
        "messages": [{"role": "user", "content": "hello"}],
    },
    "/letta/v1/npc/group/update": {"npc_id": "mara", "player_id": "5001", "player_name": "Ada", "is_joining": True},
    "/letta/v1/npc/status/update": {"npc_id": "mara", "status_text": "health: 65 | current_action: Idle"},
    "/letta/v1/get_player_description": {"user_id": "5001"},
    "/letta/v1/snapshot/game": {"humanContext": {"Mara": {"position": {"x": 0, "y": 0, "z": 0}}}},
}
_ID = re.compile(r'"(?:id|utterance_id|turn_id|conversation_id|erasure_id|session_id)":"([^"]+)"')


@dataclass
class Tenant:
    """A tenant in a world that the other one has too; every text of its own carries its mark."""

    keyed: Keyed
    name: str
    world: str
    mark: str
    ids: set[str] = field(default_factory=set)
    answers: list[str] = field(default_factory=list)
    token: str = ""
    seq: int = 0

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"} if self.token and "sessions/" in path + "/" else {}
        if path == "/v1/sync":
            headers = {"authorization": f"Bearer {self.token}"}
        answer = self.keyed.stack.http.request(
            method,
            path,
            json=body,
            params={"world": self.world, **query},
            headers=headers or self.keyed.bearer(self.name),
        )
        assert answer.status_code < 500, answer.text
        self.answers.append(answer.text)
        self.ids.update(_ID.findall(answer.text))
        return answer

    def live(self, text: str) -> None:
        """Profiles, a snapshot, a session and a conversation, all with the mark."""
        said = f"{self.mark} {text}"
        npcs = [{"id": npc, "display_name": f"{npc} {self.mark}", "persona": said, "lines": [said]} for npc in NPCS]
        places = [{"slug": "inn", "name": said, "coordinates": [0, 0, 0]}]
        self.ask(
            "PUT", "/v1/npcs", {"npcs": npcs, "locations": places, "players": [{"id": "5001", "description": said}]}
        )
        opened = self.ask("POST", "/v1/sessions", {"job": self.world, "boot": self.mark, "world": self.world})
        self.token = opened.json()["token"]
        people = [("npc", npc) for npc in NPCS] + [("player", player) for player in PLAYERS]
        entities = [
            {"id": one, "kind": kind, "name": f"{one} {self.mark}", "position": [place, 0, 0], "appearance": said}
            for place, (kind, one) in enumerate(people)
        ]
        self.sync(entities=entities, events=[{"type": "trade", "actor": "mara", "text": said}])
        self.sync(utterances=[{"player_id": "5001", "player_name": f"Ada {self.mark}", "text": f"mara {said}?"}])
        for _ in range(20):
            told = self.ask("GET", "/v1/events", cursor=0, hold=0.5)
            if told.status_code == 200 and '"turn_id"' in told.text:
                break

    def sync(self, **parts: Any) -> None:
        self.seq += 1
        answer = self.ask("POST", "/v1/sync", {"seq": self.seq, "cursor": 0, **parts})
        assert answer.status_code == 200, answer.text

    def every(self, ids: list[str]) -> None:
        """Each operation, for each of the ids where the path takes one."""
        for method, path in (*(one for one in OPERATIONS if one != LAST), LAST):
            for one in ids if "{id}" in path else [""]:
                body = self.body(method, path)
                self.ask(method, path.replace("{id}", one or "none"), body, cursor=0)

    def body(self, method: str, path: str) -> Any:
        if path in OLD_GAME:
            return OLD_GAME[path]
        example = EXAMPLES.get(f"{method} {path}")
        if example is None or example.body is None:
            return {} if method in ("POST", "PUT") else None
        if path == "/v1/sync":
            self.seq += 1
            return {**example.body, "seq": self.seq}
        return {**example.body, "world": self.world} if "world" in example.body else example.body


def worlds() -> Iterator[str]:
    for number in range(10**6):
        yield f"shared-{number}"


_worlds = worlds()


@settings(
    max_examples=4, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    text=st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1, max_size=40),
    first=st.integers(10**9, 10**10 - 1),
    swapped=st.booleans(),
    picks=st.lists(st.integers(0, 10**6), min_size=6, max_size=6),
)
def test_nothing_of_one_tenant_reaches_another(
    keyed: Keyed, text: str, first: int, swapped: bool, picks: list[int]
) -> None:
    world = next(_worlds)
    one, other = (Tenant(keyed, name, world, f"mark{first + i}") for i, name in enumerate(("green", "blue")))
    for tenant in (one, other) if swapped else (other, one):
        tenant.live(text)
    theirs = sorted(other.ids)
    one.every([NPCS[0], PLAYERS[0], *(theirs[pick % len(theirs)] for pick in picks)])
    # What the one did, erasing its players among it, changed nothing of the other.
    other.sync(cursor=0)
    lines = other.ask("GET", "/v1/events", cursor=0).text
    assert other.mark in lines
    other.every([NPCS[1], *sorted(one.ids)[:3]])
    told = {tenant.mark: "".join(tenant.answers) for tenant in (one, other)}
    assert one.mark in told[one.mark]
    assert other.mark not in told[one.mark]
    assert one.mark not in told[other.mark]
    outside = keyed.stack.http.get("/metrics").text + keyed.stack.output()
    for secret in (one.mark, other.mark, one.token, other.token, *keyed.keys.values(), '"green"', '"blue"'):
        assert secret not in outside
