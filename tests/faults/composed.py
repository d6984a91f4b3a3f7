"""The resolved compose file on a network of its own: each service's command in its own namespace, found by its name.

What an engine does is done by iproute2 and directories: networks, names, volumes. A process gets nothing but the
image's environment and its service's own. Restart policies are the test's business.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.e2e.test_compose import image_environment
from tests.faults.network import Network
from tests.unit.test_deploy import compose

HEALTHY_S = 240.0
EARSHOT = str(Path(sys.executable).parent / "earshot")
UP = b"Earshot is up"
ORDERED = ("cluster", "state", "sync", "chat", "edge")


@dataclass
class Composed:
    """Services of the resolved file, as processes. Use as a context manager; `url` and `key` are for its clients."""

    folder: Path
    more: Mapping[str, str] = field(default_factory=dict)
    services: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    key: str = ""

    def __enter__(self) -> Composed:
        resolved = compose("config", "--format", "json")
        assert resolved.returncode == 0, resolved.stderr
        self.services = json.loads(resolved.stdout)["services"]
        with ExitStack() as stack:
            self.network = stack.enter_context(Network(self.folder))
            stack.callback(self.kill)
            for name, service in self.services.items():
                (self.folder / name).mkdir(mode=0o700)
                aliases = [one for how in service["networks"].values() for one in (how or {}).get("aliases", ())]
                self.network.add(name, *aliases)
            (self.folder / "certs").mkdir(mode=0o700)
            self._once("edge", "certs", str(self.folder / "certs"))
            made = self._once("edge", "key", "create", "mygame")
            self.key = next(word for word in made.split() if word.startswith("ek_"))
            waits = {
                name: set(service.get("depends_on") or {}) & set(self.services)
                for name, service in self.services.items()
            }
            for name in TopologicalSorter(waits).static_order():
                self.start(name)
            port = self.services["edge"]["environment"]["EARSHOT_LISTEN"].rpartition(":")[2]
            self.url = f"http://{self.network.addresses['edge']}:{port}"
            bearer = {"authorization": f"Bearer {self.key}"}
            self.http = stack.enter_context(
                httpx.Client(base_url=self.url, headers=bearer, timeout=35.0, trust_env=False)
            )
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close.close()

    def environment(self, service: str) -> dict[str, str]:
        """What the service's process sees: volumes are directories, addresses are as the file says."""
        data = str(self.folder / service)
        image = {name: value.replace("/data", data) for name, value in image_environment().items()}
        settings = self.services[service].get("environment") or {}
        given = {name: value for name, value in settings.items() if value is not None}
        if "EARSHOT_TLS" in given:
            given["EARSHOT_TLS"] = given["EARSHOT_TLS"].replace("/certs", str(self.folder / "certs" / service))
        path = f"{Path(sys.executable).parent}:{os.defpath}"
        return {**image, **given, **self.more, "HOME": data, "PATH": path}

    def _once(self, service: str, *arguments: str) -> str:
        done = subprocess.run(
            [EARSHOT, *arguments], env=self.environment(service), cwd=self.folder / service, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        """Run the service's command on its host, and wait until its own health check passes."""
        log_file = self.folder / f"{name}.log"
        before = log_file.stat().st_size if log_file.exists() else 0
        with log_file.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.network.command(name, EARSHOT, *self.services[name]["command"]),
                env=self.environment(name), cwd=self.folder / name, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        until = time.monotonic() + HEALTHY_S
        # A health check costs a second of a core: not before the process says that it is up.
        while UP not in log_file.read_bytes()[before:] or not self.healthy(name):
            if self.processes[name].poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{name} is not healthy:\n{self.output(name)}")
            time.sleep(0.05)

    def healthy(self, name: str) -> bool:
        kind, _, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(
            self.network.command(name, EARSHOT, *command), env=self.environment(name), cwd=self.folder / name,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode == 0

    def stop(self, name: str) -> int:
        """As the engine stops a container: SIGTERM, then the grace period of the file."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(float(self.services[name]["stop_grace_period"].removesuffix("s")))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            return -signal.SIGKILL

    def kill(self, *names: str) -> None:
        """SIGKILL, these or all."""
        chosen: Sequence[str] = names or tuple(self.processes)
        for name in chosen:
            self.processes[name].kill()
        for name in chosen:
            self.processes.pop(name).wait(10)

    def output(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]
