"""Errors of clients that the Stainless generator writes (openai, letta_client share their shape) as faults."""

from __future__ import annotations

import email.utils
import time
from types import ModuleType
from typing import Any

from services.sync.runtimes.port import (
    Garbled,
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
    if _names(error.__cause__ or error) & {"ConnectTimeout", "PoolTimeout"}:
        return Unreachable(f"no connection in time ({kind})")
    return TimedOut(f"no answer in time ({kind})")


def _connection(cause: BaseException, kind: str) -> RuntimeFault:
    if _names(cause) & {"ConnectError", "UnsupportedProtocol"}:
        return Unreachable("connection refused")
    # The request was sent and the connection broke: nobody knows.
    return ServerFault(f"the connection broke ({type(cause).__name__} in {kind})", unknown=True)


def _status(error: Any) -> RuntimeFault:
    status = int(error.status_code)
    if status == 429:
        return RateLimited("rate limited (429)", retry_after(error.response.headers.get("retry-after")))
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
