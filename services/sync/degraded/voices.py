"""What an NPC says when no model answers: a cached reply, its own lines mixed anew, a canned line. Always marked so.

They know nothing of what they say: no actions, no decisions. What they say is told to no agent and learnt by nobody.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.errors import EarshotError
from services.common.logs import get_logger
from services.common.telemetry import Metrics
from services.sync.agents.entry import Entry
from services.sync.context import Context, Key
from services.sync.degraded import markov
from services.sync.degraded.canned import canned
from services.sync.degraded.markov_store import Learnt, MarkovStore
from services.sync.degraded.reply_cache import CacheKey, ReplyCache, last_line
from services.sync.speech.prompt import Reason
from services.sync.speech.sentences import SentenceSplitter
from services.sync.speech.turn import Ask

_log = get_logger("sync")


@dataclass(frozen=True, slots=True)
class Said:
    """kind: cached, markov or canned."""

    kind: str
    sentences: tuple[str, ...]


class Voices:
    """Speaks, and learns what it may speak of."""

    def __init__(self, store: MarkovStore, cache: ReplyCache, metrics: Metrics) -> None:
        self.cache = cache
        self._store = store
        self._metrics = metrics
        # Version of the profile whose lines were learnt.
        self._author: dict[tuple[str, str], int] = {}

    def say(
        self, voice: str, ask: Ask, context: Context, key: CacheKey | None, now: float, *, last: bool = False
    ) -> Said | None:
        """What this voice has to say; None when the next one should. last: there is none."""
        if not ask.speech or ask.reason is Reason.DECIDE:
            return None
        if voice == "cached":
            return self.cached(ask, key, now, stale=True)
        if voice == "markov":
            said = self._markov(ask)
            if said is not None or not last:
                return said
        return Said("canned", self._canned(ask, context))

    def cached(self, ask: Ask, key: CacheKey | None, now: float, *, stale: bool = False) -> Said | None:
        """A reply that was given before. stale: rather an older one than none."""
        if key is None:
            return None
        sentences = self.cache.take(key, _cluster(ask), now, stale=stale)
        self._metrics.cache_hits.labels("stale" if stale else "fresh" if sentences else "miss").inc()
        return Said("cached", sentences) if sentences else None

    def _markov(self, ask: Ask) -> Said | None:
        """None below so many lines, or when nothing fit comes of them."""
        tenant, npc = ask.key.tenant, ask.key.npc
        try:
            if self._store.lines(tenant, npc) < markov.LINES_MIN:
                self._metrics.markov_declined.labels("few_lines").inc()
                return None
            prompt = last_line(ask.lines)
            text = markov.generate(self._store.counts(tenant, npc), prompt, random.Random(ask.turn_id))
        except EarshotError as error:
            _log.warning("markov_unavailable", reason=error.reason)
            return None
        if text is None:
            self._metrics.markov_declined.labels("nothing_fit").inc()
            return None
        return Said("markov", _sentences(text))

    def _canned(self, ask: Ask, context: Context) -> tuple[str, ...]:
        said = [line.text for line in ask.lines if line.own][-12:]
        return _sentences(canned(context.profile, ask.reason, last_line(ask.lines), said, random.Random(ask.turn_id)))

    # -- learning --------------------------------------------------------------------------------------------------

    def learn(self, entry: Entry, ask: Ask, context: Context) -> None:
        """Learn from the log: what the NPC really said in turns that a model answered, and the author's lines.

        From the log and not from the model: it was moderated and heard.
        """
        try:
            self._learn_author(ask.key, context)
            self._learn_lines(entry, ask, context)
        except EarshotError as error:
            _log.warning("markov_not_learnt", reason=error.reason)

    def _learn_lines(self, entry: Entry, ask: Ask, context: Context) -> None:
        upto = entry.learnt if entry.learnt >= 0 else self._store.upto(ask.key)
        newest = max((line.seq for line in ask.lines), default=0)
        entry.learnt = max(upto, newest)
        new = [
            line for line in ask.lines if line.own and line.seq > upto and not line.degraded and line.turn and line.text
        ]
        if not new:
            return
        heard = [line.text for line in ask.lines if line.player and not line.own and not line.notice]
        names = {member.name for member in context.members if member.player} | {
            line.speaker for line in ask.lines if line.player and not line.own
        }
        names |= {departed.name for departed in context.departed if departed.player}
        own = _own_texts(context)
        fit = [Learnt(line.seq, line.turn, line.text) for line in new if markov.learnable(line.text, heard, own, names)]
        if fit:
            self._store.learn(ask.key, fit)

    def _learn_author(self, key: Key, context: Context) -> None:
        npc = (key.tenant, key.npc)
        if self._author.get(npc) == context.profile.version:
            return
        self._author[npc] = context.profile.version
        texts = [part for line in context.profile.lines for part in _sentences(line)]
        self._store.author(key, [text for text in dict.fromkeys(texts) if markov.learnable(text, (), (), ())])

    # -- forgetting ------------------------------------------------------------------------------------------------

    async def forget_npcs(self, keys: Sequence[Key]) -> tuple[int, int]:
        """What these NPCs said in these worlds: lines learnt, and replies kept, that are gone."""
        replies = self.cache.forget_npcs((key.tenant, key.npc) for key in keys)
        return await self._store.forget_npcs(keys), replies

    async def forget_lines(self, tenant: str, texts: Sequence[str], turns: Sequence[str]) -> tuple[int, int]:
        """Single messages, and what was answered to them."""
        replies = self.cache.forget_lines(tenant, texts, turns)
        return await self._store.forget_lines(tenant, texts, turns), replies


def _cluster(ask: Ask) -> tuple[str, str, str]:
    return (ask.key.tenant, ask.key.world, ask.conversation)


def _own_texts(context: Context) -> tuple[str, ...]:
    profile = context.profile
    place = (context.place.name, context.place.description) if context.place is not None else ()
    npcs = tuple(member.name for member in context.members if not member.player)
    return (profile.name, *profile.aliases, profile.persona, *profile.lines, *place, *npcs)


def _sentences(text: str) -> tuple[str, ...]:
    splitter = SentenceSplitter()
    return (*splitter.feed(text), *splitter.flush())
