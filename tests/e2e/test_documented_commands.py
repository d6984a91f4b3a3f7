"""What README and the pages tell a newcomer to type, typed: every request answers, every command is understood.

The commands are read from the pages, so that one that is changed there is tried here; only the address is another.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli import commands
from tests.e2e.stack import ROOT, Stack

README = (ROOT / "README.md").read_text()
PLAIN_HTTP = (ROOT / "docs/plain-http.md").read_text()
PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("deploy/**/*.md"),
        *ROOT.glob("clients/**/*.md"),
    )
    if path.name != "CHANGELOG.md"
)
CURL_S = 30
# Words of a page that stand for what the reader puts there.
PLACE = re.compile(r"^[A-Z_]+$|\.\.\.|[<>]")


def curls(text: str) -> list[str]:
    """Whole curl commands of a page's blocks; one may go over several lines."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in re.split(r"\n(?=curl )", block.strip()) if line.startswith("curl ")]


def ours(text: str) -> Iterator[list[str]]:
    """Arguments of each `earshot ...` that a page shows in full."""
    fence = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    lines = [line for block in fence.findall(text) for line in block.splitlines()]
    for line in (*lines, *re.findall(r"`([^`\n]+)`", fence.sub("", text))):
        for command in re.split(r"&&|[;|]|(?:^|\s)#", line):
            words = [word for word in command.split() if not re.match(r"^[A-Z_]+=", word)]
            if len(words) > 1 and re.fullmatch(r"(?:\S*/)?earshot", words[0]) and not words[0].startswith("/earshot"):
                yield words[1:]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("typed") / "data") as running:
        yield running


def typed(stack: Stack, command: str) -> tuple[int, str]:
    """A curl command against this stack: (status, body)."""
    address = stack.url.removeprefix("http://")
    words = [
        word.replace("localhost:8080", address).replace("127.0.0.1:8080", address) for word in shlex.split(command)
    ]
    done = subprocess.run(
        [*words, "--noproxy", "*", "-w", "\n%{http_code}"], capture_output=True, text=True, timeout=CURL_S, check=True
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_readme_s_calls_answer_one_after_the_other(stack: Stack) -> None:
    calls = curls(README)
    assert len(calls) == 7, "the heading says seven"
    answers = [typed(stack, call) for call in calls]
    assert [status for status, _ in answers] == [200] * 7, answers
    snapshot, context, message, events, world = (json.loads(body) for _, body in answers[2:])
    assert snapshot["clusters"][0]["members"]
    assert [member["id"] for member in context["members"]] == ["5001"]
    assert message["outcome"] == "replied"
    assert any(event["type"] == "utterance" and event["ai"] for event in events["events"])
    assert {entity["id"] for entity in world["entities"]} == {"mara", "5001"}


def test_the_roster_of_the_plain_http_page_is_imported_and_its_npc_answers(stack: Stack, tmp_path: Path) -> None:
    (roster,) = re.findall(r"```json\n(.*?)```", PLAIN_HTTP, re.DOTALL)
    path = tmp_path / "roster.json"
    path.write_text(roster)
    done = subprocess.run(
        [sys.executable, "-m", "services", "import-roster", str(path), "--url", stack.url],
        cwd=ROOT, env=os.environ | {"NO_PROXY": "*"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stack.snapshot("studio", [entity("mara", "npc", 0), entity("7", "player", 4)])
    answer = stack.say("studio", "7", "Mara, hello!", player_name="Ada")
    assert [reply["npc_name"] for reply in answer["replies"]] == ["Mara"]


def entity(name: str, kind: str, x: float) -> dict[str, object]:
    return {"id": name, "kind": kind, "name": name, "position": {"x": x, "y": 0, "z": 0}}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_ours_on_a_page_is_understood(page: Path) -> None:
    """Its subcommand and options exist: the parser takes it, with a value for every place that a reader fills in."""
    parser = commands._parser()
    for words in ours(page.read_text()):
        if len(words) < 2 or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            continue  # the name of a command in a sentence
        if words[0] == "import-roster":
            continue  # has a parser of its own, and is run above
        parsed = parser.parse_args(["x" if PLACE.search(word) else word.strip("'\"") for word in words])
        assert callable(parsed.run), words
