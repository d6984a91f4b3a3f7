"""`earshot bench turns`: the turn policy over a directory of conversations, and what a decision costs."""

from __future__ import annotations

from typing import Any

from bench.catalogue import Options, progress
from bench.turns import corpus, decision, evaluate, replayed
from services.common.errors import BadInput


def run(options: Options) -> list[dict[str, Any]]:
    """Records of the evaluation. Raises BadInput without a directory: the conversations are not ours to ship."""
    if options.corpus is None:
        raise BadInput("turns needs its conversations: --corpus DIRECTORY", reason="CORPUS_NEEDED")
    if not options.corpus.is_dir():
        raise BadInput(f"no directory {options.corpus}", reason="CORPUS_NEEDED")
    progress("turns: the cost of a decision")
    records = decision.records()
    progress("turns: reading and scoring the dev splits (about a minute)")
    records += evaluate.results(evaluate.report(options.corpus, "dev"))
    progress("turns: playing the dev splits through the reducer (about a minute)")
    return records + replayed.records({name: corpus.load(options.corpus, name, "dev") for name in corpus.CORPORA})
