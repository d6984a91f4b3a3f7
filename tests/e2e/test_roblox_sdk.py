"""The Roblox SDK, unmodified, in a Luau VM against a real edge: its own specs, one process each.

The edge's time is the game's (`tests.fakes.driven_time`): a spec sees the same times on any machine, however busy.
Each has its own edge; its comment `-- edge: model` asks for one whose NPCs answer by a model that the players' lines
steer (`tests.fakes.model_script`), `-- edge: none` for none. A spec may ask for something by a line `@@command`, and
goes on when it is answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.stack import ROOT, Stack, free_ports

CLIENT = ROOT / "clients" / "roblox"
TESTS = CLIENT / "tests"
SPECS = sorted(path.name for path in (TESTS / "specs").glob("*.spec.luau"))
LONGEST = "faults.spec.luau"
# Only a spec that hangs takes so long.
SPEC_S = 900.0
AT_ONCE = 2
WALL = 1_800_000_000.0

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is missing: the Roblox SDK is not tested")


@dataclass
class Edge:
    """A running edge with a key. control: the port by which its time is moved, if it is."""

    stack: Stack
    key: str
    control: int | None = None
    model: int | None = None

    def obey(self, command: str, wall: str) -> str:
        if command == "kill":
            self.stack.kill()
        elif command == "start":
            self.stack.program = driven(self.control, self.model, wall)
            self.stack.start()
        else:
            return "unknown"
        return "done"


def driven(control: int | None, model: int | None, wall: object) -> tuple[str, ...]:
    program = ("tests.e2e.driven_edge", "--control", str(control), "--wall", str(wall))
    return program if model is None else (*program, "--model", str(model))


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


@contextlib.contextmanager
def running(data: Path, *, timed_by_the_game: bool = True, thinking: bool = False) -> Iterator[Edge]:
    made = subprocess.run(
        [sys.executable, "-m", "services", "key", "create", "studio"],
        env={**os.environ, "EARSHOT_DATA": str(data)}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    stack, control, model = Stack(data), None, None
    if timed_by_the_game:
        control, port = free_ports(2)
        model = port if thinking else None
        environment = {
            # Before the game takes the clock the machine may be busy: no reason to refuse anybody.
            "EARSHOT_LAG_MAX_S": "3600",
            # Many start: compiling the same files again is half of what a start costs.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(data.parents[1] / "bytecode"),
        }
        stack = Stack(data, environment=environment, program=driven(control, model, WALL))
    with stack:
        yield Edge(stack, made.stdout.split()[0], control, model)


def run(spec: Path, edge: Edge | None) -> tuple[int, str]:
    """Exit status and output of one spec."""
    where = [] if edge is None else [edge.stack.url, edge.key, *([str(edge.control)] if edge.control else [])]
    process = subprocess.Popen(
        ["node", "host.mjs", str(spec), *where],
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
                assert edge is not None
                process.stdin.write(edge.obey(*line[2:].split()) + "\n")
                process.stdin.flush()
        return process.wait(SPEC_S), "".join(output)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture(scope="module")
def outcomes(packages: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[tuple[int, str]]]:
    """Every spec's outcome, as many at once as this machine has cores."""

    def outcome(spec: Path) -> tuple[int, str]:
        needs = re.search(r"^-- edge: (none|model)$", spec.read_text(), re.MULTILINE)
        if needs and needs[1] == "none":
            return run(spec, None)
        with running(tmp_path_factory.mktemp("edge") / "data", thinking=needs is not None) as edge:
            return run(spec, edge)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        # The longest begins first.
        started = {name: pool.submit(outcome, TESTS / "specs" / name) for name in sorted(SPECS, key=LONGEST.__ne__)}
        wait(started.values())
    return started


@pytest.mark.parametrize("name", SPECS)
def test_spec(name: str, outcomes: dict[str, Future[tuple[int, str]]]) -> None:
    status, output = outcomes[name].result()
    # Its figures are for people: `make test-luau` shows them.
    sys.stdout.write(output)
    assert status == 0, output


README_SCENE = """--!strict
Test.body("Mara", 0, 0)
local ada = Test.join("Ada", 5001, 2, 2)
{snippet}
Roblox.runClient()
Test.eventually("Mara hears Ada", 60, function()
	return #Earshot.npc(workspace.Mara).Group == 1
end)
ada.Chatted:Fire("Mara, how is the soup?")
Test.eventually("a bubble", 60, function()
	return #Test.seen("Ada", "bubble Mara") > 0
end)
Roblox.stop()
"""
MOCK_SCENE = """--!strict
-- edge: none
local Earshot = require(game.ServerScriptService.Earshot)
local ada = Test.join("Ada", 5001, 2, 2)
Test.body("Mara", 0, 0, Roblox.create("Folder", "Npcs", workspace))
{snippet}
"""
PLAIN_SCENE = """
local ada = Test.join("Ada", 5001, 2, 2)
Test.body("Mara", 0, 0)
local printed
local say = print
print = function(line)
	printed = line
	say(line)
end
task.spawn(function()
{snippet}
end)
task.wait(1)
ada.Chatted:Fire("Mara, hello!")
Test.eventually("an answer", 60, function()
	return printed
end)
Test.equal(string.sub(printed, 1, 12), "Mara (AI): " .. string.sub(printed, 12, 12), "who answers")
"""


