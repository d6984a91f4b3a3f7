"""OpenAPI 3.1 from the table of routes and the types that decode and encode: GET /openapi.json."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from services.edge.answer import STATUS_BY_CODE, STATUS_BY_REASON, Answer, json_answer
from services.edge.contract.examples import EXAMPLES, Example
from services.edge.contract.shared import ErrorAnswer
from services.edge.request import Request
from services.edge.routes import Route

VERSION = "1"
REF = "#/components/schemas/{name}"
_WHOLE = {"type": "integer", "minimum": 0}
QUERY: dict[str, tuple[dict[str, Any], str]] = {
    "world": ({"type": "string"}, "World; default: the place of the header Roblox-Id, else `default`."),
    "cursor": (_WHOLE, "Events after this one; without it: only from now on."),
    "hold": ({"type": "number", "minimum": 0, "maximum": 25}, "Seconds to wait for the first event."),
    "session": ({"type": "string"}, "A newer poll of the same session ends the older."),
    "page_size": (_WHOLE, "At most so many."),
    "page": ({"type": "string"}, "`next_page` of the answer before."),
    "min_revision": (_WHOLE, "Wait up to a second for this revision."),
}
ERRORS = (400, 401, 403, 404, 405, 408, 409, 413, 415, 426, 429, 500, 503, 504)


class Contract:
    """The document and its endpoint."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._own = Route("GET", "/openapi.json", self.get, open=True)
        self._routes = [*routes, self._own]
        self._answer: Answer | None = None

    def document(self) -> dict[str, Any]:
        """The contract, which docs/openapi.json is a copy of."""
        return document(self._routes)

    def routes(self) -> list[Route]:
        return [self._own]

    async def get(self, _: Request) -> Answer:
        """This document."""
        if self._answer is None:
            self._answer = json_answer(self.document())
        return self._answer


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The contract of the routes."""
    named = [kind for route in routes for kind in (route.takes, route.gives) if kind is not None]
    kinds = list(dict.fromkeys([ErrorAnswer, *named]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Earshot",
            "version": VERSION,
            "description": "Every field of a request may be missing or null; an empty list may be written {}, an empty "
            "object []; unknown fields are ignored. Clients branch on `error.reason`.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {"Error": {"description": "Why not.", **_content(schema_of[ErrorAnswer])}},
        },
        "security": [{"key": []}, {}],
    }


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    text = inspect.getdoc(route.endpoint) or ""
    example = EXAMPLES.get(f"{route.method} {route.template}", Example(None, None))
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', route.template).rstrip('_')}",
        "summary": text.partition("\n")[0],
        "parameters": [_path_parameter(name) for name in re.findall(r"{(\w+)}", route.template)]
        + [_query_parameter(name) for name in route.query],
        "responses": {str(route.status): _success(route, schema_of, example.answer)},
    }
    if route.takes is not None:
        operation["requestBody"] = {"required": True, **_content(schema_of[route.takes], example.body)}
    if "hold" in route.query:
        operation["responses"]["204"] = {"description": "The hold ended without events."}
    if route.open:
        operation["security"] = []
    operation["responses"] |= {str(status): {"$ref": "#/components/responses/Error"} for status in ERRORS}
    return operation


def _success(route: Route, schema_of: dict[Any, Any], example: Any) -> dict[str, Any]:
    return {"description": "Done.", **(_content(schema_of[route.gives], example) if route.gives is not None else {})}


def _content(schema: Any, example: Any = None) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema, **({} if example is None else {"example": example})}}}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameter(name: str) -> dict[str, Any]:
    schema, description = QUERY[name]
    return {"name": name, "in": "query", "schema": schema, "description": description}


assert {*STATUS_BY_CODE.values(), *STATUS_BY_REASON.values()} <= set(ERRORS), "every status is in the contract"
