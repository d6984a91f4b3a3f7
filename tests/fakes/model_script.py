"""What the fake model answers: a pure function of the request, steered by directives in the player's line.

The line is the latest one that carries a speaker since the model last spoke; without speakers it is the last
user message. JSON wrappers of any depth are opened first: ``{"speaker": "Ada", "text": "SAY:hello"}``, the
same inside a runtime's own envelope (``{"type": "user_message", "message": "{\\"speaker\\": ..."}``), or
one such object per line.

=====================  ==================================================================================
``SAY:some text``      answer exactly that (to the end of the line, so it stands last)
``PASS:``              answer ``PASS``; a line that is only ``PASS`` does the same
``CALL:name {json}``   call the tool, if it was offered; several make parallel calls; ``SAY:`` may follow
``CALL!:name {json}``  call it although it was not offered, as a confused model does
``RECITE:label``       answer with the text of ``<label>`` as the system prompt held it
``DELAY:ms``           wait before the first byte
``DRIP:ms``            wait before every piece of the answer
``FAIL:status``        answer that HTTP status (429 and 503 with Retry-After)
``HANG:``              accept, never answer
``DROP:``              close before the first byte
``RESET:``             send half of the answer, then reset the connection
``GARBAGE:``           200 with JSON that ends too early
``SHAPE:``             200 with valid JSON that is no completion
``HUGE:bytes``         an answer of that size (10 MB without a number)
=====================  ==================================================================================
The last seven take a count, ``FAIL:503x2`` or ``HANG:x1``: after that many times the same line is answered
normally. Directives act once: when the last message is a tool's result, the answer is a short closing
sentence.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Body = dict[str, Any]
Mode = Literal["status", "hang", "drop", "reset", "garbage", "shape", "huge", "delay", "drip"]
MODES: Final = frozenset(get_args(Mode))
HUGE_BYTES: Final = 10_000_000

_ENDING: Final = r"(FAIL|HANG|DROP|RESET|GARBAGE|SHAPE|HUGE):(\d*)(?:x(\d+))?"
_FAULT: Final = re.compile(rf"\b{_ENDING}")
_PACE: Final = re.compile(r"\b(DELAY|DRIP):(\d+)")
_SAY: Final = re.compile(r"\bSAY:([^\n]*)")
_CALL: Final = re.compile(r"\bCALL(!?):(\w+)\s*")
_PASS: Final = re.compile(r"\bPASS:")
_RECITE: Final = re.compile(r"\bRECITE:(\w+)")
_DEPTH: Final = 8  # wrappers opened before giving up


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of dialogue found in a message; `speaker` is empty when the message did not say."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave: `count` times (None: for ever), in requests that contain the text `match`."""

    mode: Mode
    status: int = 500
    retry_after: str | None = None  # seconds or an HTTP date; "" sends none
    ms: int = 0  # delay and drip
    size: int = HUGE_BYTES  # bytes, huge only
    count: int | None = 1
    match: str = ""

    @property
    def retry_header(self) -> str | None:
        """Value of Retry-After: one second with 429 and 503 unless set."""
        if self.retry_after is None:
            return "1" if self.status in (429, 503) else None
        return self.retry_after or None


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `arguments` is JSON text, as on the wire."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Script:
    """The directives of one line. `key` names the line, so that counted faults run out."""

    key: str = ""
    fault: Fault | None = None
    delay_ms: int = 0
    drip_ms: int = 0
    say: str | None = None
    recite: str | None = None
    calls: tuple[tuple[Call, bool], ...] = ()  # with: also when not offered


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: text, tool calls, or both."""

    text: str | None
    calls: tuple[Call, ...] = ()


def content_text(message: Body) -> str:
    """The text of one chat message; content parts are joined by newlines."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def messages_of(body: Body) -> list[Body]:
    """The messages that are objects; anything else a broken client sent is left out."""
    messages = body.get("messages")
    return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []


def system_text(body: Body) -> str:
    """All system and developer messages of a request: where a runtime puts persona and blocks."""
    return "\n".join(content_text(m) for m in messages_of(body) if m.get("role") in ("system", "developer"))


def seen(body: Body) -> str:
    """Eight hex digits that stand for the system prompt; every default answer carries them."""
    return hashlib.sha256(system_text(body).encode()).hexdigest()[:8]


