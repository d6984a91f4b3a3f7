"""Requests made from the published contract, valid and spoilt, against a whole Earshot: its answers are in it too.

FUZZ_EXAMPLES (`make fuzz`): so many requests of each operation, other ones every time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, unsupported_method

from tests.e2e.conftest import ROSTER, Keyed
from tests.e2e.stack import ROOT, Stack

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
CONTRACT = schemathesis.openapi.from_dict(json.loads((ROOT / "docs" / "openapi.json").read_text()))
# No wait of `keyed` is longer than a second.
HANG_S = 20.0
# Why a healthy server may answer 503: the request itself asks for what is not there yet.
ASKED_FOR = {"REVISION_UNKNOWN", "AGENT_BUSY"}
# The contract tolerates what Luau writes (null, [] for {}, unknown fields), and bounds stand in words, not in schemas.
TOLERATED = [positive_data_acceptance, negative_data_rejection, unsupported_method]
TENANT, WORLD = "red", "fuzzed"
ENTITIES = [
    {"id": "mara", "kind": "npc", "name": "Mara", "position": [0, 0, 0]},
    {"id": "5001", "kind": "player", "name": "Ada", "position": [2, 0, 1]},
]


@dataclass
class Fuzzed:
    """A tenant of a running Earshot, and ids that exist there."""

    keyed: Keyed
    known: dict[str, str]
    connections: requests.Session

    def headers(self, path: str) -> dict[str, str]:
        """Of a caller that may use the path: with a session's token where one is needed."""
        bearer = self.keyed.bearer(TENANT)
        if path not in ("/v1/sync", "/v1/sessions/current"):
            return bearer
        opened = self.keyed.stack.post("/v1/sessions", {"job": "fuzz", "boot": "1"}, headers=bearer)
        return {"authorization": f"Bearer {opened.json()['token']}"}


@pytest.fixture(scope="module")
def fuzzed(keyed: Keyed) -> Iterator[Fuzzed]:
    stack, bearer = keyed.stack, keyed.bearer(TENANT)
    assert stack.http.put("/v1/npcs", json=ROSTER, headers=bearer).status_code == 200
    placed = stack.post("/v1/snapshots", {"world": WORLD, "entities": ENTITIES}, headers=bearer).json()
    stack.post("/v1/messages", {"world": WORLD, "player_id": "5001", "text": "Mara, hello!"}, headers=bearer)
    known = {
        "npcs": "mara",
        "worlds": WORLD,
        "conversations": placed["clusters"][0]["id"],
        "turns": first_turn(stack, bearer),
        "players": "4004",
        "erasures": stack.http.delete("/v1/players/4004", headers=bearer).json()["erasure_id"],
    }
    with requests.Session() as connections:
        connections.trust_env = False
        yield Fuzzed(keyed, known, connections)
    assert stack.http.get("/readyz").json()["ready"]
    for sign in ("Traceback", "request_failed", "rpc_failed", "worker_failed", "socket_failed"):
        assert sign not in stack.output()


def first_turn(stack: Stack, bearer: dict[str, str]) -> str:
    """The id of the world's first turn, once it is in the log."""
    asked: dict[str, Any] = {"world": WORLD, "cursor": 0, "hold": 0.5}
    for _ in range(60):
        answer = stack.http.get("/v1/events", params=asked, headers=bearer)
        if answer.status_code == 200:
            for event in answer.json()["events"]:
                if event["type"] == "turn":
                    return str(event["turn_id"])
            asked["cursor"] = answer.json()["cursor"]
    raise AssertionError("Mara did not answer")


@CONTRACT.parametrize()
@settings(
    max_examples=EXAMPLES or 15,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_in_the_contract(case: schemathesis.Case[Any], fuzzed: Fuzzed) -> None:
    aimed(case, fuzzed.known)
    answer = case.call(
        base_url=fuzzed.keyed.stack.url, headers=fuzzed.headers(case.path), session=fuzzed.connections, timeout=HANG_S
    )
    if answer.status_code >= 500:
        assert answer.status_code == 503
        assert answer.json()["error"]["reason"] in ASKED_FOR
    case.validate_response(answer, excluded_checks=[*TOLERATED, not_a_server_error])


def aimed(case: schemathesis.Case[Any], known: dict[str, str]) -> None:
    """Half of the requests ask for what is there: made-up ids never get past the first look."""
    made_up = str(case.path_parameters.get("id", ""))
    kind = case.path.split("/")[2] if case.path.count("/") > 1 else ""
    if kind in known and len(made_up) % 2:
        case.path_parameters["id"] = known[kind]
    if isinstance(case.query, dict) and len(str(case.query.get("world", ""))) % 2:
        case.query["world"] = WORLD
    if isinstance(case.body, dict) and len(str(case.body.get("world", ""))) % 2:
        case.body["world"] = WORLD
