"""`earshot demo`: the seeded tavern against a running Earshot, through its public API alone."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final, TextIO

import httpx

from services.demo.api import Api, ApiError
from services.demo.performance import DemoError, Performance
from services.demo.summary import Summary
from services.demo.tavern import WORLD

__all__ = ["DemoError", "Summary", "drive", "main"]

URL: Final = "http://127.0.0.1:8080"


async def drive(
    base_url: str = URL,
    *,
    seed: int = 7,
    speed: float = 1.0,
    until_first_reply: bool = False,
    duration: float | None = None,
    out: TextIO = sys.stdout,
    key: str = "",
    world: str = WORLD,
    transport: httpx.AsyncBaseTransport | None = None,
    now: Callable[[], float] = time.time,
    boot: str | None = None,
) -> Summary:
    """Play the tavern against `base_url` until it is cancelled, for `duration` real seconds or until an NPC replied.

    speed: story seconds per second. world: two demos at once need two. boot: names this run; message ids derive from
    it. Raises DemoError when the server refuses the roster or is away for two minutes.
    """
    if not speed > 0:
        raise DemoError("the speed must be above 0")
    try:
        async with Api(base_url, key=key, transport=transport) as api:
            performance = Performance(api, seed, speed, out, now, boot or uuid.uuid4().hex, world)
            return await performance.run(until_first_reply, duration)
    except ApiError as error:
        raise DemoError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """`earshot demo`. 0 = done, 1 = failed with a reason on stderr, 130 = stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="earshot demo", description="Play the seeded tavern against a running Earshot."
    )
    parser.add_argument("--url", default=URL, help=f"base URL of the edge (default {URL})")
    parser.add_argument("--key", default=os.environ.get("EARSHOT_KEY", ""), help="API key (default $EARSHOT_KEY)")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another evening (default 7)")
    parser.add_argument("--speed", type=_above_zero, default=1.0, help="story seconds per second (default 1)")
    parser.add_argument(
        "--for", dest="duration", type=_above_zero, metavar="SECONDS", help="stop after this many seconds"
    )
    parser.add_argument("--world", default=WORLD, help=f"name of the world; a second demo needs another ({WORLD})")
    parser.add_argument("--until-first-reply", action="store_true", help="stop when an NPC has spoken")
    chosen = parser.parse_args(argv)
    try:
        asyncio.run(_stoppable(chosen))
    except DemoError as error:
        print(f"earshot demo: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    finally:
        _let_go_of_a_closed_stdout()
    return 0


async def _stoppable(chosen: argparse.Namespace) -> Summary:
    task = asyncio.current_task()
    if task is not None:
        # SIGINT does the same by asyncio.run; both leave with the summary.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await drive(
        chosen.url, seed=chosen.seed, speed=chosen.speed, duration=chosen.duration, key=chosen.key,
        until_first_reply=chosen.until_first_reply, world=chosen.world, out=sys.stdout,
    )  # fmt: skip


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _let_go_of_a_closed_stdout() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
