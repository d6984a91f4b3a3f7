"""POST /v1/messages: the utterance is said as chat takes it, the turn's replies come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import Overloaded
from services.edge.bounds import hygienic
from tests.unit.edge.fakes import world

HELLO = {"world": "w", "player_id": "962483389", "player_name": "Ann", "text": "Pete, hello"}


def replied(_: chat_pb2.SayRequest) -> chat_pb2.SayResponse:
    return chat_pb2.SayResponse(
        outcome=chat_pb2.SAY_OUTCOME_REPLIED,
        utterance_id="u1",
        conversation_id="c1",
        revision=5,
        turn_id="t1",
        replies=[
            chat_pb2.Reply(
                turn_id="t1",
                npc_id="pete",
                npc_name="Pete",
                text="Hello, Ann.",
                actions=[type_pb2.Action(action_id="a1", type="emote", data=b'{"type":"wave"}'),
                         type_pb2.Action(action_id="a2", type="unfollow")],
                revision=6,
            )
        ],
    )  # fmt: skip


async def test_the_replies_come_back_when_the_turn_is_over() -> None:
    async with world() as edge:
        edge.chat.reply = replied
        answer = await edge.client.post("/v1/messages", json={**HELLO, "to": "pete", "message_id": "m1"})
        assert answer.json() == {
            "utterance_id": "u1",
            "conversation_id": "c1",
            "revision": 5,
            "outcome": "replied",
            "turn_id": "t1",
            "replies": [
                {
                    "turn_id": "t1",
                    "npc_id": "pete",
                    "npc_name": "Pete",
                    "text": "Hello, Ann.",
                    "actions": [
                        {"action_id": "a1", "type": "emote", "data": {"type": "wave"}},
                        {"action_id": "a2", "type": "unfollow", "data": {}},
                    ],
                    "revision": 6,
                    "ai": True,
                }
            ],
        }
        said = edge.chat.said[0]
        assert (said.world.tenant, said.world.world) == ("local", "w")
        assert (said.speaker_id, said.speaker_name, said.text) == ("962483389", "Ann", "Pete, hello")
        assert (said.to_npc_id, said.message_id, said.wait_ms) == ("pete", "m1", 25_000)
        assert said.speaker_kind == type_pb2.ENTITY_KIND_PLAYER


async def test_no_wait_answers_once_it_is_durable() -> None:
    async with world() as edge:
        answer = await edge.client.post("/v1/messages", json={**HELLO, "wait": False})
        assert answer.json()["outcome"] == "accepted"
        assert edge.chat.said[0].wait_ms == 0


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (chat_pb2.SAY_OUTCOME_SILENT, "silent"),
        (chat_pb2.SAY_OUTCOME_DUPLICATE, "duplicate"),
        (chat_pb2.SAY_OUTCOME_UNHEARD, "unheard"),
        (chat_pb2.SAY_OUTCOME_FAILED, "failed"),
    ],
)
async def test_other_outcomes_say_why(outcome: Any, word: str) -> None:
    async with world() as edge:
        edge.chat.reply = lambda _: chat_pb2.SayResponse(outcome=outcome, reason="WHY", turn_id="t2")
        told = (await edge.client.post("/v1/messages", json=HELLO)).json()
        assert (told["outcome"], told["reason"], told["turn_id"], told["replies"]) == (word, "WHY", "t2", [])


@pytest.mark.parametrize(
    ("body", "speaker"),
    [
        ({"speaker": {"id": 77, "name": "Bo"}, "text": "hi"}, ("77", "Bo")),
        ({"player_id": 5e9, "text": "hi"}, ("5000000000", "")),
        ({"player_id": 1, "speaker": [], "text": "hi", "to": None, "world": None}, ("1", "")),
        ({"player_id": "1", "player_name": "A\u200bnn\u202e", "text": "hi"}, ("1", "Ann")),
    ],
)
async def test_speakers_in_every_shape(body: dict[str, Any], speaker: tuple[str, str]) -> None:
    async with world() as edge:
        assert (await edge.client.post("/v1/messages", json=body)).status_code == 200
        assert (edge.chat.said[0].speaker_id, edge.chat.said[0].speaker_name) == speaker


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": None}, "EMPTY_TEXT"),
        ({"text": " \u200b\n"}, "EMPTY_TEXT"),
        ({"text": "x" * 201}, "TOO_LONG"),
        ({"text": 5}, "INVALID_FIELD"),
        ({"text": ["a"]}, "INVALID_FIELD"),
        ({"player_id": None}, "MISSING_SPEAKER"),
        ({"player_id": ""}, "INVALID_ID"),
        ({"player_name": "x" * 65}, "TOO_LONG"),
        ({"to": [1]}, "INVALID_FIELD"),
        ({"world": "w" * 129}, "TOO_LONG"),
    ],
)
async def test_bad_messages_are_refused_before_anything_is_said(change: dict[str, Any], reason: str) -> None:
    async with world() as edge:
        answer = await edge.client.post("/v1/messages", json={**HELLO, **change})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, reason)
        assert edge.chat.said == []
        assert (await edge.client.post("/v1/messages", json=HELLO)).status_code == 200


async def test_a_chat_that_never_answers_ends_with_the_deadline() -> None:
    async with world() as edge:
        edge.chat.hang = True
        started = asyncio.get_running_loop().time()
        answer = await edge.client.post("/v1/messages", json=HELLO)
        assert answer.status_code == 504
        assert asyncio.get_running_loop().time() - started < 29
        assert edge.chat.cancelled == 1


async def test_limits_of_chat_are_answered_with_retry_after() -> None:
    async with world() as edge:
        edge.chat.failure = Overloaded("slow down", reason="RATE_LIMITED", retry_after_ms=2100)
        answer = await edge.client.post("/v1/messages", json=HELLO)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
        assert answer.json()["error"] == {
            "code": "resource_exhausted",
            "reason": "RATE_LIMITED",
            "message": "slow down",
            "retryable": True,
        }


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"),
        ("  spaced ", "spaced"),
        ("ｆｕｌｌ", "full"),
        ("a\u202eb\u200bc", "abc"),
        ("tab\there\u00a0and", "tab here and"),
        ("nul\x00l\x07", "null"),
        ("grüße 你好 👋", "grüße 你好 👋"),
    ],
)
def test_hygiene(text: str, clean: str) -> None:
    assert hygienic(text) == clean
    assert hygienic(clean) == clean
