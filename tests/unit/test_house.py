"""House rules that a machine can check, over everything that is committed.

A check is a function from the committed files to what is wrong; it is registered with the defects that it must find
when they are planted, so that no check here can pass without looking.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

from services.cli import commands
from services.common.settings import ROOMS, Settings

ROOT = Path(__file__).parents[2]
Tree = Mapping[str, str]  # path -> text
Find = Callable[[Tree], list[str]]


@dataclass(frozen=True, slots=True)
class Check:
    """find names what breaks a rule, path first; each of plants is a change of the tree that it must find."""

    find: Find
    plants: tuple[Mapping[str, str | None], ...]


CHECKS: dict[str, Check] = {}


def check(*plants: Mapping[str, str | None]) -> Callable[[Find], Find]:
    """Register a check with what must make it fail: path -> text, or None for a file taken away."""

    def register(find: Find) -> Find:
        assert plants, "a check that was never seen to fail"
        CHECKS[find.__name__] = Check(find, plants)
        return find

    return register


@cache
def tree() -> Tree:
    """Text of what is committed, or staged to be; binary files are left out."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30
    )
    texts = {}
    for path in listing.stdout.decode().split("\0"):
        file = ROOT / path
        if path and file.is_file() and b"\0" not in (data := file.read_bytes()):
            texts[path] = data.decode("utf-8", errors="replace")
    return texts


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def modules(files: Tree, *folders: str) -> Iterator[tuple[str, str]]:
    """Python files below folders that we wrote."""
    for path, text in files.items():
        if path.endswith(".py") and path.startswith(folders):
            yield path, text


@cache
def imported(source: str, path: str) -> frozenset[str]:
    """Absolute names of what a module imports anywhere in it; `from a import b` gives a.b as well as a."""
    package = PurePosixPath(path).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            names.update((module, *(f"{module}.{alias.name}" for alias in node.names)))
    return frozenset(names)


def under(names: Iterable[str], package: str) -> list[str]:
    return sorted(name for name in names if name == package or name.startswith(f"{package}."))


@cache
def looked(look: Callable[[str], tuple[tuple[int, str], ...]], text: str) -> tuple[tuple[int, str], ...]:
    """(line, what) found in one file; a planted tree shares all files but one with the real one."""
    return look(text)


def in_modules(files: Tree, look: Callable[[str], tuple[tuple[int, str], ...]], *folders: str) -> list[str]:
    return [f"{path}:{line}: {what}" for path, text in modules(files, *folders) for line, what in looked(look, text)]


@cache
def matched(pattern: str, text: str) -> tuple[tuple[int, str], ...]:
    compiled = re.compile(pattern)
    if not compiled.search(text):
        return ()
    lines = enumerate(text.splitlines(), 1)
    return tuple((number, found.group()) for number, line in lines if (found := compiled.search(line)))


def matches(files: Tree, pattern: str) -> list[str]:
    """path:line of every line in which a pattern is found."""
    return [f"{path}:{line}: {what}" for path, text in files.items() for line, what in matched(pattern, text)]


# -- what may not be in any file ---------------------------------------------------------------------------------------


@check(
    {"docs/a.md": "pip install -i https://py" + "pi.org/simple earshot"},
    {"requirements.lock": "--index-url https://files.python" + "hosted.org/"},
)
def no_registry_host(files: Tree) -> list[str]:
    """Whoever builds this may use a registry of their own."""
    return matches(
        files,
        r"\bpy[p]i\.(?:org|io|python)|python[h]osted\.org|registry\.np[m]js|(?:index\.|hub\.)docke[r]\.|ghc[r]\.io|qua[y]\.io",
    )


@check(
    {"docs/a.md": "see /wor" + "k/main/README.md"},
    {"bench/x.py": "DATA = '/hom" + "e/me/data'"},
    {"Makefile": "\tcp ../share" + "d/x ."},
)
def no_path_of_a_machine(files: Tree) -> list[str]:
    """What one machine has where, another has not."""
    return matches(files, r"(?<![\w.~})/])/(?:wor[k]|roo[t]|hom[e]|User[s])/\w|\.\./share[d]\b|/tm[p]/(?:brief|bash)")


@check({"services/state/x.py": "# TO" + "DO: the rest"}, {"docs/a.md": "FIX" + "ME"})
def nothing_left_for_later(files: Tree) -> list[str]:
    return matches(files, r"\b(?:TO[D]O|FI[X]ME|XX[X])\b")


