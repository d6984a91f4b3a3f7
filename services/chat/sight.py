"""What was last taken in of a world's clusters: a revision that changes nothing of it costs no input and no append.

In a game that runs every snapshot makes a revision, and few of them change who hears whom. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from earshot.state.v1 import state_pb2


@dataclass(frozen=True, slots=True)
class Sight:
    """revision: up to which the world is as it was taken in. clusters: state's answer for them, as bytes, in order."""

    revision: int
    epoch: int
    closed: bool
    roster_version: int
    clusters: tuple[bytes, ...]


def of(heard: state_pb2.GetEarshotResponse) -> Sight:
    """What an answer shows."""
    clusters = tuple(cluster.SerializeToString(deterministic=True) for cluster in heard.clusters)
    return Sight(heard.revision, heard.epoch, heard.closed, heard.roster_version, clusters)


def unchanged(before: Sight | None, now: Sight, heard: state_pb2.GetEarshotResponse) -> bool:
    """Whether an answer of a later revision tells a world nothing new."""
    if before is None or now.revision < before.revision:
        return False
    happened = heard.transitions_gap or heard.transitions or heard.events or heard.combat_changes
    return not happened and replace(now, revision=before.revision) == before
