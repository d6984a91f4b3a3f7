"""Chunks of a chat completion as deltas, whatever server wrote them: OpenAI, Ollama, vLLM, llama.cpp.

What differs, and is read all the same: tool calls that come whole and all under index 0 (Ollama), arguments as an
object, calls without an id; thoughts in `reasoning` or `reasoning_content`, or between <think> marks in the text;
a finish reason "stop" beside tool calls; usage in the last chunk, in every one, or not at all; errors within a stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.sync.runtimes.port import Delta, End, Garbled, RateLimited, ServerFault, TextDelta, ToolCall, UsageDelta

# Characters of one answer, thoughts included; more is a broken server.
ANSWER_MAX = 32_768
THINK, THOUGHT = "<think>", "</think>"


@dataclass(slots=True)
class _Call:
    call_id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Calls:
    """Tool calls in pieces, by index. A piece that names a function again, or another id, begins the next call."""

    calls: list[_Call] = field(default_factory=list)
    _by_index: dict[int, _Call] = field(default_factory=dict)

    def add(self, piece: Mapping[str, Any]) -> None:
        index = piece["index"] if isinstance(piece.get("index"), int) else 0
        function = piece.get("function") or {}
        name, call_id = _text(function, "name"), _text(piece, "id")
        current = self._by_index.get(index)
        if current is None or (call_id and current.call_id and call_id != current.call_id) or (name and current.name):
            current = self._by_index[index] = _Call()
            self.calls.append(current)
        current.call_id = current.call_id or call_id
        current.name = current.name or name
        arguments = function.get("arguments")
        if arguments:
            current.arguments += arguments if isinstance(arguments, str) else json.dumps(arguments)

    def whole(self) -> list[ToolCall]:
        return [
            ToolCall(call.call_id or f"call_{number}", call.name, call.arguments)
            for number, call in enumerate(self.calls)
            if call.name
        ]


class Thoughts:
    """Takes what a model thinks out of what it says: from <think> to </think>, wherever the stream is cut."""

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False
        self._begun = False

    def feed(self, text: str) -> str:
        """What is said, as far as it is sure."""
        self._held += text
        said = ""
        while self._held:
            if self._thinking:
                _, found, rest = self._held.partition(THOUGHT)
                if not found:
                    self._held = self._held[-len(THOUGHT) + 1 :]
                    return said
                self._thinking, self._held = False, rest.lstrip()
                continue
            before, found, rest = self._held.partition(THINK)
            if found:
                said += before
                self._thinking, self._held = True, rest
                continue
            keep = _overlap(self._held, THINK)
            said += self._held[: len(self._held) - keep]
            self._held = self._held[len(self._held) - keep :]
            return said
        return said

    def finish(self) -> str:
        """The rest, at the end of the stream."""
        rest, self._held = ("" if self._thinking else self._held), ""
        return rest


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of the text may begin the mark."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)


class ChatReading:
    """Reads one answer: `take` each chunk, then `finish`."""

    def __init__(self) -> None:
        self._calls = _Calls()
        self._thoughts = Thoughts()
        self._length = 0
        self._model = ""
        self._ended = False
        self._usage: UsageDelta | None = None

    def take(self, chunk: Any) -> Iterator[Delta]:
        """Deltas of a chunk, decoded JSON. Raises ServerFault, RateLimited and Garbled."""
        if not isinstance(chunk, Mapping):
            raise Garbled("a chunk is no object")
        _raise_error(chunk.get("error"))
        self._model = _text(chunk, "model") or self._model
        if (usage := chunk.get("usage")) is not None:
            # Some repeat it in every chunk: the last one counts.
            self._usage = UsageDelta(_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text = _text(delta, "content")
            self._length += len(text) + len(_thought(delta))
            if self._length > ANSWER_MAX:
                raise Garbled("the answer is too large")
            if said := self._thoughts.feed(text):
                yield TextDelta(said)
            for piece in delta.get("tool_calls") or ():
                self._calls.add(piece)
            self._ended = self._ended or choice.get("finish_reason") is not None

    def finish(self) -> Iterator[Delta]:
        """The rest of the answer, up to End. Raises Garbled when it was none."""
        if said := self._thoughts.finish():
            yield TextDelta(said)
        calls = self._calls.whole()
        if not self._ended and not self._length and not calls:
            raise Garbled("the answer is no completion")
        if self._usage is not None:
            yield self._usage
        yield from calls
        yield End(self._model, tools=bool(calls))


def _text(part: Mapping[str, Any], name: str) -> str:
    """A field's text, "" for null. Raises Garbled for what is neither."""
    text = part.get(name)
    if text is None or isinstance(text, str):
        return text or ""
    raise Garbled(f"{name} is no text")


def _count(part: Mapping[str, Any], name: str) -> int:
    count = part.get(name)
    return count if isinstance(count, int) else 0


def _thought(delta: Mapping[str, Any]) -> str:
    """What a model thinks beside what it says; read only for its length."""
    for name in ("reasoning_content", "reasoning"):
        text = delta.get(name)
        if isinstance(text, str):
            return text
    return ""


def _raise_error(error: Any) -> None:
    """An error that came within a stream."""
    if not error:
        return
    code = error.get("code") if isinstance(error, dict) else None
    if code == 429 or (isinstance(code, str) and "rate_limit" in code):
        raise RateLimited("rate limited (within the stream)")
    raise ServerFault("the server reported an error within the stream")
