"""Agents' blocks for backups: read from the runtimes that hold them, and given back to agents that are made anew.

Earshot renders its own blocks from state at any time; what would be lost with a runtime is what an agent wrote itself
and the texts of existing agents. They are kept as seeds: who makes the agent again starts from them, once.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from services.common.settings import Settings
from services.sync.routing.fleet import make_runtimes
from services.sync.routing.providers import configured
from services.sync.runtimes.local import NoShelf
from services.sync.runtimes.port import Runtime, RuntimeFault

READ_S = 10.0
SEEDS = (
    "CREATE TABLE IF NOT EXISTS seed (tenant TEXT, world TEXT, npc TEXT, blocks TEXT NOT NULL,"
    " PRIMARY KEY (tenant, world, npc)) WITHOUT ROWID"
)


async def read(settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """Blocks of every agent in a stateful runtime, and the ids of agents that could not be read."""
    rows = _agents(Path(settings.data_path("sync")))
    if not rows:
        return [], []
    runtimes = make_runtimes(settings, configured(settings), NoShelf())
    try:
        return await read_from(runtimes, rows)
    finally:
        for runtime in runtimes.values():
            await runtime.close()


def _agents(path: Path) -> list[tuple[str, str, str, str, str]]:
    if not path.is_file():
        return []
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
        return db.execute("SELECT tenant, world, npc, runtime, agent_id FROM agent ORDER BY 1, 2, 3, 4").fetchall()


async def read_from(
    runtimes: dict[str, Runtime], rows: Sequence[tuple[str, str, str, str, str]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The same over given runtimes and (tenant, world, npc, runtime, agent id)."""
    found: list[dict[str, Any]] = []
    unread: list[str] = []
    for tenant, world, npc, name, agent_id in rows:
        runtime = runtimes.get(name)
        if runtime is None or not runtime.capabilities.stateful:
            continue  # what Earshot keeps itself is in sync's store
        try:
            blocks = await runtime.read_blocks(agent_id, READ_S)
        except RuntimeFault:
            unread.append(agent_id)
            continue
        found.append(
            {"tenant": tenant, "world": world, "npc": npc, "runtime": name, "agent_id": agent_id, "blocks": blocks}
        )
    return found, unread


def seed(path: Path, agents: Sequence[dict[str, Any]], *, anew: bool) -> int:
    """Keep these blocks for their agents in a store that nobody has open. anew: forget which agents there are."""
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(SEEDS)
        for one in agents:
            key = (one["tenant"], one["world"], one["npc"])
            db.execute("INSERT OR REPLACE INTO seed VALUES (?,?,?,?)", (*key, json.dumps(one["blocks"])))
        if anew:
            db.execute("DELETE FROM agent")
            db.execute("DELETE FROM block")
            db.execute("UPDATE intent SET open = 0")
    return len(agents)
