"""More snapshots than the server can take: what is still served, how fast the rest is refused, and what comes after.

The peak is measured in the same run, by senders that each send the next snapshot when the one before is answered. Then
three and ten times as many come, at a pace that no answer slows (operations: R3). Both are of the same worlds: a world
that sends a hundred times a second is less work a snapshot than a hundred worlds. The server has a core to itself,
the generator and the probes share the others. The peer is the same server without admission: it takes whatever comes.
"""

from __future__ import annotations

import http.client
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from bench import target
from bench.catalogue import progress
from bench.edge.game_servers import Told, post, write_bodies
from bench.figures import percentile
from bench.result import Result
from bench.target import Target

SERVERS = 600
PEAK_SENDERS = (16, 32, 64)
PEAK_S, WARM_UP_S = 5.0, 10.0
SECONDS = 20.0
PROBE_S = 0.05
SETTLE_S = 15.0
# Normal again: half of the peak, nothing refused and nothing failed, in a look of so many seconds.
LOOK_S, LOOKS = 2.0, 5
QUIET = {"EARSHOT_GREETINGS": "false"}
OPEN = {**QUIET, "EARSHOT_LAG_MAX_S": "1000", "EARSHOT_IN_FLIGHT_MAX": "100000"}
GOODPUT = {3: 0.9, 10: 0.8}
REFUSAL_MS, HEALTH_MS, NORMAL_S, GROWTH = 50.0, 100.0, 10.0, 0.03
PEER = "without admission"


class Watch:
    """Probes /healthz and the memory while load runs; a context."""

    def __init__(self, one: Target) -> None:
        self._one = one
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.health_ms: list[float] = []
        self.resident: list[int] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PROBE_S):
            started = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", self._one.port, timeout=30)
            try:
                connection.request("GET", "/healthz")
                connection.getresponse().read()
            except OSError:
                pass  # as slow as it took to fail
            finally:
                connection.close()
            self.health_ms.append((time.perf_counter() - started) * 1000)
            self.resident.append(self._one.resident_bytes())

    @property
    def health_p99(self) -> float:
        return percentile(sorted(self.health_ms), 0.99)

    @property
    def growth(self) -> float:
        """Of the memory from the middle third of the time to the last one, as a share."""
        third = len(self.resident) // 3
        middle, last = self.resident[third : 2 * third], self.resident[2 * third :]
        return sum(last) / len(last) / (sum(middle) / len(middle)) - 1 if middle else 0.0


def run(folder: Path, seconds: float | None) -> list[Result]:
    """Results; starts its own servers. Raises TargetFailed."""
    bodies = write_bodies(folder, SERVERS)
    before = os.sched_getaffinity(0)
    try:
        with_admission = _server("overload", folder, QUIET)
        without = _server("overload without admission", folder, OPEN)
        # What the bench starts from here on, and the bench itself.
        os.sched_setaffinity(0, set(sorted(before)[1:]) or before)
        return _run(folder, bodies, with_admission, _peer(folder, bodies, without), seconds)
    finally:
        os.sched_setaffinity(0, before)


def _server(name: str, folder: Path, environment: Mapping[str, str]) -> Target:
    """Every room in one process, on the first core."""
    under = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-m", "services"]
    return target.earshot(name, folder, "all", environment=environment, under=under)


def _run(folder: Path, bodies: Path, one: Target, peers: Mapping[str, float], seconds: float | None) -> list[Result]:
    found: list[Result] = []
    try:
        one.start(folder)
        peak = _peak(one, bodies)
        found.append(Result("peak of snapshots applied", peak, "snapshots/s", peers={PEER: peers["peak"]}))
        for times, goal in GOODPUT.items():
            with Watch(one) as watch:
                told = _flood(one, bodies, peak, times, seconds or SECONDS)
            found += _results(times, goal, told, watch, peak, peers)
            found.append(Result(f"{times}x: normal again after", _normal(one, bodies, peak), "s", NORMAL_S, "less"))
            one.settle(SETTLE_S)
    finally:
        one.stop()
    return found


def _peak(one: Target, bodies: Path) -> float:
    post(one.port, bodies, SERVERS, WARM_UP_S, rate=SERVERS / WARM_UP_S)
    one.settle(SETTLE_S)
    rates = []
    for senders in PEAK_SENDERS:
        told = post(one.port, bodies, senders, PEAK_S, worlds=SERVERS)
        rates.append(told.rate)
        progress(f"edge: {one.name}: {senders} senders, one after the other's answer: {_line(told)}")
    return max(rates)


def _flood(one: Target, bodies: Path, peak: float, times: int, seconds: float) -> Told:
    told = post(one.port, bodies, SERVERS, seconds, rate=peak * times, warm_up=2.0)
    progress(f"edge: {one.name}: {times} times the peak: {_line(told)}")
    return told


def _normal(one: Target, bodies: Path, peak: float) -> float:
    """Seconds until a look at half of the peak finds nothing refused; NaN when it does not come."""
    began = time.monotonic()
    for _ in range(LOOKS):
        told = post(one.port, bodies, SERVERS, LOOK_S, rate=peak / 2, warm_up=0.0)
        if told.rate and not told.refused and not told.failed:
            return max(0.0, time.monotonic() - began - LOOK_S)
    return float("nan")


def _peer(folder: Path, bodies: Path, one: Target) -> Mapping[str, float]:
    """Goodput of the same server when it takes whatever comes."""
    try:
        one.start(folder)
        peak = _peak(one, bodies)
        told = _flood(one, bodies, peak, 3, SECONDS / 2)
    finally:
        one.stop()
    return {"peak": peak, "3": told.rate / peak if peak else 0.0}


def _results(
    times: int, goal: float, told: Told, watch: Watch, peak: float, peers: Mapping[str, float]
) -> list[Result]:
    beside = {PEER: peers[str(times)]} if str(times) in peers else {}
    return [
        Result(f"{times}x: offered, times the peak", told.offered / peak, ""),
        Result(f"{times}x: the generator's own use", told.cores, "cores"),
        Result(f"{times}x: goodput, share of the peak", told.rate / peak, "", goal, peers=beside),
        Result(f"{times}x: refusals p99", told.refusal_p99, "ms", REFUSAL_MS, "less"),
        Result(f"{times}x: neither served nor refused", told.lost, "", 0.01, "less"),
        Result(f"{times}x: refusals without Retry-After", float(bool(told.complaint)), "", 0, "less"),
        Result(f"{times}x: /healthz p99", watch.health_p99, "ms", HEALTH_MS, "less"),
        Result(f"{times}x: growth of the memory", watch.growth, "", GROWTH, "less"),
    ]


def _line(told: Told) -> str:
    statuses = ", ".join(
        f"{code}: {one.count / told.seconds:.0f}/s p50 {one.p50:.0f} p99 {one.p99:.0f} ms"
        for code, one in sorted(told.statuses.items())
    )
    of = f"{told.offered:.0f}/s offered with {told.cores:.2f} cores"
    return f"{of}: {statuses}; {told.late} late, {told.broken} broken {told.complaint[:100]}"
