"""What checks of the house rules are made of: the committed files, and a check with the defects that it must find.

A check is a function from the files to what is wrong. It is registered with defects, and is tried with each of them
planted, so that no check can pass without looking.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from services.common.settings import Settings

ROOT = Path(__file__).parents[2]
Tree = Mapping[str, str]  # path -> text
Plant = Mapping[str, str | None]
Find = Callable[[Tree], list[str]]


@dataclass(frozen=True, slots=True)
class Check:
    """find names what breaks a rule, path first; each of plants is a change of the tree that it must find."""

    find: Find
    plants: tuple[Plant, ...]


@dataclass(slots=True)
class Checks:
    """Checks by name."""

    named: dict[str, Check] = field(default_factory=dict)
    _broken: dict[str, list[str]] = field(default_factory=dict)

    def add(self, *plants: Plant) -> Callable[[Find], Find]:
        """Register a check with what must make it fail: path -> text, or None for a file taken away."""

        def register(find: Find) -> Find:
            assert plants, "a check that was never seen to fail"
            self.named[find.__name__] = Check(find, plants)
            return find

        return register

    def broken(self, name: str) -> list[str]:
        """What breaks the rule in the committed files."""
        if name not in self._broken:
            self._broken[name] = self.named[name].find(tree())
        return self._broken[name]

    def found(self, name: str, plant: Plant) -> set[str]:
        """What the check finds of a planted defect."""
        planted = {path: text for path, text in {**tree(), **plant}.items() if text is not None}
        return set(self.named[name].find(planted)) - set(self.broken(name))

    def planted(self) -> list[tuple[str, Plant]]:
        return [(name, plant) for name, check in self.named.items() for plant in check.plants]


@cache
def tree() -> Tree:
    """Text of what is committed, or staged to be; a binary file is there, without text."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30
    )
    texts = {}
    for path in listing.stdout.decode().split("\0"):
        file = ROOT / path
        if path and file.is_file():
            data = file.read_bytes()
            texts[path] = "" if b"\0" in data else data.decode("utf-8", errors="replace")
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


def setting_names() -> set[str]:
    """Environment variables that Settings reads."""
    prefix = str(Settings.model_config.get("env_prefix", ""))
    names = set()
    for name, info in Settings.model_fields.items():
        alias = info.validation_alias
        if alias is None:
            names.add(f"{prefix}{name}".upper())
        else:
            names.update(getattr(alias, "choices", [alias]))
    return names
