"""How well recall finds the turn that a turn answers, in recorded conversations: mean reciprocal rank (MRR).

The Ubuntu IRC data (Kummerfeld et al. 2019) marks whom a turn answers. Task: among what was said before in its scope,
find the last turn of the one it answers. Lines are put into a store and searched by the code that turns use,
one after the other, so nothing is seen that was not said yet. The weights were fitted on the train split, not on dev.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.chat import meaning, recall, recall_store
from services.chat.policy import PLAYER
from services.chat.recall import MEANING, RECENCY, WORDS, Cue, Weights
from services.chat.recall_store import Line, RecallReader
from services.chat.recollection import Witness, search
from services.common.store_file import embedded_ids

WORLD = ("bench", "irc")
NPC = "listener"
# The data has no times of turns; conversations of people who write.
TURN_MS = 20_000
# Lines of a log from one turn of a conversation to its next: others talk between them.
GAP = 4

Embed = Callable[[Sequence[str]], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Question:
    """A turn, who is in its conversation so far, and the number of the turn that it answers."""

    line: Line
    present: Mapping[str, tuple[str, ...]]
    answer: int


def conversations(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """The rows of a split."""
    return [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()[:most]]


def apart(rows: Sequence[dict[str, Any]]) -> Iterator[list[Question]]:
    """Each conversation is a scope."""
    for row in rows:
        yield list(_questions([(row, turn) for turn in row["turns"]]))


def together(rows: Sequence[dict[str, Any]]) -> Iterator[list[Question]]:
    """Each log is a scope: its conversations run beside each other, from the line of the log where each began."""
    logs: dict[str, list[tuple[int, str, Any, Any]]] = {}
    for row in rows:
        log, _, start = row["id"].partition("#")
        logs.setdefault(log, []).extend(
            (int(start) + GAP * n, row["id"], row, turn) for n, turn in enumerate(row["turns"])
        )
    for turns in logs.values():
        turns.sort(key=lambda one: one[:2])
        yield list(_questions([(row, turn) for _, _, row, turn in turns]))


def _questions(turns: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[Question]:
    last: dict[str, dict[str, int]] = {}
    for number, (row, turn) in enumerate(turns, 1):
        known = last.setdefault(row["id"], {})
        who = row["speakers"][turn["s"]]
        to = row["speakers"][turn["a"]] if "a" in turn else ""
        line = Line(number, row["id"], f"u{number}", "", who, who, PLAYER, "", number * TURN_MS, turn["t"], (NPC,))
        yield Question(line, {name: (name,) for name in known}, known.get(to, 0) if to != who else 0)
        known[who] = number


def mrr(
    asked: Sequence[Sequence[Question]], legs: Sequence[str], weights: Weights, embed: Embed | None = None
) -> tuple[float, int]:
    """Mean reciprocal rank of the answers, and how many were asked for. A turn that is not found counts 0."""
    total, count = 0.0, 0
    for questions in asked:
        db = sqlite3.connect(":memory:", isolation_level=None)
        embedded_ids(db)
        for statement in recall_store.SCHEMA:
            db.execute(statement)
        vectors = embed([one.line.text for one in questions]) if embed is not None else [b""] * len(questions)
        reader, witness = RecallReader(db), Witness(WORLD, NPC, False, {})
        for question, vector in zip(questions, vectors, strict=True):
            if question.answer:
                total += _reciprocal(reader, witness, question, vector, legs, weights)
                count += 1
            recall_store.put(db, WORLD, [question.line], embed=False)
            if vector:
                (kept,) = meaning.packed(vector, len(vector) // 2)
                said = question.line
                recall_store.embedded(db, "bench", {said.seq: said.text}, {said.seq: kept}, ())
        db.close()
    return total / max(count, 1), count


def _reciprocal(
    reader: RecallReader, witness: Witness, question: Question, vector: bytes, legs: Sequence[str], weights: Weights
) -> float:
    line = question.line
    people = {who: names for who, names in question.present.items() if who != line.speaker_id}
    named = recall.named_in(line.text, people)
    cue = Cue(line.text, line.speaker_id, line.at_ms, frozenset(people), named)
    found = search(reader, witness, cue, vector, "bench" if vector else "", weights, legs=legs)
    for rank, one in enumerate(found, 1):
        if one.memory.seq == question.answer:
            return 1 / rank
    return 0.0


# A part alone: its own order, nothing else counts.
ALONE = Weights(half_life_ms=1 << 60, present=1.0, named=1.0, own=1.0)
PARTS: Mapping[str, Sequence[str]] = {"words": (WORDS,), "recency": (RECENCY,), "meaning": (MEANING,)}