def block_text(body: Body, label: str) -> str | None:
    """The text of block `label` in the system prompt: inside ``<label>``, or its inner ``<value>``."""
    found = re.search(rf"<{label}\b[^>]*>(.*?)</{label}>", system_text(body), re.DOTALL)
    if found is None:
        return None
    inner = re.search(r"<value>(.*?)</value>", found[1], re.DOTALL)
    return (inner[1] if inner else found[1]).strip()


def lines_in(text: str) -> list[Line]:
    """Open every JSON wrapper of a message and return its lines in order."""
    return [line for line in _from_text(text, "", _DEPTH) if line.text.strip()]


def _from_text(text: str, speaker: str, depth: int) -> Iterator[Line]:
    value = _json_or_none(text) if depth else None
    if isinstance(value, (dict, list, str)):
        yield from _from_value(value, speaker, depth - 1)
        return
    rows = text.splitlines()
    if depth and len(rows) > 1 and any(isinstance(_json_or_none(row), dict) for row in rows):
        for row in rows:
            yield from _from_text(row, speaker, depth - 1)
        return
    spoken = _spoken_objects(text) if depth else []
    if spoken:
        for item in spoken:
            yield from _from_value(item, speaker, depth - 1)
        return
    yield Line(speaker, text)


def _from_value(value: Any, speaker: str, depth: int) -> Iterator[Line]:
    if isinstance(value, str):
        yield from _from_text(value, speaker, depth)
    elif isinstance(value, list):
        for item in value:
            yield from _from_value(item, speaker, depth)
    elif isinstance(value, dict):
        name = value.get("speaker")
        speaker = name if isinstance(name, str) else speaker
        for key in ("text", "message"):
            if isinstance(value.get(key), str):
                yield from _from_text(value[key], speaker, depth)
                return
        for item in value.values():
            yield from _from_value(item, speaker, depth)


def _json_or_none(text: str) -> Any:
    if text.strip()[:1] not in ("{", "[", '"'):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _spoken_objects(text: str) -> list[Body]:
    """Objects with a speaker and a text in the middle of prose, also when their quotes are still escaped."""
    decoder = json.JSONDecoder()
    for candidate in (text, text.replace('\\"', '"')):
        found, at = [], candidate.find("{")
        while at >= 0:
            try:
                value, end = decoder.raw_decode(candidate, at)
            except ValueError:
                end = at + 1
            else:
                if isinstance(value, dict) and "speaker" in value and "text" in value:
                    found.append(value)
            at = candidate.find("{", end)
        if found:
            return found
    return []


def latest_line(body: Body) -> Line:
    """The line that steers this request."""
    last_user: list[Line] | None = None
    for message in reversed(messages_of(body)):
        if message.get("role") == "assistant":
            break
        if message.get("role") != "user":
            continue
        lines = lines_in(content_text(message))
        if spoken := [line for line in lines if line.speaker]:
            return spoken[-1]
        last_user = lines if last_user is None else last_user
    return Line("", "\n".join(line.text for line in last_user or []))


def read_script(text: str) -> Script:
    """Read the directives of one line; a malformed one is plain text."""
    said = _SAY.search(text)
    orders = text[: said.start()] if said else text  # what is to be said steers nothing else
    calls = []
    for found in _CALL.finditer(orders):
        arguments = _arguments(orders[found.end() :])
        if arguments is not None:
            calls.append((Call(found[2], arguments), found[1] == "!"))
    pace = {found[1]: int(found[2]) for found in _PACE.finditer(orders)}
    recite = _RECITE.search(orders)
    say = said[1].strip() if said else None
    if say is None and (_PASS.search(orders) or text.strip() == "PASS"):
        say = "PASS"
    return Script(
        key=text,
        fault=_fault(orders),
        delay_ms=pace.get("DELAY", 0),
        drip_ms=pace.get("DRIP", 0),
        say=say,
        recite=recite[1] if recite else None,
        calls=tuple(calls),
    )


