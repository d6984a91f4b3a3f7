"""Errors of clients that the Stainless generator writes (openai, letta_client share their shape) as faults."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from services.sync.runtimes.port import (
    Garbled,
    Limit,
    Limits,
    Missing,
    Raced,
    RateLimited,
    Rejected,
    RuntimeFault,
    ServerFault,
    TimedOut,
    Unreachable,
)

# Longest wait that a Retry-After may ask for, seconds.
RETRY_AFTER_MAX_S = 300.0
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def fault_of(error: BaseException, sdk: ModuleType) -> RuntimeFault:
    """The fault that an exception of the SDK, of its HTTP library or of decoding stands for.

    Its message names classes, never content. HTTP errors are known by class name: openai brings a library of its own.
    """
    if isinstance(error, RuntimeFault):
        return error
    names = _names(error)
    kind = type(error).__name__
    if isinstance(error, sdk.APITimeoutError) or names & {"TimeoutException", "TimeoutError"}:
        return _timeout(error, kind)
    if isinstance(error, sdk.APIConnectionError):
        return _connection(error.__cause__ or error, kind)
    if names & {"TransportError", "RequestError"}:
        return _connection(error, kind)
    if isinstance(error, sdk.APIStatusError):
        return _status(error)
    if isinstance(error, sdk.APIResponseValidationError | ValueError | TypeError | KeyError | AttributeError):
        return Garbled(f"the answer is not understood ({kind})")
    if isinstance(error, sdk.APIError):
        return ServerFault(f"the runtime reported an error ({kind})")
    raise error


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _timeout(error: BaseException, kind: str) -> RuntimeFault:
    cause = error.__cause__ or error
    if not _names(cause) & {"ConnectTimeout", "PoolTimeout"}:
        return TimedOut(f"no answer in time ({kind})")
    # openai's adapter of aiohttp calls every connection that failed or broke one that was not there in time.
    below = _names(cause.__cause__) if cause.__cause__ is not None else set()
    if "ClientConnectionError" in below and "ConnectionTimeoutError" not in below:
        return _connection(cause.__cause__ or cause, kind)
    return Unreachable(f"no connection in time ({kind})")


def _connection(cause: BaseException, kind: str) -> RuntimeFault:
    if _names(cause) & {"ConnectError", "ClientConnectorError", "UnsupportedProtocol"}:
        return Unreachable("connection refused")
    # The request was sent and the connection broke: nobody knows.
    return ServerFault(f"the connection broke ({type(cause).__name__} in {kind})", unknown=True)


def _status(error: Any) -> RuntimeFault:
    status = int(error.status_code)
    if status == 429:
        headers = error.response.headers
        limits = limits_of(headers)
        return RateLimited("rate limited (429)", _rest(headers, limits), limits)
    if status >= 500:
        return ServerFault(f"status {status}")
    if status == 404:
        return Missing("not found (404)")
    if status == 409:
        return Raced("conflict (409)")
    if status == 408:
        return TimedOut("the runtime timed out (408)")
    return Rejected(f"refused (status {status})")


def retry_after(value: str | None, now: float | None = None) -> float:
    """Seconds of a Retry-After header, given as seconds or as an HTTP date; 0 = none or unreadable."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S) if seconds == seconds else 0.0


def limits_of(headers: Mapping[str, str]) -> Limits | None:
    """What is left of the key's allowance: OpenAI's x-ratelimit-* headers, or the ratelimit-* of the IETF's draft."""
    requests = _limit(headers, "x-ratelimit-{}-requests") or _limit(headers, "ratelimit-{}")
    tokens = _limit(headers, "x-ratelimit-{}-tokens")
    return Limits(requests, tokens) if requests or tokens else None


def _limit(headers: Mapping[str, str], name: str) -> Limit | None:
    limit, left = _number(headers.get(name.format("limit"))), _number(headers.get(name.format("remaining")))
    if limit is None or left is None:
        return None
    return Limit(limit, left, duration(headers.get(name.format("reset"))))


def _rest(headers: Mapping[str, str], limits: Limits | None) -> float:
    """Seconds to leave the key alone: Retry-After, else until what is used up is there again; 0 = not said."""
    milliseconds = _number(headers.get("retry-after-ms"))
    said = milliseconds / 1000 if milliseconds is not None else retry_after(headers.get("retry-after"))
    if said > 0 or limits is None:
        return min(said, RETRY_AFTER_MAX_S)
    empty = [one for one in (limits.requests, limits.tokens) if one is not None and one.remaining < 1]
    return min(max((one.reset_s / max(one.limit, 1.0) for one in empty), default=0.0), RETRY_AFTER_MAX_S)


def duration(value: str | None) -> float:
    """Seconds of "1s", "6m0s", "20ms", "1h2m3.5s" or "12"; 0 = none or unreadable."""
    plain = _number(value)
    if plain is not None:
        return plain
    parts = _PART.findall(value or "")
    if not parts or "".join(number + unit for number, unit in parts) != (value or "").strip():
        return 0.0
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def _number(value: str | None) -> float | None:
    """The number that the value begins with ("100, 100;w=60"); None = none."""
    try:
        found = float((value or "").split(",")[0].split(";")[0])
    except ValueError:
        return None
    return found if 0 <= found < 1e12 else None
