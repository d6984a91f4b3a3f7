"""The existing game's requests and the answers that it reads. Field names and shapes are its own."""

from __future__ import annotations

from typing import Any

import msgspec

from services.edge.contract.shared import EmptyList, Id, Nothing


class ChatLine(msgspec.Struct):
    """One line; the game sends exactly one, `name` is the speaker."""

    role: str | None = None
    content: str | None = None
    name: str | None = None


class ChatContext(msgspec.Struct):
    """What the game says about the speaker; everything else in it is ignored."""

    participant_type: str | None = None
    participant_name: str | None = None


class Chat(msgspec.Struct):
    """chat/v3: a player's or a system line for one NPC. `message` is the shape of the snapshot era."""

    npc_id: Id | None = None
    participant_id: Id | None = None
    messages: list[ChatLine] | Nothing | None = None
    message: str | None = None
    participant_type: str | None = None
    context: ChatContext | EmptyList | None = None


class GroupUpdate(msgspec.Struct):
    """A player came within an NPC's range; repeated every 30 s."""

    npc_id: Id | None = None
    player_id: Id | None = None
    player_name: str | None = None
    is_joining: bool | None = None


class StatusUpdate(msgspec.Struct):
    """One line of status: `health: 65 | location: chipotle | current_action: Idle`."""

    npc_id: Id | None = None
    status_text: str | None = None


class DescribePlayer(msgspec.Struct):
    """A player joined the game."""

    user_id: Id | None = None


class ChatAction(msgspec.Struct, omit_defaults=True):
    """One action of an answer. A system line's handler reads `target` at the top."""

    type: str
    data: dict[str, Any]
    message: str
    target: str = ""


class ChatMetadata(msgspec.Struct, omit_defaults=True):
    """Never read by the game; what the original answered."""

    tool_calls: list[Any]
    reasoning: str
    error: str = ""


class ChatAnswer(msgspec.Struct, omit_defaults=True):
    """A missing `message` is silence; an empty one would be an empty bubble."""

    conversation_id: str | None
    metadata: ChatMetadata
    action: dict[str, Any]
    message: str | None = None


class GroupAnswer(msgspec.Struct):
    """Never read by the game."""

    success: bool
    agent_id: str
    updated: str
    result: dict[str, Any]


class StatusAnswer(msgspec.Struct):
    """Never read by the game."""

    success: bool
    agent_id: str
    status: dict[str, str]
    timestamp: str


class DescriptionAnswer(msgspec.Struct):
    """Read without a guard by the game: always there."""

    description: str


class GameSnapshotAnswer(msgspec.Struct):
    """`status` is what the original answered."""

    status: str
    revision: int
    outcome: str
