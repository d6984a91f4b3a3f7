"""Text from outside, made harmless for a prompt: names, appearances, event texts, what players say.

Contained, not prevented: a model may still be talked into things; what it can do about them
is bounded by validated tools. Idempotent.
"""

from __future__ import annotations

import re

from services.common.visible import visible

# Tokens that chat templates give a meaning to.
_BRACKETED = re.compile(r"\[\s*(/?\s*(?:system|inst|assistant|user|tool|developer|sys)[^\]]{0,40})\]", re.IGNORECASE)
_ROLE = re.compile(r"\b(system|assistant|developer)\s*:", re.IGNORECASE)
_CUT = "..."
_ANGLES = str.maketrans({"<": "‹", ">": "›", "`": "'"})


def clean(text: str, limit: int) -> str:
    """`text` in one line: NFKC, without invisible, control and bidirectional characters, control tokens defanged.

    At most `limit` characters; a cut is marked by "...".
    """
    if not text:
        return ""
    joined = " ".join(visible(text).split())
    # Each pattern needs a sign that hardly any name has.
    if "<" in joined or ">" in joined or "`" in joined:
        joined = joined.translate(_ANGLES)
    if "[" in joined:
        joined = _BRACKETED.sub(r"(\1)", joined)
    if ":" in joined:
        joined = _ROLE.sub(r"\1 -", joined)
    joined = joined.lstrip("#").strip()
    if len(joined) <= limit:
        return joined
    return joined[: limit - len(_CUT)].rstrip() + _CUT if limit > len(_CUT) else joined[: max(limit, 0)].rstrip()


def clean_name(name: str) -> str:
    """A display name: clean and at most 40 characters; "someone" when nothing is left."""
    return clean(name, 40).strip("\"'{}[]") or "someone"
