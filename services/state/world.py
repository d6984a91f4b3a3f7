"""One world in memory: its current document, who has the turn, and who waits for a revision."""

from __future__ import annotations

import asyncio

from services.common.errors import Unavailable
from services.state.document import Document
from services.state.feed import Ref
from services.state.lane import Lane
from services.state.store import Session

REACH_S = 1.0


class World:
    """The owner's copy, which is the authority.

    `document` is replaced, never changed, so readers need no lock.
    """

    __slots__ = (
        "_waiters", "document", "epoch", "lane", "ref", "rewritten", "saved", "sessions", "write", "writing",
    )  # fmt: skip

    def __init__(self, ref: Ref, document: Document, epoch: int) -> None:
        self.ref = ref
        self.document = document
        self.epoch = epoch
        self.sessions: dict[tuple[str, str], int] = {}
        self.lane = Lane()
        self.saved = document.revision  # the newest revision that is on disk
        self.write: asyncio.Future[None] | None = None  # of the newest revision given to the store,
        self.writing = document.revision  # which is this one
        self.rewritten: set[str] = set()  # NPCs whose profile changed since the last commit
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def remember(self, session: Session) -> None:
        """A session of this world; the newest is the one with the highest epoch."""
        self.sessions[session.job, session.boot] = session.epoch
        self.epoch = max(self.epoch, session.epoch)

    def show(self, document: Document) -> None:
        """Make a committed document the current one and wake who waited for it."""
        self.document = document
        if self._waiters:
            for revision, waiter in self._waiters:
                if revision <= document.revision and not waiter.done():
                    waiter.set_result(None)

    async def reach(self, revision: int) -> Document:
        """The current document once it is of `revision` or later. Waits up to 1 s, then REVISION_UNKNOWN."""
        if self.document.revision >= revision:
            return self.document
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (revision, waiter)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(REACH_S):
                await waiter
        except TimeoutError:
            raise Unavailable(
                "the world has not reached this revision", reason="REVISION_UNKNOWN", retry_after_ms=1000
            ) from None
        finally:
            self._waiters.remove(entry)
        return self.document
