"""The fake model's answers in the shapes of the OpenAI API: completions, their streams, and embeddings."""

from __future__ import annotations

import base64
import json
import re
import struct
from dataclasses import dataclass
from typing import Any, Final

from tests.fakes.model_script import Body, Reply, embedding, messages_of
from tests.fakes.model_wire import BadRequest

CREATED: Final = 1_700_000_000  # a fixed time: answers are the same on every run
PIECE: Final = 64 * 1024  # characters, of a huge answer
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
_NAME: Final = re.compile(r"[^\s<|\\/>]{1,64}")


def check_messages(body: Body) -> None:
    """Refuse what the real API refuses: no messages, unknown roles, unfit names, unpaired tool results."""
    messages = messages_of(body)
    if not messages or len(messages) != len(body["messages"]):
        raise BadRequest(400, "messages must be a list of one or more objects")
    open_calls: set[str] = set()
    for message in messages:
        role, name = message.get("role"), message.get("name")
        if role not in _ROLES:
            raise BadRequest(400, f"unknown role {role!r}")
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise BadRequest(400, "a name has 1 to 64 characters, no blanks and none of < | \\ / >")
        if role == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise BadRequest(400, "a tool message must answer a call of the assistant message before it")
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            raise BadRequest(400, "an assistant message with tool_calls must be followed by their results")
        open_calls = {str(call.get("id")) for call in message.get("tool_calls") or []}
    if open_calls:
        raise BadRequest(400, "an assistant message with tool_calls must be followed by their results")


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply in the two shapes of the chat completions API."""

    body: Body
    reply: Reply
    serial: int

    @property
    def _finish(self) -> str:
        return "tool_calls" if self.reply.calls else "stop"

    def _frame(self, kind: str, **rest: Any) -> Body:
        base: Body = {"id": f"chatcmpl-fake-{self.serial:08d}", "object": kind, "created": CREATED}
        return {**base, "model": self.body.get("model"), **rest}

    def _calls(self) -> list[Body]:
        return [
            {
                "id": f"call_fake{self.serial:08d}{at:02d}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for at, call in enumerate(self.reply.calls)
        ]

    def _usage(self) -> dict[str, int]:
        """Tokens at four characters each."""
        written = (self.reply.text or "") + "".join(c.name + c.arguments for c in self.reply.calls)
        prompt = max(1, len(json.dumps(self.body.get("messages", []))) // 4)
        completion = max(1, len(written) // 4)
        counts = {"prompt_tokens": prompt, "completion_tokens": completion}
        return {**counts, "total_tokens": prompt + completion}

    def whole(self) -> bytes:
        """The answer of a request that does not stream."""
        message: Body = {"role": "assistant", "content": self.reply.text}
        if self.reply.calls:
            message["tool_calls"] = self._calls()
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish}
        return json.dumps(self._frame("chat.completion", choices=[choice], usage=self._usage())).encode()

    def frames(self) -> list[bytes]:
        """The server-sent events of a request that streams: one word, or half a tool call, in each."""
        deltas: list[Body] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in _pieces(self.reply.text or "")]
        for index, call in enumerate(self._calls()):
            arguments = call["function"]["arguments"]
            opening = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
            deltas.append({"tool_calls": [opening]})
            half = (len(arguments) + 1) // 2
            for part in (arguments[:half], arguments[half:]):
                if part:
                    deltas.append({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
        choices: list[Body] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": self._finish})
        events = [self._frame("chat.completion.chunk", choices=[choice]) for choice in choices]
        if (self.body.get("stream_options") or {}).get("include_usage"):
            events.append(self._frame("chat.completion.chunk", choices=[], usage=self._usage()))
        return [b"data: %b\n\n" % json.dumps(event).encode() for event in events] + [b"data: [DONE]\n\n"]


def _pieces(text: str) -> list[str]:
    """Words with the blanks before them; a wall of text in blocks of `PIECE`."""
    if len(text) > PIECE:
        return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    words = text.split(" ")
    return [word if number == 0 else f" {word}" for number, word in enumerate(words) if word or number]


def embeddings(body: Body) -> Body:
    """Answer a request for embeddings, as numbers or as base64 of little-endian floats."""
    given = body.get("input")
    many = isinstance(given, list) and not (given and isinstance(given[0], int))
    texts = [str(item) for item in given] if many and isinstance(given, list) else [str(given)]
    dimensions = body.get("dimensions", 1536)
    if not isinstance(dimensions, int) or not 1 <= dimensions <= 8192:
        raise BadRequest(400, "dimensions must be 1 to 8192")
    data = []
    for index, text in enumerate(texts):
        vector: list[float] | str = embedding(text, dimensions)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = max(1, sum(map(len, texts)) // 4)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}
