"""Types that several endpoints share."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

# Ids travel as text; a number is taken as its decimal text (UserIds exceed 2^32, Luau has doubles only).
Id = Annotated[
    int | float | str,
    Meta(description="Stable id, text or number; a number becomes its decimal text.", examples=["guard", "962483389"]),
]
Number = Annotated[int | float, Meta(description="Whole number; Luau may write it as a float.")]
EmptyList = Annotated[list[None], Meta(max_length=0, description="An empty table, which Luau writes as [].")]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An empty table where a list belongs."""


class Vector(msgspec.Struct, omit_defaults=True):
    """A position in studs."""

    x: float | None = None
    y: float | None = None
    z: float | None = None


Point = Vector | Annotated[list[float | None], Meta(max_length=3, description="[x, y, z], or [] for none.")]


class Refusal(msgspec.Struct):
    """A part of a request that was not applied, though the rest was."""

    path: Annotated[str, Meta(examples=["entities[3].position.x"])]
    reason: Annotated[str, Meta(examples=["NOT_FINITE"])]


class Fault(msgspec.Struct):
    """Why a request failed. Clients branch on `reason`."""

    code: Annotated[str, Meta(description="gRPC code in snake case.", examples=["invalid_argument"])]
    reason: Annotated[str, Meta(description="UPPER_SNAKE.", examples=["INVALID_JSON"])]
    message: str
    retryable: bool


class ErrorAnswer(msgspec.Struct):
    """The body of every answer with a status of 400 and above."""

    error: Fault


class ActionData(msgspec.Struct):
    """Something that the game executes."""

    action_id: str
    type: Annotated[str, Meta(examples=["follow"])]
    data: dict[str, Any]
