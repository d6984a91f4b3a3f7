"""Servers under test: started as their users start them, on free ports, ended by the ids that we started."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import crowd

ROOT = Path(__file__).parents[1]
START_S = 180.0
STOP_S = 20.0
SETTLE_STEP_S = 0.5
IDLE_SHARE = 0.08
_TICKS = os.sysconf("SC_CLK_TCK")


class TargetFailed(RuntimeError):
    """A server did not start, or gave the wrong answer."""


@dataclass(frozen=True, slots=True)
class Command:
    """One process of a target."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Target:
    """A server of one or more processes that takes snapshots on `port`."""

    name: str
    port: int
    commands: Sequence[Command]
    path: str = "/v1/snapshots"
    marker: str = '"revision"'
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _log: Path | None = None

    def start(self, folder: Path) -> None:
        """Start every process and wait until a snapshot is answered 200. Raises TargetFailed with the log's end."""
        self._log = folder / f"{self.name.replace(' ', '-').replace('/', '-')}.log"
        with self._log.open("ab") as log:
            for command in self.commands:
                environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}", **command.environment}
                self._processes.append(
                    subprocess.Popen(
                        command.arguments, cwd=ROOT, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
                    )
                )
        deadline = time.monotonic() + START_S
        body = crowd.frames(0, 1)[0]
        while not self._answers(body):
            if any(process.poll() is not None for process in self._processes) or time.monotonic() > deadline:
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                self.stop()
                raise TargetFailed(f"{self.name} did not start:\n{tail}")
            time.sleep(0.2)

    def _answers(self, body: bytes) -> bool:
        try:
            status, _ = self.post(body)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def post(self, body: bytes) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", self.path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self) -> None:
        """End what was started, politely first."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def kill(self) -> None:
        """As a crash: SIGKILL to every process."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def cpu_seconds(self) -> list[float]:
        """User and system time of each process so far."""
        return [cpu_seconds(pid) for pid in self.pids]

    def settle(self, most: float) -> bool:
        """Wait until the target uses next to no CPU, at most `most` seconds: what it still does for requests that were
        answered must not run in another one's time. False when it did not end.
        """
        deadline = time.monotonic() + most
        before = sum(self.cpu_seconds())
        while time.monotonic() < deadline:
            time.sleep(SETTLE_STEP_S)
            now = sum(self.cpu_seconds())
            if now - before < IDLE_SHARE * SETTLE_STEP_S:
                return True
            before = now
        return False

    def resident_bytes(self) -> int:
        """Resident memory of all processes."""
        return sum(resident_bytes(pid) for pid in self.pids)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def earshot(
    name: str,
    folder: Path,
    *processes: str,
    environment: Mapping[str, str] | None = None,
    under: Sequence[str] = (),
) -> Target:
    """Earshot with one process for each argument, which names its rooms as `--target` does.

    under: what runs the command line instead of `python -m services`.
    """
    listen, *rooms = free_ports(5)
    addresses = {
        f"EARSHOT_{room}_ADDR": f"127.0.0.1:{port}"
        for room, port in zip(("STATE", "CLUSTER", "SYNC", "CHAT"), rooms, strict=True)
    }
    shared = {
        "EARSHOT_LISTEN": f"127.0.0.1:{listen}",
        "EARSHOT_LOG_LEVEL": "warning",
        "EARSHOT_RUNTIMES": "offline",
        **addresses,
        **(environment or {}),
    }
    program = list(under) or [sys.executable, "-m", "services"]
    commands = []
    for number, target in enumerate(processes):
        data = folder / f"{name.replace(' ', '-')}-{number}"
        commands.append(Command([*program, "up", "--target", target], {**shared, "EARSHOT_DATA": str(data)}))
    return Target(name, listen, commands, marker='"outcome":"applied"')
