"""What a turn is reminded of: the cue of its last lines, looked up in the NPC's scope, within a budget and a deadline.

Recall helps a turn and never holds it up: what is not there in time is left out, and the turn's explanation says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from earshot.sync.v1 import sync_pb2

from services.chat import context_budget, meaning, recall
from services.chat.conversation import Session
from services.chat.history import Line
from services.chat.policy import Participant
from services.chat.recall import MEANING, RECENCY, WORDS, Cue, Found, Memory, Weights
from services.chat.recall_store import RecallReader
from services.chat.store import ChatStore
from services.chat.terms import words
from services.common.errors import EarshotError, from_rpc
from services.common.logs import get_logger
from services.common.telemetry import Metrics

# Longest wait for recall before a turn, and in it for the cue's vector.
DEADLINE_S = 0.5
EMBED_S = 0.25
# Words of the cue, and its lines: what was said since the NPC last spoke.
CUE_WORDS = 24
CUE_LINES = 3
# Best of a leg that are merged; the newest lines of the scope whose vectors are compared.
LEG = 50
# Share of the best line's score by words that a line needs to count as found by them.
LEAST = 0.3
LEAST_LIKE = 0.5
COMPARED = 4_000
# A word in so many of a scope's lines tells none from another: further ones are not even read.
COMMON = 2_000
# Memories of one turn, beside the line before and after each.
MOST = 6

_log = get_logger("chat")


@dataclass(frozen=True, slots=True)
class Witness:
    """Who remembers. lasting: across sessions; else only what belongs to the sessions that go on."""

    world: tuple[str, str]
    npc_id: str
    lasting: bool
    sessions: Mapping[str, Session]

    def may(self, memory: Memory) -> bool:
        """Whether this line may still be remembered."""
        if self.lasting or not memory.owner:
            return True
        session = self.sessions.get(memory.owner)
        return session is not None and session.number <= memory.seq and memory.world == self.world[1]


@dataclass(frozen=True, slots=True)
class Remembered:
    """Memories by rank, the lines that tell them (oldest first, with neighbours), and what went wrong."""

    found: tuple[Found, ...] = ()
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Recollection:
    """Recall for turns. window: the newest lines that every runtime is shown anyway; lasting: see Worlds."""

    store: ChatStore
    sync: Any
    metrics: Metrics
    history_tokens: int
    window: int
    lasting: Callable[[str], frozenset[str]]
    weights: Weights = field(default_factory=Weights)
    # Model of the vectors, "" = no embedder; kept by the worker that embeds.
    model: str = ""

    @property
    def stored(self) -> str:
        """Model under which vectors of this one are kept."""
        return self.model + meaning.FORM

    async def of(
        self, witness: Witness, lines: Sequence[Line], present: Sequence[Participant], now_ms: int
    ) -> Remembered:
        """What the NPC is reminded of by the lines of its turn. Never raises; the notes say what failed."""
        cue = cue_of(lines, witness.npc_id, present, now_ms)
        shown = {line.seq for line in lines[-self.window :]}
        vector, notes = b"", [] if self.model else ["no_embedder"]
        try:
            async with asyncio.timeout(DEADLINE_S):
                if self.model and cue.text:
                    vector, note = await self._embedded(cue.text)
                    notes += [note] if note else []
                read = partial(_look, self, witness, cue, vector, shown)
                began = time.perf_counter()
                found, around = await self.store.look(read)
                self.metrics.recall_seconds.observe(time.perf_counter() - began)
        except TimeoutError:
            return Remembered(notes=(*notes, "recall_late"))
        except EarshotError as error:
            _log.warning("recall_failed", reason=error.reason)
            return Remembered(notes=(*notes, "recall_failed"))
        kept, told = _fitting(found, around, context_budget.recalled(self.history_tokens))
        return Remembered(tuple(kept), tuple(told), tuple(notes))

    async def _embedded(self, text: str) -> tuple[bytes, str]:
        try:
            answer = await self.sync.Embed(sync_pb2.EmbedRequest(texts=[text]), timeout=EMBED_S)
        except grpc.aio.AioRpcError as error:
            return b"", f"embedder_{from_rpc(error).reason.lower()}"
        return (bytes(answer.vectors), "") if answer.model == self.model else (b"", "embedder_changed")


def cue_of(lines: Sequence[Line], npc_id: str, present: Sequence[Participant], now_ms: int) -> Cue:
    """What was said since the NPC spoke last: that is what it may be reminded by."""
    heard: list[Line] = []
    for line in reversed(lines):
        if line.own or len(heard) == CUE_LINES:
            break
        if not line.notice:
            heard.append(line)
    text = " ".join(line.text for line in reversed(heard))
    people = {person.id: person.names or (person.name,) for person in present if person.id != npc_id}
    return Cue(
        text=text,
        speaker_id=heard[0].speaker_id if heard else "",
        at_ms=now_ms,
        present=frozenset(people),
        named=recall.named_in(text, people),
        without=frozenset(
            word for person in present if person.id == npc_id for name in person.names for word in words(name)
        ),
    )


def _look(
    recollection: Recollection,
    witness: Witness,
    cue: Cue,
    vector: bytes,
    shown: set[int],
    reader: RecallReader,
) -> tuple[list[Found], dict[int, list[Memory]]]:
    """On the reading thread: memories best first, and the lines beside each."""
    found = search(reader, witness, cue, vector, recollection.stored, recollection.weights, shown)
    found = recall.distinct(recall.relevant(found), MOST)
    around = {one.memory.id: _beside(reader, witness, one.memory, shown) for one in found}
    return found, around


def _beside(reader: RecallReader, witness: Witness, memory: Memory, shown: set[int]) -> list[Memory]:
    """The lines before and after a memory, of its conversation, that the NPC witnessed too."""
    tenant, world = witness.world
    scope = reader.scope(tenant, "" if witness.lasting else world, witness.npc_id)
    return [
        other
        for other, scopes in reader.beside(tenant, memory)
        if scope is not None
        and scope[0] in scopes
        and other.conversation_id == memory.conversation_id
        and witness.may(other)
        and not (other.world == world and other.seq in shown)
    ]


def search(
    reader: RecallReader,
    witness: Witness,
    cue: Cue,
    vector: bytes = b"",
    model: str = "",
    weights: Weights | None = None,
    hidden: set[int] | frozenset[int] = frozenset(),
    legs: Sequence[str] = (WORDS, MEANING, RECENCY),
) -> list[Found]:
    """Lines of the witness' scope by what they have to do with the cue, best first.

    hidden: numbers of this world's log that are not wanted. legs: which count (for measurements).
    """
    tenant, world = witness.world
    scope = reader.scope(tenant, "" if witness.lasting else world, witness.npc_id)
    if scope is None:
        return []
    low = 0
    if not witness.lasting:
        low = reader.floor(witness.world, min((one.number for one in witness.sessions.values()), default=0))
    shown = reader.at(witness.world, hidden)
    weighed: dict[int, float] = {}
    alike: list[int] = []
    if WORDS in legs:
        said = [word for word in words(cue.text) if word not in cue.without]
        weighed = _by_words(reader, scope, said, low, len(shown))
    if MEANING in legs and vector:
        alike = _by_meaning(reader.vectors(scope[0], model, COMPARED, low), vector)
    newest = reader.newest(scope[0], LEG, low)
    wanted = [one for one in dict.fromkeys((*weighed, *alike, *newest)) if one not in shown]
    known = {memory.id: memory for memory in reader.memories(wanted) if witness.may(memory)}
    scores = {one: recall.normed(weight, known[one].length) for one, weight in weighed.items() if one in known}
    ranks: dict[str, Sequence[int]] = {
        WORDS: recall.best(scores, LEG, LEAST),
        MEANING: [one for one in alike if one in known][:LEG],
        # What is shown anyway counts: the newest line that is not may be old.
        RECENCY: newest,
    }
    ranks = {leg: ids for leg, ids in ranks.items() if leg in legs}
    counted = {one for ids in ranks.values() for one in ids}
    return recall.ranked(
        [known[one] for one in known if one in counted], ranks, cue, recall.of_scope(weights or Weights(), scope[1])
    )


def _by_words(
    reader: RecallReader, scope: tuple[int, int], said: Sequence[str], low: int, shown: int
) -> dict[int, float]:
    """Lines whose words weigh most, best first: more than LEG, for a long line counts less and some may not be told."""
    number, lines = scope
    postings = [reader.with_word(number, word, low, COMMON) for word in said[:CUE_WORDS]]
    telling = [ids for ids in postings if len(ids) < COMMON]
    return dict(recall.weighed(telling or postings, lines, 2 * LEG + shown))


def _by_meaning(rows: Sequence[tuple[int, bytes]], vector: bytes) -> list[int]:
    rows = [row for row in rows if len(row[1]) == len(vector) // 2]
    if not rows:
        return []
    found = meaning.likeness([row[1] for row in rows], vector)
    order = sorted(range(len(rows)), key=lambda index: -found[index])[: 2 * LEG]
    floor = LEAST_LIKE * max(found[order[0]], 0.0)
    return [rows[index][0] for index in order if found[index] >= floor]


def _fitting(
    found: Sequence[Found], around: Mapping[int, Sequence[Memory]], budget: int
) -> tuple[list[Found], list[Line]]:
    """The best memories that fit, then the lines beside them, in the order in which they were said."""
    kept: list[Found] = []
    told: dict[int, Memory] = {}
    for one in found:
        cost = context_budget.cost(one.memory.text)
        if cost <= budget:
            budget -= cost
            kept.append(one)
            told[one.memory.id] = one.memory
    for memory in (memory for one in kept for memory in around.get(one.memory.id, ())):
        cost = context_budget.cost(memory.text)
        if memory.id not in told and cost <= budget:
            budget -= cost
            told[memory.id] = memory
    return kept, [_line(told[one]) for one in sorted(told)]


def _line(memory: Memory) -> Line:
    return Line(memory.seq, memory.speaker_id, memory.speaker_name, memory.kind, memory.text, memory.at_ms)
