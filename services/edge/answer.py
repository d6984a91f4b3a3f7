"""Answers: JSON encoding, compression, and the one table from errors to HTTP."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec

from services.common.errors import EarshotError
from services.edge.contract.shared import ErrorAnswer, Fault

Headers = tuple[tuple[bytes, bytes], ...]

STATUS_BY_CODE: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 413,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# Where HTTP has a status of its own.
STATUS_BY_REASON: dict[str, int] = {
    "METHOD_NOT_ALLOWED": 405,
    "UPGRADE_REQUIRED": 426,
    "BODY_TIMEOUT": 408,
    "UNSUPPORTED_ENCODING": 415,
    "UNSUPPORTED_TYPE": 415,
}
# Smaller answers cost more to compress than to send.
COMPRESS_ABOVE = 1024
COMPRESS_LEVEL = 4

JSON = b"application/json"
# Of every answer.
BASE_HEADERS: Headers = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_encode = msgspec.json.Encoder().encode
_GENERIC = "internal error; see the log"


@dataclass(slots=True, frozen=True)
class Answer:
    """One whole answer."""

    status: int
    body: bytes = b""
    kind: bytes = JSON
    headers: Headers = ()


def json_answer(value: Any, status: int = 200, headers: Headers = ()) -> Answer:
    """A value of the contract as JSON."""
    return Answer(status, _encode(value), headers=headers)


def status_of(error: EarshotError) -> int:
    """HTTP status of an error of the tree."""
    return STATUS_BY_REASON.get(error.reason) or STATUS_BY_CODE.get(error.code, 500)


def fault(error: EarshotError) -> Fault:
    """The error as clients see it; a defect of ours never shows its text."""
    internal = error.code is grpc.StatusCode.INTERNAL
    message = _GENERIC if internal else error.message
    return Fault(error.code.name.lower(), error.reason, message, error.retryable)


def error_answer(error: EarshotError, headers: Headers = ()) -> Answer:
    """The error as an answer, with Retry-After (whole seconds) when it is known."""
    if error.retry_after_ms:
        headers = (*headers, (b"retry-after", str(math.ceil(error.retry_after_ms / 1000)).encode()))
    return json_answer(ErrorAnswer(fault(error)), status_of(error), headers)


def compressed(answer: Answer, accept_encoding: bytes) -> Answer:
    """The answer gzipped when that pays and the client accepts it."""
    if len(answer.body) <= COMPRESS_ABOVE or not accepts_gzip(accept_encoding):
        return answer
    headers = (*answer.headers, (b"content-encoding", b"gzip"), (b"vary", b"accept-encoding"))
    return Answer(answer.status, gzip.compress(answer.body, COMPRESS_LEVEL, mtime=0), answer.kind, headers)


def accepts_gzip(accept_encoding: bytes) -> bool:
    """Whether an Accept-Encoding value allows gzip (RFC 9110, 12.5.3)."""
    allowed = False
    for part in accept_encoding.lower().split(b","):
        coding, _, weight = part.partition(b";")
        if coding.strip() in (b"gzip", b"x-gzip"):
            return not _zero(weight)
        if coding.strip() == b"*":
            allowed = not _zero(weight)
    return allowed


def _zero(weight: bytes) -> bool:
    name, _, value = weight.strip().partition(b"=")
    return name.strip() == b"q" and value.strip().strip(b"0") in (b"", b".")
