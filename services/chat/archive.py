"""Message files of other programs, as a stream: JSON `[{"message", "attachments"}]` and DiscordChatExporter's JSON.

A file of any size is read in pieces; what is broken in it is named by its place. Attachments are named, never fetched.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TextIO

from services.chat import hygiene
from services.common.errors import BadInput

PIECE = 1 << 20
# One message; more is a broken file.
MESSAGE_MAX = 1 << 20
TEXT_MAX = 600
ATTACHMENTS_MAX = 5

_MESSAGES = re.compile(r'"messages"\s*:\s*\[')
_CHANNEL = re.compile(r'"channel"\s*:\s*\{\s*"id"\s*:\s*"(\d{1,24})"')
_BETWEEN = re.compile(r"[\s,]*")
_decoder = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a person. id: stable, so that a second import finds it; at_ms 0 = the file does not say."""

    id: str
    author_id: str
    author: str
    at_ms: int
    text: str


@dataclass(slots=True)
class Archive:
    """An open file. channel: id that it names, "" = none. read: characters so far."""

    handle: TextIO
    channel: str = ""
    read: int = 0
    _buffer: str = ""
    _at: int = 0
    _ended: bool = False

    def messages(self) -> Iterator[Message | None]:
        """Every entry in its order; None = not of a person, or empty. Raises BadInput ARCHIVE_UNREADABLE."""
        self._open()
        number = 0
        while True:
            entry = self._next(number)
            if entry is _END:
                return
            yield message_of(entry, number)
            number += 1

    def _open(self) -> None:
        self._fill()
        start = self._buffer.lstrip("\ufeff \t\r\n")
        if start.startswith("["):
            self._at = self._buffer.index("[") + 1
            return
        while (found := _MESSAGES.search(self._buffer)) is None:
            if not start.startswith("{") or self._ended or len(self._buffer) > MESSAGE_MAX:
                raise BadInput('neither a list of messages nor an export with "messages"', reason="ARCHIVE_UNREADABLE")
            self._fill()
        named = _CHANNEL.search(self._buffer, 0, found.end())
        self.channel = named.group(1) if named else ""
        self._at = found.end()

    def _next(self, number: int) -> Any:
        while True:
            between = _BETWEEN.match(self._buffer, self._at)
            at = between.end() if between else self._at
            if self._buffer.startswith("]", at):
                return _END
            try:
                entry, self._at = _decoder.raw_decode(self._buffer, at)
                # A number at the end of a piece may go on in the next one.
                if self._at < len(self._buffer) or self._ended:
                    return entry
            except ValueError as error:
                if self._ended or len(self._buffer) - at > MESSAGE_MAX:
                    raise BadInput(f"message {number + 1} is broken or cut off", reason="ARCHIVE_UNREADABLE") from error
            self._at = at
            self._fill()

    def _fill(self) -> None:
        try:
            piece = self.handle.read(PIECE)
        except UnicodeDecodeError as error:
            raise BadInput("the file is not UTF-8", reason="ARCHIVE_UNREADABLE") from error
        self._ended = not piece
        self.read += len(piece)
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0


_END = object()


def message_of(entry: Any, number: int) -> Message | None:
    """An entry as a message; None when no person wrote it or nothing is left of it."""
    if isinstance(entry, str):
        entry = {"message": entry}
    if not isinstance(entry, dict):
        return None
    exported = "content" in entry
    author = _author(entry)
    if exported and (entry.get("type") not in (None, "Default", "Reply") or author.get("isBot")):
        return None
    said = entry.get("content" if exported else "message")
    text = hygiene.clean(said)[:TEXT_MAX] if isinstance(said, str) else ""
    if entry.get("attachments"):
        text = " ".join((text, *_attachments(entry["attachments"]))).strip()
    if not text:
        return None
    author_id = f"discord:{author['id']}" if isinstance(author.get("id"), str) else ""
    shown = author.get("nickname") or author.get("name")
    name = _name(shown) if isinstance(shown, str) else "someone"
    return Message(_id(entry, text, number), author_id, name, _at_ms(entry.get("timestamp")), text)


@lru_cache(maxsize=4096)
def _name(shown: str) -> str:
    return hygiene.name(shown, "someone")


def _author(entry: dict[str, Any]) -> dict[str, Any]:
    author = entry.get("author")
    return author if isinstance(author, dict) else {}


def _attachments(found: Any) -> list[str]:
    """Names in brackets: "[map.png]"."""
    names = []
    for one in found[:ATTACHMENTS_MAX] if isinstance(found, list) else ():
        name = one.get("fileName") if isinstance(one, dict) else one
        if isinstance(name, str) and (shown := hygiene.clean(name.rsplit("/", 1)[-1].split("?")[0])[:60]):
            names.append(f"[{shown}]")
    return names


def _id(entry: dict[str, Any], text: str, number: int) -> str:
    given = entry.get("id")
    if isinstance(given, str | int) and given:
        return str(given)[:64]
    return hashlib.blake2b(f"{number}\0{text}".encode(), digest_size=12).hexdigest()


def _at_ms(stamp: Any) -> int:
    if not isinstance(stamp, str):
        return 0
    try:
        return round(datetime.fromisoformat(stamp).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0
