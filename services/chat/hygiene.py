"""Text from outside, made harmless: one line, no invisible characters, nothing that looks like a control token.

Contained, not prevented: a model may still be talked into things. Applied to what players say, to display names and to
what NPCs answer. Idempotent. At most LIMIT characters are accepted; nobody cuts.
"""

from __future__ import annotations

import re

from services.common.errors import BadInput
from services.common.visible import visible

LIMIT = 200
NAME_LIMIT = 64

_BRACKETED = re.compile(r"\[\s*(/?\s*(?:system|inst|assistant|user|tool|developer|sys)\b[^\]]{0,40})\]", re.IGNORECASE)
_TEMPLATE = re.compile(r"<\s*\|+|\|+\s*>|</?\s*s\s*>|<</?sys>>", re.IGNORECASE)
_ROLE = re.compile(r"(^|[.!?\s\"'])(system|assistant|developer|user|tool)\s*:(?!//)", re.IGNORECASE)
# What every control token has in it.
_MARKS = re.compile(r"[\[<|>:]")
_SYSTEM_LINE = re.compile(r"^\s*\[\s*system\s*\]\s*", re.IGNORECASE)


def clean(text: str) -> str:
    """One line of NFKC text without control, invisible and bidirectional characters; control tokens are defanged."""
    line = " ".join(visible(text).split())
    # Each pattern needs a sign that names hardly ever have, and every name of a world passes here with each change.
    if "<" in line or "|" in line:
        line = _TEMPLATE.sub(" ", line)
    if "[" in line:
        line = _BRACKETED.sub(r"(\1)", line)
    if ":" in line:
        line = _ROLE.sub(r"\1\2 -", line)
    return " ".join(line.split())


def utterance(text: str) -> str:
    """A cleaned line. Raises BadInput EMPTY_TEXT or TOO_LONG (over LIMIT characters)."""
    line = clean(text)
    if not line:
        raise BadInput("there is nothing to say", reason="EMPTY_TEXT")
    if len(line) > LIMIT:
        raise BadInput(f"text has more than {LIMIT} characters", reason="TOO_LONG")
    return line


def system_line(text: str) -> str:
    """A line that the existing game sends as [SYSTEM]: the mark is ours again, the rest is cleaned and may be long."""
    return f"[SYSTEM] {clean(_SYSTEM_LINE.sub('', text))[: 4 * LIMIT]}".strip()


def name(text: str, fallback: str) -> str:
    """A display name, at most NAME_LIMIT characters."""
    return clean(text)[:NAME_LIMIT].strip() or fallback
