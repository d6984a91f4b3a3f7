"""GET /v1/events: cursors, holds, the doorbell, coalescing, page bounds, rivals, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import Unavailable
from services.edge.event import BYTES_MAX, EVENTS_MAX
from tests.unit.edge.fakes import World, world


def now() -> float:
    return asyncio.get_running_loop().time()


def poll(edge: World, query: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(edge.client.get(f"/v1/events?world=w&{query}"))


async def ready(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("did not come")


async def test_without_a_cursor_the_end_is_answered_at_once() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "before")
        answer = await edge.client.get("/v1/events?world=w&hold=20")
        assert answer.json() == {"events": [], "cursor": 1}


async def test_every_kind_of_event_in_the_words_of_the_contract() -> None:
    async with world() as edge:
        member = state_pb2.EarshotMember(id="pete", name="Pete", kind=type_pb2.ENTITY_KIND_NPC)
        edge.chat.utter("local", "w", "Hello.")
        edge.chat.append(
            "local",
            "w",
            membership=chat_pb2.MembershipEvent(
                type=type_pb2.TRANSITION_TYPE_MERGED, member_ids=["pete"], other_conversation_id="c2", members=[member]
            ),
        )
        edge.chat.append("local", "w", notice=chat_pb2.NoticeEvent(text="[SYSTEM] x", audience_ids=["1"]))
        edge.chat.append(
            "local",
            "w",
            turn=chat_pb2.TurnEvent(turn_id="t1", npc_id="pete", phase=chat_pb2.TURN_PHASE_STARTED, reason="GATE"),
        )
        action = type_pb2.Action(action_id="a1", type="follow", data=b'{"target":"Ann"}')
        edge.chat.append(
            "local",
            "w",
            action=chat_pb2.ActionEvent(turn_id="t1", npc_id="pete", action=action, expires_at_ms=5000),
        )
        answer = (await edge.client.get("/v1/events?world=w&cursor=0")).json()
        assert answer["cursor"] == 5
        utterance, membership, notice, turn, acted = answer["events"]
        assert utterance == {
            "type": "utterance",
            "seq": 1,
            "at": 1_700_000_000.0,
            "revision": 3,
            "conversation_id": "c1",
            "utterance_id": "u1",
            "speaker": {"id": "pete", "name": "Pete", "kind": "npc"},
            "text": "Hello.",
            "turn_id": "t1",
            "sentence": 0,
            "audience": ["962483389"],
            "cause_user_id": "962483389",
            "ai": True,
            "expires_at": 1_700_000_030.0,
        }
        assert (membership["change"], membership["other"]) == ("merged", "c2")
        assert membership["members"] == [{"id": "pete", "name": "Pete", "kind": "npc"}]
        assert (notice["text"], notice["audience"]) == ("[SYSTEM] x", ["1"])
        assert (turn["phase"], turn["reason"], turn["npc_id"]) == ("started", "GATE", "pete")
        assert (acted["action"], acted["data"], acted["expires_at"]) == ("follow", {"target": "Ann"}, 5.0)


async def test_a_held_poll_ends_with_the_first_events_and_those_that_follow_at_once() -> None:
    async with world() as edge:
        call = poll(edge, "cursor=0&hold=20")
        await asyncio.sleep(3)
        edge.chat.utter("local", "w", "One.")
        await asyncio.sleep(0.05)
        edge.chat.utter("local", "w", "Two.")
        rung = now()
        answer = await call
        assert [event["text"] for event in answer.json()["events"]] == ["One.", "Two."]
        assert answer.json()["cursor"] == 2
        assert now() - rung <= 0.15


async def test_events_of_other_worlds_and_tenants_do_not_wake() -> None:
    async with world() as edge:
        call = poll(edge, "cursor=0&hold=5")
        await asyncio.sleep(1)
        reads = edge.chat.lists
        edge.chat.utter("local", "other", "x")
        edge.chat.utter("elsewhere", "w", "x")
        answer = await call
        assert (answer.status_code, answer.content) == (204, b"")
        assert edge.chat.lists == reads


async def test_a_hold_without_events_ends_with_no_content_in_time() -> None:
    async with world() as edge:
        started = now()
        answer = await edge.client.get("/v1/events?world=w&cursor=0&hold=99")
        assert answer.status_code == 204
        assert now() - started == pytest.approx(25, abs=0.1)
        assert "content-length" not in answer.headers
        assert (await edge.client.get("/v1/events?world=w&cursor=0")).json() == {"events": [], "cursor": 0}


async def test_a_page_is_bounded_in_events_and_bytes() -> None:
    async with world() as edge:
        for number in range(EVENTS_MAX + 5):
            edge.chat.utter("local", "w", f"{number}")
        first = (await edge.client.get("/v1/events?world=w&cursor=0")).json()
        assert (len(first["events"]), first["cursor"]) == (EVENTS_MAX, EVENTS_MAX)
        second = (await edge.client.get(f"/v1/events?world=w&cursor={first['cursor']}")).json()
        assert [event["seq"] for event in second["events"]] == list(range(EVENTS_MAX + 1, EVENTS_MAX + 6))
        for _ in range(4):
            edge.chat.utter("local", "big", "x" * (BYTES_MAX // 3))
        cursor, pages = 0, []
        while cursor < 4:
            page = (await edge.client.get(f"/v1/events?world=big&cursor={cursor}")).json()
            pages.append(len(page["events"]))
            cursor = page["cursor"]
        assert pages == [2, 2]


async def test_a_cursor_past_the_log_is_told_to_resync() -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "x")
        answer = (await edge.client.get("/v1/events?world=w&cursor=900&hold=20")).json()
        assert answer == {"events": [], "cursor": 1, "resync": True}


async def test_a_newer_poll_of_the_same_session_takes_over() -> None:
    async with world() as edge:
        older = poll(edge, "cursor=0&hold=20&session=s1")
        other = poll(edge, "cursor=0&hold=20&session=s2")
        await asyncio.sleep(1)
        newer = poll(edge, "cursor=0&hold=20&session=s1")
        answer = await older
        assert (answer.status_code, answer.json()["error"]["reason"]) == (409, "SUPERSEDED")
        edge.chat.utter("local", "w", "x")
        assert len((await newer).json()["events"]) == len((await other).json()["events"]) == 1


async def test_a_drain_ends_held_polls_early() -> None:
    async with world() as edge:
        calls = [poll(edge, "cursor=0&hold=20") for _ in range(3)]
        await asyncio.sleep(1)
        started = now()
        edge.edge.drain()
        for call in calls:
            assert (await call).json() == {"events": [], "cursor": 0, "reconnect": True}
        assert now() - started < 0.1
        assert (await edge.client.get("/v1/events?world=w&cursor=0&hold=20")).json()["reconnect"]
        assert (await edge.client.get("/readyz")).status_code == 503


async def test_a_lost_watch_is_renewed_and_nothing_is_missed() -> None:
    async with world() as edge:
        call = poll(edge, "cursor=0&hold=20")
        await ready(lambda: edge.chat.lists == 1)
        edge.chat.watches[0].rings.put_nowait(None)
        await ready(lambda: edge.chat.watches[0].ended)
        # Said while nobody watches.
        edge.chat.utter("local", "w", "unheard ring")
        answer = await call
        assert [event["text"] for event in answer.json()["events"]] == ["unheard ring"]
        assert len(edge.chat.watches) == 2


async def test_the_gauge_follows_held_polls() -> None:
    async with world() as edge:
        gauge = edge.app.metrics.connections.labels("poll")
        calls = [poll(edge, "cursor=0&hold=5") for _ in range(4)]
        await asyncio.sleep(1)
        assert gauge._value.get() == 4
        await asyncio.gather(*calls)
        assert gauge._value.get() == 0
        assert edge.edge.admission.in_flight == 0


async def test_one_watch_serves_every_poll() -> None:
    async with world() as edge:
        calls = [poll(edge, "cursor=0&hold=20") for _ in range(50)]
        await asyncio.sleep(1)
        assert edge.chat.lists == 50
        assert [watch.asked for watch in edge.chat.watches] == [[("local", "w")]]
        edge.chat.utter("local", "w", "x")
        assert {len((await call).json()["events"]) for call in calls} == {1}


@pytest.mark.parametrize(
    "query",
    ["cursor=-1", "cursor=x", "cursor=1.5", "cursor=99999999999999999999", "hold=x&cursor=0", "hold=-1", "hold=nan",
     "cursor=0&session=" + "s" * 65, "cursor=%ff", "x=" + "y" * 5000],
)  # fmt: skip
async def test_bad_queries_are_clear_refusals(query: str) -> None:
    async with world() as edge:
        answer = await edge.client.get(f"/v1/events?{query}")
        assert answer.status_code == 400, answer.text
        assert (await edge.client.get("/v1/events?cursor=0")).status_code == 200


async def test_an_unreachable_chat_is_a_retryable_failure() -> None:
    async with world() as edge:
        edge.chat.failure = Unavailable("away", retry_after_ms=800)
        answer: Any = await edge.client.get("/v1/events?world=w&cursor=0&hold=20")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["retryable"] is True
