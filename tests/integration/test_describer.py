"""Players described by a model that sees their avatar: real sync and runtime, Roblox and the model on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from earshot.state.v1 import state_pb2_grpc

from services.common.app import App
from services.common.settings import Settings
from services.edge.describer import Describer
from services.edge.rooms import Rooms
from services.sync import server
from tests.fakes.recorded import Recorded, Written
from tests.unit.edge.fakes import FakeState

USER = Written(json.dumps({"id": 77, "name": "ann_77", "displayName": "Ann"}))
PICTURE = Written("not really a picture", headers={"content-type": "image/png"})


def saw(text: str) -> Written:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 300, "completion_tokens": 12, "total_tokens": 312}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    return Written(json.dumps(body))


def thumbnail(url: str) -> Written:
    return Written(json.dumps({"data": [{"targetId": 77, "state": "Completed", "imageUrl": url}]}))


@dataclass
class Stage:
    describer: Describer
    state: FakeState
    roblox: Recorded
    model: Recorded
    app: App


@asynccontextmanager
async def staged(*answers: Any, model: Written, **fields: Any) -> AsyncIterator[Stage]:
    """answers: what Roblox says in turn; a callable gets the server's address."""
    async with Recorded(Written()) as roblox, Recorded(model) as seeing:
        made = [one(roblox.url) if callable(one) else one for one in answers]
        roblox.answer(*made)
        values: dict[str, Any] = {
            "data": ":memory:", "letta_base_url": "", "openai_base_url": f"{seeing.url}/v1", "vision": True,
            "describe_players": True, "roblox_users_url": f"{roblox.url}/users/{{user_id}}",
            "roblox_thumbnails_url": f"{roblox.url}/thumbnails?userIds={{user_id}}", "shutdown_s": 1.0,
        }  # fmt: skip
        settings = Settings(**(values | fields))
        app = App(settings, ["state", "sync"], inline_stores=True)
        state = FakeState()
        app.add(state_pb2_grpc.add_StateServiceServicer_to_server, state, "earshot.state.v1.StateService")
        await server.bind(app)
        async with app:
            describer = Describer(Rooms.of(app.channels), settings)
            try:
                yield Stage(describer, state, roblox, seeing, app)
            finally:
                await describer.close()


def here(url: str) -> Written:
    return thumbnail(f"{url}/picture.png")


async def test_a_player_is_seen_once_and_kept_where_an_erasure_finds_it() -> None:
    async with staged(USER, here, PICTURE, model=saw("A red hat,\n a green\u202e coat.")) as stage:
        both = await asyncio.gather(*(stage.describer.describe("t", "77") for _ in range(3)))
        assert both == ["A red hat, a green coat."] * 3
        assert [path for path, _ in stage.roblox.requests] == ["/users/77", "/thumbnails?userIds=77", "/picture.png"]
        (path, body) = stage.model.requests[-1]
        assert path == "/v1/chat/completions"
        system, seen = body["messages"]
        assert "avatar" in system["content"]
        assert seen["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
        player = stage.state.players["t", "77"]
        assert (player.name, player.description) == ("Ann", "A red hat, a green coat.")
        # It cost something, and that is counted.
        cost = stage.app.metrics.registry.get_sample_value(
            "earshot_tenant_tokens_total", {"tenant": "t", "runtime": "openai", "kind": "prompt"}
        )
        assert cost == 300


@pytest.mark.parametrize(
    ("what", "answers"),
    [
        ("no such user", [Written("{}", 404)]),
        ("no picture", [USER, Written(json.dumps({"data": []}))]),
        ("no JSON", [USER, Written("<html>")]),
        ("a picture from elsewhere", [USER, thumbnail("http://127.0.0.1:9/inner"), PICTURE]),
        ("no picture at all", [USER, here, Written("<html>", headers={"content-type": "text/html"})]),
        ("too large", [USER, here, Written("x" * (1024 * 1024 + 1), headers={"content-type": "image/png"})]),
    ],
)
async def test_whatever_fails_there_is_no_description_and_no_second_try(what: str, answers: list[Any]) -> None:
    async with staged(*answers, model=saw("A hat.")) as stage:
        assert await stage.describer.describe("t", "77") == "", what
        asked = len(stage.roblox.requests)
        assert await stage.describer.describe("t", "77") == ""
        assert len(stage.roblox.requests) == asked
        assert stage.model.requests == [] or all(path != "/v1/chat/completions" for path, _ in stage.model.requests)
        assert stage.state.players == {}


@pytest.mark.parametrize(
    ("player", "fields"), [("77", {"describe_players": False}), ("../77", {}), ("Ann", {}), ("", {})]
)
async def test_nobody_is_looked_up_unless_it_is_wanted(player: str, fields: dict[str, Any]) -> None:
    async with staged(USER, here, PICTURE, model=saw("A hat."), **fields) as stage:
        assert await stage.describer.describe("t", player) == ""
        assert stage.roblox.requests == []


async def test_a_model_that_sees_nothing_is_not_asked() -> None:
    async with staged(USER, here, PICTURE, model=saw("A hat."), vision=False) as stage:
        assert await stage.describer.describe("t", "77") == ""
        assert all(path != "/v1/chat/completions" for path, _ in stage.model.requests)
