"""A deterministic model server that speaks the OpenAI HTTP API: for tests and for use beside a runtime.

As a process it prints its URL as one line; in a test it is an async context manager::

    python -m tests.fakes.fake_model --port 0 --delay-ms 0

    async with FakeModel() as model:
        client = openai.AsyncOpenAI(base_url=model.base_url, api_key="unused")
        ...
        assert "at the well" in system_text(model.requests[-1])

GET /v1/models, POST /v1/chat/completions (streamed or not), POST /v1/embeddings, GET /stats, GET /last?n=,
POST /control. What it answers, and the directives that steer it, is in `model_script`. The default answer
names the digest `seen(body)` of the system prompt, so a test can tell which prompt a sentence came from.
Requests that the real API refuses (orphan tool results, names with blanks) are refused here too.

POST /control takes any of the following and answers the settings:

* ``delay_ms`` before every answer, ``chunk_ms`` between streamed pieces,
* ``reply`` instead of the default sentences (null restores them),
* ``faults``: a list of `Fault` objects as JSON, appended; ``[]`` removes all. They beat the line's own,
* ``reset``: true clears counters, requests, faults and the counts of directives,
* ``refuse_ms``: after this answer the port refuses connections for that long.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Self

from tests.fakes.model_answer import CREATED, Completion, check_messages, embeddings
from tests.fakes.model_script import (
    MODES,
    Body,
    Fault,
    Reply,
    Script,
    block_text,
    compose,
    latest_line,
    messages_of,
    read_script,
    seen,
    system_text,
)
from tests.fakes.model_wire import BadRequest, ClientGone, Exchange, Reader, Request

__all__ = ["FakeModel", "Fault", "block_text", "latest_line", "seen", "system_text"]

MODELS: Final = ("earshot-fake", "gpt-4o-mini", "text-embedding-3-small")
KEEP_REQUESTS: Final = 256
_COUNTERS: Final = ("chat", "embeddings", "models", "inflight", "max_inflight", "faults", "disconnects")


@dataclass(slots=True)
class _Settings:
    delay_ms: float = 0.0
    chunk_ms: float = 0.0
    reply: str | None = None
    faults: list[Fault] = field(default_factory=list)


class FakeModel:
    """One listening fake model; enter it to listen, leave it to close every connection."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        delay_ms: float = 0.0,
        chunk_ms: float = 0.0,
        reply: str | Callable[[Body], str] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._compute = reply if callable(reply) else None
        self._settings = _Settings(delay_ms, chunk_ms, None if callable(reply) else reply)
        self.requests: deque[Body] = deque(maxlen=KEEP_REQUESTS)
        self._counts: Counter[str] = Counter()
        self._script_uses: Counter[str] = Counter()
        self._serial = 0
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping.set()
        if self._server is not None:
            self._server.close()
        self._abort_connections()
        if self._connections:
            await asyncio.wait(set(self._connections), timeout=5)

    @property
    def url(self) -> str:
        """Root of the server, without a slash at the end."""
        return f"http://{self._host}:{self._port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its base_url."""
        return f"{self.url}/v1"

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the start or the last reset, and what is in flight."""
        return {name: self._counts[name] for name in _COUNTERS}

    def control(self, **changes: Any) -> dict[str, Any]:
        """Apply what POST /control takes, except `refuse_ms`; a ValueError changes nothing."""
        unknown = changes.keys() - {"delay_ms", "chunk_ms", "reply", "faults", "reset"}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        new = [f if isinstance(f, Fault) else _fault_from_json(f) for f in changes.get("faults") or ()]
        pace = {name: _milliseconds(changes[name]) for name in ("delay_ms", "chunk_ms") if name in changes}
        if not isinstance(changes.get("reply"), str | None):
            raise ValueError("reply must be a string or null")
        if changes.get("reset"):
            self._counts = Counter(inflight=self._counts["inflight"])
            self._script_uses.clear()
            self.requests.clear()
            self._settings.faults.clear()
        if changes.get("faults") == []:
            self._settings.faults.clear()
        self._settings.faults.extend(new)
        for name, value in pace.items():
            setattr(self._settings, name, value)
        if "reply" in changes:
            self._settings.reply = changes["reply"]
        return asdict(self._settings)

    @contextlib.asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Refuse connections on this port, and reset the open ones, for as long as the block runs."""
        async with self._refusing(spare=None):
            yield

    async def _listen(self) -> None:
        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(Reader(), self._connection)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(protocol, self._host, self._port, backlog=512)
        self._port = self._server.sockets[0].getsockname()[1]

    def _abort_connections(self, spare: asyncio.Task[None] | None = None) -> None:
        for task, writer in self._connections.items():
            if task is not spare:
                writer.transport.abort()

    @contextlib.asynccontextmanager
    async def _refusing(self, spare: asyncio.Task[None] | None) -> AsyncIterator[None]:
        if self._server is not None:
            self._server.close()
        self._abort_connections(spare)
        # bound but not listening: connections are refused, and no other process takes the port
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((self._host, self._port))
            yield
        if not self._stopping.is_set():
            await self._listen()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert isinstance(reader, Reader)
        self._connections[task] = writer
        try:
            while await self._exchange(Exchange(reader, writer)):
                pass
        except (ClientGone, ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, or a fault cut it off
        finally:
            del self._connections[task]
            writer.close()

    async def _exchange(self, exchange: Exchange) -> bool:
        """Serve one request; False ends the connection."""
        try:
            request = await exchange.receive()
            keep_alive = await self._route(request, exchange)
        except BadRequest as error:
            await exchange.send_error(error.status, str(error))
            return False
        return keep_alive and request.keep_alive

    async def _route(self, request: Request, exchange: Exchange) -> bool:
        match request.method, request.path.removeprefix("/v1"):
            case "GET", "/models":
                self._counts["models"] += 1
                model = {"object": "model", "created": CREATED, "owned_by": "earshot"}
                await exchange.send_json({"object": "list", "data": [{"id": m, **model} for m in MODELS]})
            case "POST", "/chat/completions":
                return await self._chat(_object(request.body), exchange)
            case "POST", "/embeddings":
                self._counts["embeddings"] += 1
                await exchange.send_json(embeddings(_object(request.body)))
            case "GET", "/stats":
                await exchange.send_json(self.stats)
            case "GET", "/last":
                count = request.query.get("n", ["1"])[-1]
                wanted = int(count) if count.isdecimal() else 1
                await exchange.send_json(list(self.requests)[-wanted:] if wanted else [])
            case "POST", "/control":
                await self._control(_object(request.body), exchange)
            case _:
                raise BadRequest(404, f"no route {request.method} {request.path}")
        return True

    async def _control(self, changes: Body, exchange: Exchange) -> None:
        try:
            refuse = _milliseconds(changes.pop("refuse_ms", 0))
            settings = self.control(**changes)
        except (ValueError, TypeError) as error:
            raise BadRequest(400, str(error)) from error
        await exchange.send_json(settings)
        if refuse:
            async with self._refusing(spare=asyncio.current_task()):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), refuse / 1000)

    async def _chat(self, body: Body, exchange: Exchange) -> bool:
        check_messages(body)
        self._serial += 1
        self.requests.append(body)
        self._counts["chat"] += 1
        self._counts["inflight"] += 1
        self._counts["max_inflight"] = max(self._counts["max_inflight"], self._counts["inflight"])
        try:
            return await self._answer(body, exchange, self._serial)
        except (ClientGone, ConnectionError):
            self._counts["disconnects"] += 1
            raise
        finally:
            self._counts["inflight"] -= 1

    async def _answer(self, body: Body, exchange: Exchange, serial: int) -> bool:
        messages = messages_of(body)
        closing = bool(messages) and messages[-1].get("role") == "tool"
        script = Script() if closing else read_script(latest_line(body).text)
        fault = self._take_fault(body) or self._script_fault(script)
        if fault is not None:
            self._counts["faults"] += 1
        mode = fault.mode if fault else None
        late = fault.ms if fault and mode == "delay" else 0
        await exchange.pause(self._settings.delay_ms + script.delay_ms + late)
        if fault is not None and mode not in ("delay", "drip", "reset", "huge"):
            return await _misbehave(fault, exchange)
        text = self._compute(body) if self._compute else self._settings.reply
        reply = compose(body, script, text)
        if fault is not None and mode == "huge":
            reply = Reply("x" * fault.size)
        drip = fault.ms if fault and mode == "drip" else script.drip_ms
        completion = Completion(body, reply, serial)
        frames = completion.frames() if body.get("stream") else [completion.whole()]
        headers = exchange.head(200, "text/event-stream" if body.get("stream") else "application/json")
        if mode == "reset":
            await exchange.send_half(headers, frames)
            return False
        await exchange.send_frames(headers, frames, drip or self._settings.chunk_ms, slow=drip > 0)
        return True

    def _take_fault(self, body: Body) -> Fault | None:
        """The first armed fault that matches, one use of it spent."""
        faults = self._settings.faults
        for at, fault in enumerate(faults):
            if fault.match and fault.match not in json.dumps(body, ensure_ascii=False):
                continue
            if fault.count is not None:
                left = fault.count - 1
                faults[at : at + 1] = [replace(fault, count=left)] if left > 0 else []
            return fault
        return None

    def _script_fault(self, script: Script) -> Fault | None:
        fault = script.fault
        if fault is None or fault.count is None:
            return fault
        self._script_uses[script.key] += 1
        return fault if self._script_uses[script.key] <= fault.count else None


