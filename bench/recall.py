"""`earshot bench recall`: how fast recall answers in a large store, and how well; what it takes in, and forgets."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import recall_quality
from bench.catalogue import Options, progress
from bench.result import Result
from services.chat import archive_store, meaning, recall_store
from services.chat.archive import Message
from services.chat.importing import import_file
from services.chat.recall import RECENCY, WORDS, Cue, Weights
from services.chat.recall_store import Line, RecallReader
from services.chat.recollection import Witness, search
from services.chat.store import SCHEMA
from services.common.store import Database
from services.common.store_file import MAPPED, embedded_ids

SCOPE = 1_000
QUERIES = 300
DIM = 384
IMPORTED = 100_000
# A word's rank among those that people use, as in most talk: a few are in every line.
VOCABULARY = 20_000
MARK = "xylograph"


def run(options: Options) -> list[dict[str, Any]]:
    """Every figure. The large store takes about a minute to fill: EARSHOT_BENCH_LARGE=1."""
    folder = Path(tempfile.mkdtemp(prefix="earshot-recall-"))
    try:
        results = [*_rates(folder), *_latency(folder, 100_000, 10.0)]
        if os.environ.get("EARSHOT_BENCH_LARGE"):
            results += _latency(folder, 1_000_000, 30.0)
        results += _forgotten(folder)
        if options.corpus is not None:
            results += _quality(options.corpus)
        else:
            progress("recall: no --corpus, so its quality is not measured")
        return [result.record() for result in results]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def texts(count: int, seed: int = 1) -> list[str]:
    """Lines of words whose frequencies fall as in speech."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(VOCABULARY)]
    weights = [1 / rank for rank in range(1, VOCABULARY + 1)]
    said = rng.choices(vocabulary, weights, k=count * 9)
    return [" ".join(said[n * 9 : n * 9 + 9]) for n in range(count)]


# -- latency -----------------------------------------------------------------------------------------------------------


