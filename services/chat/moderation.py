"""Hooks before a player's line is heard and before an NPC's sentence is shown. The port, and a small default.

After fails closed: a refused sentence, or a hook that fails, becomes a canned line. Words of self-harm are answered
with a resource line instead of an NPC. The default is a floor under the platform's own text filter, not a replacement.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.common.logs import get_logger

CANNED = "Let us talk about something else."
RESOURCE = (
    "It sounds like you are going through something hard. Please talk to an adult you trust, or find a helpline for "
    "your country at findahelpline.com."
)
HOOK_TIMEOUT_S = 1.0

_SELF_HARM = re.compile(
    r"\b(?:kill(?:ing)?\s+my\s?self|suicid(?:e|al)|end\s+my\s+(?:own\s+)?life|(?:hurt|cut|harm)(?:ing)?\s+my\s?self|"
    r"want(?:ed)?\s+to\s+die|self[\s-]?harm)\b",
    re.IGNORECASE,
)
_LEAK = re.compile(
    r"https?://|www\.|\b[\w.+-]+@[\w-]+\.\w{2,}\b|\b(?:\+?\d[\s().-]?){9,}\b|"
    r"\b(?:discord|snapchat|instagram|whatsapp|telegram)\b.{0,30}\b(?:add|dm|message|join|name|id)\b|"
    r"\bas an? (?:ai|large) language model\b|\bsystem prompt\b",
    re.IGNORECASE,
)

_log = get_logger("chat")


@dataclass(frozen=True, slots=True)
class Verdict:
    """allowed, or refused with the line that is shown instead ("" = nothing)."""

    allowed: bool
    instead: str = ""


ALLOWED = Verdict(True)


class Moderator(Protocol):
    """Port: may call a service; both hooks have HOOK_TIMEOUT_S."""

    async def before(self, text: str) -> Verdict:
        """May NPCs hear this line of a player?"""
        ...

    async def after(self, text: str) -> Verdict:
        """May players read this sentence of an NPC?"""
        ...


class PatternModerator:
    """The default: patterns only, no service. resource: what is shown to who speaks of self-harm."""

    def __init__(self, resource: str = RESOURCE) -> None:
        self._resource = resource

    async def before(self, text: str) -> Verdict:
        return Verdict(False, self._resource) if _SELF_HARM.search(text) else ALLOWED

    async def after(self, text: str) -> Verdict:
        return Verdict(False, CANNED) if _LEAK.search(text) or _SELF_HARM.search(text) else ALLOWED


class WordModerator:
    """Words and phrases of one's own that no NPC hears and none says; case and spacing do not matter."""

    def __init__(self, words: Iterable[str]) -> None:
        forms = sorted({r"\s+".join(map(re.escape, word.split())) for word in words if word.strip()})
        self._words = re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE) if forms else None

    async def before(self, text: str) -> Verdict:
        return Verdict(False) if self._words is not None and self._words.search(text) else ALLOWED

    async def after(self, text: str) -> Verdict:
        return Verdict(False, CANNED) if self._words is not None and self._words.search(text) else ALLOWED


@dataclass(frozen=True, slots=True)
class Moderators:
    """Several, in order: the first that refuses decides."""

    chain: Sequence[Moderator]

    async def before(self, text: str) -> Verdict:
        for moderator in self.chain:
            verdict = await moderator.before(text)
            if not verdict.allowed:
                return verdict
        return ALLOWED

    async def after(self, text: str) -> Verdict:
        for moderator in self.chain:
            verdict = await moderator.after(text)
            if not verdict.allowed:
                return verdict
        return ALLOWED


def words_of(path: str) -> tuple[str, ...]:
    """The lines of a word file; # begins a comment. Raises OSError."""
    with Path(path).open(encoding="utf-8") as lines:
        return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


async def check_before(moderator: Moderator, text: str) -> Verdict:
    """The verdict on a player's line; a failing hook lets it pass, because what follows is checked again."""
    try:
        async with asyncio.timeout(HOOK_TIMEOUT_S):
            return await moderator.before(text)
    except Exception as error:  # noqa: BLE001 - somebody else's hook may fail in any way
        _log.warning("moderation_before_failed", error=type(error).__name__)
        return ALLOWED


async def check_after(moderator: Moderator, text: str) -> str:
    """The sentence that may be shown: itself, or a canned line (also when the hook fails)."""
    try:
        async with asyncio.timeout(HOOK_TIMEOUT_S):
            verdict = await moderator.after(text)
    except Exception as error:  # noqa: BLE001 - somebody else's hook may fail in any way
        _log.warning("moderation_after_failed", error=type(error).__name__)
        return CANNED
    return text if verdict.allowed else verdict.instead or CANNED
