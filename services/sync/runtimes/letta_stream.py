"""Letta's message stream as deltas, and its error events as faults. Reads attributes only: no SDK here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.sync.runtimes.port import (
    Busy,
    Delta,
    End,
    Garbled,
    RateLimited,
    Rejected,
    RuntimeFault,
    ServerFault,
    TextDelta,
    ToolCall,
    UsageDelta,
)

# Characters of one answer; more is a broken model.
ANSWER_MAX = 32_768


class _Pending(Busy):
    """Tool calls of an earlier turn wait for an answer; nothing of this message was stored."""


class _UnknownCall(Rejected):
    """An answer named other calls than those that wait."""


def is_pending(fault: RuntimeFault) -> bool:
    """Whether the agent refused a message because tool calls wait."""
    return isinstance(fault, _Pending)


def is_unknown_call(fault: RuntimeFault) -> bool:
    """Whether results were refused because other calls wait."""
    return isinstance(fault, _UnknownCall)


class Reading:
    """One stream: text passes through, tool calls arrive in pieces and are given whole at the end."""

    def __init__(self) -> None:
        self._calls: dict[str, list[str]] = {}
        self._length = 0
        self._stop = ""

    def take(self, chunk: Any) -> Iterator[Delta]:
        """What one event means."""
        match chunk.message_type:
            case "assistant_message":
                text = _text(chunk.content)
                self._length += len(text)
                if self._length > ANSWER_MAX:
                    raise Garbled("the answer is too large")
                if text:
                    yield TextDelta(text)
            case "approval_request_message":
                self._collect(chunk)
            case "stop_reason":
                self._stop = str(chunk.stop_reason)
            case "usage_statistics":
                yield UsageDelta(chunk.prompt_tokens or 0, chunk.completion_tokens or 0)

    def _collect(self, chunk: Any) -> None:
        pieces = chunk.tool_calls if isinstance(chunk.tool_calls, list) else [chunk.tool_calls or chunk.tool_call]
        for piece in pieces:
            call_id = str(piece.tool_call_id or next(reversed(self._calls), ""))
            entry = self._calls.setdefault(call_id, ["", ""])
            entry[0] += piece.name or ""
            entry[1] += piece.arguments or ""

    def finish(self) -> Iterator[Delta]:
        """The calls and the end. Raises ServerFault when the stream broke off without a stop reason."""
        if not self._stop:
            raise ServerFault("the stream ended early", unknown=True)
        waiting = self._stop == "requires_approval"
        if waiting:
            for call_id, (name, arguments) in self._calls.items():
                yield ToolCall(call_id, name, arguments)
        yield End(tools=waiting and bool(self._calls))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(getattr(part, "text", "") or "") for part in content or ())


def stream_fault(error: Exception) -> RuntimeFault | None:
    """The fault of an error event (status 200, so the SDK has no class for it) or of a 409; None for anything else."""
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    if status not in (200, 409) or not isinstance(body, dict):
        return None
    detail = str(body.get("detail") or body.get("message") or "")
    if "waiting for approval" in detail or "PENDING_APPROVAL" in detail:
        return _Pending("tool calls of an earlier turn wait for an answer")
    if "Invalid tool call IDs" in detail:
        return _UnknownCall("other tool calls wait")
    if "currently being processed" in detail:
        return Busy("the agent executes another message")
    if status == 409:
        return None
    kind = str(body.get("error_type") or "")
    if kind == "llm_rate_limit":
        return RateLimited("the model's provider limits the rate")
    if "INVALID_ARGUMENT" in detail or kind == "llm_bad_request":
        return Rejected("the model refused the request")
    return ServerFault(f"the model failed ({kind or 'error'})"[:80])
