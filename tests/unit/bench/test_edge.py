"""`earshot bench edge`: what wrk prints is read right, and a flood's figures are what they say."""

from __future__ import annotations

import http.server
import math
import shutil
import threading
from pathlib import Path

import pytest

from bench.edge import overload
from bench.edge.game_servers import FRAMES, Told, post, read, write_bodies
from bench.edge.overload import Watch
from bench.target import Target, TargetFailed

PRINTED = """Running 10s test @ http://127.0.0.1:1/v1/snapshots
  8 threads and 8 connections
  437 requests in 10.07s, 0.91MB read
status 200 120 26.500 90.000 121.000
status 429 300 1.500 9.000 12.000
status 503 20 2.500 40.000 41.000
status 504 4 1000.0 1100.0 1100.0
late 7
broken 6
complaint 503 without Retry-After: {}
"""


def test_what_the_script_prints_is_read() -> None:
    told = read(PRINTED, 10)
    assert (told.rate, told.refused, told.failed, told.late) == (12, 320, 10, 7)
    assert told.refusal_p99 == 9, "of the larger class of refusals"
    assert told.lost == 10 / 450
    assert told.complaint.startswith("503")
    nothing = read("late 0\nbroken 0\n", 10)
    assert (nothing.rate, nothing.refusal_p99, nothing.lost) == (0, 0, 0)


def test_each_game_server_has_bodies_of_a_world_of_its_own(tmp_path: Path) -> None:
    bodies = write_bodies(tmp_path, 3)
    worlds = [(bodies / f"{number}.bodies").read_bytes().split(b"\n") for number in range(3)]
    assert {len(frames) for frames in worlds} == {FRAMES}
    assert len({frames[0] for frames in worlds}) == 3


def test_a_flood_is_judged_by_the_peak() -> None:
    watch = Watch(Target("x", 1, []))
    watch.health_ms, watch.resident = [1.0] * 99 + [200.0], [100] * 60 + [110] * 30
    found = {one.name: one for one in overload._results(3, 0.9, read(PRINTED, 10), watch, 15.0, {"3": 0.5})}
    assert found["3x: goodput, share of the peak"].value == pytest.approx(0.8)
    assert found["3x: goodput, share of the peak"].peers == {overload.PEER: 0.5}
    assert found["3x: growth of the memory"].value == pytest.approx(0.1)
    assert [one.ok for one in found.values() if one.goal is not None] == [False, True, False, False, True, False]
    assert found["3x: offered, times the peak"].value == pytest.approx(3.0)
    assert not math.isnan(found["3x: /healthz p99"].value)


def test_without_a_generator_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetFailed, match="apt-get install wrk"):
        post(1, tmp_path, 1, 1.0)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs the Debian package wrk")
def test_game_servers_keep_their_pace_and_their_worlds(tmp_path: Path) -> None:
    seen: set[bytes] = set()

    class Server(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.add(body)
            refused = len(seen) % 2 == 0
            self.send_response(429 if refused else 200)
            if refused:
                self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    bodies = write_bodies(tmp_path, 4)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            told: Told = post(server.server_address[1], bodies, 2, 2, worlds=4, rate=20, warm_up=0)
        finally:
            server.shutdown()
            serving.join()
    assert not told.complaint
    assert not told.failed
    assert 0 < told.statuses[200].count + told.refused <= 48, "no answer makes it faster than its pace"
    assert told.cores > 0
    worlds = [set(one.read_bytes().split(b"\n")) for one in bodies.iterdir()]
    assert seen <= set.union(*worlds)
    assert all(seen & world for world in worlds), "two senders speak for four worlds"
