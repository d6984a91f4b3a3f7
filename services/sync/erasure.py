"""Erasure of a player, or of single messages, from agents, notes, summaries, degraded mode and the reply cache."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.errors import EarshotError, Unavailable
from services.sync.context import Key
from services.sync.degraded.voices import Voices
from services.sync.reconciler import Reconciler
from services.sync.runtimes.port import RuntimeFault
from services.sync.schedule.due import Lane
from services.sync.turns.replays import Replays
from services.sync.worker import Deletions

FORGET_S = 5.0
LETTA_KEEPS = "what the runtime keeps of its own: run and step records, traces, its model provider's logs"
MODEL_KEEPS = "what the model's provider logs of its own"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one store removed, and what cannot be erased from here."""

    store: str
    removed: int
    not_erasable: str = ""


class Erasure:
    """Every step may be repeated."""

    def __init__(self, reconciler: Reconciler, deletions: Deletions, voices: Voices, replays: Replays) -> None:
        self._reconciler = reconciler
        self._deletions = deletions
        self._voices = voices
        self._replays = replays

    async def forget_lines(
        self, tenant: str, texts: Sequence[str], turns: Sequence[str], keys: Sequence[Key], speaker: str, since_ms: int
    ) -> list[Receipt]:
        """Deleted messages: what was learnt or kept of them, and summaries and notes of the NPCs that heard them."""
        keys = self._mine(keys)
        notes = await self._reconciler.agents.forget_notes(keys, speaker, since_ms)
        learnt, replies = await self._voices.forget_lines(tenant, texts, turns)
        summaries = await self._reconciler.summaries.forget(keys)
        self._replays.forget(keys)
        await self._reconciler.agents.store.purge()
        return [
            Receipt("sync.notes", notes),
            Receipt("sync.markov", learnt),
            Receipt("sync.replies", replies),
            Receipt("sync.summaries", summaries),
        ]

    async def erase(self, tenant: str, player_id: str, keys: Sequence[Key], timeout: float) -> list[Receipt]:
        """Delete the agents that heard the player and everything noted of them; agents are made anew when heard.

        Idempotent. Raises Unavailable while a runtime cannot delete: the deletion goes on, ask again.
        """
        keys = self._mine(keys)
        notes = await self._erase_notes(tenant, player_id, set(keys))
        learnt, replies = await self._voices.forget_npcs(keys)
        summaries = await self._reconciler.summaries.forget(keys)
        self._replays.forget(keys)
        try:
            async with asyncio.timeout(timeout / 2):
                for key in dict.fromkeys(keys):
                    await self._erase_agents(key)
        except (RuntimeFault, TimeoutError) as error:
            raise Unavailable("an agent could not forget its messages yet", reason="ERASURE_PENDING") from error
        # Those of an earlier attempt too: what is not deleted is not erased.
        deletions = [one for one in self._reconciler.agents.store.load_deletions() if one.key in set(keys)]
        removed: dict[str, int] = {}
        try:
            async with asyncio.timeout(timeout):
                for deletion in deletions:
                    count = await self._deletions.delete(deletion)
                    removed[deletion.runtime] = removed.get(deletion.runtime, 0) + count
        except (RuntimeFault, EarshotError, TimeoutError) as error:
            for deletion in deletions:
                self._reconciler.agents.deletions.put_nowait(deletion)  # deleting what is deleted does nothing
            raise Unavailable("a runtime could not delete its agents yet", reason="ERASURE_PENDING") from error
        await self._reconciler.agents.store.purge()
        self._make_anew(keys)
        return [
            Receipt("sync.notes", notes),
            Receipt("sync.markov", learnt),
            Receipt("sync.replies", replies),
            Receipt("sync.summaries", summaries),
            *(self._receipt(name, removed.get(name, 0)) for name in self._names()),
        ]

    def _mine(self, keys: Sequence[Key]) -> list[Key]:
        """Every replica is asked, each for the NPCs that it keeps."""
        return [key for key in keys if self._reconciler.agents.store.owns(key)]

    def _names(self) -> list[str]:
        return sorted(self._reconciler.agents.chain.homes)

    def _receipt(self, name: str, removed: int) -> Receipt:
        capabilities = self._reconciler.agents.chain.homes[name].capabilities
        keeps = (LETTA_KEEPS if capabilities.stateful else MODEL_KEEPS) if removed and capabilities.model else ""
        return Receipt(f"sync.agents.{name}", removed, keeps)

    async def _erase_notes(self, tenant: str, player_id: str, keys: set[Key]) -> int:
        removed = 0
        for key, entry in list(self._reconciler.agents.entries.items()):
            if key.tenant != tenant or not entry.notes:
                continue
            kept = [] if key in keys else [note for note in entry.notes if note.subject_id != player_id]
            if len(kept) != len(entry.notes):
                removed += len(entry.notes) - len(kept)
                entry.notes = kept
                await self._reconciler.agents.store.keep_notes(key, kept)
        return removed

    async def _erase_agents(self, key: Key) -> None:
        entry = self._reconciler.agents.entries.get(key)
        if entry is not None:
            for agent in entry.agents.values():
                if agent.record.adopted:
                    await agent.forget_messages(timeout=FORGET_S)  # not ours to delete
            entry.confirmed_revision = 0
            await self._reconciler.agents.give_up(entry)

    def _make_anew(self, keys: Sequence[Key]) -> None:
        worlds = {(key.tenant, key.world) for key in keys}
        for key, entry in self._reconciler.agents.entries.items():
            # Others of these worlds may name the player in a block: state has forgotten, so must they.
            if (key.tenant, key.world) in worlds and (entry.embodied or entry.heard):
                entry.forced(Lane.HIGH, _now())
                self._reconciler.schedule(entry)


def _now() -> float:
    return asyncio.get_running_loop().time()
