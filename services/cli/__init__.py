"""The command line, and the only place that composes rooms.

Owns: argument parsing, the composition of rooms into a process, start and stop of that process.
Serves: `earshot` (see `earshot --help`).
Calls: every room's `bind`, and the public HTTP API as any client does.
Never: decides anything; a rule found here belongs in a room.
"""

from __future__ import annotations

from services.cli.commands import main

__all__ = ["main"]