def _fault(orders: str) -> Fault | None:
    found = _FAULT.search(orders)
    if found is None:
        return None
    number = int(found[2]) if found[2] else 0
    count = int(found[3]) if found[3] else None
    if found[1] == "FAIL":
        status = number if 400 <= number <= 599 else 500
        return Fault("status", status=status, count=count)
    modes: dict[str, Mode] = {
        "HANG": "hang",
        "DROP": "drop",
        "RESET": "reset",
        "GARBAGE": "garbage",
        "SHAPE": "shape",
        "HUGE": "huge",
    }
    return Fault(modes[found[1]], size=number or HUGE_BYTES, count=count)


def _arguments(rest: str) -> str | None:
    """The JSON object at the start of `rest`, its quotes escaped up to twice; without one, no arguments."""
    if not rest.startswith("{"):
        return "{}"
    for _ in range(3):
        try:
            value, _end = json.JSONDecoder().raw_decode(rest)
        except ValueError:
            rest = rest.replace('\\"', '"')
        else:
            return json.dumps(value)
    return None


def compose(body: Body, script: Script, reply: str | None) -> Reply:
    """Decide the answer. `reply` replaces the default sentences, not what a directive orders."""
    messages = messages_of(body)
    if messages and messages[-1].get("role") == "tool":
        results = lines_in(content_text(messages[-1]))
        return Reply(f"That is done: {_clip(results[-1].text if results else 'nothing', 120)}.")
    offered = {tool["name"]: tool.get("parameters") or {} for tool in _tools(body)}
    calls = tuple(call for call, anyway in script.calls if anyway or call.name in offered)
    if not calls and script.say is None:
        calls = _demanded(body, offered)
    if calls:
        return Reply(script.say, calls)
    if script.say is not None:
        return Reply(script.say)
    if script.calls:
        return Reply(f"I have no tool {script.calls[0][0].name}.")
    if script.recite is not None:
        return Reply(_clip(block_text(body, script.recite) or f"I see no {script.recite}.", 2000))
    schema = _response_schema(body)
    if schema is not None:
        return Reply(json.dumps(example_of(schema)))
    return Reply(reply if reply is not None else _default_sentences(body))


def _default_sentences(body: Body) -> str:
    line = latest_line(body)
    heard = _clip(_PACE.sub("", _FAULT.sub("", line.text)), 80)
    opening = f"{line.speaker}, I heard" if line.speaker else "I heard"
    return f'{opening} "{heard}". I know {seen(body)}.'


def _clip(text: str, limit: int) -> str:
    return " ".join(text.split())[:limit]


def _tools(body: Body) -> list[Body]:
    tools = body.get("tools")
    functions = [t.get("function") for t in tools if isinstance(t, dict)] if isinstance(tools, list) else []
    return [f for f in functions if isinstance(f, dict) and isinstance(f.get("name"), str)]


def _demanded(body: Body, offered: dict[str, Body]) -> tuple[Call, ...]:
    """The call that `tool_choice` insists on, with the smallest arguments its schema allows."""
    choice = body.get("tool_choice")
    name = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    if choice == "required":
        name = next(iter(offered), None)
    return (Call(name, json.dumps(example_of(offered[name]))),) if name in offered else ()


def _response_schema(body: Body) -> Body | None:
    form = body.get("response_format")
    if not isinstance(form, dict) or form.get("type") not in ("json_object", "json_schema"):
        return None
    schema = form.get("json_schema", {}).get("schema")
    return schema if isinstance(schema, dict) else {"type": "object"}


def example_of(schema: Body) -> Any:
    """The smallest value that fits a JSON schema of plain types, enums, arrays and objects."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        return {name: example_of(properties.get(name, {})) for name in schema.get("required", [])}
    if kind == "array":
        return [example_of(schema.get("items", {})) for _ in range(schema.get("minItems", 0))]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"boolean": False, "null": None}.get(kind if isinstance(kind, str) else "", "here")


def embedding(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the words alone: texts that share words are near each other."""
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or ["\x00"]:
        digest = hashlib.sha256(word.encode()).digest()
        for at in range(0, 32, 4):
            place = int.from_bytes(digest[at : at + 3], "big") % dimensions
            vector[place] += 1.0 if digest[at + 3] & 1 else -1.0
    norm = sum(x * x for x in vector) ** 0.5
    if norm == 0.0:  # the signs cancelled out
        vector[0] = norm = 1.0
    return [x / norm for x in vector]
