"""The published contract: what is committed is what is served, and its examples are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.edge.contract.examples import EXAMPLES
from services.edge.routes import Route
from services.edge.token import PREFIX
from tests.unit.edge.fakes import World, world

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"
BODIES = [name for name, example in EXAMPLES.items() if example.body is not None]


def route_of(edge: World, name: str) -> Route:
    method, _, template = name.partition(" ")
    found = [one for one in edge.edge.contract._routes if (one.method, one.template) == (method, template)]
    assert len(found) == 1, f"no such operation: {name}"
    return found[0]


async def test_what_is_committed_is_what_is_served() -> None:
    async with world() as edge:
        served = (await edge.client.get("/openapi.json")).json()
    assert json.loads(COMMITTED.read_text()) == served, "python -m services.edge.contract > docs/openapi.json"


async def test_the_contract_shows_every_example() -> None:
    async with world() as edge:
        document = edge.edge.contract.document()
    for name, example in EXAMPLES.items():
        method, _, template = name.partition(" ")
        operation = document["paths"][template][method.lower()]
        assert operation["responses"]["200"]["content"]["application/json"]["example"] == example.answer
        if example.body is not None:
            assert operation["requestBody"]["content"]["application/json"]["example"] == example.body


@pytest.mark.parametrize("name", EXAMPLES)
async def test_answers_of_examples_fit_their_types(name: str) -> None:
    """Read strictly and written again they are the same: no field is made up or missing."""
    async with world() as edge:
        gives = route_of(edge, name).gives
    answer = EXAMPLES[name].answer
    assert msgspec.json.decode(msgspec.json.encode(msgspec.convert(answer, gives))) == answer


@pytest.mark.parametrize("name", BODIES)
async def test_bodies_of_examples_are_taken(name: str) -> None:
    """The edge answers 200, refuses no part, and says as much as the example's answer does."""
    body, example = EXAMPLES[name].body, EXAMPLES[name].answer
    method, _, path = name.partition(" ")
    async with world() as edge:
        edge.chat.utter("local", EXAMPLES["POST /v1/sessions"].body["job"], "x")
        opened = (await edge.client.post("/v1/sessions", json=EXAMPLES["POST /v1/sessions"].body)).json()
        assert opened["token"].startswith(PREFIX)
        headers = {"authorization": f"Bearer {opened['token']}"} if path == "/v1/sync" else {}
        answer = await edge.client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        assert not told.get("refused")
        assert set(told) - {"resync"} == set(example)


async def test_every_reference_leads_somewhere() -> None:
    document = json.loads(COMMITTED.read_text())
    text = COMMITTED.read_text()
    references = {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}
    assert references
    for reference in references:
        node = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
