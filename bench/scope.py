"""The Scope page in Debian's Chromium: when it can be used, what a picture costs, what watching costs both sides."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

from bench import target
from bench.catalogue import progress
from bench.figures import median
from bench.result import Result
from bench.target import Target

WATCH_S = 20.0
CROWD, FEW = 200, 80
LOADS = 5


def measured(folder: Path) -> list[Result]:
    """Figures of the page; none, with a word, where there is no browser."""
    try:
        from tests.browser.chromium import MISSING
    except ImportError as error:
        MISSING = f"needs {error.name}"
    if MISSING:
        progress(f"scope: left out, {MISSING}")
        return []
    one = target.earshot("scope", folder, "all")
    try:
        one.start(folder)
        return [*_interactive(one), *_watched(one)]
    finally:
        one.stop()


def _interactive(one: Target) -> list[Result]:
    from tests.browser.chromium import chromium

    loads = []
    with chromium() as driver, _Game(one.port, "small", FEW):
        for _ in range(LOADS):
            driver.get("about:blank")
            driver.get(f"http://127.0.0.1:{one.port}/#small")
            # Until its script ran and it holds the world: from then on everything answers.
            script = "return globalThis.scope && scope.world.told ? performance.now() : 0"
            while not (ready := driver.execute_script(script)):
                time.sleep(0.01)
            loads.append(ready / 1000)
    return [Result("Scope can be used after", median(loads), "s", 1.0, "less")]


def _watched(one: Target) -> list[Result]:
    """Pictures of FEW entities; with CROWD the CPU of the browser, and of the server with and without a watcher."""
    from tests.browser.chromium import chromium

    found = []
    with chromium() as driver:
        with _Game(one.port, "few", FEW):
            driver.get(f"http://127.0.0.1:{one.port}/#few")
            time.sleep(5)
            driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            driver.execute_script("scope.frames.length = scope.costs.length = 0")
            before = _task_seconds(driver)
            time.sleep(WATCH_S / 2)
            frames, costs = (sorted(driver.execute_script(f"return scope.{kind}")) for kind in ("frames", "costs"))
            task = _task_seconds(driver) - before
        found += [
            Result(f"script of a picture of {FEW} entities, p95", _p95(frames), "ms", 4, "less"),
            # Until the picture was handed to the compositor; what else the main thread did meanwhile is in it.
            Result(f"script and rendering of a picture of {FEW} entities, p95", _p95(costs), "ms", 4, "less"),
            Result(
                f"main thread a picture of {FEW} entities, fetching and the panels included",
                task * 1000 / max(len(frames), 1),
                "ms",
            ),
            Result(f"main thread with {FEW} entities", task / WATCH_S * 200, "% of a core"),
            Result(f"pictures a second of {FEW} entities", len(frames) / WATCH_S * 2, "/s"),
        ]
        with _Game(one.port, "crowd", CROWD):
            driver.get("about:blank")
            time.sleep(3)
            idle = _server_share(one)
            driver.get(f"http://127.0.0.1:{one.port}/#crowd")
            time.sleep(5)
            before_page = _page_seconds(driver)
            watched = _server_share(one)
            page = (_page_seconds(driver) - before_page) / WATCH_S
        found.append(Result(f"Scope's renderer with {CROWD} entities", page * 100, "% of a core", 20, "less"))
        found.append(Result("server's CPU for one watcher", max(watched - idle, 0.0) * 100, "% of a core", 1, "less"))
    return found


def _p95(taken: list[float]) -> float:
    return taken[int(len(taken) * 0.95)]


def _task_seconds(driver: Any) -> float:
    """CPU of the page's main thread: script, style, layout, paint."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def _page_seconds(driver: Any) -> float:
    """CPU of the processes that render pages."""
    from tests.browser.chromium import chromium_pids

    total = 0.0
    for pid in chromium_pids(driver):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"--type=renderer" in line:
                total += target.cpu_seconds(pid)
        except OSError:
            continue
    return total


def _server_share(one: Target) -> float:
    before = sum(one.cpu_seconds())
    time.sleep(WATCH_S)
    return (sum(one.cpu_seconds()) - before) / WATCH_S


class _Game:
    """A game server of so many walking entities, one snapshot a second; a context."""

    def __init__(self, port: int, world: str, count: int) -> None:
        self._port, self._world, self._count = port, world, count
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Game:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        step = 0
        while not self._ended.is_set():
            step += 1
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            body = {"world": self._world, "entities": [self._entity(row, step) for row in range(self._count)]}
            connection.request("POST", "/v1/snapshots", json.dumps(body), {"content-type": "application/json"})
            connection.getresponse().read()
            connection.close()
            self._ended.wait(1.0)

    def _entity(self, row: int, step: int) -> dict[str, Any]:
        npc = row % 8 < 5
        angle = step / 6 + row
        return {
            "id": f"{'n' if npc else 'p'}{row}", "kind": "npc" if npc else "player", "name": f"Walker {row}",
            "position": {
                "x": row % 16 * 14 + 5 * math.cos(angle), "y": 0, "z": row // 16 * 14 + 5 * math.sin(angle),
            },
        }  # fmt: skip