def snippets(document: Path) -> list[str]:
    """The pieces of Luau in a document, without their indentation."""
    pieces = re.findall(r"^( *)```lua\n(.*?)^\1```", document.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text.replace("\t", "    ")).strip() for _, text in pieces]


LOCAL = "http://127.0.0.1:8080"


@pytest.mark.usefixtures("packages")
def test_the_readme_makes_an_npc_talk(tmp_path: Path) -> None:
    """On an edge as README starts it, and in seconds that are seconds."""
    snippet = snippets(CLIENT / "README.md")[0]
    assert snippets(ROOT / "README.md") == [snippet]
    assert len(snippet.splitlines()) <= 10
    assert snippet.count(f'url = "{LOCAL}"') == 1
    spec = tmp_path / "readme.spec.luau"
    here = snippet.replace(f'url = "{LOCAL}"', 'url = Roblox.settings.url, apiKeySecret = "earshot"')
    spec.write_text(README_SCENE.format(snippet=here))
    with running(tmp_path / "data", timed_by_the_game=False) as edge:
        status, output = run(spec, edge)
    assert status == 0, output


@pytest.mark.usefixtures("packages")
def test_plain_http_gets_an_answer(tmp_path: Path) -> None:
    (snippet,) = snippets(ROOT / "docs" / "plain-http.md")
    roster = json.loads((ROOT / "docs" / "plain-http.md").read_text().partition("```json\n")[2].partition("```")[0])
    assert snippet.count(f'"{LOCAL}"') == 1
    spec = tmp_path / "plain.spec.luau"
    spec.write_text(PLAIN_SCENE.format(snippet=snippet.replace(f'"{LOCAL}"', "Roblox.settings.url")))
    with Stack(tmp_path / "data") as stack:
        stack.http.put("/v1/npcs", json=roster).raise_for_status()
        status, output = run(spec, Edge(stack, ""))
    assert status == 0, output


@pytest.mark.usefixtures("packages")
def test_the_readmes_example_for_a_games_own_tests(tmp_path: Path) -> None:
    spec = tmp_path / "mock.spec.luau"
    spec.write_text(MOCK_SCENE.format(snippet=snippets(CLIENT / "README.md")[-1]))
    status, output = run(spec, None)
    assert status == 0, output


def test_one_file_for_studio() -> None:
    """What build.py writes holds every source, as the tree that Rojo makes of it."""
    built = subprocess.run(
        [sys.executable, "build.py", "/dev/stdout"], cwd=CLIENT, capture_output=True, check=True, timeout=30
    ).stdout
    root = ElementTree.fromstring(built[: built.rindex(b"</roblox>") + len(b"</roblox>")])
    sources = {}

    def walk(item: ElementTree.Element, above: str) -> None:
        name = above + "/" + item.findtext("Properties/string", "")
        sources[name] = (item.get("class"), item.findtext("Properties/ProtectedString", ""))
        for child in item.findall("Item"):
            walk(child, name)

    walk(root[0], "")
    files = {path: path.read_text() for path in (CLIENT / "src").rglob("*.luau")}
    assert sorted(text for _, text in sources.values()) == sorted(files.values())
    assert sources["/Earshot"] == ("ModuleScript", files[CLIENT / "src" / "init.luau"])
    client = CLIENT / "src" / "EarshotClient"
    assert sources["/Earshot/EarshotClient"] == ("Script", files[client / "init.server.luau"])
    assert sources["/Earshot/EarshotClient/Show"] == ("ModuleScript", files[client / "Show.luau"])
    assert root.findtext(".//token[@name='RunContext']") == "2"


def test_packaging_names_what_exists() -> None:
    """The tools that build packages are not here: at least their files are whole and name real paths."""
    wally = tomllib.loads((CLIENT / "wally.toml").read_text())
    assert wally["package"]["realm"] == "server"
    assert f'Version = "{wally["package"]["version"]}"' in (CLIENT / "src" / "init.luau").read_text()
    for name in ("rokit.toml", "selene.toml", "stylua.toml", "moonwave.toml"):
        assert tomllib.loads((CLIENT / name).read_text()), name
    for name in ("default.project.json", "example.project.json"):
        assert all((CLIENT / path).exists() for path in _paths(json.loads((CLIENT / name).read_text())["tree"])), name
    classes = {
        word for line in (CLIENT / "src").rglob("*.luau") for word in re.findall(r"@class (\w+)", line.read_text())
    }
    listed = [
        name
        for order in tomllib.loads((CLIENT / "moonwave.toml").read_text())["classOrder"]
        for name in order["classes"]
    ]
    assert set(listed) <= classes


def _paths(tree: object) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "$path":
                yield value
            else:
                yield from _paths(value)


def test_the_lock_names_no_host() -> None:
    assert "http" not in (TESTS / "package-lock.json").read_text()


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
