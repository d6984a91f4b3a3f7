"""The Roblox SDK, unmodified, in a Luau VM against a real edge: its own specs, one process each.

A spec may ask for something by a line `@@command`; it goes on when it is answered.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT, Stack

CLIENT = ROOT / "clients" / "roblox"
TESTS = CLIENT / "tests"
SPECS = sorted(path.name for path in (TESTS / "specs").glob("*.spec.luau"))
SPEC_S = 50.0
AT_ONCE = 4

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is missing: the Roblox SDK is not tested")


@dataclass
class Edge:
    """A running edge with a key."""

    stack: Stack
    key: str

    def obey(self, command: str) -> str:
        if command == "kill":
            self.stack.kill()
        elif command == "start":
            self.stack.start()
        else:
            return "unknown"
        return "done"


@pytest.fixture(scope="module")
def packages() -> None:
    """What package-lock.json says, in node_modules."""
    lock, installed = TESTS / "package-lock.json", TESTS / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    command = ["npm", "ci", "--silent", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
    installed.touch()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    data = tmp_path_factory.mktemp("roblox") / "data"
    made = subprocess.run(
        [sys.executable, "-m", "services", "key", "create", "studio"],
        env={**os.environ, "EARSHOT_DATA": str(data)}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    with Stack(data) as stack:
        yield Edge(stack, made.stdout.split()[0])


def run(spec: Path, edge: Edge) -> tuple[int, str]:
    """Exit status and output of one spec."""
    process = subprocess.Popen(
        ["node", "host.mjs", str(spec), edge.stack.url, edge.key],
        cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    output = []
    # A spec that hangs is ended; its output says how far it came.
    watchdog = threading.Timer(SPEC_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            output.append(line)
            if line.startswith("@@"):
                process.stdin.write(edge.obey(line[2:].strip()) + "\n")
                process.stdin.flush()
        return process.wait(SPEC_S), "".join(output)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture(scope="module")
def outcomes(packages: None, edge: Edge) -> Iterator[dict[str, Future[tuple[int, str]]]]:
    """Every spec's outcome. They mostly wait, so several run at once; those that stop the edge run after all others."""
    alone = [name for name in SPECS if "Roblox.control" in (TESTS / "specs" / name).read_text()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started = {name: pool.submit(run, TESTS / "specs" / name, edge) for name in SPECS if name not in alone}
        wait(started.values())
        for name in alone:
            started[name] = pool.submit(run, TESTS / "specs" / name, edge)
            wait([started[name]])
        yield started


@pytest.mark.parametrize("name", SPECS)
def test_spec(name: str, outcomes: dict[str, Future[tuple[int, str]]]) -> None:
    status, output = outcomes[name].result()
    assert status == 0, output


@pytest.mark.usefixtures("packages")
def test_every_file_is_formatted() -> None:
    stylua = TESTS / "node_modules" / ".bin" / "stylua"
    done = subprocess.run(
        [str(stylua), "--check", "src", "tests/shim", "tests/specs"],
        cwd=CLIENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_is_strict() -> None:
    sources = list((CLIENT / "src").rglob("*.luau"))
    assert sources
    assert [path.name for path in sources if not path.read_text().startswith("--!strict\n")] == []
