"""Which endpoint a path means. Templates, not paths, label metrics and logs. Pure.

The base path may carry a key (`/k/{key}`) and the existing game's server (`/w/{job}`): its client can send no header.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from services.common.errors import BadInput, EarshotError, NotFound

UNMATCHED = "unmatched"
PATH_MAX = 2048


@dataclass(frozen=True, slots=True)
class Route:
    """One operation, with what the published contract says of it."""

    method: str
    template: str
    endpoint: Any
    # Types of the contract for the body and the answer, and names of query values.
    takes: Any = None
    gives: Any = None
    query: tuple[str, ...] = ()
    status: int = 200
    # Needs no key and is never refused for load: probes and pages.
    open: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a raw path says, before an endpoint is chosen."""

    key: str
    job: str
    segments: tuple[str, ...]


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    routes: dict[str, Route] = field(default_factory=dict)


class MethodNotAllowed(EarshotError):
    """The path exists, not for this method."""

    code = BadInput.code
    default_reason = "METHOD_NOT_ALLOWED"

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = sorted(allowed)
        super().__init__(f"this path takes {', '.join(self.allowed)}")


class Routes:
    """The table of operations, as a tree of path segments."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = list(routes)
        self._root = _Node()
        for route in self.all:
            node = self._root
            for segment in route.template.strip("/").split("/") if route.template != "/" else ():
                if segment.startswith("{"):
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.children.setdefault(segment, _Node())
            node.routes[route.method] = route

    def find(self, method: str, segments: tuple[str, ...]) -> tuple[Route, tuple[str, ...]]:
        """The operation and its path parameters. Raises NotFound and MethodNotAllowed."""
        node = self._root
        parameters: list[str] = []
        for segment in segments:
            child = node.children.get(segment)
            if child is None and node.parameter is not None:
                child = node.parameter
                parameters.append(segment)
            if child is None:
                raise NotFound("no such path", reason="UNKNOWN_PATH")
            node = child
        route = node.routes.get("GET" if method == "HEAD" else method)
        if route is not None:
            return route, tuple(parameters)
        if node.routes:
            raise MethodNotAllowed(node.routes)
        raise NotFound("no such path", reason="UNKNOWN_PATH")


def target_of(raw_path: bytes) -> Target:
    """Split a raw path; empty segments do not count, so that a base path may end in a slash. Raises BadInput."""
    if len(raw_path) > PATH_MAX:
        raise BadInput(f"the path is longer than {PATH_MAX} bytes", reason="TOO_LONG")
    try:
        if b"%" in raw_path:
            segments = [unquote_to_bytes(part).decode() for part in raw_path.split(b"/") if part]
        else:
            segments = [part for part in raw_path.decode().split("/") if part]
    except UnicodeDecodeError:
        raise BadInput("the path is not percent-encoded UTF-8", reason="NOT_UTF8") from None
    key = job = ""
    while len(segments) >= 2 and segments[0] in ("k", "w"):
        if segments[0] == "k":
            key = segments[1]
        else:
            job = segments[1]
        del segments[:2]
    return Target(key, job, tuple(segments))
