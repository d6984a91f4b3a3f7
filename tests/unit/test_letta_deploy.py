"""Starting and stopping Letta: what is ended is exactly what was started, and what is installed is what was pinned."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from deploy.letta.letta_server import Layout, Process, _started_at, main

HERE = Path(__file__).resolve().parents[2] / "deploy" / "letta"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path, "unit")
    layout.home.mkdir(parents=True)
    return layout


def test_a_process_runs_in_its_own_session_until_it_is_stopped(layout: Layout) -> None:
    process = Process(layout, "sleeper")
    assert process.pid() is None
    process.start(["sleep", 60])
    pid = process.pid()
    assert pid is not None
    assert os.getsid(pid) == pid
    process.stop(signal.SIGTERM)
    assert process.pid() is None
    assert _started_at(pid) is None
    assert [path.name for path in layout.home.iterdir()] == ["sleeper.log"]


def test_a_recycled_pid_is_not_taken_for_ours(layout: Layout) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (layout.home / "letta.pid").write_text(f"{stranger.pid} 1\n")
        Process(layout, "letta").stop(signal.SIGKILL)
        assert stranger.poll() is None
        assert not (layout.home / "letta.pid").exists()
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "many\n", "1\n", "999999999 5\n"])
def test_a_broken_pid_file_stops_nothing(layout: Layout, content: str) -> None:
    (layout.home / "letta.pid").write_text(content)
    assert Process(layout, "letta").pid() is None


def test_a_failure_shows_the_end_of_the_log(layout: Layout) -> None:
    process = Process(layout, "letta")
    process.log.write_text("".join(f"line {n}\n" for n in range(100)))
    shown = str(process.fail("ended"))
    assert "line 99\nletta: letta ended" in shown
    assert "line 50\n" not in shown


def test_start_without_a_model_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_LETTA_ROOT", str(tmp_path))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="--fake-model"):
        main(["start", "--port", "0"])
    assert not list(tmp_path.glob("venv")) + list(tmp_path.glob("instances/*"))


def test_run_refuses_what_it_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_LETTA_ROOT", str(tmp_path))
    assert main(["run", "--", "no-such-command-anywhere"]) == 127
    with pytest.raises(SystemExit):
        main(["run", "--"])
    assert not list(tmp_path.iterdir())


def test_stop_without_a_start_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_LETTA_ROOT", str(tmp_path))
    assert main(["stop", "--instance", "never"]) == 0


def test_an_unsuitable_python_is_named(tmp_path: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        fake = tmp_path / name
        fake.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2" || exit 1\n')
        fake.chmod(stat.S_IRWXU)
    done = subprocess.run(
        ["/bin/bash", HERE / "python.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13 (not Python 3.9.2)" in done.stderr


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_a_lock_pins_and_hashes_everything_and_names_no_host(name: str) -> None:
    text = (HERE / name).read_text()
    assert "://" not in text
    pins = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert pins
    for pin in pins:
        assert re.match(r"[\w.-]+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", pin), pin.splitlines()[0]


def test_the_lock_holds_the_server_that_was_studied() -> None:
    assert re.search(r"^letta==0\.16\.8 ", (HERE / "requirements.lock").read_text(), re.MULTILINE)
