"""A store with lines and the worker that embeds them, as a process of its own: for test_embed_queue.

    python -m tests.integration.embed_room DATA LINES DELAY_S

Puts the lines when the store is empty, prints a line after every batch, and "done" once nothing waits.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
from earshot.sync.v1 import sync_pb2

from services.chat import recall_store
from services.chat.embed_worker import Embeddings
from services.chat.recall_store import Line
from services.chat.recollection import Recollection
from services.chat.store import SCHEMA, ChatStore
from services.common.clock import SystemClock
from services.common.store import Database
from services.common.telemetry import Metrics


class SlowEmbedder:
    """Answers as sync would, after a while: a text's vector is its number."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    async def Embed(self, request: sync_pb2.EmbedRequest, timeout: float) -> sync_pb2.EmbedResponse:
        await asyncio.sleep(self._delay_s)
        rows = b"".join(np.array([float(text.split()[1]), 1], "<f2").tobytes() for text in request.texts)
        return sync_pb2.EmbedResponse(model="slow@2", dim=2, vectors=rows)


async def main(data: str, count: str, delay: str) -> None:
    """Run until nothing waits, or until killed."""
    database = Database(Path(data) / "chat.db", SCHEMA)
    store = ChatStore(database)
    lines = [
        Line(n, "L1", f"u{n}", "", "p1", "Ada", "player", "p1", n, f"line {n}", ("mara",)) for n in range(int(count))
    ]
    await store.change(lambda db: recall_store.put(db, ("t", "w"), lines, embed=True))
    metrics = Metrics()
    embedder = SlowEmbedder(float(delay))
    recollection = Recollection(store, embedder, metrics, 1500, 10, lambda _: frozenset())
    worker = Embeddings(store, embedder, recollection, SystemClock(), metrics)
    running = asyncio.create_task(worker.run())
    while True:
        left = await store.look(lambda reader: reader.waiting_count())
        print("done" if not left else f"waiting {left}", flush=True)  # noqa: T201 - the parent reads this
        if not left:
            break
        await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
