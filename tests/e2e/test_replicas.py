"""Two replicas of every room on a real Redis, and what happens when one comes, dies, hangs, or the store restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROSTER, Scene
from tests.e2e.replicated import Replicated
from tests.redis_server import redis_server


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    with redis_server() as server, Replicated(tmp_path / "data", server) as stack:
        stack.shared_by(2)
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        yield stack


def test_worlds_are_shared_and_a_conversation_runs(replicated: Replicated) -> None:
    for number in range(6):
        scene = Scene(replicated, f"w{number}")
        scene.place(mara=(0, 0, 0), p1=(1, 0, 0))
        reply = scene.say("p1", "Mara, what is in the soup?")
        assert reply["replies"], reply