def _latency(folder: Path, lines: int, goal: float) -> list[Result]:
    """One look, as before a turn, in a store with so many lines, of which SCOPE belong to the NPC that is asked."""
    progress(f"recall: filling a store with {lines:,} lines")
    path = folder / f"latency-{lines}.db"
    db = sqlite3.connect(path, isolation_level=None)
    embedded_ids(db)
    for pragma in ("page_size=16384", "journal_mode=WAL", "secure_delete=ON", "synchronous=NORMAL"):
        db.execute(f"PRAGMA {pragma}")
    for statement in SCHEMA:
        db.execute(statement)
    said, scopes = texts(lines), max(lines // SCOPE, 1)
    for start in range(0, lines, 5_000):
        db.execute("BEGIN")
        _put(db, said, start, min(start + 5_000, lines), scopes)
        db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    reading = sqlite3.connect(path, isolation_level=None)
    for pragma in (f"mmap_size={MAPPED}", "cache_size=-32768"):  # as the store looks
        reading.execute(f"PRAGMA {pragma}")
    peers = _builtin(reading, said, scopes)
    plain, hybrid = (_p95(reading, said, scopes, with_vectors=vectors) for vectors in (False, True))
    reading.close()
    path.unlink()
    return [
        Result(f"recall p95, {lines:,} lines, CPU", plain[0], "ms", goal, "less", {"wall": plain[1], **peers}),
        Result(f"recall p95 with vectors, {lines:,} lines, CPU", hybrid[0], "ms", goal, "less", {"wall": hybrid[1]}),
    ]


def _put(db: sqlite3.Connection, said: Sequence[str], start: int, end: int, scopes: int) -> None:
    """Lines of `scopes` worlds in turn, each with a vector."""
    rng = np.random.default_rng(start)
    vectors = meaning.packed(rng.standard_normal((end - start, DIM)).astype("<f2").tobytes(), DIM)
    for number in range(start, end):
        world = f"w{number % scopes}"
        line = Line(number, "L1", f"u{number}", "", "p1", "Ada", "player", "", number, said[number], ("mara",))
        recall_store.put(db, ("bench", world), [line], embed=False)
    db.executemany(
        "INSERT INTO vectors VALUES (?,?,?)",
        [(start + n + 1, "m", vector) for n, vector in enumerate(vectors)],
    )


def _asked(said: Sequence[str], scopes: int) -> list[tuple[int, str]]:
    rng = random.Random(7)
    return [(rng.randrange(scopes), said[rng.randrange(len(said))]) for _ in range(QUERIES)]


def _p95(db: sqlite3.Connection, said: Sequence[str], scopes: int, *, with_vectors: bool) -> tuple[float, float]:
    """CPU and wall milliseconds: others use the machine too, and only one of the two is ours."""
    reader = RecallReader(db)
    vector = np.random.default_rng(1).standard_normal(DIM).astype("<f2").tobytes() if with_vectors else b""
    taken = []
    for world, text in _asked(said, scopes):
        witness = Witness(("bench", f"w{world}"), "mara", False, {})
        cue = Cue(text, "p1", len(said), frozenset({"p1"}))
        began, working = time.perf_counter(), time.thread_time()
        search(reader, witness, cue, vector, "m" if vector else "")
        taken.append(((time.thread_time() - working) * 1000, (time.perf_counter() - began) * 1000))
    return _percentile([cpu for cpu, _ in taken]), _percentile([wall for _, wall in taken])


def _builtin(db: sqlite3.Connection, said: Sequence[str], scopes: int) -> dict[str, float]:
    """Beside it: FTS5's own bm25() over one column of words, the scope as an indexed column."""
    db.execute("CREATE VIRTUAL TABLE peer USING fts5(scope, terms, content='', tokenize='porter unicode61')")
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO peer (rowid, scope, terms) VALUES (?,?,?)",
        ((n + 1, f"s{n % scopes}", text) for n, text in enumerate(said)),
    )
    db.execute("COMMIT")
    taken = []
    for world, text in _asked(said, scopes)[:100]:
        words = " OR ".join(dict.fromkeys(text.split()))
        began = time.perf_counter()
        db.execute(
            "SELECT rowid FROM peer WHERE peer MATCH ? ORDER BY bm25(peer) LIMIT 50",
            (f"scope:s{world} AND terms:({words})",),
        ).fetchall()
        taken.append((time.perf_counter() - began) * 1000)
    db.execute("DROP TABLE peer")
    return {"bm25() of FTS5, CPU": _percentile(taken)}


def _percentile(taken: Sequence[float], share: int = 95) -> float:
    return statistics.quantiles(taken, n=100)[share - 1]


# -- rates -------------------------------------------------------------------------------------------------------------


def _rates(folder: Path) -> list[Result]:
    """`earshot import` of a DiscordChatExporter file into an empty store."""
    progress(f"recall: importing {IMPORTED:,} messages")
    path = folder / "export.json"
    messages = [
        {
            "id": str(10**17 + n), "type": "Default", "timestamp": "2024-03-01T12:00:01.5+00:00", "isPinned": False,
            "content": text, "author": {"id": str(n % 300), "name": f"user{n % 300}", "isBot": False},
            "attachments": [], "embeds": [], "reactions": [], "mentions": [],
        }
        for n, text in enumerate(texts(IMPORTED))
    ]  # fmt: skip
    path.write_text(json.dumps({"channel": {"id": "1"}, "messages": messages}, indent=2), encoding="utf-8")
    began, working = time.perf_counter(), time.process_time()
    told = asyncio.run(import_file(path, folder / "import.db", "bench", ["mara"], 1, lambda *_: None))
    rate, busy = told.new / (time.perf_counter() - began), told.new / (time.process_time() - working)
    return [Result("import", rate, "messages/s", 20_000.0, peers={"a CPU second": busy})]


# -- forgetting --------------------------------------------------------------------------------------------------------


def _forgotten(folder: Path) -> list[Result]:
    """Traces of an erased player's words in every file of the store, searched byte by byte after VACUUM."""
    progress("recall: erasing a player of 2,000 lines among 20,000")
    apart = folder / "erase"
    apart.mkdir()
    return asyncio.run(_erase(apart))


