"""`earshot bench`: measure, beside peers, on this machine. What is measured lives in the checkout's bench/."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from services.common.errors import EarshotError

ROOT = Path(__file__).parents[2]


class CheckoutNeeded(EarshotError):
    """The benches are not part of the package."""

    default_reason = "CHECKOUT_NEEDED"


def add(commands: Any) -> None:
    """Add the subcommand to a parser's subcommands."""
    bench = commands.add_parser("bench", help="measure beside peers (needs the repository checkout)")
    bench.add_argument("name", help="which one; an unknown name lists those that exist")
    bench.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    bench.add_argument("--seconds", type=float, help="time under load of each measurement")
    bench.add_argument("--rounds", type=int, help="how often each is measured; the median counts")
    bench.add_argument("--profile", action="store_true", help="ingest, chat: where the time goes, instead")
    bench.add_argument("--brief", action="store_true", help="chat: a short form, as `make bench` runs it")
    bench.add_argument("--corpus", type=Path, help="turns: directory of its conversations")
    bench.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when everything was measured, whether or not the goals were reached; raises EarshotError."""
    catalogue = checkout(ROOT)
    for value in (arguments.seconds, arguments.rounds):
        if value is not None and not 0 < value <= 3600:
            print("earshot: --seconds and --rounds must be above 0 and at most 3600", file=sys.stderr)
            return 2
    options = catalogue.Options(
        arguments.seconds, arguments.rounds, arguments.profile, arguments.corpus, arguments.brief
    )
    machine = catalogue.machine()
    # A bench that is ended ends what it started.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        records = catalogue.run(arguments.name, options)
    finally:
        signal.signal(signal.SIGTERM, before)
    result = importlib.import_module("bench.result")
    if arguments.json:
        print(json.dumps(result.report(arguments.name, machine, records)))
    else:
        print(f"{arguments.name}: {machine}\n\n{result.table(records)}")
    return 0


def checkout(root: Path) -> Any:
    """The benches of a checkout. Raises CheckoutNeeded where there is only an installed package."""
    # Other packages may be called bench: only what lies beside our own sources counts.
    if not ((root / "bench" / "catalogue.py").is_file() and (root / "pyproject.toml").is_file()):
        raise CheckoutNeeded("the benches are not in the package: run this from a checkout of the repository")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module("bench.catalogue")