# -- rooms -------------------------------------------------------------------------------------------------------------

LABELS = ("Owns", "Serves", "Calls", "Never")


@check(
    {"services/state/__init__.py": '"""State.\n\nOwns: worlds.\nServes: StateService.\nCalls: cluster.\n"""\n'},
    {"services/newroom/__init__.py": ""},
    {"services/newroom/server.py": "async def bind(app): ..."},
)
def every_room_says_what_it_does(files: Tree) -> list[str]:
    """Owns, Serves, Calls, Never: in the docstring of each package directly below services/."""
    rooms = {PurePosixPath(path).parts[1] for path, _ in modules(files, "services/") if path.count("/") > 1}
    missing = []
    for room in sorted(rooms):
        path = f"services/{room}/__init__.py"
        docstring = ast.get_docstring(parsed(files.get(path, ""))) or ""
        absent = [label for label in LABELS if not re.search(rf"^{label}:\s+\S", docstring, re.MULTILINE)]
        missing += [f"{path}: lacks {', '.join(absent)}"] if absent else []
    return missing


@check(
    {"services/chat/x.py": "import letta_client"},
    {"services/sync/agents.py": "def f():\n    from letta_client import Letta\n"},
)
def one_door_to_letta(files: Tree) -> list[str]:
    """Only one module knows the client; whoever replaces Letta changes that one."""
    return [
        f"{path}: imports {', '.join(names)}"
        for path, text in modules(files, "services/")
        if path != "services/sync/runtimes/letta.py" and (names := under(imported(text, path), "letta_client"))
    ]


@check(
    {"services/sync/runtimes/x.py": "from services.sync import desired"},
    {"services/sync/runtimes/x.py": "from ..desired import Text"},
)
def runtimes_know_nothing_else_of_sync(files: Tree) -> list[str]:
    return [
        f"{path}: imports {name}"
        for path, text in modules(files, "services/sync/runtimes/")
        for name in under(imported(text, path), "services.sync")
        if name != "services.sync" and not name.startswith("services.sync.runtimes")
    ]


@check(
    {"services/state/x.py": "from services.cli import process\n"},
    {"services/edge/x.py": "from services.demo.tavern import TAVERN\n"},
)
def a_room_imports_the_kernel_and_itself(files: Tree) -> list[str]:
    return [
        f"{path}: imports {name}"
        for path, text in modules(files, *(f"services/{room}/" for room in ROOMS))
        for name in under(imported(text, path), "services")
        if name.count(".") and name.split(".")[1] not in ("common", path.split("/")[1])
    ]


ROLES = re.compile(r"(?:^|_)(?:server|servicer|store|worker)$")
OUTSIDE = ("grpc", "earshot", "sqlite3", "socket", "httpx", "asyncio", "time", "random", "secrets", "uuid")


@check(
    {"services/room/servicer.py": "", "services/room/planted.py": "from earshot.state.v1 import state_pb2\n"},
    {"services/room/servicer.py": "", "services/room/planted.py": "import grpc\n"},
    {"services/room/servicer.py": "", "services/room/planted.py": "def age(then):\n    import time\n"},
)
def nouns_are_pure(files: Tree) -> list[str]:
    """A noun decides from what it is given: no gRPC, no clock, no chance, no I/O.

    By convention a noun is a module of a room that serves RPCs, directly in the room's folder, whose name says no other
    role and that has nothing asynchronous. The edge translates throughout; adapters have folders of their own.
    """
    serving = {PurePosixPath(path).parent for path in files if PurePosixPath(path).match("services/*/servicer.py")}
    return [
        f"{path}: imports {name}"
        for path, text in modules(files, "services/")
        if PurePosixPath(path).parent in serving
        and not ROLES.search(PurePosixPath(path).stem)
        and not re.search(r"^\s*async def ", text, re.MULTILINE)
        for package in OUTSIDE
        for name in under(imported(text, path), package)
    ]


@check({"services/state/utils.py": ""}, {"services/chat/floor_manager.py": ""}, {"tests/unit/helpers.py": ""})
def files_are_nouns(files: Tree) -> list[str]:
    """A drawer has no noun."""
    drawer = re.compile(r"(?:^|_)(?:utils?|helpers?|manager|processor|misc|v2)$")
    return [
        path for path, _ in modules(files, "services/", "tests/", "bench/") if drawer.search(PurePosixPath(path).stem)
    ]