async def _erase(folder: Path) -> list[Result]:
    store = Database(folder / "chat.db", (*SCHEMA, *archive_store.SCHEMA))
    said = texts(20_000)
    lines = [
        Message(
            str(n),
            "discord:7" if n % 10 == 0 else "discord:8",
            "Ada",
            1,
            f"{text} xylograph{n}" if n % 10 == 0 else text,
        )
        for n, text in enumerate(said)
    ]
    for start in range(0, len(lines), 5_000):
        batch = list(enumerate(lines[start : start + 5_000], start))
        await store.write(partial(_import, batch))
    began = time.perf_counter()
    await store.write(lambda db: recall_store.erase(db, "bench", "discord:7"))
    more = await store.write(partial(recall_store.merge, first=True), durable=False)
    while more:
        more = await store.write(partial(recall_store.merge, first=False), durable=False)
    await store.purge()
    seconds = time.perf_counter() - began
    before = _traces(folder)
    await store.close()
    with sqlite3.connect(folder / "chat.db") as db:
        db.execute("VACUUM")
    db.close()
    return [
        Result(
            "traces after an erasure and VACUUM",
            float(_traces(folder)),
            "files",
            0.0,
            "less",
            {"before VACUUM": before},
        ),
        Result("erasure of 2,000 lines of 20,000", seconds, "s"),
    ]


def _import(batch: Sequence[tuple[int, Message]], db: sqlite3.Connection) -> int:
    return archive_store.put(db, "bench", "w", ["mara"], batch, 1)


def _traces(folder: Path) -> int:
    return sum(MARK[:5].encode() in path.read_bytes() for path in folder.iterdir())


# -- quality -----------------------------------------------------------------------------------------------------------


def _quality(corpus: Path) -> list[Result]:
    rows = recall_quality.conversations(corpus / "irc_dev.jsonl")
    results: list[Result] = []
    embed = _embedder()
    for name, arrange in (("each conversation", recall_quality.apart), ("a channel", recall_quality.together)):
        progress(f"recall: quality over {name}")
        asked = list(arrange(rows))
        parts = {
            part: recall_quality.mrr(asked, legs, recall_quality.ALONE)[0]
            for part, legs in recall_quality.PARTS.items()
            if part != "meaning"
        }
        merged, count = recall_quality.mrr(asked, (WORDS, RECENCY), Weights())
        results.append(
            Result(f"MRR in {name}, no embedder ({count} turns)", merged, "", max(parts.values()), peers=parts)
        )
        if embed is not None:
            every = (*recall_quality.PARTS["words"], *recall_quality.PARTS["meaning"], *recall_quality.PARTS["recency"])
            meaning, _ = recall_quality.mrr(asked, recall_quality.PARTS["meaning"], recall_quality.ALONE, embed)
            parts = {**parts, "meaning": meaning}
            hybrid, _ = recall_quality.mrr(asked, every, Weights(), embed)
            results.append(
                Result(
                    f"MRR in {name}, with an embedder", hybrid, "", max(parts.values()), peers={**parts, "none": merged}
                )
            )
    return results


def _embedder() -> recall_quality.Embed | None:
    directory = os.environ.get("EARSHOT_EMBED_MODEL_DIR")
    if not directory:
        progress("recall: EARSHOT_EMBED_MODEL_DIR is not set, so nothing is measured with an embedder")
        return None
    from services.sync.embedders.onnx import OnnxEmbedder

    embedder = OnnxEmbedder(directory)
    known: dict[str, bytes] = {}

    def embed(lines: Sequence[str]) -> list[bytes]:
        new = sorted({line for line in lines if line not in known})
        for start in range(0, len(new), 64):
            some = new[start : start + 64]
            made = asyncio.run(embedder.embed(some, 120.0))
            size = 2 * made.dim
            known.update({line: made.vectors[n * size : (n + 1) * size] for n, line in enumerate(some)})
        return [known[line] for line in lines]

    return embed
