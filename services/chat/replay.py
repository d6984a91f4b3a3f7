"""Replay of recorded worlds: the reducer again over the same inputs, every byte compared (`earshot replay`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from services.chat import effects, inputs, recording_store, reducer
from services.chat.conversation import World
from services.common.errors import BadInput


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found. differs: numbers of inputs (or states) that came out otherwise; gaps: stretches missing.

    decisions: why each turn, or silence, came about, in order.
    """

    inputs: int
    events: int
    states: int
    gaps: int
    differs: tuple[int, ...]
    decisions: tuple[effects.Explain, ...]


def replay(rows: Iterable[recording_store.Row]) -> Replayed:
    """Replay one world. Raises BadInput RECORDING_UNREADABLE for rows of a version that cannot be read."""
    world: World | None = None
    at, items, log, states, gaps = -1, 0, 0, 0, 0
    differs: list[int] = []
    decisions: list[effects.Explain] = []
    for row in rows:
        try:
            if row.is_state:
                expected = reducer.decode(row.body)
            else:
                item = inputs.decode(row.body)
        except msgspec.MsgspecError as error:
            raise BadInput(f"entry {row.n} is of another version", reason="RECORDING_UNREADABLE") from error
        if row.is_state:
            if world is not None and at == row.n:
                states += 1
                if reducer.encode(world) != row.body:
                    differs.append(row.n)
            elif world is not None:
                gaps += 1
            world, at = expected, row.n
            continue
        if world is None or row.n != at + 1:
            # Without the state before it an input says nothing; the next state row begins anew.
            gaps += world is not None
            world = None
            continue
        step = reducer.reduce(world, item)
        world, at = step.world, row.n
        items += 1
        log += len(step.events)
        decisions.extend(effect for effect in step.effects if isinstance(effect, effects.Explain))
        if recording_store.fingerprint(step) != row.fingerprint:
            differs.append(row.n)
    return Replayed(items, log, states, gaps, tuple(differs), tuple(decisions))
