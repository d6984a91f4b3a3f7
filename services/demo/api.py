"""The public HTTP API as the demo uses it: a few calls, each with a deadline, answered by JSON or one of two errors.

ApiError
├── Away      no answer, or one that says "try again": retry with patience
└── Refused   the server understood and said no: trying again changes nothing
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx

from services.demo.frame import encode

Answer = dict[str, Any]

CALL_S: Final = 5.0
# A message is answered when its turns are over.
MESSAGE_S: Final = 35.0
HOLD_S: Final = 20.0
# What a long poll may take longer than its hold.
HOLD_SLACK_S: Final = 10.0
RETRY_FIRST_S: Final = 0.25
RETRY_LAST_S: Final = 5.0
# A Retry-After beyond this is not waited for.
RETRY_AFTER_MAX_S: Final = 30.0
_RETRYABLE: Final = frozenset((408, 425, 429, 502, 503, 504))
_LOOPBACK: Final = frozenset(("127.0.0.1", "localhost", "::1"))


class ApiError(Exception):
    """A call that failed; the message is for a person."""


class Away(ApiError):
    """Nobody answers, or asks to try again in `retry_after` seconds (0 = does not say)."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(ApiError):
    """The server said no: HTTP status and, where it gave one, its UPPER_SNAKE reason."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Page:
    """Events after a cursor."""

    events: tuple[Answer, ...]
    cursor: int
    resync: bool


class Api:
    """One server. Use as an async context manager. Every call raises Away or Refused."""

    def __init__(self, url: str, *, key: str = "", transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = check_url(url)
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers=headers_for(key),
            transport=transport,
            # Deadlines are per call, in _call.
            timeout=None,
            trust_env=may_use_proxy(self.url),
            limits=httpx.Limits(max_connections=32),
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def put_roster(self, roster: Answer) -> Answer:
        """Give the server NPCs, locations and players."""
        return await self._json("PUT", "/v1/npcs", roster, deadline=CALL_S * 2)

    async def post_snapshot(self, body: Answer) -> Answer:
        """Show the world as it is."""
        return await self._json("POST", "/v1/snapshots", body, deadline=CALL_S)

    async def post_message(self, body: Answer) -> Answer:
        """Say something, and wait for what it leads to."""
        return await self._json("POST", "/v1/messages", body, deadline=MESSAGE_S)

    async def world(self, world: str) -> Answer:
        """Read what the server knows of a world, and how fresh its NPCs are."""
        return _object(await self._call("GET", f"/v1/worlds/{quote(world, safe='')}", deadline=CALL_S))

    async def events_end(self, world: str) -> int:
        """Return the cursor from which on everything is new."""
        return (await self.events(world, None, hold=0)).cursor

    async def events(self, world: str, cursor: int | None, *, hold: float = HOLD_S) -> Page:
        """Wait up to `hold` seconds for events after the cursor."""
        query: dict[str, str] = {"world": world, "hold": f"{hold:g}"}
        if cursor is not None:
            query["cursor"] = str(cursor)
        answer = await self._call("GET", "/v1/events", query=query, deadline=hold + HOLD_SLACK_S)
        end = cursor or 0
        if answer.status_code == 204:
            return Page((), end, False)
        body = _object(answer)
        events = body.get("events")
        found = tuple(event for event in events if isinstance(event, dict)) if isinstance(events, list) else ()
        given = body.get("cursor")
        return Page(found, given if isinstance(given, int) else end, body.get("resync") is True)

    async def _json(self, method: str, path: str, body: Answer, *, deadline: float) -> Answer:
        return _object(await self._call(method, path, body=body, deadline=deadline))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        deadline: float,
        body: Answer | None = None,
        query: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(deadline):
                answer = await self._client.request(
                    method, path, params=query, content=None if body is None else encode(body)
                )
        except TimeoutError:
            raise Away(f"{self.url} did not answer within {deadline:g} s") from None
        except httpx.RequestError as error:
            raise Away(f"{self.url} cannot be reached ({_why(error)})") from None
        raise_for(answer)
        return answer


def check_url(url: str) -> str:
    """Return a base URL without a slash at the end. Raises ApiError when it is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ApiError(f"{url!r} is no URL of an Earshot; give for example http://127.0.0.1:8080")
    return url.rstrip("/")


def may_use_proxy(url: str) -> bool:
    """Tell whether the environment's proxies apply: none stands between us and this machine."""
    return urlsplit(url).hostname not in _LOOPBACK


def headers_for(key: str) -> dict[str, str]:
    """Headers of every call. Raises ApiError when the key cannot stand in one."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ApiError("the API key holds characters that no key has")
    return {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}


def raise_for(answer: httpx.Response) -> None:
    """Raise what a status means; 2xx passes."""
    if answer.is_success:
        return
    error = _error_of(answer)
    reason, said = error.get("reason"), error.get("message")
    status = answer.status_code
    text = f"HTTP {status}" + "".join(f", {part}" for part in (reason, said) if isinstance(part, str) and part)
    retryable = error.get("retryable")
    if retryable if isinstance(retryable, bool) else status in _RETRYABLE:
        raise Away(text, _retry_after(answer))
    raise Refused(text, status, reason if isinstance(reason, str) else "")


def delays(random: Random) -> Iterator[float]:
    """Seconds between tries: doubling from 0.25 to 5, each a fifth more or less, so that clients keep out of step."""
    delay = RETRY_FIRST_S
    while True:
        yield delay * random.uniform(0.8, 1.2)
        delay = min(2 * delay, RETRY_LAST_S)


def _object(answer: httpx.Response) -> Answer:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused("the answer is not a JSON object: is this an Earshot?", answer.status_code, "")
    return body


def _error_of(answer: httpx.Response) -> Answer:
    try:
        body = answer.json()
    except ValueError:
        return {}
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _retry_after(answer: httpx.Response) -> float:
    try:
        seconds = float(answer.headers.get("retry-after", 0))
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S) if math.isfinite(seconds) else 0.0


def _why(error: httpx.RequestError) -> str:
    return "connection refused" if isinstance(error, httpx.ConnectError) else type(error).__name__
