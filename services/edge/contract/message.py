"""POST /v1/messages: what a player says, and the turn that it causes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.edge.contract.shared import ActionData, EmptyList, Id


class Speaker(msgspec.Struct):
    """Who speaks."""

    id: Id | None = None
    name: str | None = None


class Message(msgspec.Struct):
    """One utterance of a player; at most 200 characters."""

    world: Id | None = None
    player_id: Id | None = None
    player_name: str | None = None
    speaker: Speaker | EmptyList | None = None
    text: Annotated[str, Meta(examples=["Pete, have you seen my dog?"])] | None = None
    to: Annotated[Id, Meta(description="NPC that the player clicked: an obligation to answer.")] | None = None
    message_id: Annotated[Id, Meta(description="Makes a repeated request harmless.")] | None = None
    wait: Annotated[bool, Meta(description="Answer when the turn is over; default true.")] | None = None


class ReplyAnswer(msgspec.Struct, omit_defaults=True):
    """What one NPC said or does."""

    turn_id: str
    npc_id: str
    npc_name: str
    text: str
    actions: list[ActionData]
    revision: int
    ai: bool
    degraded: str = ""


class MessageAnswer(msgspec.Struct, omit_defaults=True):
    """What became of the utterance."""

    utterance_id: str
    conversation_id: str
    revision: int
    outcome: Annotated[str, Meta(description="replied, silent, accepted, duplicate, unheard or failed.")]
    replies: list[ReplyAnswer]
    reason: str = ""
    turn_id: str = ""
