"""JSON text to typed values, tolerant where Luau's encoder is odd, strict everywhere else.

Refused with BadInput: text that is not UTF-8, not JSON, too deep, or of the wrong types. Bare `inf`, `-inf`, `nan`,
`NaN` and `Infinity` outside strings (an NPC with infinite health writes them) are read as null, their paths reported.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from services.common.errors import BadInput

T = TypeVar("T")
Path = tuple[str | int, ...]

# operations.md, Security: arrays and objects within each other.
MAX_DEPTH = 16
# More bare tokens than this are not an odd health value but a broken sender.
MAX_BARE = 2000

_BOM = b"\xef\xbb\xbf"
_NOT_STRUCTURE = bytes(code for code in range(256) if code not in b'[]{}"')
_STEP = np.zeros(256, np.int32)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1
# A string (to the end of the text when it is not closed, so that the scan stays linear), or a bare token.
_BARE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|([-+]?(?:inf(?:inity)?|nan(?:\(ind\))?))', re.DOTALL | re.IGNORECASE)
_FIELD = re.compile(r" - at `\$\.?(.*)`$")


class Document(Generic[T]):
    """Reads one type of request body."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self.kind = kind

    def read(self, body: bytes) -> tuple[T, list[Path]]:
        """The value, and the paths at which a bare inf or nan was read as null. Raises BadInput."""
        body = checked(body)
        try:
            return self._decoder.decode(body), []
        except msgspec.ValidationError as error:
            raise wrong_type(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._repaired(body)

    def value(self, body: bytes) -> T:
        """The value; bare inf and nan are null."""
        return self.read(body)[0]

    def _repaired(self, body: bytes) -> tuple[T, list[Path]]:
        found = False

        def null(match: re.Match[bytes]) -> bytes:
            nonlocal found
            if match[1] is None:
                return match[0]
            found = True
            return b"null"

        repaired = _BARE.sub(null, body)
        try:
            value = self._decoder.decode(repaired)
        except msgspec.ValidationError as error:
            raise wrong_type(error) from None
        except msgspec.DecodeError as error:
            raise BadInput(f"the body is not JSON: {error}", reason="INVALID_JSON") from None
        except UnicodeDecodeError:
            raise BadInput("the body is not UTF-8", reason="NOT_UTF8") from None
        except RecursionError:
            raise too_deep() from None
        return value, _paths(body) if found else []


def checked(body: bytes) -> bytes:
    """The body without a byte order mark. Raises BadInput when it is empty, not UTF-8 or nested too deeply."""
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
    if not body or body.isspace():
        raise BadInput("the request has no body; send JSON", reason="EMPTY_BODY")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise BadInput("the body is not UTF-8", reason="NOT_UTF8") from None
    if depth(body) > MAX_DEPTH:
        raise too_deep()
    return body


def depth(body: bytes) -> int:
    """How deeply arrays and objects nest, outside strings; exact for valid JSON, bounded work for anything else."""
    if b"\\" in body:
        # Left to right, so that an escaped backslash never hides the end of a string.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(body.translate(None, _NOT_STRUCTURE), np.uint8)
    if not marks.size:
        return 0
    outside = 1 - (np.cumsum(marks == ord('"'), dtype=np.int32) & 1)
    return int(np.cumsum(_STEP[marks] * outside, dtype=np.int32).max())


def too_deep() -> BadInput:
    return BadInput(f"arrays and objects nest deeper than {MAX_DEPTH}", reason="TOO_DEEP")


def wrong_type(error: msgspec.ValidationError) -> BadInput:
    """The refusal for a value of the wrong type: its path and what was expected, never the value."""
    text = str(error)
    field = _FIELD.search(text)
    where = field[1] if field and field[1] else "the body"
    what = text[: field.start()] if field else text
    if not what.startswith("Expected"):
        what = "not a value that this field takes"
    return BadInput(f"{where}: {what}", reason="INVALID_FIELD")


def path_text(path: Path) -> str:
    """The path as FieldRefusal writes it: entities[3].position.x"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _paths(body: bytes) -> list[Path]:
    """Where bare tokens stand in a body that is valid JSON but for them: there two readings of it differ."""
    found: list[Path] = []
    _search(_read_as(b"null", body), _read_as(b"0", body), (), found)
    return found


def _read_as(text: bytes, body: bytes) -> Any:
    return msgspec.json.decode(_BARE.sub(lambda match: match[0] if match[1] is None else text, body))


def _search(value: Any, other: Any, path: Path, found: list[Path]) -> None:
    if value is None:
        if other is not None:
            if len(found) == MAX_BARE:
                raise BadInput(f"more than {MAX_BARE} values are not finite", reason="NOT_FINITE")
            found.append(path)
    elif isinstance(value, dict):
        for key, child in value.items():
            _search(child, other[key], (*path, key), found)
    elif isinstance(value, list):
        for index, (child, there) in enumerate(zip(value, other, strict=True)):
            _search(child, there, (*path, index), found)
