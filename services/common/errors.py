"""One tree of errors, one table from it to gRPC status, one way back.

EarshotError
├── BadInput            INVALID_ARGUMENT
├── Unauthenticated     UNAUTHENTICATED
├── Forbidden           PERMISSION_DENIED
├── NotFound            NOT_FOUND
├── Conflict            ABORTED           stale epoch, fence, superseded
├── TooLarge            OUT_OF_RANGE      a bound on one request
├── Overloaded          RESOURCE_EXHAUSTED
├── Unavailable         UNAVAILABLE
│   └── NotOwner        carries the owner's address
├── DeadlineExceeded    DEADLINE_EXCEEDED
└── Internal            INTERNAL          never carries raw text

On the wire an error is a google.rpc.Status with ErrorInfo(reason, domain="earshot", metadata: retryable,
retry_after_ms, owner). Inside batches and streams it is `earshot.type.v1.Status`.
"""

from __future__ import annotations

from typing import ClassVar

import grpc
from earshot.type.v1 import type_pb2
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "earshot"
DETAILS_KEY = "grpc-status-details-bin"
# gRFC A6: a negative push-back ends gRPC's transparent retries of this call.
NO_RETRY = ("grpc-retry-pushback-ms", b"-1")


class EarshotError(Exception):
    """Base of everything that a caller may be told. `message` never holds chat text, names, ids or keys."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retryable: bool | None = None,
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_ms = retry_after_ms

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason}: {self.message})"


class BadInput(EarshotError):
    """The request cannot be understood or breaks a documented bound; sending it again changes nothing."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "BAD_INPUT"


class Unauthenticated(EarshotError):
    """No key or session, or one that is not known."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class Forbidden(EarshotError):
    """The key or session is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "FORBIDDEN"


class NotFound(EarshotError):
    """The named thing is not there."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class Conflict(EarshotError):
    """The request speaks of a past that is gone: STALE_EPOCH, FENCED, SUPERSEDED."""

    code = grpc.StatusCode.ABORTED
    default_reason = "CONFLICT"


class TooLarge(EarshotError):
    """One request is larger than a documented bound."""

    code = grpc.StatusCode.OUT_OF_RANGE
    default_reason = "TOO_LARGE"


class Overloaded(EarshotError):
    """A rate, queue or memory bound is reached; later it may pass."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "OVERLOADED"
    default_retryable = True


class Unavailable(EarshotError):
    """A room, store or runtime does not answer now, or a revision is not there yet."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"
    default_retryable = True


class NotOwner(Unavailable):
    """This replica does not own the world; `owner` is the address of the one that does, "" when unknown."""

    default_reason = "NOT_OWNER"

    def __init__(self, owner: str = "") -> None:
        super().__init__("another replica owns this world")
        self.owner = owner


class DeadlineExceeded(EarshotError):
    """The caller's deadline passed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"
    default_retryable = True


class Internal(EarshotError):
    """A defect of ours; the message is generic, the log has the trace."""


_BY_CODE: dict[grpc.StatusCode, type[EarshotError]] = {
    kind.code: kind
    for kind in (
        BadInput,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        TooLarge,
        Overloaded,
        Unavailable,
        DeadlineExceeded,
        Internal,
    )
}
_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_code(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *,
    retryable: bool | None = None,
    retry_after_ms: int = 0,
) -> EarshotError:
    """The error of the tree for a code; codes that Earshot does not use become Internal."""
    kind = _BY_CODE.get(code, Internal)
    return kind(message, reason=reason or None, retryable=retryable, retry_after_ms=retry_after_ms)


def to_status(error: EarshotError) -> type_pb2.Status:
    """The error as a status inside a batch or stream."""
    return type_pb2.Status(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        owner=error.owner if isinstance(error, NotOwner) else "",
    )


def from_status(status: type_pb2.Status) -> EarshotError:
    """The error that a status inside a batch or stream stands for. Call it only when status.code != 0."""
    if status.reason == NotOwner.default_reason:
        return NotOwner(status.owner)
    code = _CODE_BY_NUMBER.get(status.code, grpc.StatusCode.INTERNAL)
    return from_code(
        code,
        status.reason,
        status.message,
        retryable=status.retryable,
        retry_after_ms=status.retry_after_ms,
    )


def to_trailers(error: EarshotError) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata with the rich status of an aborted RPC."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    info.metadata["retryable"] = "1" if error.retryable else "0"
    if error.retry_after_ms:
        info.metadata["retry_after_ms"] = str(error.retry_after_ms)
    if isinstance(error, NotOwner) and error.owner:
        info.metadata["owner"] = error.owner
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=error.code.value[0], message=error.message, details=[detail])
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    # Who says when to come back is not asked again at once: gRPC's own retries know nothing of ErrorInfo.
    return (*trailers, NO_RETRY) if error.retry_after_ms else trailers


def from_rpc(error: grpc.aio.AioRpcError) -> EarshotError:
    """The error that a failed RPC stands for; transport failures without ErrorInfo keep their code's defaults."""
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY:
            continue
        status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode("latin-1"))
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                return _from_info(error.code(), info, status.message)
    return from_code(error.code(), "", "a room did not answer" if error.code() else "")


def _from_info(code: grpc.StatusCode, info: error_details_pb2.ErrorInfo, message: str) -> EarshotError:
    if info.reason == NotOwner.default_reason:
        return NotOwner(info.metadata.get("owner", ""))
    return from_code(
        code,
        info.reason,
        message,
        retryable=info.metadata.get("retryable") == "1",
        retry_after_ms=int(info.metadata.get("retry_after_ms", "0")),
    )
