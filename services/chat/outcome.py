"""What has become of an utterance, for who waits for it. In memory only: the log is what lasts."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from services.chat.conversation import Reply
from services.chat.effects import Settled

# Settled outcomes that are kept for repeated messages.
KEPT = 256


@dataclass(slots=True)
class Outcome:
    """Replies so far, and the end. changed: there while somebody waits; hundreds are kept that nobody waits for."""

    replies: list[Reply] = field(default_factory=list)
    settled: Settled | None = None
    changed: asyncio.Event | None = None

    def of(self, npc_id: str) -> list[Reply]:
        """Replies by one NPC, or all for ""."""
        return [reply for reply in self.replies if npc_id in ("", reply.npc_id)]

    async def wait(self, npc_id: str, seconds: float) -> None:
        """Wait until it is settled, or until `npc_id` (if any) has replied, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                while self.settled is None and not (npc_id and self.of(npc_id)):
                    self.changed = self.changed or asyncio.Event()
                    await self.changed.wait()
        except TimeoutError:
            return

    def tell(self) -> None:
        """Wake all who wait."""
        changed, self.changed = self.changed, None
        if changed is not None:
            changed.set()


class Outcomes:
    """Outcomes of one world's utterances by id; the oldest settled ones are forgotten."""

    def __init__(self) -> None:
        self._all: OrderedDict[str, Outcome] = OrderedDict()

    def get(self, utterance_id: str) -> Outcome:
        """The outcome, made on first sight."""
        outcome = self._all.get(utterance_id)
        if outcome is None:
            outcome = self._all[utterance_id] = Outcome()
            self._shrink()
        return outcome

    def find(self, utterance_id: str) -> Outcome | None:
        """The outcome if it is still known."""
        return self._all.get(utterance_id)

    def replied(self, utterance_id: str, reply: Reply) -> None:
        """One turn has answered."""
        outcome = self.get(utterance_id)
        outcome.replies.append(reply)
        outcome.tell()

    def settled(self, settled: Settled) -> None:
        """Nothing more will come."""
        outcome = self.get(settled.utterance_id)
        outcome.settled = settled
        outcome.replies = list(settled.replies)
        outcome.tell()

    def forget(self) -> None:
        """Drop what has been settled; who still waits is answered."""
        for utterance_id in [key for key, outcome in self._all.items() if outcome.settled is not None]:
            del self._all[utterance_id]

    def end(self, reason: str) -> None:
        """The world is put away: nobody shall wait in vain."""
        for utterance_id, outcome in self._all.items():
            if outcome.settled is None:
                outcome.settled = Settled(utterance_id, reason, not outcome.replies, "", tuple(outcome.replies))
                outcome.tell()

    def _shrink(self) -> None:
        if len(self._all) <= KEPT:
            return
        for utterance_id, outcome in list(self._all.items()):
            if outcome.settled is not None:
                del self._all[utterance_id]
                return
