"""GET /v1/events: the one log of a world, as clients show and execute it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

UnixSeconds = Annotated[float, Meta(description="Unix seconds.")]


class Participant(msgspec.Struct):
    """An NPC or a player of a conversation."""

    id: str
    name: str
    kind: Annotated[str, Meta(description="npc or player.")]


class EventHead(msgspec.Struct, omit_defaults=True, tag_field="type"):
    """What every event has."""

    seq: int
    at: UnixSeconds
    revision: int
    conversation_id: str


class UtteranceEvent(EventHead, tag="utterance", omit_defaults=True):
    """Something was said. NPC lines come sentence by sentence."""

    utterance_id: str
    speaker: Participant
    text: str
    audience: Annotated[list[str], Meta(description="Players who may see it.")]
    cause_user_id: Annotated[str, Meta(description="Attribute the text filter to this player; empty: do not show.")]
    ai: bool
    expires_at: Annotated[UnixSeconds, Meta(description="Drop it after this.")]
    turn_id: str = ""
    sentence: int | None = None
    degraded: str = ""


class MembershipEvent(EventHead, tag="membership", omit_defaults=True):
    """Who is within earshot has changed."""

    change: Annotated[str, Meta(description="formed, joined, left, merged, split or dissolved.")]
    members_changed: list[str]
    members: list[Participant]
    other: str = ""


class NoticeEvent(EventHead, tag="notice", omit_defaults=True):
    """A [SYSTEM] line with full context."""

    text: str
    audience: list[str]


class TurnEvent(EventHead, tag="turn", omit_defaults=True):
    """An NPC has the floor, or a decision about it was taken."""

    turn_id: str
    npc_id: str
    npc_name: str
    phase: Annotated[str, Meta(description="started, ended, declined, cancelled, failed or silent.")]
    reason: str
    cause_utterance_id: str = ""
    revision_seen: int = 0
    age_ms: int = 0
    runtime: str = ""
    first_sentence_ms: int = 0
    total_ms: int = 0
    ai: Annotated[bool, Meta(description="An NPC is an AI, and is said to be one.")] = False


class ActionEvent(EventHead, tag="action", omit_defaults=True):
    """Something that the game executes."""

    turn_id: str
    npc_id: str
    action_id: str
    action: Annotated[str, Meta(description="follow, unfollow, navigate, emote, patrol, hunt, stop_hunt, ...")]
    data: dict[str, Any]
    expires_at: UnixSeconds
    ai: Annotated[bool, Meta(description="An NPC is an AI, and is said to be one.")] = False


Event = UtteranceEvent | MembershipEvent | NoticeEvent | TurnEvent | ActionEvent


class EventsAnswer(msgspec.Struct, omit_defaults=True):
    """Events after a cursor."""

    events: list[Event]
    cursor: Annotated[int, Meta(description="Give this back next time.")]
    resync: Annotated[bool, Meta(description="Events were missed: read the world anew, then go on.")] = False
    reconnect: Annotated[bool, Meta(description="This server is stopping: poll again at once.")] = False
