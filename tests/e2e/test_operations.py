"""The commands of docs/operations.md that can be run here are run, with other paths and nothing else changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.e2e.conftest import ROSTER, Scene
from tests.e2e.stack import ROOT, Stack, free_ports

PAGE = (ROOT / "docs" / "operations.md").read_text()
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def block(beginning: str) -> str:
    """The page's only block of commands that begins so."""
    (found,) = (text for text in BLOCK.findall(PAGE) if text.startswith(beginning))
    return str(found)


def shell(script: str, folder: Path, **changes: str) -> str:
    """Run a block as written, in a folder, with texts of it changed."""
    for old, new in changes.items():
        assert old in script, f"the page no longer says {old}"
        script = script.replace(old, new)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", script], cwd=folder, env={"PATH": path, "HOME": str(folder), "PYTHONPATH": f"{ROOT}:{ROOT}/gen"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def answers(client: redis.Redis) -> None:
    """Wait until a Redis has loaded what it keeps."""
    until = time.monotonic() + 60
    while True:
        try:
            client.ping()
            return
        except redis.exceptions.RedisError:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_backup_while_it_runs_and_restore(tmp_path: Path) -> None:
    paths = {"/var/backups/earshot": str(tmp_path / "kept"), "/var/lib/earshot": str(tmp_path / "data")}
    with Stack(tmp_path / "data") as stack:
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        scene = Scene(stack, "w")
        scene.place(mara=(0, 0, 0), p1=(2, 0, 0))
        kept = scene.say("p1", "Mara, remember this.")
        assert "checked" in shell(block("earshot backup"), tmp_path, **paths)
        lost = scene.say("p1", "Mara, and this?")
        stack.stop()
        assert "is as of" in shell(block("earshot restore"), tmp_path, **paths)
        stack.start()
        ids = {event["utterance_id"] for event in scene.events() if event["type"] == "utterance"}
        assert kept["utterance_id"] in ids
        assert lost["utterance_id"] not in ids
        assert scene.say("p1", "Mara, are you there?")["outcome"] == "replied"


def test_certificates_for_rooms_on_several_machines(tmp_path: Path) -> None:
    shell(block("earshot certs"), tmp_path)
    made = sorted(one.name for one in (tmp_path / "certificates").iterdir())
    assert made == ["authority", "chat", "edge", "state+cluster", "sync"]
    for name in made[1:]:
        assert {"ca.pem", "cert.pem", "key.pem"} <= {one.name for one in (tmp_path / "certificates" / name).iterdir()}


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_copy_of_redis_comes_back_with_its_log(tmp_path: Path) -> None:
    first, second = free_ports(2)
    kept = tmp_path / "kept"
    kept.mkdir()
    options = ["--port", str(first), "--dir", str(tmp_path), "--appendonly", "yes", "--save", ""]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server:
        try:
            with redis.Redis(port=first) as client:
                answers(client)
                client.hset("{earshot:chat:1}:events", "1", "said")
            shell(
                block("redis-cli"),
                tmp_path,
                **{"127.0.0.1:6379": f"127.0.0.1:{first}", "/var/backups/earshot": str(kept)},
            )
        finally:
            server.kill()
    with redis.Redis(port=second) as client:
        try:
            start, again = block("redis-server").splitlines()
            shell(start, tmp_path, **{"6379": str(second), "/var/backups/earshot": str(kept)})
            answers(client)
            shell(again, tmp_path, **{"127.0.0.1:6379": f"127.0.0.1:{second}"})
            assert client.hget("{earshot:chat:1}:events", "1") == b"said"
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        finally:
            client.shutdown(nosave=True, force=True)  # its log is being written anew just then
