"""`earshot bench letta` where nobody gave it a server: it runs beside one of its own, and says when that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import letta_sync
from bench.catalogue import Options
from bench.feed import Disturbed

# Said instead of a server: what it was asked to run, as the one figure.
BESIDE = """#!/usr/bin/env bash
printf '{"results": [{"name": "%s"}]}' "${*:2}"
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    script = tmp_path / "deploy" / "letta" / "run-tests.sh"
    script.parent.mkdir(parents=True)
    script.write_text(BESIDE)
    script.chmod(0o755)
    monkeypatch.setattr(letta_sync, "ROOT", tmp_path)
    monkeypatch.delenv("LETTA_BASE_URL", raising=False)
    return script


@pytest.mark.usefixtures("server")
def test_it_runs_itself_beside_a_server_of_its_own() -> None:
    (record,) = letta_sync.run(Options(seconds=5, rounds=3))
    assert record["name"] == "-m services bench letta --json --seconds=5 --rounds=3"
    (record,) = letta_sync.run(Options())
    assert record["name"] == "-m services bench letta --json"


def test_a_server_that_cannot_be_had_is_said(server: Path) -> None:
    server.write_text("#!/usr/bin/env bash\nexit 3\n")
    with pytest.raises(Disturbed, match="ended with 3"):
        letta_sync.run(Options())


def test_one_that_takes_too_long_is_ended(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.write_text("#!/usr/bin/env bash\nexec sleep 600\n")
    monkeypatch.setattr(letta_sync, "LONGEST_S", 0.5)
    with pytest.raises(Disturbed, match="not done"):
        letta_sync.run(Options())
