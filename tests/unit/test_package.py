"""The wheel and the source archive hold what runs: built from the tree, and used outside of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from hatchling import build

from tests.unit.house import ROOT, tree

PLACES = "import services, earshot.state.v1.state_pb2 as contract; print(services.__path__, contract.__file__)"
RUN = "import sys; from services.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def within(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and source archive, as `pip` and `python -m build` make them."""
    folder = tmp_path_factory.mktemp("dist")
    with within(ROOT):
        return folder / build.build_wheel(str(folder)), folder / build.build_sdist(str(folder))


def test_the_wheel_holds_every_file_of_the_services_and_contracts(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        packed = set(wheel.namelist())
    wanted = {path for path in tree() if path.startswith("services/")}
    wanted |= {path.removeprefix("gen/") for path in tree() if path.startswith("gen/earshot/")}
    assert wanted <= packed
    tops = {path.partition("/")[0] for path in packed}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"services", "earshot"}


def test_the_source_archive_is_enough_to_build_and_test(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        packed = {path.partition("/")[2] for path in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "requirements.lock"} <= packed
    assert {path for path in tree() if path.startswith(("services/", "protos/", "gen/"))} <= packed
    assert not [path for path in packed if path.startswith((".venv", ".cache", ".git/"))]


def test_the_wheel_runs_outside_the_tree(built: tuple[Path, Path], tmp_path: Path) -> None:
    place = tmp_path / "site"
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(place)
    outside = partial(
        subprocess.run, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(place)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    said = {"id": "r", "speakers": ["Ada", "Mara"], "turns": [{"s": 0, "t": "Mara, hello"}, {"s": 1, "t": "Good day"}]}
    done = outside([sys.executable, "-c", RUN, "turns", "predict"], input=json.dumps(said) + "\n")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)
    listed = outside([sys.executable, "-c", PLACES]).stdout
    assert listed.count(str(place)) == 2, listed
