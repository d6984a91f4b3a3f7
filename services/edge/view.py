"""Small parts of rooms' messages in the words of the public contract. Pure."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import numpy as np
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.edge.contract.event import Participant
from services.edge.contract.shared import ActionData, Refusal, Vector
from services.edge.contract.snapshot import ClusterAnswer, MemberPosition

KINDS: dict[int, str] = {type_pb2.ENTITY_KIND_NPC: "npc", type_pb2.ENTITY_KIND_PLAYER: "player"}
TRANSITIONS = {
    type_pb2.TRANSITION_TYPE_FORMED: "formed",
    type_pb2.TRANSITION_TYPE_JOINED: "joined",
    type_pb2.TRANSITION_TYPE_LEFT: "left",
    type_pb2.TRANSITION_TYPE_MERGED: "merged",
    type_pb2.TRANSITION_TYPE_SPLIT: "split",
    type_pb2.TRANSITION_TYPE_DISSOLVED: "dissolved",
}
# A refusal list is an answer, not a dump.
REFUSALS_MAX = 64
# Of a position in studs: what float32 holds.
DECIMALS = 5


def cluster_answers(columns: state_pb2.ClusterColumns) -> list[ClusterAnswer]:
    """Flat columns as clusters, with members' positions where state sent them."""
    axes = _axes(columns) if columns.x else None
    members = list(columns.member_ids)
    answers = []
    start = 0
    for lineage, size, npcs in zip(columns.lineages, columns.sizes, columns.npcs, strict=True):
        end = start + size
        names = members[start:end]
        positions = None
        if axes is not None:
            x, y, z = axes
            rows = zip(names, x[start:end], y[start:end], z[start:end], strict=True)
            positions = [MemberPosition(*row) for row in rows if row[1] == row[1]]  # NaN: not known
        answers.append(ClusterAnswer(lineage, names, npcs, size - npcs, positions))
        start = end
    return answers


def _axes(columns: state_pb2.ClusterColumns) -> list[list[float]]:
    """The members' x, y and z, `rounded` all at once: an answer has many."""
    packed = np.frombuffer(columns.x + columns.y + columns.z, "<f4").astype(np.float64)
    axes: list[list[float]] = packed.round(DECIMALS).reshape(3, -1).tolist()
    return axes


def point(x: float, y: float, z: float) -> Vector:
    return Vector(*rounded(x, y, z))


def rounded(x: float, y: float, z: float) -> tuple[float, float, float]:
    """A float32 position without the digits that float32 does not have (studs, five decimals)."""
    return round(x, DECIMALS), round(y, DECIMALS), round(z, DECIMALS)


def vector(position: type_pb2.Vector3) -> Vector:
    return point(position.x, position.y, position.z)


def unpacked(column: bytes, kind: Literal["f", "d"] = "f") -> array.array[float]:
    """Packed little-endian numbers; "f" float32, "d" float64."""
    values: array.array[float] = array.array(kind)
    values.frombytes(column)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def refusals(refused: Iterable[type_pb2.FieldRefusal]) -> list[Refusal]:
    """Refusals of an answer, at most REFUSALS_MAX."""
    return [Refusal(one.path, one.reason) for one in list(refused)[:REFUSALS_MAX]]


def participants(members: Iterable[state_pb2.EarshotMember]) -> list[Participant]:
    return [Participant(member.id, member.name, KINDS.get(member.kind, "")) for member in members]


def action_data(action: type_pb2.Action) -> ActionData:
    return ActionData(action.action_id, action.type, arguments(action.data))


def arguments(data: bytes) -> dict[str, Any]:
    """An action's arguments; rooms send a JSON object or nothing."""
    value = msgspec.json.decode(data) if data else {}
    return value if isinstance(value, dict) else {}
