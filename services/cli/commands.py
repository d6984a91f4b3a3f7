"""`earshot COMMAND`: one small function a command, heavy imports inside it so that each starts quickly."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from services.cli import archive, bench, certs, replay, runtimes, trace
from services.common.clock import SystemClock
from services.common.errors import EarshotError
from services.common.loop import PromptLoop
from services.common.settings import OPTIONAL, ROOMS, Settings

if TYPE_CHECKING:
    from services.edge.keys import KeyFile

# How long `demo` looks for an Earshot.
LOOK_S = 0.5

NAMES = ",".join((*ROOMS, *OPTIONAL))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. 0 = done, 1 = failed with a reason on stderr, 2 = wrong usage."""
    arguments = alone(sys.argv[1:] if argv is None else list(argv), lambda: Settings().listen)
    # These two have parsers of their own beside the code that they run.
    if arguments[:1] == ["demo"]:
        from services.demo.driver import main as demo

        return demo(arguments[1:])
    if arguments[:1] == ["import-roster"]:
        from services.demo.roster import main as import_roster

        return import_roster(arguments[1:])
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except EarshotError as error:
        print(f"earshot: {error.message} ({error.reason})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def alone(arguments: list[str], address: Callable[[], str]) -> list[str]:
    """The arguments; a bare `demo` where nothing listens on `address` (host:port) starts what it plays against.

    Only a bare demo asks for the address: settings that do not hold must not stop `--help`.
    """
    if arguments != ["demo"]:
        return arguments
    listen = address()
    host, _, port = listen.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host or "127.0.0.1", int(port)), timeout=LOOK_S):
        return arguments
    print(f"Nothing listens on {listen}: starting an Earshot for the demo.", file=sys.stderr)
    return ["up", "--demo"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="earshot", description="Ears, fresh memory and turns for the NPCs of a game.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start every room in one process, or any subset")
    up.add_argument(
        "--target", default="all", help=f"all, or rooms separated by commas: {','.join((*ROOMS, *OPTIONAL))}"
    )
    up.add_argument("--listen", help="address of the HTTP edge, host:port (default 127.0.0.1:8080)")
    up.add_argument("--data", help="data directory (default .earshot), or :memory:")
    up.add_argument("--demo", action="store_true", help="also drive the tavern demo and narrate it")
    up.set_defaults(run=_up)

    commands.add_parser(
        "demo", help="drive the seeded tavern against a running edge, or against one of its own", add_help=False
    )
    commands.add_parser("import-roster", help="load NPCs, locations and players from a JSON file", add_help=False)

    key = commands.add_parser("key", help="API keys: create, list, revoke")
    key.add_argument("--data", help="data directory of the edge (default .earshot)")
    key_commands = key.add_subparsers(required=True, metavar="COMMAND")
    create = key_commands.add_parser("create", help="make a key and print it, once")
    create.add_argument("tenant", nargs="?", default="main", help="who owns what the key sends (default main)")
    create.add_argument("--env", default="live", help="shown in the key (default live)")
    create.set_defaults(run=_key_create)
    key_commands.add_parser("list", help="every key: id, tenant, live or revoked").set_defaults(run=_key_list)
    revoke = key_commands.add_parser("revoke", help="end a key; a running edge notices within seconds")
    revoke.add_argument("id")
    revoke.set_defaults(run=_key_revoke)

    health = commands.add_parser("health", help="is it ready? exit status 0 or 1")
    health.add_argument("--target", default="edge", choices=ROOMS, help="room to ask (default edge)")
    health.set_defaults(run=_health)

    settings = commands.add_parser("settings", help="list every setting with its value")
    settings.set_defaults(run=_settings)

    turns = commands.add_parser("turns", help="the turn policy by itself")
    turns_commands = turns.add_subparsers(required=True, metavar="COMMAND")
    predict = turns_commands.add_parser("predict", help="conversations on stdin, next-speaker probabilities on stdout")
    predict.set_defaults(run=_turns_predict)

    bench.add(commands)
    certs.add(commands)
    archive.add(commands)
    replay.add(commands)
    runtimes.add(commands)
    trace.add(commands)
    return parser


def _up(arguments: argparse.Namespace) -> int:
    from services.cli.process import run

    overrides = {name: getattr(arguments, name) for name in ("listen", "data") if getattr(arguments, name)}
    rooms = parse_target(arguments.target, Settings())
    with asyncio.Runner(loop_factory=PromptLoop) as runner:
        return runner.run(run(Settings(**overrides), rooms, demo=arguments.demo))


def parse_target(target: str, settings: Settings) -> tuple[str, ...]:
    """Rooms of a --target; Discord is one of all when there is a token. Raises SystemExit(2) with the names."""
    if target == "all":
        return (*ROOMS, "discord") if settings.discord_token else ROOMS
    rooms = tuple(room.strip() for room in target.split(",") if room.strip())
    unknown = [room for room in rooms if room not in (*ROOMS, *OPTIONAL)]
    if unknown or not rooms:
        print(
            f"earshot: no room {', '.join(unknown) or target!r}; rooms: {', '.join((*ROOMS, *OPTIONAL))}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return rooms


def _key_file(arguments: argparse.Namespace) -> KeyFile:
    from services.edge.shared_keys import keys_of

    return keys_of(Settings(**({"data": arguments.data} if arguments.data else {})))


def _key_create(arguments: argparse.Namespace) -> int:
    text, stored = _key_file(arguments).create(arguments.tenant, SystemClock().now_ms(), arguments.env)
    print(text)
    print(f"Key {stored.id} of tenant {stored.tenant}. It is shown this once: only its hash is kept.", file=sys.stderr)
    return 0


def _key_list(arguments: argparse.Namespace) -> int:
    for stored in _key_file(arguments).load():
        print(f"{stored.id}  {stored.tenant:24} {'revoked' if stored.revoked_ms else 'live'}")
    return 0


def _key_revoke(arguments: argparse.Namespace) -> int:
    stored = _key_file(arguments).revoke(arguments.id, SystemClock().now_ms())
    print(f"Key {stored.id} is revoked.")
    return 0


def _health(arguments: argparse.Namespace) -> int:
    from services.cli.health import check

    healthy, detail = asyncio.run(check(Settings(), arguments.target))
    print(detail, file=sys.stdout if healthy else sys.stderr)
    return 0 if healthy else 1


def _settings(_: argparse.Namespace) -> int:
    settings = Settings()
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        shown = "(set)" if value and name.endswith("_key") else value
        print(f"EARSHOT_{name.upper():28} {shown!s:40} {field.description or ''}".rstrip())
    return 0


def _turns_predict(_: argparse.Namespace) -> int:
    from services.chat.predict import predict_lines

    for line in predict_lines(sys.stdin):
        print(line)
    return 0
