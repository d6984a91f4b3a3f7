"""What failures are tried on: a whole Earshot, players who write down what they were told, and the judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from tests.e2e.conftest import ROSTER
from tests.e2e.stack import EMBEDDED, Stack
from tests.faults.failing import POINTS
from tests.faults.game import BEACON, Troupe, ends
from tests.faults.history import violations

# Many lines by few players, and whole logs: what is refused or trimmed on purpose is not what failed.
ROOMY = {
    "EARSHOT_PLAYER_MESSAGES_PER_10S": "100000",
    "EARSHOT_CONVERSATION_MESSAGES_PER_10S": "100000",
    "EARSHOT_SESSION_REQUESTS_PER_MINUTE": "100000",
    "EARSHOT_SESSION_BURST": "10000",
    "EARSHOT_TENANT_REQUESTS_PER_S": "100000",
    "EARSHOT_TENANT_BURST": "100000",
    "EARSHOT_EVENTS_PER_WORLD": "10000000",
    "EARSHOT_SNAPSHOT_DEADLINE_S": "10",
    "EARSHOT_LOG_LEVEL": "info",
}
CAST = {"npcs": [*ROSTER["npcs"], {"id": BEACON, "display_name": "Beacon"}]}
READY_S = 60.0


def bed(data: Path, targets: Sequence[Sequence[str]] = EMBEDDED, more: Mapping[str, str] | None = None) -> Stack:
    """An Earshot whose processes can be told to die at a named point (`arm`)."""
    return Stack(data, targets, {**ROOMY, **(more or {})}, program=("tests.faults.failing", "up"))


def cast(stack: Stack) -> None:
    answer = stack.http.put("/v1/npcs", json=CAST)
    assert answer.status_code == 200, answer.text


def host_of(stack: Stack, point: str) -> str:
    """The target whose process reaches the point."""
    room = point.partition(".")[0]
    return next((",".join(rooms) for rooms in stack.targets if rooms[0] in ("all", room)), "chat")


def arm(stack: Stack, point: str, hits: int) -> str:
    """Let the process that has the point die at its n-th visit, from its next start on; its target."""
    assert point in POINTS
    target = host_of(stack, point)
    stack.extra = {target: {"FAILPOINT": point, "FAILPOINT_HITS": str(hits)}}
    return target


def judge(troupe: Troupe, http: httpx.Client, *, trimmed: bool = False) -> list[str]:
    """What cannot have happened, one line each; [] = nothing acknowledged was lost, none came back or came twice."""
    worlds = sorted({record.world for record in troupe.history.records})
    headers = {"authorization": f"Bearer {troupe.key}"} if troupe.key else None
    found = violations(troupe.history, ends(http, worlds, headers, trimmed=trimmed))
    return [f"{one.kind} {one.world}: {one.what}" for one in found]
