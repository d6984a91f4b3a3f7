"""Embeds what recall holds, in background batches, from a queue in the store: a line leaves it with its vector, in one
commit, so a killed process forgets nothing and repeats at most one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from earshot.sync.v1 import sync_pb2

from services.chat import meaning, recall_store
from services.chat.recollection import Recollection
from services.chat.store import ChatStore
from services.common.clock import Clock
from services.common.errors import EarshotError, from_rpc
from services.common.logs import get_logger
from services.common.telemetry import Metrics

BATCH = 32
EMBED_S = 30.0
# An empty queue is looked at again after this; a batch that is under way is not waited for in turns.
IDLE_S = 0.2
# Without an embedder it is asked again after this; after a failure, from the first to the second.
ABSENT_S = 600.0
RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0
# Lines of another model that are put on the queue at a time.
REFILL = 5_000

_log = get_logger("chat")


@dataclass(slots=True)
class Embeddings:
    """The one worker behind the queue."""

    store: ChatStore
    sync: Any
    recollection: Recollection
    clock: Clock
    metrics: Metrics
    # Older lines than this are still to be looked through for missing vectors; 0 = none.
    _below: int = 0

    async def run(self) -> None:
        """Embed for ever; without an embedder recall has words and recency, and says so."""
        delay = RETRY_MIN_S
        while True:
            try:
                await self._adopt()
                while True:
                    done = await self.step()
                    delay = RETRY_MIN_S
                    if not done:
                        await asyncio.sleep(IDLE_S)
            except EarshotError as error:
                if error.reason == "NO_EMBEDDER":
                    await asyncio.sleep(ABSENT_S)
                    continue
                _log.warning("embedding_delayed", reason=error.reason)
                await asyncio.sleep(max(delay, (error.retry_after_ms or 0) / 1000))
                delay = min(delay * 2, RETRY_MAX_S)

    async def step(self) -> int:
        """One batch. Answers how many lines left the queue. Raises EarshotError, nothing lost."""
        waiting = await self.store.look(lambda reader: reader.waiting(BATCH))
        self.metrics.embed_queue.set(await self.store.look(lambda reader: reader.waiting_count()) if waiting else 0)
        if not waiting:
            return await self._refill() if self._below else 0
        vectors, refused = await self._embed(waiting)
        model, said = self.recollection.stored, dict(waiting)
        await self.store.change(lambda db: recall_store.embedded(db, model, said, vectors, refused), durable=False)
        self.metrics.embedded.labels("embedded").inc(len(vectors))
        self.metrics.embedded.labels("refused").inc(len(refused))
        return len(waiting)

    async def _adopt(self) -> None:
        """Learn the model. Lines without a vector of it go on the queue, those of the time without an embedder too."""
        model = (await self._call([])).model
        if model != self.recollection.model:
            self.recollection.model = model
        self.store.embeds = True
        self._below = 1 << 62
        await self._refill()

    async def _refill(self) -> int:
        """The next lines, going back, that have no vector of this model; after the oldest none are looked for."""
        model, below = self.recollection.stored, self._below
        ids = await self.store.look(lambda reader: reader.without_vector(model, below, REFILL))
        await self.store.change(lambda db: recall_store.enqueue(db, ids), durable=False)
        self._below = ids[-1] if len(ids) == REFILL else 0
        return len(ids)

    async def _embed(self, lines: Sequence[tuple[int, str]]) -> tuple[dict[int, bytes], list[int]]:
        """Vectors by line, and lines that are refused: a refused batch is halved until the culprit stands alone."""
        try:
            answer = await self._call([text for _, text in lines])
        except EarshotError as error:
            if error.reason != "EMBED_REFUSED":
                raise
            if len(lines) == 1:
                return {}, [lines[0][0]]
            half = len(lines) // 2
            first, second = await self._embed(lines[:half]), await self._embed(lines[half:])
            return {**first[0], **second[0]}, [*first[1], *second[1]]
        if answer.model != self.recollection.model:
            # The model changed under us: lines of the old one are looked for anew.
            self.recollection.model, self._below = answer.model, 1 << 62
        rows = meaning.packed(bytes(answer.vectors), answer.dim)
        return {one: row for (one, _), row in zip(lines, rows, strict=True)}, []

    async def _call(self, texts: list[str]) -> sync_pb2.EmbedResponse:
        try:
            answer: sync_pb2.EmbedResponse = await self.sync.Embed(sync_pb2.EmbedRequest(texts=texts), timeout=EMBED_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        return answer
