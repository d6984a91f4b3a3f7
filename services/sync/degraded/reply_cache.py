"""Replies that may be given again: exact words, the same NPC in the same state, classes that its profile allows (G4).

No likeness of meaning: "did Mara kill Bob" and "did Bob kill Mara" are as alike as any paraphrase. Memory only, short
lived; nothing that could carry one player's words to another is kept (see `keep`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.sync.context import Context
from services.sync.degraded.markov import norm
from services.sync.speech.prompt import Line
from services.sync.speech.turn import Ask

# Replies kept for one key, and keys in all.
VARIANTS = 4
KEYS_MAX = 10_000
# A cluster hears the same line once within this.
AGAIN_S = 600.0
# While no model answers, a reply may be so many times as old.
STALE_TIMES = 12
HEARD_MAX = 20_000
_CLASSES = {
    "greeting": r"(hi|hello|hey|hiya|howdy|greetings|well met|good (morning|day|afternoon|evening))( there| again)?",
    "farewell": r"(bye|goodbye|bye bye|farewell|good night|see (you|ya)( later| soon)?|take care|so long)",
    "thanks": r"(thanks|thank you|thx|ty)( (so|very) much| a lot)?",
    "directions": r"(where (is|are|can i find)|how do (i|we) (get|go) to|which way (is|to)) [\w' ]{2,60}",
    "shop": r"(what do you (sell|have)( here)?|what('?s| is) for sale|how much (is|are|for) [\w' ]{2,40}"
    r"|(when|what time|until when) (are|do) you (open|close|opened|closed)( today)?|what are your (prices|hours))",
}
CLASSES = {name: re.compile(pattern) for name, pattern in _CLASSES.items()}

CacheKey = tuple[object, ...]


@dataclass(slots=True)
class _Reply:
    sentences: tuple[str, ...]
    at: float
    turn: str


@dataclass(slots=True)
class _Pool:
    tenant: str
    npc: str
    replies: list[_Reply] = field(default_factory=list)


def key_of(ask: Ask, context: Context, model: str, scope: str) -> CacheKey | None:
    """The exact key of what the NPC is asked, None = not cacheable.

    model: what would answer; scope: memory scope. The state that a reply depends on is part of the key.
    """
    allowed = context.profile.settings.get("cacheable")
    last = ask.lines[-1] if ask.lines else None
    if not isinstance(allowed, list) or last is None or last.own or last.notice or not last.player:
        return None
    if not ask.speech or ask.happened or not ask.conversation:
        return None
    text = _plain(last.text, (context.profile.name, *context.profile.aliases))
    found = next((name for name, pattern in CLASSES.items() if name in allowed and pattern.fullmatch(text)), None)
    if found is None:
        return None
    place = context.place.slug if context.place is not None else ""
    state = (place, int(context.band), context.combat, context.action, context.health_percent // 25)
    profile = context.profile
    return (context.key.tenant, context.key.npc, profile.version, model, state, scope, ask.reason.value, found, text)


def impersonal(ask: Ask, context: Context, sentences: Sequence[str]) -> bool:
    """Whether a reply can have nothing to do with whom it was given to.

    Only the one line of a player was in the prompt, no player is described or named, and nobody of those present is.
    """
    others = [line for line in ask.lines[:-1] if line.player and not line.own and not line.notice]
    if others or any(member.player and member.description for member in context.members):
        return False
    said = f" {norm(' '.join(sentences))} "
    names = {norm(name) for name in (*(m.name for m in context.members), *(d.name for d in context.departed)) if name}
    speaker = norm(ask.lines[-1].speaker) if ask.lines else ""
    return not any(name and f" {name} " in said for name in {*names, speaker})


class ReplyCache:
    """Pools of replies by key, and who heard what lately. Times are loop time."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._pools: OrderedDict[CacheKey, _Pool] = OrderedDict()
        self._heard: OrderedDict[tuple[str, ...], float] = OrderedDict()

    def take(self, key: CacheKey, cluster: tuple[str, str, str], now: float, *, stale: bool = False) -> tuple[str, ...]:
        """Sentences of a reply that this cluster (tenant, world, conversation) has not heard lately; () = none."""
        pool = self._pools.get(key)
        if pool is None:
            return ()
        oldest = now - self._ttl_s * (STALE_TIMES if stale else 1)
        for reply in pool.replies:
            if reply.at >= oldest and not self._heard_lately(cluster, reply.sentences, now):
                self.spoke(cluster, reply.sentences, now)
                return reply.sentences
        return ()

    def keep(self, key: CacheKey, turn: str, sentences: Sequence[str], now: float) -> None:
        """Add a variant; the oldest makes room."""
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Pool(str(key[0]), str(key[1]))
            if len(self._pools) > KEYS_MAX:
                self._pools.popitem(last=False)
        self._pools.move_to_end(key)
        said = tuple(sentences)
        pool.replies = [one for one in pool.replies if one.sentences != said][-(VARIANTS - 1) :]
        pool.replies.append(_Reply(said, now, turn))

    def spoke(self, cluster: tuple[str, str, str], sentences: Sequence[str], now: float) -> None:
        """The cluster hears this now."""
        self._heard[*cluster, norm(" ".join(sentences))] = now
        while len(self._heard) > HEARD_MAX or (self._heard and next(iter(self._heard.values())) < now - AGAIN_S):
            self._heard.popitem(last=False)

    def _heard_lately(self, cluster: tuple[str, str, str], sentences: Sequence[str], now: float) -> bool:
        return self._heard.get((*cluster, norm(" ".join(sentences))), -AGAIN_S * 2) > now - AGAIN_S

    # -- forgetting ------------------------------------------------------------------------------------------------

    def forget_npcs(self, npcs: Iterable[tuple[str, str]]) -> int:
        """Everything of these (tenant, npc); how many replies."""
        doomed = set(npcs)
        return self._drop(lambda pool, _: (pool.tenant, pool.npc) in doomed)

    def forget_lines(self, tenant: str, texts: Sequence[str], turns: Sequence[str]) -> int:
        """Replies of these turns, to these texts, or that say one of them."""
        plain, ids = {norm(text) for text in texts} - {""}, set(turns)
        removed = 0
        for key in [one for one, pool in self._pools.items() if pool.tenant == tenant and key_text(one) in plain]:
            removed += len(self._pools.pop(key).replies)

        def told(pool: _Pool, reply: _Reply) -> bool:
            said = {norm(" ".join(reply.sentences)), *(norm(one) for one in reply.sentences)}
            return pool.tenant == tenant and (reply.turn in ids or bool(said & plain))

        return removed + self._drop(told)

    def _drop(self, doomed: object) -> int:
        removed = 0
        for key, pool in list(self._pools.items()):
            kept = [reply for reply in pool.replies if not doomed(pool, reply)]  # type: ignore[operator]  # a predicate
            removed += len(pool.replies) - len(kept)
            pool.replies = kept
            if not kept:
                del self._pools[key]
        self._heard.clear()
        return removed


def key_text(key: CacheKey) -> str:
    """The words that were asked."""
    return str(key[-1])


def _plain(text: str, names: Iterable[str]) -> str:
    """Normal form without the NPC's own name at either end: "Hello, Mara!" asks what "hello" asks."""
    plain = norm(text)
    for name in sorted((norm(one) for one in names if one), key=len, reverse=True):
        plain = re.sub(rf"^{re.escape(name)} | {re.escape(name)}$", "", plain)
    return plain


def last_line(lines: Sequence[Line]) -> str:
    """What was said last by somebody else; "" = nothing."""
    return next((line.text for line in reversed(lines) if not line.own and not line.notice), "")