async def _misbehave(fault: Fault, exchange: Exchange) -> bool:
    match fault.mode:
        case "status":
            await exchange.send_error(fault.status, f"fake failure {fault.status}", fault.retry_header)
            return True
        case "hang":
            await exchange.hang()
        case "drop":
            exchange.reset()
        case "garbage":
            await exchange.send(200, b'{"id": "chatcmpl-fake", "choices": [{"mess')
            return True
        case "shape":
            await exchange.send_json({"greeting": "this is no completion", "choices": "none"})
            return True
        case other:
            raise AssertionError(f"{other} does not replace the answer")
    return False


def _object(body: Any) -> Body:
    if not isinstance(body, dict):
        raise BadRequest(400, "the body must be a JSON object")
    return body


def _milliseconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError("times are milliseconds, zero or more")
    return float(value)


def _fault_from_json(value: Any) -> Fault:
    if not isinstance(value, dict) or value.get("mode") not in MODES:
        raise ValueError(f"a fault needs a mode of {', '.join(sorted(MODES))}")
    unknown = value.keys() - {f.name for f in fields(Fault)}
    if unknown:
        raise ValueError(f"unknown fault fields: {', '.join(sorted(unknown))}")
    fault = Fault(**value)
    numbers = (fault.status, fault.ms, fault.size, 1 if fault.count is None else fault.count)
    texts = (fault.match, fault.retry_after or "")
    if not all(type(n) is int and n >= 0 for n in numbers) or not all(isinstance(t, str) for t in texts):
        raise ValueError("status, ms, size and count are whole numbers; match and retry_after are text")
    return fault


async def serve(host: str, port: int, delay_ms: float, chunk_ms: float) -> None:
    """Run until SIGINT or SIGTERM, having printed the URL."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with FakeModel(host=host, port=port, delay_ms=delay_ms, chunk_ms=chunk_ms) as model:
        sys.stdout.write(f"{model.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description="A deterministic model server for tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="before every answer")
    parser.add_argument("--chunk-ms", type=float, default=0.0, help="between streamed pieces")
    options = parser.parse_args(arguments)
    asyncio.run(serve(options.host, options.port, options.delay_ms, options.chunk_ms))


if __name__ == "__main__":
    main()
