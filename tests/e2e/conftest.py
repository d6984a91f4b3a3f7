"""One running Earshot per (topology, runtime), shared by the tests; each test has a world of its own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.e2e.stack import EMBEDDED, ROOT, SPLIT, Stack

TOPOLOGIES = {"embedded": EMBEDDED, "split": SPLIT}
_numbers = itertools.count(1)

ROSTER: dict[str, list[dict[str, Any]]] = {
    "npcs": [
        {"id": "mara", "display_name": "Mara", "aliases": ["barkeep"], "talkativeness": 0.6,
         "persona": "You are Mara, who keeps the Lantern tavern. Warm, dry, knows everyone.",
         "lines": ["Sit, the soup is hot.", "The roof leaks only when it rains.", "I have heard stranger tales."]},
        {"id": "brom", "display_name": "Brom", "persona": "You are Brom the smith. Few words, kind heart.",
         "lines": ["Iron does not lie.", "Mind the sparks."]},
        {"id": "wyn", "display_name": "Wyn", "persona": "You are Wyn, a travelling singer.",
         "lines": ["There is a song about that."]},
    ],
    "locations": [
        {"slug": "lantern", "name": "the Lantern tavern", "coordinates": [0, 0, 0]},
        {"slug": "harbour", "name": "the Old Harbour", "coordinates": {"x": 400, "y": 0, "z": 0}},
    ],
    "players": [{"id": "5001", "name": "Ada", "description": "A curious explorer in a red scarf."}],
}  # fmt: skip


@dataclass
class Model:
    """Our fake OpenAI-compatible model, as a process; `requests` reads what it was asked."""

    url: str

    def requests(self, count: int = 20) -> list[dict[str, Any]]:
        response = httpx.get(f"{self.url.removesuffix('/v1')}/last", params={"n": count}, trust_env=False)
        response.raise_for_status()
        return list(response.json())


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    given = os.environ.get("EARSHOT_FAKE_MODEL_URL")
    if given:
        yield Model(given)
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.fake_model", "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        yield Model(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def environment(runtime: str, model: Model) -> dict[str, str]:
    """Settings that choose a runtime."""
    if runtime == "openai":
        return {"EARSHOT_OPENAI_BASE_URL": model.url, "EARSHOT_OPENAI_API_KEY": "sk-test-canary"}
    if runtime == "letta":
        if "LETTA_BASE_URL" not in os.environ:
            pytest.fail("the letta tests need a real server: make test-letta")
        return {
            "EARSHOT_LETTA_BASE_URL": os.environ["LETTA_BASE_URL"],
            "EARSHOT_LETTA_MODEL": os.environ.get("EARSHOT_LETTA_MODEL", "openai-proxy/earshot-fake"),
        }
    return {}


_PARAMETERS = [
    pytest.param(("embedded", "offline"), id="embedded-offline"),
    pytest.param(("split", "offline"), id="split-offline"),
    pytest.param(("embedded", "openai"), id="embedded-openai"),
    pytest.param(("split", "openai"), id="split-openai"),
    pytest.param(("embedded", "letta"), id="embedded-letta", marks=pytest.mark.letta),
    pytest.param(("split", "letta"), id="split-letta", marks=pytest.mark.letta),
]


@pytest.fixture(scope="session", params=_PARAMETERS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Stack]:
    topology, runtime = request.param
    data = tmp_path_factory.mktemp(f"{topology}-{runtime}") / "data"
    with Stack(data, TOPOLOGIES[topology], environment(runtime, model)) as stack:
        stack.runtime = runtime
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        yield stack


@dataclass
class Keyed:
    """A running Earshot that several tenants use. Its waits are short, so that who still waits much later hangs."""

    stack: Stack
    keys: dict[str, str] = field(default_factory=dict)

    def bearer(self, tenant: str) -> dict[str, str]:
        """Headers with a key of the tenant's, made when it is first asked for."""
        if tenant not in self.keys:
            self.keys[tenant] = self.stack.create_key(tenant)
        return {"authorization": f"Bearer {self.keys[tenant]}"}


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    environment = {
        "EARSHOT_MESSAGES_WAIT_S": "1.5",
        "EARSHOT_EVENTS_HOLD_MAX_S": "0.5",
        "EARSHOT_SNAPSHOT_DEADLINE_S": "20",
        "EARSHOT_BODY_TIMEOUT_S": "5",
        "EARSHOT_TENANT_REQUESTS_PER_S": "100000",
        "EARSHOT_WRONG_KEYS_PER_MINUTE": "1000000",
    }
    with Stack(tmp_path_factory.mktemp("keyed") / "data", environment=environment) as stack:
        yield Keyed(stack)


@dataclass
class Scene:
    """A world of the test's own, with a cursor from its start."""

    stack: Stack
    world: str
    where: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def place(self, **positions: tuple[float, float, float]) -> dict[str, Any]:
        """Put NPCs and players (ids that start with p) somewhere and send a full snapshot."""
        self.where.update(positions)
        return self.send()

    def leave(self, *ids: str) -> dict[str, Any]:
        for one in ids:
            del self.where[one]
        return self.send()

    def send(self, **more: Any) -> dict[str, Any]:
        entities = [
            {"id": one, "kind": "player" if one.startswith("p") else "npc", "name": one.capitalize(),
             "position": {"x": x, "y": y, "z": z}, "health": {"current": 100, "max": 100}, "action": "Idle"}
            for one, (x, y, z) in self.where.items()
        ]  # fmt: skip
        return self.stack.snapshot(self.world, entities, **more)

    def say(self, player: str, text: str, **more: Any) -> dict[str, Any]:
        return self.stack.say(self.world, player, text, **more)

    def events(self) -> list[dict[str, Any]]:
        """Everything in the world's log so far."""
        found: list[dict[str, Any]] = []
        cursor = 0
        while True:
            page = self.stack.events(self.world, cursor)
            if not page["events"]:
                return found
            found += page["events"]
            cursor = page["cursor"]


@pytest.fixture
def scene(stack: Stack) -> Scene:
    return Scene(stack, f"world-{next(_numbers)}")
