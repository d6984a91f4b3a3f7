"""The room boundaries of pyproject.toml hold, and each of them is seen to fail when a violation is planted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Contract -> a module and the import that breaks it. A new contract fails here until it has been seen to fail.
PLANTS = {
    "rooms know each other only through protos": ("services/state/planted.py", "import services.sync.server"),
    "sync's folders build on each other in one order": (
        "services/sync/blocks/planted.py",
        "from services.sync.turns.converse import Turns",
    ),
    "discord.py is known to the Discord edge alone": ("services/chat/planted.py", "import discord"),
    "the shared kernel imports no room": ("services/common/planted.py", "from services.chat import server"),
    "the demo is a client: it knows only the public HTTP API": (
        "services/demo/planted.py",
        "from services.common.settings import Settings",
    ),
}


def contracts() -> list[str]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [contract["name"] for contract in configuration["tool"]["importlinter"]["contracts"]]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """lint-imports over the packages of a folder, which it puts first on its path."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def verdicts(output: str) -> dict[str, bool]:
    """Contract -> kept, from what lint-imports prints."""
    lines = [line.strip() for line in output.splitlines()]
    return {
        name: f"{name} KEPT" in lines for name in contracts() if f"{name} KEPT" in lines or f"{name} BROKEN" in lines
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and the configuration, apart from the checkout."""
    shutil.copytree(ROOT / "services", tmp_path / "services", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_boundaries_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert verdicts(result.stdout) == dict.fromkeys(contracts(), True)


@pytest.mark.parametrize("contract", PLANTS)
def test_a_planted_violation_is_caught(contract: str, copy: Path) -> None:
    path, statement = PLANTS[contract]
    (copy / path).write_text(f"{statement}\n")
    result = lint_imports(copy)
    assert result.returncode != 0
    assert verdicts(result.stdout) == {name: name != contract for name in contracts()}, result.stdout + result.stderr
    assert path.removesuffix(".py").replace("/", ".") in result.stdout


def test_every_contract_was_seen_to_fail() -> None:
    assert set(PLANTS) == set(contracts())
