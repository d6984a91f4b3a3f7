"""`earshot import`, `backup` and `restore`: what is done to a data directory from outside."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from services.common.clock import SystemClock
from services.common.errors import BadInput
from services.common.settings import Settings

KEEP = 7


def add(commands: Any) -> None:
    """Add the subcommands to a parser's subcommands."""
    importing = commands.add_parser(
        "import", help="messages of a JSON list or a DiscordChatExporter file, as what NPCs witnessed"
    )
    importing.add_argument("file", type=Path)
    importing.add_argument("--npc", action="append", required=True, help="NPC that remembers it; may be repeated")
    importing.add_argument("--tenant", default="local", help="whose NPCs (default local)")
    importing.add_argument("--world", default="", help="name of the place it was said in (default: from the file)")
    importing.add_argument("--data", help="data directory of chat (default .earshot); Earshot must not run on it")
    importing.set_defaults(run=_import)

    backup = commands.add_parser("backup", help="copy every store, checked, also while Earshot runs")
    backup.add_argument("folder", type=Path, help="where backups are kept, one folder each")
    backup.add_argument("--keep", type=int, default=KEEP, help=f"newest backups that stay (default {KEEP}; 0 = all)")
    backup.add_argument("--data", help="data directory (default .earshot)")
    backup.add_argument("--no-agents", action="store_true", help="do not read agents' blocks from their runtime")
    backup.set_defaults(run=_backup)

    restore = commands.add_parser("restore", help="put a backup in place of a data directory")
    restore.add_argument("backup", type=Path, help="one backup, or the folder that keeps them: the newest")
    restore.add_argument("--data", help="data directory (default .earshot)")
    restore.add_argument("--force", action="store_true", help="put what is in the data directory aside")
    restore.add_argument(
        "--new-runtime", action="store_true", help="make every agent anew, with the blocks that the backup holds"
    )
    restore.set_defaults(run=_restore)


def _settings(arguments: argparse.Namespace) -> Settings:
    settings = Settings(**({"data": arguments.data} if arguments.data else {}))
    if settings.data == ":memory:":
        raise BadInput("there is no data directory: EARSHOT_DATA is :memory:", reason="NO_DATA")
    return settings


def _import(arguments: argparse.Namespace) -> int:
    from services.chat.importing import import_file

    settings, began = _settings(arguments), time.perf_counter()

    def progress(entries: int, new: int, share: float) -> None:
        seconds = max(time.perf_counter() - began, 1e-6)
        left = seconds / share - seconds if share else 0.0
        line = f"{entries:,} read, {new:,} new, {entries / seconds:,.0f}/s, {left:,.0f} s left"
        print(f"\r{line:<70}", end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)

    told = asyncio.run(
        import_file(
            arguments.file, settings.data_path("chat"), arguments.tenant, tuple(dict.fromkeys(arguments.npc)),
            SystemClock().now_ms(), progress, arguments.world,
        )
    )  # fmt: skip
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"{told.new:,} of {told.entries:,} entries are new in {told.world}; {told.skipped:,} were nobody's words.")
    print("Only NPCs whose profile says memory_scope cross_session recall them.")
    return 0


def _backup(arguments: argparse.Namespace) -> int:
    from services.common import backup

    settings = _settings(arguments)
    if arguments.keep < 0:
        raise BadInput("--keep must be 0 or more", reason="INVALID_KEEP")
    agents: list[dict[str, Any]] = []
    unread: list[str] = []
    if not arguments.no_agents:
        from services.sync.agents.copies import read

        agents, unread = asyncio.run(read(settings))
    made = backup.take(Path(settings.data), arguments.folder, SystemClock().now_ms(), arguments.keep, agents)
    print(f"{made.path}: {', '.join(made.stores)}, {made.bytes / 1e6:.1f} MB, checked; {len(agents)} agents' blocks.")
    if unread:
        print(f"earshot: blocks of {len(unread)} agents could not be read from their runtime", file=sys.stderr)
        return 1
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from services.common import backup
    from services.sync.agents.copies import seed

    settings = _settings(arguments)
    told = backup.restore(arguments.backup, Path(settings.data), SystemClock().now_ms(), force=arguments.force)
    seeded = seed(Path(settings.data_path("sync")), told.agents, anew=arguments.new_runtime)
    print(
        f"{settings.data} is as of {told.name}: {', '.join(told.stores)}; blocks of {seeded} agents are kept for them."
    )
    if told.aside is not None:
        print(f"What was there is in {told.aside}.")
    return 0
