"""`earshot replay FILE`: every recorded decision once more, compared byte for byte with what the service did."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from services.common.errors import BadInput


def add(commands: Any) -> None:
    """Add the subcommand to a parser's subcommands."""
    replay = commands.add_parser("replay", help="replay recorded conversations (EARSHOT_RECORD) and compare every byte")
    replay.add_argument("file", type=Path, help="chat store (chat.db), or the data directory that holds it")
    replay.add_argument("--tenant", help="only this tenant's worlds")
    replay.add_argument("--world", help="only worlds of this name")
    replay.add_argument("--decisions", action="store_true", help="print every decision as a line of JSON; no chat text")
    replay.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 = identical, 1 = something came out otherwise. Raises BadInput when there is nothing to replay."""
    from services.chat import recording_store, replay

    path = arguments.file / "chat.db" if arguments.file.is_dir() else arguments.file
    identical, worlds = True, 0
    for (tenant, world), rows in recording_store.read(path, arguments.tenant, arguments.world):
        worlds += 1
        found = replay.replay(rows)
        if arguments.decisions:
            for why in found.decisions:
                print(
                    json.dumps(
                        {
                            "tenant": tenant,
                            "world": world,
                            "conversation": why.conversation_id,
                            "turn": why.turn_id,
                            "obligation": why.obligation,
                            "p_any_npc": why.p_any_npc,
                            "tau": why.tau,
                            "candidates": {one.id: one.probability for one in why.candidates},
                        }
                    )
                )
        identical = identical and not found.differs
        verdict = f"DIFFERS at {', '.join(map(str, found.differs[:5]))}" if found.differs else "identical"
        print(
            f"{tenant}/{world}: {found.inputs} inputs, {found.events} events, {len(found.decisions)} decisions, "
            f"{found.states} states compared, {found.gaps} gaps: {verdict}"
        )
    if not worlds:
        raise BadInput("nothing is recorded there: EARSHOT_RECORD=true records", reason="NO_RECORDING")
    return 0 if identical else 1
