"""wrk as game servers that post snapshots at a pace (paced.lua): a generator in C is not itself what is measured."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench import crowd
from bench.target import TargetFailed

SCRIPT = Path(__file__).with_name("paced.lua")
# Frames of each world; they repeat.
FRAMES = 4
TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Status:
    """Answers with one status: how many, and their latencies in milliseconds."""

    count: int
    p50: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Told:
    """What came back in `seconds` after the warm-up."""

    seconds: float
    statuses: Mapping[int, Status]
    # Requests sent after their time; connections that broke; the first refusal without Retry-After.
    late: int
    broken: int
    complaint: str
    # What the generator itself used.
    cores: float = 0.0

    @property
    def offered(self) -> float:
        """Requests a second that were sent and ended."""
        return (self.broken + sum(one.count for one in self.statuses.values())) / self.seconds

    @property
    def rate(self) -> float:
        """Snapshots applied a second."""
        return self.statuses[200].count / self.seconds if 200 in self.statuses else 0.0

    @property
    def refused(self) -> int:
        return sum(status.count for code, status in self.statuses.items() if code in (429, 503))

    @property
    def failed(self) -> int:
        """Neither applied nor refused."""
        return self.broken + sum(one.count for code, one in self.statuses.items() if code not in (200, 429, 503))

    @property
    def lost(self) -> float:
        """Share of requests that were neither applied nor refused."""
        return self.failed / max(1, self.broken + sum(one.count for one in self.statuses.values()))

    @property
    def refusal_p99(self) -> float:
        """Of the refusals by their largest class."""
        classes = [status for code, status in self.statuses.items() if code in (429, 503)]
        return max(classes, key=lambda one: one.count).p99 if classes else 0.0


def write_bodies(folder: Path, servers: int) -> Path:
    """Bodies of so many game servers, each with a world of its own; the folder that wrk reads."""
    bodies = folder / "bodies"
    bodies.mkdir()
    frames = crowd.frames(0, FRAMES)
    for number in range(servers):
        (bodies / f"{number}.bodies").write_bytes(b"\n".join(crowd.retold(frame, number) for frame in frames))
    return bodies


def post(
    port: int, bodies: Path, servers: int, seconds: float, *, worlds: int = 0, rate: float = 0.0, warm_up: float = 1.0
) -> Told:
    """Let game servers post for warm_up + seconds, each for as many of the worlds as the others.

    worlds: as many as servers when 0. rate: snapshots a second of all; 0 = each the next one at once. Raises
    TargetFailed when wrk is missing or fails.
    """
    program = shutil.which("wrk")
    if program is None:
        raise TargetFailed("the generator wrk is missing; Debian: apt-get install wrk")
    period = servers / rate if rate else 0
    arguments = [str(one) for one in (bodies, servers, worlds or servers, period, warm_up)]
    before = _children_s()
    told = subprocess.run(
        [program, "-t", str(servers), "-c", str(servers), "-d", f"{seconds + warm_up:.0f}s", "--timeout",
         f"{TIMEOUT_S}s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}/v1/snapshots", "--", *arguments],
        capture_output=True, text=True, timeout=seconds + warm_up + 60,
    )  # fmt: skip
    if told.returncode:
        raise TargetFailed(f"wrk failed: {told.stderr[-500:]}")
    cores = (_children_s() - before) / (seconds + warm_up)
    return replace(read(told.stdout, round(seconds + warm_up) - warm_up), cores=cores)


def _children_s() -> float:
    """CPU seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read(text: str, seconds: float) -> Told:
    """What the script printed among wrk's own lines."""
    statuses: dict[int, Status] = {}
    late = broken = 0
    complaint = ""
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "status":
            code, count, *latencies = rest.split()
            statuses[int(code)] = Status(int(count), *map(float, latencies))
        elif word == "late":
            late = int(rest)
        elif word == "broken":
            broken = int(rest)
        elif word == "complaint":
            complaint = rest
    return Told(seconds, statuses, late, broken, complaint)
