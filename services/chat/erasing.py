"""What stays of a log entry when a player is erased. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from services.chat.events import Did, Event, Moved, Noticed, Said, Turned
from services.chat.policy import NPC

SOMEONE = "someone"


def without(event: Event, player: str, names: Sequence[str]) -> Event | None:
    """The entry without the player: itself when it says nothing of it, rewritten, or None when it is all about it."""
    body = event.body
    if isinstance(body, Said):
        return _said(event, body, player, names)
    if isinstance(body, Noticed):
        if player in body.persons or player in body.audience or _named(body.text, names):
            return None
        return event
    if isinstance(body, Moved):
        if player not in body.member_ids and all(person.id != player for person in body.members):
            return event
        members = tuple(person for person in body.members if person.id != player)
        moved = tuple(name for name in body.member_ids if name != player)
        return msgspec.structs.replace(event, body=msgspec.structs.replace(body, members=members, member_ids=moved))
    if isinstance(body, Did):
        marks = (player.encode(), *(name.encode() for name in names))
        return None if any(mark in body.action.data for mark in marks) else event
    assert isinstance(body, Turned), "every kind of entry is handled above"
    return event


def hearers(event: Event, player: str) -> tuple[str, ...]:
    """NPCs that heard the player in this entry."""
    body = event.body
    if isinstance(body, Said) and player in (body.speaker_id, body.cause_user_id, body.due_to):
        return body.hearers
    return body.hearers if isinstance(body, Noticed) and player in body.persons else ()


def names(event: Event, player: str) -> tuple[str, ...]:
    """Names that the entry gives the player."""
    body = event.body
    if isinstance(body, Said) and body.speaker_id == player:
        return (body.speaker_name,)
    if isinstance(body, Moved):
        return tuple(person.name for person in body.members if person.id == player)
    return ()


def _said(event: Event, said: Said, player: str, names: Sequence[str]) -> Event | None:
    if said.speaker_id == player or (said.speaker_kind == NPC and player in (said.cause_user_id, said.due_to)):
        return None
    text = unnamed(said.text, names)
    audience = tuple(who for who in said.audience if who != player)
    if text == said.text and audience == said.audience:
        return event
    return msgspec.structs.replace(event, body=msgspec.structs.replace(said, text=text, audience=audience))


def unnamed(text: str, names: Sequence[str]) -> str:
    """The text with none of the names in it."""
    for name in names:
        text = _whole(name).sub(SOMEONE, text)
    return text


def _named(text: str, names: Sequence[str]) -> bool:
    return any(_whole(name).search(text) for name in names)


def _whole(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
