"""Explanations of turns as they are stored: one per turn or silence, so what they repeat is told once.

Names of features stand in a legend and contributions are hundredths: a third of the bytes, and the ids and names that
an erasure looks for are still found in them.
"""

from __future__ import annotations

import msgspec

from services.chat.conversation import Recalled
from services.chat.effects import Explain
from services.chat.policy import Candidate


class _Candidate(msgspec.Struct, frozen=True, array_like=True):
    id: str
    name: str
    kind: str
    # Hundredths of a percent.
    probability: int
    excluded: str
    # Legend number and hundredths, in turn.
    features: tuple[int, ...]


class _Recalled(msgspec.Struct, frozen=True, array_like=True):
    utterance_id: str
    world: str
    seq: int
    at_ms: int
    # Hundred thousandths.
    score: int
    legs: dict[str, int]


class _Explanation(msgspec.Struct, frozen=True, array_like=True):
    turn_id: str
    conversation_id: str
    obligation: str
    p_any_npc: float
    tau: float
    stages_ms: dict[str, int]
    notes: tuple[str, ...]
    legend: tuple[str, ...]
    candidates: tuple[_Candidate, ...]
    recalled: tuple[_Recalled, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Explanation)


def pack(why: Explain) -> bytes:
    """Bytes for the store."""
    legend = {name: 0 for candidate in why.candidates for name, _ in candidate.features}
    legend = {name: number for number, name in enumerate(legend)}
    candidates = tuple(
        _Candidate(
            one.id,
            one.name,
            one.kind,
            round(one.probability * 10_000),
            one.excluded,
            tuple(number for name, moved in one.features for number in (legend[name], round(moved * 100))),
        )
        for one in why.candidates
    )
    return _encoder.encode(
        _Explanation(
            why.turn_id,
            why.conversation_id,
            why.obligation,
            round(why.p_any_npc, 4),
            round(why.tau, 4),
            why.stages_ms,
            why.notes,
            tuple(legend),
            candidates,
            tuple(
                _Recalled(one.utterance_id, one.world, one.seq, one.at_ms, round(one.score * 100_000), dict(one.legs))
                for one in why.recalled
            ),
        )
    )


def unpack(data: bytes) -> Explain:
    """The explanation again, to the digits that are shown."""
    told = _decoder.decode(data)
    candidates = tuple(
        Candidate(
            one.id,
            one.name,
            one.kind,
            one.probability / 10_000,
            tuple((told.legend[n], moved / 100) for n, moved in zip(*[iter(one.features)] * 2, strict=True)),
            one.excluded,
        )
        for one in told.candidates
    )
    return Explain(
        told.turn_id,
        told.conversation_id,
        told.obligation,
        told.p_any_npc,
        told.tau,
        candidates,
        told.stages_ms,
        told.notes,
        tuple(
            Recalled(one.utterance_id, one.world, one.seq, one.at_ms, one.score / 100_000, one.legs)
            for one in told.recalled
        ),
    )
