"""One request as endpoints see it: who asks, which world, query values, the bounded body."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import grpc
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput, Forbidden, Unauthenticated, Unavailable, from_rpc
from services.edge import bounds
from services.edge.body import Body
from services.edge.keys import Caller
from services.edge.token import Session

T = TypeVar("T")

QUERY_MAX = 4096


@dataclass(slots=True)
class Request:
    """Method and path have chosen the endpoint already; `parameters` are the path's, in order."""

    method: str
    headers: dict[bytes, bytes]
    query_text: bytes
    caller: Caller
    content: Body
    # The existing game's base path may name its server: /w/{job}
    job: str = ""
    parameters: tuple[str, ...] = ()
    _query: dict[str, str] | None = field(default=None)

    @property
    def tenant(self) -> str:
        return self.caller.tenant

    def session(self) -> Session:
        """The session that the request is part of. Raises Unauthenticated when it carries no token."""
        if self.caller.session is None:
            raise Unauthenticated("send the session's token as Authorization: Bearer", reason="SESSION_NEEDED")
        return self.caller.session

    @property
    def query(self) -> dict[str, str]:
        """Query values, the first of each name."""
        if self._query is None:
            if len(self.query_text) > QUERY_MAX:
                raise BadInput(f"the query is longer than {QUERY_MAX} bytes", reason="TOO_LONG")
            try:
                pairs = parse_qsl(self.query_text.decode("ascii"), keep_blank_values=True, errors="strict")
            except ValueError:
                raise BadInput("the query is not percent-encoded UTF-8", reason="NOT_UTF8") from None
            self._query = {}
            for name, value in pairs:
                self._query.setdefault(name, value)
        return self._query

    def world(self, named: object = None) -> type_pb2.WorldRef:
        """The world that a body names, else the query, else the session's, else the existing game's: place and job.

        Raises Forbidden when a session names another world than its own.
        """
        session = self.caller.session
        if session is not None and named is None and "world" not in self.query:
            name = session.world
        elif named is not None:
            name = bounds.world_name(named)
        elif "world" in self.query:
            name = bounds.world_name(self.query["world"])
        else:
            name = self._default_world()
        if session is not None and name != session.world:
            raise Forbidden("this session is for another world", reason="WORLD_MISMATCH")
        return type_pb2.WorldRef(tenant=self.tenant, world=name)

    @property
    def names_world(self) -> bool:
        """Whether anything says which world is meant."""
        return (
            "world" in self.query or self.caller.session is not None or bool(self.job) or _place_id(self.headers) != ""
        )

    def _default_world(self) -> str:
        place = _place_id(self.headers)
        name = f"place:{place}" if place else "default"
        return bounds.world_name(f"{name}:{self.job}" if self.job else name)

    def whole(self, name: str, default: int, most: int = bounds.UINT64 - 1) -> int:
        """A whole number of the query. Raises BadInput."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= most):
            raise BadInput(f"{name}: expected a whole number from 0 to {most}", reason="INVALID_FIELD")
        return int(text)

    def seconds(self, name: str, default: float, most: float) -> float:
        """Seconds of the query, cut to `most`. Raises BadInput."""
        text = self.query.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not value >= 0:
            raise BadInput(f"{name}: expected seconds, 0 to {most:g}", reason="INVALID_FIELD")
        return min(value, most)


def _place_id(headers: dict[bytes, bytes]) -> str:
    """The place of the engine's own header; a label, never a credential. Anything odd counts as absent."""
    value = headers.get(b"roblox-id", b"").strip()
    return value.decode("ascii") if value.isdigit() and len(value) <= 20 else ""


async def ask(call: Awaitable[T]) -> T:
    """The answer of a room; its failure as an EarshotError. The caller's own cancellation passes through."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # The room ended the call, not our caller.
        raise Unavailable("a room is stopping", retry_after_ms=1000) from None


Endpoint = Callable[[Request], Awaitable[Any]]
