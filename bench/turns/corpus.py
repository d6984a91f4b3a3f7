"""Recorded conversations as JSON lines: {"id", "speakers": [names], "turns": [{"s": speaker index, "t": text}]}.

Two public corpora fit: CRD3 (Rameshkumar & Bailey 2020, CC BY-SA 4.0) and the Ubuntu IRC disentanglement data
(Kummerfeld et al. 2019, CC BY 4.0), as `<name>_<split>.jsonl` in one directory.
"""

from __future__ import annotations

import json
from pathlib import Path

from services.chat.predict import Recording, recording_of

CORPORA = ("crd3", "irc")


def load(directory: Path, corpus: str, split: str) -> list[Recording]:
    """All conversations of one split, those with fewer than two turns left out."""
    path = directory / f"{corpus}_{split}.jsonl"
    with path.open(encoding="utf-8") as lines:
        recordings = [recording_of(json.loads(line)) for line in lines]
    return [recording for recording in recordings if len(recording.turns) > 1]
