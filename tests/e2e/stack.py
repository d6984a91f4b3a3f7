"""A whole Earshot as processes, as a user starts it: `earshot up`, in one process or one per room.

Everything binds to loopback on ports that were free a moment ago; processes are ended by their own id.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START_S = 240.0
STOP_S = 15.0
ROOT = Path(__file__).parents[2]
SPLIT = (("cluster",), ("state",), ("sync",), ("chat",), ("edge",))
EMBEDDED = (("all",),)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what would choose another runtime or address than the test does."""
    chosen = ("EARSHOT_", "LETTA_", "OPENAI_", "LLM_")
    return {name: value for name, value in environment.items() if not name.startswith(chosen)}


@dataclass
class Stack:
    """Processes by target, over one data directory. Use as a context manager."""

    data: Path
    targets: Sequence[Sequence[str]] = EMBEDDED
    environment: dict[str, str] = field(default_factory=dict)
    runtime: str = "offline"
    # What `python -m` runs, before its --target.
    program: tuple[str, ...] = ("services", "up")
    # What runs it, for example in a namespace.
    within: tuple[str, ...] = ()
    # More environment of one target's process, taken when it starts.
    extra: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        edge, state, cluster, sync, chat = free_ports(5)
        self.url = f"http://127.0.0.1:{edge}"
        self._environment = {
            **_clean(os.environ),
            "EARSHOT_LISTEN": f"127.0.0.1:{edge}",
            "EARSHOT_STATE_ADDR": f"127.0.0.1:{state}",
            "EARSHOT_CLUSTER_ADDR": f"127.0.0.1:{cluster}",
            "EARSHOT_SYNC_ADDR": f"127.0.0.1:{sync}",
            "EARSHOT_CHAT_ADDR": f"127.0.0.1:{chat}",
            "EARSHOT_DATA": str(self.data),
            "EARSHOT_LOG_LEVEL": "debug",
            "EARSHOT_LOG_FORMAT": "json",
            # The machine may be busy: what is refused then is not what these tests are about.
            "EARSHOT_LAG_MAX_S": "5",
            "PYTHONUNBUFFERED": "1",
            **self.environment,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log = self.data.parent / f"{self.data.name}.log"
        # A second client beside `http`, without keep-alive surprises across restarts.
        self.http = httpx.Client(base_url=self.url, timeout=35.0, trust_env=False)

    def start(self) -> None:
        """Start what does not run, and wait until the edge says that it is ready."""
        self.data.mkdir(parents=True, exist_ok=True)
        for rooms in self.targets:
            target = ",".join(rooms)
            if target in self.processes and self.processes[target].poll() is None:
                continue
            with self.log.open("ab") as log:
                self.processes[target] = subprocess.Popen(
                    [*self.within, sys.executable, "-m", *self.program, "--target", target],
                    env={**self._environment, **self.extra.get(target, {})}, cwd=ROOT, stdout=log, stderr=log,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
        self._wait_ready()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        answer = "no answer"
        while time.monotonic() < deadline:
            dead = [target for target, process in self.processes.items() if process.poll() is not None]
            if dead:
                raise AssertionError(f"{dead} ended at start:\n{self.output()[-4000:]}")
            with contextlib.suppress(httpx.HTTPError):
                response = self.http.get("/readyz", timeout=2.0)
                if response.status_code == 200:
                    return
                answer = response.text
            time.sleep(0.05)
        raise AssertionError(f"not ready after {START_S} s ({answer}):\n{self.output()[-4000:]}")

    def beside(self) -> Stack:
        """Another edge over the rooms of this one, not started yet."""
        rooms = {name: value for name, value in self._environment.items() if name.endswith("_ADDR")}
        return Stack(self.data, (("edge",),), {**self.environment, **rooms}, self.runtime)

    def kill(self, *targets: str) -> None:
        """SIGKILL, as a crash."""
        for target in targets or tuple(self.processes):
            process = self.processes.pop(target)
            process.kill()
            process.wait(STOP_S)

    def stop(self, *targets: str) -> dict[str, int]:
        """SIGINT, as Ctrl-C, to these or all; exit status by target."""
        chosen = {target: self.processes[target] for target in targets or tuple(self.processes)}
        for process in chosen.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        statuses = {}
        for target, process in chosen.items():
            try:
                statuses[target] = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                statuses[target] = process.wait(STOP_S)
            del self.processes[target]
        return statuses

    def settle(self, world: str) -> None:
        """Wait until every room answers for the world again: channels reconnect with back-off."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            response = self.http.get(f"/v1/worlds/{world}")
            if response.status_code == 200 and not response.json().get("missing"):
                return
            time.sleep(0.05)
        raise AssertionError(f"the rooms did not come back:\n{self.output()[-4000:]}")

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.http.close()

    def create_key(self, tenant: str) -> str:
        """A key of the command line; the running edge sees it within a second."""
        made = subprocess.run(
            [sys.executable, "-m", "services", "key", "create", tenant],
            env=self._environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=START_S,
        )  # fmt: skip
        (key,) = re.findall(r"ek_\w+", made.stdout)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            answer = self.http.get("/v1/npcs", headers={"authorization": f"Bearer {key}"})
            if answer.status_code == 200 and self.http.get("/v1/npcs").status_code == 401:
                return str(key)
            time.sleep(0.05)
        raise AssertionError("the edge does not take the key")

    # -- the public API, as a game uses it -------------------------------------------------------------------------

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx.Response:
        return self.http.post(path, json=body, **kwargs)

    def snapshot(self, world: str, entities: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        response = self.post("/v1/snapshots", {"world": world, "entities": list(entities), **more})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def say(self, world: str, player: str, text: str, **more: Any) -> dict[str, Any]:
        response = self.post("/v1/messages", {"world": world, "player_id": player, "text": text, **more})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def events(self, world: str, cursor: int, hold: float = 0) -> dict[str, Any]:
        response = self.http.get("/v1/events", params={"world": world, "cursor": cursor, "hold": hold})
        assert response.status_code in (200, 204), response.text
        return dict(response.json()) if response.status_code == 200 else {"events": [], "cursor": cursor}
