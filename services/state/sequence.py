"""The order of snapshots within a session: duplicates, gaps and the past are told apart before applying."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Base(Struct, frozen=True):
    """The last sequenced snapshot that was applied.

    intact: the document still is what it left, so that a delta may build on it. ended: its session was
    closed.
    """

    epoch: int = 0
    seq: int = 0
    intact: bool = False
    ended: bool = False


class Verdict(Enum):
    """What a snapshot's place in its stream says about it."""

    APPLY = "apply"
    DUPLICATE = "duplicate"
    RESYNC = "resync"
    STALE = "stale"


def judge(epoch: int, seq: int, base_seq: int | None, newest_epoch: int, base: Base) -> Verdict:
    """Decide by the world's newest epoch and the last sequenced snapshot applied to it (A7).

    epoch 0: no session. seq 0: unsequenced. base_seq None: a full snapshot, else a delta's base.
    """
    if epoch == 0:
        return Verdict.APPLY
    current = base if base.epoch == epoch else Base(epoch)
    if epoch != newest_epoch or current.ended:
        return Verdict.STALE
    if seq and seq <= current.seq:
        return Verdict.DUPLICATE
    if base_seq is not None and not (current.intact and base_seq == current.seq):
        return Verdict.RESYNC
    return Verdict.APPLY
