"""Bounds of one request, each with the error that says which field broke it. Pure.

Lengths count characters, after hygiene where the field is shown to people or models.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sized

from services.common.errors import BadInput, TooLarge

ID = 64
NAME = 64
WORLD_BYTES = 128
WORD = 64  # action, location slug, event type
CHAT = 200
DETAILS_BYTES = 4096
EVENTS = 256
GROUPS = 256
UINT64 = 2**64


def identify(value: object, path: str) -> str:
    """An id as text: numbers become their decimal text. Raises BadInput when it is not an id."""
    if type(value) is str:
        text = value
    elif isinstance(value, int) and not isinstance(value, bool):
        # str() of an absurdly long number would fail (and take quadratic time): bound it first.
        text = str(value) if value.bit_length() <= 4 * ID else "9" * (ID + 1)
    elif isinstance(value, float) and value.is_integer():
        text = str(int(value)) if abs(value) < 1e60 else "9" * (ID + 1)
    else:
        raise BadInput(f"{path}: expected an id, text or a whole number", reason="INVALID_ID")
    if len(text) > ID:
        raise too_long(path, ID)
    if not text or not text.isprintable():
        raise BadInput(f"{path}: an id has 1 to {ID} printable characters", reason="INVALID_ID")
    return text


def whole(value: object, path: str) -> int:
    """A whole number 0..2^64-1 that Luau may have written as a float; null is 0."""
    if value is None:
        return 0
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < UINT64:
        raise BadInput(f"{path}: expected a whole number from 0 to 2^64-1", reason="INVALID_FIELD")
    return number


def world_name(value: object, path: str = "world") -> str:
    """A world's id: printable text of at most 128 bytes, or a number."""
    if isinstance(value, str):
        text = value
        if not text or not text.isprintable():
            raise BadInput(f"{path}: a world has 1 to {WORLD_BYTES} printable bytes", reason="INVALID_ID")
        if len(text.encode()) > WORLD_BYTES:
            raise too_long(path, WORLD_BYTES)
        return text
    return identify(value, path)


def short(value: str | None, path: str, limit: int) -> str:
    """Text within its bound; null is empty."""
    if value is None:
        return ""
    if len(value) > limit:
        raise too_long(path, limit)
    return value


def shown(value: str | None, path: str, limit: int) -> str:
    """Text that people or models will see: hygiene first, then the bound (operations.md, Security)."""
    return short(hygienic(value or ""), path, limit)


def hygienic(text: str) -> str:
    """NFKC without invisible, bidirectional and control characters; every white space becomes a space."""
    if text.isascii() and text.isprintable():
        return text.strip()
    normal = unicodedata.normalize("NFKC", text)
    spaced = (" " if char.isspace() else char for char in normal)
    return "".join(char for char in spaced if unicodedata.category(char) not in _DROPPED).strip()


# Control, format (zero width, bidi), private use, surrogates and unassigned code points.
_DROPPED = frozenset({"Cc", "Cf", "Co", "Cs", "Cn"})


def count(values: Sized, path: str, limit: int) -> None:
    """Raises TooLarge when a list has more entries than its bound."""
    if len(values) > limit:
        raise TooLarge(f"{path}: more than {limit} entries", reason="TOO_MANY")


def longest(values: Iterable[str], limit: int) -> bool:
    """Whether every text is within the bound; the quick check before naming the culprit."""
    return max(map(len, values), default=0) <= limit


def too_long(path: str, limit: int) -> BadInput:
    return BadInput(f"{path}: longer than {limit} characters", reason="TOO_LONG")


def finite(value: float | None) -> bool:
    """Whether a number survives as float32."""
    return value is None or (math.isfinite(value) and abs(value) <= 3.4028234663852886e38)
