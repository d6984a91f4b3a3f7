"""Traces and metrics of Earshot as processes: exported by each, one trace through all of them, `earshot trace`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.otlp import Receiver, trace_of
from services.cli.waterfall import waterfall
from tests.e2e.conftest import ROSTER
from tests.e2e.stack import EMBEDDED, ROOT, SPLIT, Stack, free_ports

ENTITIES = [
    {"id": "mara", "kind": "npc", "name": "Mara", "position": {"x": 0, "y": 0, "z": 0}},
    {"id": "p1", "kind": "player", "name": "Ada", "position": {"x": 3, "y": 0, "z": 0}},
]
WAIT_S = 30.0


def whole(receiver: Receiver, name: str, part: str) -> dict[str, Any]:
    """The first exported trace of that name that holds that part."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for trace_id, spans in list(receiver.spans.items()):
            found = trace_of(trace_id, list(spans))
            if found and found["name"] == name and any(part in span["name"] for span in found["spans"]):
                return found
        time.sleep(0.1)
    raise AssertionError(f"no trace {name} with {part}: {[len(one) for one in receiver.spans.values()]}")


@pytest.mark.parametrize("targets", [EMBEDDED, SPLIT], ids=["embedded", "split"])
def test_one_trace_goes_through_every_process(tmp_path: Path, targets: Any) -> None:
    with Receiver() as receiver:
        environment = {
            "EARSHOT_OTLP_ENDPOINT": receiver.endpoint,
            "EARSHOT_TRACE_SAMPLE": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with Stack(tmp_path / "data", targets, environment) as stack:
            assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
            stack.snapshot("inn", ENTITIES)
            assert stack.say("inn", "p1", "Mara, what is for supper?")["outcome"] == "replied"
            snapshot = whole(receiver, "POST /v1/snapshots", "ClusterService/Assign")
            message = whole(receiver, "POST /v1/messages", "invoke_agent")
    assert any(span["name"].endswith("StateService/Ingest") for span in snapshot["spans"])
    names = {span["name"] for span in message["spans"]}
    assert {
        "earshot.chat.v1.ChatService/Say",
        "chat.turn",
        "earshot.sync.v1.SyncService/Converse",
        "read",
        "write",
    } <= names
    assert "supper" not in str(message)
    assert "Mara" not in str(message)
    assert "ChatService/Say" in waterfall(message)


def test_earshot_trace_shows_the_last_ones(tmp_path: Path) -> None:
    with Stack(tmp_path / "data") as stack:
        stack.snapshot("inn", ENTITIES)
        command = [sys.executable, "-m", "services", "trace", "--url", stack.url, "--name", "snapshots"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "POST /v1/snapshots" in done.stdout
        assert "of the time belongs to no stage" in done.stdout
        nothing = subprocess.run([*command[:-1], "nothing"], capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert (nothing.returncode, "No trace yet" in nothing.stderr) == (1, True)
        bad = stack.http.get("/traces", params={"page_size": "many"})
        assert bad.status_code == 400
    gone = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert gone.returncode == 1
    assert "is Earshot running there?" in gone.stderr


def test_a_process_without_an_edge_serves_its_metrics(tmp_path: Path) -> None:
    port, grpc_port = free_ports(2)
    environment = {
        **os.environ,
        "EARSHOT_METRICS_LISTEN": f"127.0.0.1:{port}",
        "EARSHOT_CLUSTER_ADDR": f"127.0.0.1:{grpc_port}",
        "EARSHOT_DATA": str(tmp_path),
    }
    command = [sys.executable, "-m", "services", "up", "--target", "cluster"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT_S
        text = ""
        while "earshot_loop_lag_seconds_count" not in text and time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(20)
    assert "earshot_loop_lag_seconds_count" in text
    assert "process_cpu_seconds_total" in text


def test_without_telemetry_there_is_none(tmp_path: Path) -> None:
    with Stack(tmp_path / "data", environment={"EARSHOT_TELEMETRY": "false"}) as stack:
        stack.snapshot("inn", ENTITIES)
        assert "earshot_" not in stack.http.get("/metrics").text
        assert stack.http.get("/traces").json() == {"traces": []}
