"""A Letta V1 server in memory, as far as Earshot asks one, that fails in every way on order.

It speaks the routes of `services.sync.runtimes.letta`; the conformance suite that runs against a real server runs
against it too. What it does not have is a model: it answers every message with `reply`. ::

    async with FakeLetta() as letta:
        runtime = LettaRuntime(letta.url)
        letta.faults["write"] = Fault("status", status=503)   # until it is taken away
        ...
        assert letta.violations == []
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote

from tests.fakes.model_wire import BadRequest, ClientGone, Exchange, Reader, Request

DATE = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Fault:
    """mode: status, drip, hang, reset, slow, garbage, shape or huge. lands: it takes effect all the same."""

    mode: str
    status: int = 500
    retry_after: str | None = None
    ms: float = 0.0
    lands: bool = False


@dataclass(slots=True)
class Held:
    """A block at the server. `writing` counts the writes that are under way."""

    id: str
    label: str
    value: str
    fields: dict[str, Any]
    history: list[str] = field(default_factory=list)
    writing: int = 0

    def json(self) -> dict[str, Any]:
        return {**self.fields, "id": self.id, "label": self.label, "value": self.value}


@dataclass(slots=True)
class Agent:
    id: str
    name: str
    tags: list[str]
    blocks: dict[str, Held]
    messages: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0

    def json(self) -> dict[str, Any]:
        blocks = [block.json() for block in self.blocks.values()]
        return {"id": self.id, "name": self.name, "tags": self.tags, "blocks": blocks, "tools": []}


class FakeLetta:
    """Enter it to listen on loopback. `calls` counts requests by operation, faulty ones included."""

    def __init__(self, reply: str = "I hear you.") -> None:
        self.reply = reply
        self.agents: dict[str, Agent] = {}
        self.blocks: dict[str, Held] = {}
        self.faults: dict[str, Fault] = {}
        self.calls: Counter[str] = Counter()
        self.violations: list[str] = []
        # When requests came in, loop time.
        self.times: list[tuple[float, str]] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()
        self._abort()
        if self._connections:
            await asyncio.wait(set(self._connections), timeout=5)

    @contextlib.asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Nobody listens on the port for as long as the block runs."""
        assert self._server is not None
        self._server.close()
        self._abort()
        # Bound and not listening: connections are refused, and no other process takes the port.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", self.port))
            yield
        await self._listen()

    def texts(self, label: str) -> dict[str, str]:
        """What each agent's block holds, by the name of the agent."""
        return {agent.name: agent.blocks[label].value for agent in self.agents.values()}

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: asyncio.StreamReaderProtocol(Reader(), self._connection), "127.0.0.1", self.port, backlog=256
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _abort(self) -> None:
        for writer in self._connections.values():
            writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert isinstance(reader, Reader)
        self._connections[task] = writer
        try:
            while await self._serve(Exchange(reader, writer)):
                pass
        except (ClientGone, ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, or a fault cut it off
        finally:
            del self._connections[task]
            writer.close()

    async def _serve(self, exchange: Exchange) -> bool:
        try:
            request = await exchange.receive()
            return await self._route(request, exchange) and request.keep_alive
        except BadRequest as error:
            await exchange.send(error.status, json.dumps({"detail": str(error)}).encode())
            return True

    # -- routes --------------------------------------------------------------------------------------------------------

    async def _route(self, request: Request, exchange: Exchange) -> bool:
        parts = [unquote(part) for part in request.path.strip("/").split("/")][1:]
        body, query = request.body or {}, request.query
        match request.method, *parts:
            case "GET", "health":
                return await self._do("check", exchange, lambda: {"status": "ok", "version": "0.16.8"})
            case "POST", "agents":
                return await self._do("create", exchange, lambda: self._create(body))
            case "GET", "agents":
                return await self._do("find", exchange, lambda: self._find(query))
            case "GET", "agents", agent_id:
                return await self._do("retrieve", exchange, lambda: self._agent(agent_id).json())
            case "PATCH", "agents", agent_id:
                return await self._do("tag", exchange, lambda: self._tag(agent_id, body))
            case "DELETE", "agents", agent_id:
                return await self._do("delete", exchange, lambda: self._delete(agent_id))
            case "GET", "agents", agent_id, "core-memory", "blocks":
                return await self._do("read", exchange, lambda: self._page(self._agent(agent_id).blocks, query))
            case "PATCH", "agents", agent_id, "core-memory", "blocks", "attach", block_id:
                return await self._do("attach", exchange, lambda: self._attach(agent_id, block_id))
            case "PATCH", "agents", agent_id, "core-memory", "blocks", label:
                return await self._write(agent_id, label, body, exchange)
            case "POST", "blocks":
                return await self._do("block", exchange, lambda: self._block(body).json())
            case "GET", "blocks":
                return await self._do("blocks", exchange, lambda: self._blocks(query))
            case "DELETE", "blocks", block_id:
                return await self._do("unblock", exchange, lambda: (self.blocks.pop(block_id, None) and {}) or {})
            case "POST", "agents", agent_id, "messages":
                return await self._message(agent_id, body, exchange)
            case "GET", "agents", agent_id, "messages":
                return await self._do("look_up", exchange, lambda: self._agent(agent_id).messages[::-1])
            case "PATCH", "agents", agent_id, "reset-messages":
                return await self._do("reset", exchange, lambda: self._reset(agent_id))
            case "GET", "runs":
                running = [a for a in self.agents.values() if a.running and a.id in query.get("agent_id", [])]
                runs = [{"id": f"run-{a.id}", "agent_id": a.id, "status": "running"} for a in running]
                return await self._do("runs", exchange, lambda: runs)
            case _:
                raise BadRequest(404, f"no route {request.method} {request.path}")

    async def _do(self, operation: str, exchange: Exchange, effect: Any) -> bool:
        """Count the request, let it fail as ordered, or carry it out and answer what it gives."""
        self.calls[operation] += 1
        self.times.append((asyncio.get_running_loop().time(), operation))
        fault = self.faults.get(operation) or self.faults.get("*")
        if fault is None:
            await exchange.send_json(effect())
            return True
        if fault.mode == "slow":
            await exchange.pause(fault.ms)
        answer = effect() if fault.lands or fault.mode == "slow" else {}
        return await self._misbehave(fault, answer, exchange)

    @staticmethod
    async def _misbehave(fault: Fault, answer: Any, exchange: Exchange) -> bool:
        match fault.mode:
            case "slow":
                await exchange.send_json(answer)
                return True
            case "status":
                await exchange.send(fault.status, b'{"detail": "a failure on order"}', fault.retry_after)
                return True
            case "hang":
                await exchange.hang()
            case "reset":
                exchange.reset()
                return False
            case "garbage":
                await exchange.send(200, b'{"id": "block-fake", "value": [')
                return True
            case "shape":
                await exchange.send(200, b'"this is no answer"')
                return True
            case "huge":
                # A valid answer that is far too large, in chunks: no length says so beforehand.
                filler = json.dumps({"id": "block-fake", "value": "x" * 10_000_000}).encode()
                frames = [filler[at : at + 65_536] for at in range(0, len(filler), 65_536)]
                await exchange.send_frames(exchange.head(200, "application/json"), frames, 0, slow=False)
                return True
            case "drip":
                raw = json.dumps(answer or {"id": "block-fake", "value": "drop by drop"}).encode()
                frames = [raw[at : at + 1] for at in range(len(raw))]
                await exchange.send_frames(exchange.head(200, "application/json"), frames, fault.ms, slow=True)
                return True
        raise AssertionError(f"there is no fault {fault.mode}")

    # -- agents and blocks ---------------------------------------------------------------------------------------------

    def _agent(self, agent_id: str) -> Agent:
        if agent_id not in self.agents:
            raise BadRequest(404, "Agent not found")
        return self.agents[agent_id]

    def _block(self, body: dict[str, Any]) -> Held:
        block = Held(f"block-{uuid.uuid4()}", body["label"], body.get("value", ""), dict(body))
        block.history.append(block.value)
        self.blocks[block.id] = block
        return block

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        blocks = [self._block(one) for one in body.get("memory_blocks", ())]
        agent = Agent(f"agent-{uuid.uuid4()}", body["name"], body.get("tags", []), {b.label: b for b in blocks})
        self.agents[agent.id] = agent
        return agent.json()

    def _find(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        tags = set(query.get("tags", ()))
        return self._page({a.id: a for a in self.agents.values() if tags <= set(a.tags)}, query)

    @staticmethod
    def _page(items: dict[str, Any], query: dict[str, list[str]]) -> list[dict[str, Any]]:
        """One page has them all; what comes after its last one is nothing."""
        return [] if "after" in query else [item.json() for item in items.values()]

    def _tag(self, agent_id: str, body: dict[str, Any]) -> dict[str, Any]:
        self._agent(agent_id).tags = body.get("tags", [])
        return self._agent(agent_id).json()

    def _delete(self, agent_id: str) -> dict[str, Any]:
        self._agent(agent_id)
        del self.agents[agent_id]  # its blocks stay, as they do at the real one
        return {}

    def _reset(self, agent_id: str) -> dict[str, Any]:
        self._agent(agent_id).messages.clear()
        return {}

    def _attach(self, agent_id: str, block_id: str) -> dict[str, Any]:
        block = self.blocks[block_id]
        self._agent(agent_id).blocks[block.label] = block
        return self._agent(agent_id).json()

    def _blocks(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        tags, attached = set(query.get("tags", ())), {b.id for a in self.agents.values() for b in a.blocks.values()}
        alone = "0" in query.get("connected_to_agents_count_eq", ())
        found = {
            block.id: block
            for block in self.blocks.values()
            if tags <= set(block.fields.get("tags", ())) and not (alone and block.id in attached)
        }
        return self._page(found, query)

    def _unblock(self, block_id: str) -> dict[str, Any]:
        self.blocks.pop(block_id, None)
        return {}

    async def _write(self, agent_id: str, label: str, body: dict[str, Any], exchange: Exchange) -> bool:
        block = self._agent(agent_id).blocks.get(label)
        if block is None:
            raise BadRequest(404, f"Block with label {label} not found")

        def effect() -> dict[str, Any]:
            block.value = body["value"]
            block.history.append(block.value)
            return block.json()

        block.writing += 1
        if block.writing > 1:
            self.violations.append(f"two writes of {label} in flight")
        try:
            return await self._do("write", exchange, effect)
        finally:
            block.writing -= 1

    # -- messages ------------------------------------------------------------------------------------------------------

    async def _message(self, agent_id: str, body: dict[str, Any], exchange: Exchange) -> bool:
        agent = self._agent(agent_id)
        self.calls["send"] += 1
        self.times.append((asyncio.get_running_loop().time(), "send"))
        fault = self.faults.get("send") or self.faults.get("*")
        agent.running += 1
        if agent.running > 1:
            self.violations.append("two messages in flight for one agent")
        try:
            if fault is not None and fault.mode != "slow":
                return await self._misbehave(fault, {}, exchange)
            await exchange.pause(fault.ms if fault else 0)
            agent.messages += [
                {"message_type": "user_message", "id": f"message-{uuid.uuid4()}", "date": DATE, "content": m["content"],
                 "otid": m.get("otid")} for m in body["messages"] if "content" in m
            ]  # fmt: skip
        finally:
            agent.running -= 1
        events = [
            {"message_type": "assistant_message", "id": "message-1", "date": DATE, "content": self.reply},
            {"message_type": "stop_reason", "stop_reason": "end_turn"},
            {"message_type": "usage_statistics", "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        ]
        frames = [*(f"data: {json.dumps(event)}\n\n".encode() for event in events), b"data: [DONE]\n\n"]
        await exchange.send_frames(exchange.head(200, "text/event-stream"), frames, 0, slow=False)
        return True