# -- code --------------------------------------------------------------------------------------------------------------


@check(
    {"services/state/x.py": "import asyncio\nasync def f():\n    asyncio.create_task(g())\n"},
    {"services/state/x.py": "import asyncio\nasync def f():\n    asyncio.get_running_loop().create_task(g())\n"},
)
def every_task_has_an_owner(files: Tree) -> list[str]:
    """A task whose reference is dropped may vanish while it runs, and its error with it. TaskGroups own theirs."""
    return in_modules(files, dropped_tasks, "services/")


def dropped_tasks(text: str) -> tuple[tuple[int, str], ...]:
    maker = re.compile(r"asyncio\.(?:create_task|ensure_future)|.*loop(?:\(\))?\.create_task")
    return tuple(
        (node.lineno, called)
        for node in ast.walk(parsed(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if maker.fullmatch(called := ast.unparse(node.value.func))
    )


@check(
    {"services/state/x.py": "import os  # noqa\n"},
    {"services/state/x.py": "x = f()  # noqa: B008\n"},
    {"tests/x.py": "x = 1  # type: ignore\n"},
    {"tests/x.py": "x = 1  # type: ignore[misc]\n"},
)
def every_ignore_has_its_reason(files: Tree) -> list[str]:
    return in_modules(files, unreasoned_ignores, "services/", "tests/", "bench/", "deploy/")


def unreasoned_ignores(text: str) -> tuple[tuple[int, str], ...]:
    if "noqa" not in text and "type: ignore" not in text:
        return ()
    reasoned = re.compile(r"noqa: [A-Z]+\d+(?:, ?[A-Z]+\d+)*\W+\w|type: ignore\[[\w, -]+\]\W+\w")
    return tuple(
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
        and re.match(r"#\s*(?:noqa|type: ignore)", token.string)
        and not reasoned.search(token.string)
    )


@check({"tests/unit/test_x.py": "import time\ntime.sleep(1)\n"}, {"tests/unit/test_x.py": "from time import sleep\n"})
def unit_tests_do_not_sleep(files: Tree) -> list[str]:
    """Virtual time waits for nothing; only tests of processes may."""
    return in_modules(files, sleeps, "tests/unit/", "tests/contract/")


def sleeps(text: str) -> tuple[tuple[int, str], ...]:
    if "sleep" not in text:
        return ()
    return tuple(
        (node.lineno, "sleeps")
        for node in ast.walk(parsed(text))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep")
        or (isinstance(node, ast.ImportFrom) and node.module == "time" and "sleep" in {a.name for a in node.names})
    )


# -- dependencies ------------------------------------------------------------------------------------------------------

# Needed without an import of ours.
IMPORTED_BY_ANOTHER = {"httptools": "uvicorn parses with it", "websockets": "uvicorn speaks WebSocket with it"}
LOCAL = {"services", "earshot", "tests", "bench"}


def declared(files: Tree, group: str = "") -> set[str]:
    """Distributions that pyproject.toml names: of the package, or of a dependency group."""
    configuration = tomllib.loads(files["pyproject.toml"])
    wanted = configuration["dependency-groups"][group] if group else configuration["project"]["dependencies"]
    return {re.split(r"[^\w.-]", name, maxsplit=1)[0] for name in wanted}


@check(
    {"services/state/x.py": "import yaml\n"},
    {"services/state/x.py": "import not_installed_anywhere\n"},
    {"pyproject.toml": '[project]\ndependencies = ["grpcio", "no-such-package"]\n'},
)
def dependencies_are_what_is_imported(files: Tree) -> list[str]:
    """What services/ imports is declared, so that it runs without the development tools; and no more is declared."""
    providers = _providers()
    wanted = declared(files)
    used: set[str] = set()
    undeclared = []
    for path, text in modules(files, "services/"):
        for name in imported(text, path):
            top = name.split(".")[0]
            if top in LOCAL or top in sys.stdlib_module_names or top == "__future__":
                continue
            # google.rpc and google.protobuf come from two distributions, grpc_health from a third: any will do.
            candidates = providers.get(top, set())
            used |= candidates
            if not candidates & (wanted | BROUGHT_ALONG):
                undeclared.append(f"{path}: imports {top}, which is not declared")
    unused = wanted - used - set(IMPORTED_BY_ANOTHER)
    return undeclared + [f"pyproject.toml: {name} is declared and not imported" for name in sorted(unused)]


@cache
def _providers() -> dict[str, set[str]]:
    """Package -> distributions that it may come from."""
    found = metadata.packages_distributions().items()
    return {package: {re.sub(r"[-_.]+", "-", name).lower() for name in names} for package, names in found}


# Parts of a declared package's own interface that come as distributions of their own.
BROUGHT_ALONG = {"pydantic", "opentelemetry-api"}
RECORD = "docs/decisions/0001-dependencies.md"


@check({RECORD: "| grpcio | contracts |"})
def every_dependency_has_its_reason(files: Tree) -> list[str]:
    names = declared(files) | declared(files, "build") | declared(files, "dev")
    cells = " ".join(line.split("|")[1] for line in files[RECORD].splitlines() if line.startswith("|"))
    listed = set(re.findall(r"[\w.-]+", cells))
    return [f"{RECORD}: says nothing of {name}" for name in sorted(names - listed)]


# -- settings ----------------------------------------------------------------------------------------------------------


def setting_names() -> set[str]:
    """Environment variables that Settings reads."""
    prefix = str(Settings.model_config.get("env_prefix", ""))
    names = set()
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        if alias is None:
            names.add(f"{prefix}{field}".upper())
        else:
            names.update(getattr(alias, "choices", [alias]))
    return names


def documents(files: Tree) -> dict[str, str]:
    """What a person reads to run or to change Earshot."""
    return {
        path: text for path, text in files.items() if path.endswith(".md") and not path.startswith(("gen/", "tests/"))
    }


@check(
    {"docs/a.md": "Set `EARSHOT_LETTA_URL`."},
    {"docker-compose.yml": "environment: {EARSHOT_STATE_ADDRESS: x}"},
    {"Makefile": "run:\n\tEARSHOT_PORT=1 earshot up"},
    {"Dockerfile": "ENV EARSHOT_DIRECTORY=/data"},
)
def every_setting_named_exists(files: Tree) -> list[str]:
    """A misspelt variable is ignored in silence: a document that names one must be right.

    A document beside scripts may name the variables of those.
    """
    told = {"docker-compose.yml", "Makefile", "Dockerfile", ".ci/run", *documents(files)}
    known = setting_names()
    return [
        f"{path}: {name}"
        for path in sorted(told & set(files))
        for name in sorted(set(re.findall(r"\bEARSHOT_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*)", files[path])))
        if name not in known
        and not any(name in text for other, text in files.items() if _beside(other, path) and not other.endswith(".md"))
    ]


def _beside(other: str, path: str) -> bool:
    return PurePosixPath(path).parent in PurePosixPath(other).parents and "/" in path


SETTINGS = "services/common/settings.py"


@check(
    {SETTINGS: "class Settings:\n    workers: int = 3\n"},
    {SETTINGS: "class Settings:\n    workers: int = Field(3)\n"},
    {SETTINGS: "class Settings:\n    workers: int = Field(3, description='')\n"},
)
def every_setting_is_described(files: Tree) -> list[str]:
    """`earshot settings` is the reference; a line without a description is half a reference."""
    silent = []
    for node in ast.walk(parsed(files[SETTINGS])):
        if not (isinstance(node, ast.ClassDef) and node.name == "Settings"):
            continue
        for field in node.body:
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            keywords = field.value.keywords if isinstance(field.value, ast.Call) else []
            described = [key.value for key in keywords if key.arg == "description"]
            if not described or (isinstance(described[0], ast.Constant) and not described[0].value):
                silent.append(f"{SETTINGS}: {field.target.id}")
    return silent


# -- documents ---------------------------------------------------------------------------------------------------------


def code(text: str) -> Iterator[str]:
    """Commands that a reader of a Markdown text would type: inline code and shell blocks."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    blocks = [body for language, body in fence.findall(text) if language in ("", "sh", "bash", "console", "shell")]
    lines = [line for body in blocks for line in body.splitlines()]
    for line in (*lines, *re.findall(r"`([^`\n]+)`", fence.sub("", text))):
        for command in re.split(r"&&|[;|]", re.sub(r"(?:^|\s)#.*", "", line)):
            yield command.strip().removeprefix("$ ")


def subcommands() -> set[str]:
    """Commands of `earshot`."""
    actions = [action for action in commands._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return {str(name) for action in actions for name in action.choices}


@check(
    {"README.md": "Run `earshot serve`.\n"},
    {"CONTRIBUTING.md": "```sh\nmake everything\n```\n"},
    {"docs/a.md": "```\n$ .venv/bin/earshot launch --demo\n```\n"},
    {"README.md": "`make check docs`"},
)
def every_command_named_exists(files: Tree) -> list[str]:
    """Documents name no target of make and no command of ours that is not there."""
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", files["Makefile"], re.MULTILINE))
    known = subcommands()
    absent = []
    for path, text in documents(files).items():
        for line in code(text):
            words = re.sub(r"^(?:[A-Z_]+=\S*\s+)+", "", line).split()
            if words[:1] == ["make"]:
                named = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
                absent += [f"{path}: make {name}" for name in named if name not in targets]
            elif len(words) > 1 and words[0].rpartition("/")[2] == "earshot" and re.fullmatch(r"[a-z-]+", words[1]):
                absent += [f"{path}: earshot {words[1]}"] if words[1] not in known else []
    return absent


@check({"README.md": "[more](docs/absent.md)"}, {"docs/a.md": "[up](../NOTHING.md#part)"})
def every_link_leads_somewhere(files: Tree) -> list[str]:
    """Links within the repository."""
    lost = []
    for path, text in documents(files).items():
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            found = os.path.normpath(PurePosixPath(path).parent / target)
            if found not in files and not any(other.startswith(f"{found}/") for other in files):
                lost.append(f"{path}: {target}")
    return lost


# -- contracts ---------------------------------------------------------------------------------------------------------


@check(
    {"gen/earshot/type/v1/type_pb2.py": "# by hand\n"},
    {"gen/earshot/type/v1/type_pb2.pyi": None},
    {"gen/earshot/old/v1/old_pb2.py": ""},
    {"protos/earshot/new/v1/new.proto": 'syntax = "proto3";\npackage earshot.new.v1;\nmessage New {}\n'},
)
def generated_code_is_what_the_protos_give(files: Tree) -> list[str]:
    """The Makefile's own rule, run beside the tree."""
    protos = {path: text for path, text in files.items() if path.startswith("protos/")}
    committed = {path: text for path, text in files.items() if path.startswith("gen/")}
    fresh = _generated(tuple(sorted(protos.items())), files["Makefile"])
    return [
        f"{path}: differs from what protos/ give"
        for path in sorted(committed.keys() | fresh.keys())
        if committed.get(path) != fresh.get(path)
    ]


@cache
def _generated(protos: tuple[tuple[str, str], ...], makefile: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in (*protos, ("Makefile", makefile)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        make = ["make", "--silent", "proto", f"BIN={Path(sys.executable).parent}"]
        subprocess.run(make, cwd=folder, check=True, capture_output=True, timeout=60)
        return {str(path.relative_to(folder)): path.read_text() for path in folder.glob("gen/**/*") if path.is_file()}


# -- the tests ---------------------------------------------------------------------------------------------------------


@cache
def broken(name: str) -> tuple[str, ...]:
    return tuple(CHECKS[name].find(tree()))


@pytest.mark.parametrize("name", CHECKS)
def test_the_house_rule_holds(name: str) -> None:
    assert not broken(name), "\n".join(broken(name))


PLANTS = [
    pytest.param(name, plant, id=f"{name}-{number}")
    for name, one in CHECKS.items()
    for number, plant in enumerate(one.plants)
]


@pytest.mark.parametrize(("name", "plant"), PLANTS)
def test_a_planted_defect_is_found(name: str, plant: Mapping[str, str | None]) -> None:
    find = CHECKS[name].find
    planted = {path: text for path, text in {**tree(), **plant}.items() if text is not None}
    found = set(find(planted)) - set(broken(name))
    assert found, f"{name} does not see {sorted(plant)}"


def test_the_tree_is_seen() -> None:
    """The checks above would hold for an empty tree."""
    assert {"Makefile", "pyproject.toml", SETTINGS, "gen/earshot/type/v1/type_pb2.py"} <= set(tree())
    assert {"EARSHOT_LISTEN", "EARSHOT_LETTA_BASE_URL", "LETTA_BASE_URL"} <= setting_names()
    assert {"up", "health", "settings"} <= subcommands()
