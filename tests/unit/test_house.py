"""House rules of the code that a machine can check, over everything that is committed."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import PurePosixPath

import pytest

from services.common.settings import OPTIONAL, ROOMS
from tests.unit.house import Checks, Plant, Tree, imported, in_modules, matches, modules, parsed, tree, under

CHECKS = Checks()


# -- what may not be in any file ---------------------------------------------------------------------------------------


@CHECKS.add(
    {"docs/a.md": "pip install -i https://py" + "pi.org/simple earshot"},
    {"requirements.lock": "--index-url https://files.python" + "hosted.org/"},
)
def no_registry_host(files: Tree) -> list[str]:
    """Whoever builds this may use a registry of their own."""
    return matches(
        files,
        r"\bpy[p]i\.(?:org|io|python)|python[h]osted\.org|registry\.np[m]js|(?:index\.|hub\.)docke[r]\.|ghc[r]\.io|qua[y]\.io",
    )


@CHECKS.add(
    {"docs/a.md": "see /wor" + "k/main/README.md"},
    {"bench/x.py": "DATA = '/hom" + "e/me/data'"},
    {"Makefile": "\tcp ../share" + "d/x ."},
)
def no_path_of_a_machine(files: Tree) -> list[str]:
    """What one machine has where, another has not."""
    return matches(files, r"(?<![\w.~})/])/(?:wor[k]|roo[t]|hom[e]|User[s])/\w|\.\./share[d]\b|/tm[p]/(?:brief|bash)")


@CHECKS.add({"services/state/x.py": "# TO" + "DO: the rest"}, {"docs/a.md": "FIX" + "ME"})
def nothing_left_for_later(files: Tree) -> list[str]:
    return matches(files, r"\b(?:TO[D]O|FI[X]ME|XX[X])\b")


# -- rooms -------------------------------------------------------------------------------------------------------------

LABELS = ("Owns", "Serves", "Calls", "Never")


@CHECKS.add(
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


@CHECKS.add(
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


@CHECKS.add(
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


@CHECKS.add(
    {"services/state/x.py": "from services.cli import process\n"},
    {"services/edge/x.py": "from services.demo.tavern import TAVERN\n"},
)
def a_room_imports_the_kernel_and_itself(files: Tree) -> list[str]:
    return [
        f"{path}: imports {name}"
        for path, text in modules(files, *(f"services/{room}/" for room in (*ROOMS, *OPTIONAL)))
        for name in under(imported(text, path), "services")
        if name.count(".") and name.split(".")[1] not in ("common", path.split("/")[1])
    ]


ROLES = re.compile(r"(?:^|_)(?:server|servicer|store|worker)$")
OUTSIDE = ("grpc", "earshot", "sqlite3", "socket", "httpx", "asyncio", "time", "random", "secrets", "uuid")


@CHECKS.add(
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


@CHECKS.add({"services/state/utils.py": ""}, {"services/chat/floor_manager.py": ""}, {"tests/unit/helpers.py": ""})
def files_are_nouns(files: Tree) -> list[str]:
    """A drawer has no noun."""
    drawer = re.compile(r"(?:^|_)(?:utils?|helpers?|manager|processor|misc|v2)$")
    return [
        path for path, _ in modules(files, "services/", "tests/", "bench/") if drawer.search(PurePosixPath(path).stem)
    ]


# -- code --------------------------------------------------------------------------------------------------------------


@CHECKS.add(
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


@CHECKS.add(
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


@CHECKS.add(
    {"tests/unit/test_x.py": "import time\ntime.sleep(1)\n"}, {"tests/unit/test_x.py": "from time import sleep\n"}
)
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


# -- the tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKS.named)
def test_the_rule_holds(name: str) -> None:
    broken = CHECKS.broken(name)
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(("name", "plant"), CHECKS.planted())
def test_a_planted_defect_is_found(name: str, plant: Plant) -> None:
    found = CHECKS.found(name, plant)
    assert found, f"{name} does not see {sorted(plant)}"


def test_the_tree_is_seen() -> None:
    """The checks would hold for an empty tree."""
    assert {"Makefile", "pyproject.toml", "services/common/settings.py", "protos/earshot/type/v1/type.proto"} <= set(
        tree()
    )
