"""The resolved compose file as processes: each service's command and health check, with the environment it would get.

Addresses become loopback ports, volumes become directories, and a process gets nothing but the image's environment and
the service's own. What an engine does (building, networks, restarts) is not in it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.stack import ROOT, free_ports
from tests.unit.test_deploy import compose, instructions, last_stage

HEALTHY_S = 240.0


def image_environment() -> dict[str, str]:
    steps = last_stage(instructions((ROOT / "Dockerfile").read_text()))
    return dict(pair.split("=", 1) for name, rest in steps if name == "ENV" for pair in shlex.split(rest))


@dataclass
class Composed:
    """Services of the resolved file, started in the order of depends_on, each when those before it are healthy."""

    services: dict[str, Any]
    volumes: Path
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, service: str) -> dict[str, str]:
        data = self.volumes / service
        image = {name: value.replace("/data", str(data)) for name, value in image_environment().items()}
        settings = self.services.get(service, {}).get("environment", {})
        given = {name: value for name, value in settings.items() if value is not None}
        for name, value in given.items():
            if name == "EARSHOT_METRICS_LISTEN":  # each container has its own
                given[name] = f"127.0.0.1:{self.port(f'{service} {value}')}"
            elif name.endswith(("_ADDR", "_LISTEN")):
                given[name] = f"127.0.0.1:{self.port(value)}"
            elif name == "EARSHOT_TLS":
                given[name] = value.replace("/certs", str(self.volumes / "certs" / service))
        return {**image, **given, "HOME": str(data), "PATH": f"{Path(sys.executable).parent}:{os.defpath}"}

    def port(self, address: str) -> int:
        """The port that stands for an address of the file, the same for whoever names it."""
        if address not in self.ports:
            (self.ports[address],) = free_ports(1)
        return self.ports[address]

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the service's surroundings, as `docker compose run` or a health check."""
        return subprocess.run(
            command, env=self.environment(service), cwd=self.volumes / service, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    def healthy(self, service: str) -> bool:
        kind, *command = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(service, *command).returncode == 0

    def start(self) -> None:
        waits = {
            name: set(service.get("depends_on") or {}) & set(self.services) for name, service in self.services.items()
        }
        for name in TopologicalSorter(waits).static_order():
            with (self.volumes / f"{name}.log").open("wb") as log:
                self.processes[name] = subprocess.Popen(
                    ["earshot", *self.services[name]["command"]], env=self.environment(name), cwd=self.volumes / name,
                    executable=str(Path(sys.executable).parent / "earshot"), stdout=log, stderr=log,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
            self.wait(name)

    def wait(self, name: str) -> None:
        until = time.monotonic() + HEALTHY_S
        while not self.healthy(name):
            if self.processes[name].poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{name} is not healthy:\n{self.output(name)}")

    def stop(self, name: str) -> int:
        """As the engine stops a container: SIGTERM, then the grace period of the file."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            return process.wait(float(self.services[name]["stop_grace_period"].removesuffix("s")))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            return -9

    def output(self, name: str) -> str:
        return (self.volumes / f"{name}.log").read_text(errors="replace")[-4000:]


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    resolved = compose("--profile", "setup", "config", "--format", "json")
    assert resolved.returncode == 0, resolved.stderr
    services = json.loads(resolved.stdout)["services"]
    by_hand = services.pop("certs")
    assert by_hand["command"] == ["certs", "/certs"]
    one = Composed(services, tmp_path)
    for name in (*one.services, "certs"):
        (tmp_path / name).mkdir(mode=0o700)
    try:
        yield one
    finally:
        for process in one.processes.values():
            process.kill()
        for process in one.processes.values():
            process.wait(10)


def test_services_of_the_compose_file_find_each_other(composed: Composed) -> None:
    certified = composed.run("certs", "earshot", "certs", str(composed.volumes / "certs"))
    assert certified.returncode == 0, certified.stderr
    created = composed.run("edge", "earshot", "key", "create", "mygame")
    assert created.returncode == 0, created.stderr
    key = next(word for word in created.stdout.split() if word.startswith("ek_"))
    composed.start()

    port = composed.port(composed.services["edge"]["environment"]["EARSHOT_LISTEN"])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30.0) as client:
        assert client.get("/v1/worlds").status_code == 401
        client.headers["Authorization"] = f"Bearer {key}"
        npc = {"id": "mara", "display_name": "Mara", "persona": "Keeps the tavern.", "lines": ["Sit down."]}
        assert client.put("/v1/npcs", json={"npcs": [npc]}).status_code == 200
        entities = [
            {"id": "mara", "kind": "npc", "position": [0, 0, 0]},
            {"id": "7", "kind": "player", "name": "Ada", "position": [3, 0, 0]},
        ]
        seen = client.post("/v1/snapshots", json={"world": "w", "entities": entities}).json()
        assert [sorted(cluster["members"]) for cluster in seen["clusters"]] == [["7", "mara"]]
        said = client.post("/v1/messages", json={"world": "w", "player_id": "7", "text": "Mara, are you open?"}).json()
        assert [reply["npc_id"] for reply in said["replies"]] == ["mara"], said

    stores = {name: {file.stem for file in (composed.volumes / name).glob("*.db")} for name in composed.services}
    # Without its certificate a room is nobody: the others do not answer.
    (composed.volumes / "certs" / "edge" / "cert.pem").unlink()
    refused = composed.run("edge", "earshot", "health", "--target", "state")
    assert refused.returncode == 1
    assert "TLS_FILES" in refused.stderr
    assert stores == {name: {name} & {"state", "sync", "chat"} for name in composed.services}
    for name in ("edge", "chat", "sync", "state", "cluster"):
        assert composed.stop(name) == 0, composed.output(name)
        assert not composed.healthy(name)
