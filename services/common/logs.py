"""Structured logs: a static event name plus key/values. Never chat text, player names or ids, keys.

`redact` drops values under keys that could hold them, whatever a call site passes by mistake.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

FORBIDDEN = frozenset(
    {"text", "message_text", "content", "player_id", "player_name", "speaker_id", "speaker_name", "name", "key",
     "api_key", "authorization", "token", "body", "prompt", "user_id"}
)  # fmt: skip
_KEY_IN_PATH = re.compile(r"/k/[^/\s\"?]+")
_SECRET = re.compile(r"\bek_[A-Za-z0-9]+_[A-Za-z0-9]+_[A-Za-z0-9]+")


def scrub(text: str) -> str:
    """Text without API keys: in the path form /k/{key} and wherever one stands."""
    return _SECRET.sub("ek_redacted", _KEY_IN_PATH.sub("/k/redacted", text))


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: forbidden keys lose their value, strings lose keys."""
    for key, value in event.items():
        if key in FORBIDDEN:
            event[key] = "redacted"
        elif isinstance(value, str):
            event[key] = scrub(value)
    return event


def configure(level: str = "info", style: str = "console") -> None:
    """Set up logging of the process to stderr; libraries' own records above warning pass through it."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    # httpx logs every URL at INFO; a URL may hold what must not be logged.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def get_logger(room: str) -> Any:
    """Logger of a room. Bound when it is used: modules are imported before logging is configured."""
    return structlog.get_logger(room=room)
