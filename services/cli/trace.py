"""`earshot trace`: the last traces as waterfalls, from a running edge or, with --listen, as they are exported."""

from __future__ import annotations

import argparse
import json
import queue
import sys
import urllib.error
import urllib.request
from typing import Any

from services.cli.waterfall import page, waterfall
from services.common.errors import Unavailable
from services.common.settings import Settings

ANSWER_S = 5.0
# A trace is shown once nothing of it came for so long: every process exports for itself.
QUIET_S = 6.0
FETCHED = 500


def add(commands: Any) -> None:
    """Add the subcommand to a parser's subcommands."""
    trace = commands.add_parser("trace", help="the last traces as waterfalls, with no other software")
    trace.add_argument("--url", help="a running edge (default http://EARSHOT_LISTEN)")
    trace.add_argument("--last", type=int, default=3, help="how many (default 3)")
    trace.add_argument("--name", default="", help="only those whose name holds this, for example messages")
    trace.add_argument("--slowest", action="store_true", help="the slowest instead of the last")
    trace.add_argument(
        "--listen", metavar="HOST:PORT", help="take what processes export (EARSHOT_OTLP_ENDPOINT) until Ctrl-C"
    )
    trace.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when something was shown, 1 when there is no trace; raises Unavailable when the edge does not answer."""
    colour = sys.stdout.isatty()
    if arguments.listen:
        return _listen(arguments.listen, arguments.name, colour=colour)
    traces = [one for one in fetch(arguments.url or edge_url()) if arguments.name in one["name"]]
    if arguments.slowest:
        traces.sort(key=lambda one: one["duration_us"], reverse=True)
    if not traces:
        print("No trace yet: send a snapshot or a message, and look again.", file=sys.stderr)
        return 1
    print(page(traces[: max(arguments.last, 1)], colour=colour))
    return 0


def edge_url() -> str:
    """The edge of the settings, as this machine reaches it."""
    host, _, port = Settings().listen.rpartition(":")
    return f"http://{'127.0.0.1' if host in ('', '0.0.0.0', '[::]', '::') else host}:{port}"


def fetch(url: str) -> list[dict[str, Any]]:
    """The edge's last traces, newest first. Raises Unavailable."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/traces?page_size={FETCHED}", timeout=ANSWER_S) as answer:
            return list(json.load(answer)["traces"])
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(f"no traces from {url}: {type(error).__name__}; is Earshot running there?") from None


def _listen(address: str, name: str, *, colour: bool) -> int:
    from services.cli.otlp import Receiver, trace_of

    came: queue.SimpleQueue[str] = queue.SimpleQueue()
    waiting: set[str] = set()
    with Receiver(address, came.put) as receiver:
        print(f"Taking traces at {receiver.endpoint}: EARSHOT_OTLP_ENDPOINT={receiver.endpoint}", flush=True)
        while True:
            try:
                waiting.add(came.get(timeout=QUIET_S))
                continue
            except queue.Empty:
                pass
            for trace_id in sorted(waiting):
                found = trace_of(trace_id, receiver.spans.pop(trace_id, []))
                if found is not None and name in found["name"]:
                    print(waterfall(found, colour=colour), end="\n\n", flush=True)
            waiting.clear()
