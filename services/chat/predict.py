"""Next-speaker probabilities of a recorded conversation, by the service's own model (`earshot turns predict`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.chat import cues, model, vocative
from services.chat.rhythm import Rhythm, hear
from services.common.errors import BadInput


@dataclass(frozen=True, slots=True)
class Recording:
    """Speakers by name and turns as (speaker index, text).

    aliases and talkativeness: of each speaker, what a profile would say; () = nothing is known of anybody.
    """

    id: str
    speakers: tuple[str, ...]
    turns: tuple[tuple[int, str], ...]
    aliases: tuple[tuple[str, ...], ...] = ()
    talkativeness: tuple[float, ...] = ()


def predict(recording: Recording, weights: model.Model | None = None) -> list[list[float]]:
    """Row k: the probability of each speaker to take turn k+1, given turns 0..k only. len(turns) - 1 rows.

    The last speaker of turn k gets 0. Only the order of turns matters, never the order of `speakers`.
    """
    weights = weights or model.default()
    keys = [str(index) for index in range(len(recording.speakers))]
    talk = dict(zip(keys, recording.talkativeness, strict=True)) if recording.talkativeness else {}
    result = []
    for rhythm in rhythms(recording, keys):
        speaker = int(rhythm.speaker)
        candidates = [key for index, key in enumerate(keys) if index != speaker]
        row = model.score(weights, rhythm, candidates, talk).probabilities
        row.insert(speaker, 0.0)
        result.append(row)
    return result


def rhythms(recording: Recording, keys: Sequence[str]) -> Iterator[Rhythm]:
    """The rhythm after each turn but the last."""
    known = recording.aliases or ((),) * len(recording.speakers)
    cast = [(name, *aliases) for name, aliases in zip(recording.speakers, known, strict=True)]
    rhythm = Rhythm()
    for speaker, text in recording.turns[:-1]:
        rhythm = hear(rhythm, keys[speaker], vocative.parse(text, cast, speaker), keys, cues.read(text))
        yield rhythm


def recording_of(document: Any) -> Recording:
    """A recording from one JSON object {"id", "speakers": [names], "turns": [{"s", "t"}]}. Raises BadInput.

    Optional, one for each speaker: "aliases": [[names]] and "talkativeness": [0..1], as NPC profiles have them.
    """
    try:
        speakers = tuple(str(name) for name in document["speakers"])
        turns = tuple((int(turn["s"]), str(turn["t"])) for turn in document["turns"])
        identity = str(document["id"])
        aliases = tuple(tuple(map(str, names)) for names in document.get("aliases", ()))
        talk = tuple(map(float, document.get("talkativeness", ())))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput("a conversation is {id, speakers: [names], turns: [{s, t}]}") from error
    if any(not 0 <= speaker < len(speakers) for speaker, _ in turns):
        raise BadInput("a turn's speaker is not in speakers")
    if any(given and len(given) != len(speakers) for given in (aliases, talk)):
        raise BadInput("aliases and talkativeness are one for each speaker")
    return Recording(identity, speakers, turns, aliases, talk)


def predict_lines(lines: Iterable[str]) -> Iterator[str]:
    """One JSON conversation a line in, one JSON answer {"id", "p"} a line out; a bad line answers {"error"}."""
    for line in lines:
        if not line.strip():
            continue
        try:
            recording = recording_of(json.loads(line))
        except (ValueError, BadInput) as error:
            reason = error.message if isinstance(error, BadInput) else "not JSON"
            yield json.dumps({"error": reason})
            continue
        yield json.dumps({"id": recording.id, "p": predict(recording)})
