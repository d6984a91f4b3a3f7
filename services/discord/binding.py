"""A bound channel, and which of its messages reach the NPCs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Chat hears at most so many characters; longer messages are heard up to a word.
TEXT_MAX = 200
ATTACHMENTS_MAX = 3
PREFIX = "discord:"

ALL, MENTION = "all", "mention"

_EMOJI = re.compile(r"<a?:(\w{1,40}):\d+>")
_CODE = re.compile(r"[`*_~|>]+")


@dataclass(frozen=True, slots=True)
class Binding:
    """channel: of a text channel or thread. mode: all messages reach the NPCs, or those that are for them.

    chance: per cent of the other messages that reach them too. relay: lines of players in the game are shown here.
    """

    channel: int
    guild: int
    tenant: str
    world: str
    npcs: tuple[str, ...]
    mode: str = MENTION
    chance: int = 0
    relay: bool = False
    active: bool = True
    # What of the world's log, and of the channel, is behind us.
    cursor: int = 0
    last_message: int = 0

    @property
    def own_world(self) -> bool:
        """Whether the channel is a world of its own, not joined with a game server's."""
        return self.world == own_world(self.guild, self.channel)


def own_world(guild: int, channel: int) -> str:
    """The world of a channel that is joined with no game."""
    return f"{PREFIX}{guild}:{channel}"


def player(user: int) -> str:
    """A person's id as a player."""
    return f"{PREFIX}{user}"


def message_key(message: int) -> str:
    """A message's id for chat: a repetition is the same message."""
    return f"{PREFIX}{message}"


def reaches(binding: Binding, *, addressed: bool, roll: float) -> bool:
    """Whether the NPCs hear a message. addressed: it mentions the bot, answers an NPC or names one; roll: 0..1."""
    return binding.active and (addressed or binding.mode == ALL or roll * 100 < binding.chance)


def names_one(text: str, names: Iterable[str]) -> bool:
    """Whether the text holds one of these names as a word."""
    return any(name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in names)


def spoken(text: str, attachments: Sequence[str]) -> str:
    """A message as chat hears it: without marks of layout, attachments by name, at most TEXT_MAX characters."""
    plain = " ".join(_CODE.sub("", _EMOJI.sub(r":\1:", text)).split())
    named = " ".join(f"[{name[:40]}]" for name in attachments[:ATTACHMENTS_MAX])
    whole = " ".join(part for part in (plain, named) if part)
    if len(whole) <= TEXT_MAX:
        return whole
    cut = whole[: TEXT_MAX - 1]
    return (cut[: cut.rfind(" ")] if " " in cut[TEXT_MAX // 2 :] else cut).rstrip() + "…"
