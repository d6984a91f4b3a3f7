"""Sessions and the sync loop: tokens, epochs, idempotence by seq, parts that fail alone, events that are ready."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from earshot.chat.v1 import chat_pb2

from services.common.errors import Overloaded, Unauthenticated, Unavailable
from services.common.settings import Settings
from services.edge.keys import KeyFile
from services.edge.token import LIFE_S, Session, Tokens
from tests.unit.edge.fakes import World, world

JOB = "4f9e2a8c-0000-4000-8000-1234567890ab"


async def opened(edge: World, boot: str = "b1", **more: Any) -> Any:
    answer = await edge.client.post("/v1/sessions", json={"job": JOB, "boot": boot, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def call(edge: World, method: str, path: str, token: str, body: Any = None) -> Any:
    headers = {"authorization": f"Bearer {token}"}
    return await edge.client.request(method, path, headers=headers, **({} if body is None else {"json": body}))


async def synced(edge: World, token: str, seq: int, **body: Any) -> Any:
    answer = await call(edge, "POST", "/v1/sync", token, {"seq": seq, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_opening_answers_what_the_loop_needs() -> None:
    async with world() as edge:
        edge.chat.utter("local", JOB, "before")
        session = await opened(edge)
        assert (session["world"], session["epoch"], session["revision"], session["cursor"]) == (JOB, 1, 0, 1)
        assert session["hold_s"] == 20
        assert session["limits"] == {
            "body_bytes": 524288,
            "body_bytes_compressed": 65536,
            "entities": 500,
            "utterances": 16,
            "text_characters": 200,
            "requests_per_minute": 500,
        }
        assert session["expires_at"] == edge.app.clock.now_ms() // 1000 + LIFE_S


async def test_the_same_boot_is_the_same_epoch_and_a_newer_one_ends_the_older() -> None:
    async with world() as edge:
        first, again = await opened(edge), await opened(edge)
        assert (first["epoch"], first["session_id"]) == (again["epoch"], again["session_id"])
        newer = await opened(edge, "b2")
        assert newer["epoch"] == 2
        stale = await call(edge, "POST", "/v1/sync", first["token"], {"seq": 1, "entities": []})
        assert (stale.status_code, stale.json()["error"]["reason"]) == (409, "STALE_EPOCH")
        # Also without a snapshot in it.
        stale = await call(edge, "POST", "/v1/sync", first["token"], {"seq": 1})
        assert (stale.status_code, stale.json()["error"]["reason"]) == (409, "STALE_EPOCH")
        assert (await synced(edge, newer["token"], 1, entities=[]))["outcome"] == "applied"
        gone = await call(edge, "DELETE", "/v1/sessions/current", first["token"])
        assert gone.status_code == 409
        assert (await call(edge, "DELETE", "/v1/sessions/current", newer["token"])).json() == {"closed": True}


@pytest.mark.parametrize("body", [{}, {"job": ""}, {"job": "x" * 65}, {"job": JOB, "boot": ""}, {"job": [1]}, [], None])
async def test_bad_openings(body: Any) -> None:
    async with world() as edge:
        assert (await edge.client.post("/v1/sessions", json=body)).status_code == 400
        assert (await opened(edge))["epoch"] == 1


async def test_a_token_is_bound_to_its_world() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        for path in ("/v1/worlds/other", "/v1/events?world=other&cursor=0"):
            answer = await call(edge, "GET", path, token)
            assert (answer.status_code, answer.json()["error"]["reason"]) == (403, "WORLD_MISMATCH")
        answer = await call(edge, "POST", "/v1/sync", token, {"seq": 1, "world": "other", "entities": []})
        assert answer.status_code == 403
        assert edge.state.items == []
        assert (await call(edge, "GET", "/v1/events?cursor=0", token)).status_code == 200


async def test_tokens_expire_and_are_renewed() -> None:
    async with world() as edge:
        session = await opened(edge)
        await asyncio.sleep(LIFE_S / 2)
        renewed = (await call(edge, "POST", "/v1/sessions/current", session["token"])).json()
        assert renewed["epoch"] == session["epoch"]
        assert renewed["expires_at"] > session["expires_at"]
        await asyncio.sleep(LIFE_S / 2 + 2)
        old = await call(edge, "POST", "/v1/sync", session["token"], {"seq": 1})
        assert (old.status_code, old.json()["error"]["reason"]) == (401, "SESSION_EXPIRED")
        assert (await synced(edge, renewed["token"], 1, entities=[]))["outcome"] == "applied"


@pytest.mark.parametrize("spoil", ["es_", "es_x.y", "es_%s", "es_é.é", "es_" + "A" * 3000, "es_AAAA.AAAA"])
async def test_made_up_tokens_are_refused(spoil: str) -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        for made_up in (spoil, token[:-2], token[:8] + "A" + token[9:], token + "A"):
            answer = await edge.client.post(
                "/v1/sync", json={"seq": 1}, headers={b"authorization": f"Bearer {made_up}".encode()}
            )
            assert (answer.status_code, answer.json()["error"]["reason"]) == (401, "UNKNOWN_SESSION")


def test_any_edge_of_a_data_directory_takes_its_tokens(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path))
    session = Session("red", "k1", "w", 3, 2000)
    token = Tokens(settings).sign(session)
    assert Tokens(settings).check(token, 1999) == session
    assert (tmp_path / "session.key").stat().st_mode & 0o077 == 0
    with pytest.raises(Unauthenticated):
        Tokens(Settings(data=":memory:")).check(token, 1999)


async def test_revoking_the_key_ends_its_sessions(tmp_path: Path) -> None:
    file = KeyFile(Settings(data=str(tmp_path)))
    key, stored = file.create("red", 1)
    async with world(data=str(tmp_path)) as edge:
        answer = await edge.client.post("/v1/sessions", json={"job": JOB}, headers={"authorization": f"Bearer {key}"})
        token = answer.json()["token"]
        assert (await synced(edge, token, 1, entities=[]))["outcome"] == "applied"
        assert edge.state.items[0].world.tenant == "red"
        file.revoke(stored.id, 2)
        await asyncio.sleep(2)
        assert (await call(edge, "POST", "/v1/sync", token, {"seq": 2})).status_code == 401


async def test_one_sync_carries_everything_and_brings_events_back() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        edge.chat.utter("local", JOB, "Ready.")
        told = await synced(
            edge,
            token,
            1,
            entities=[{"id": "pete", "kind": "npc", "position": [1, 2, 3]}, {"id": 1, "kind": "player", "odd": 1}],
            utterances=[
                {"player_id": 1, "player_name": "Ann", "text": "Hello"},
                {"player_id": 1, "text": "Pete?", "to": "pete"},
            ],
            action_results=[
                {
                    "action_id": "a1",
                    "npc_id": "pete",
                    "success": True,
                    "critical": True,
                    "updates": {"location": "bar", "health": 5},
                },
                {"action_id": "a2", "success": False, "updates": []},
                {"npc_id": "pete"},
            ],
            cursor=0,
        )
        assert (told["world"], told["epoch"], told["seq"], told["outcome"]) == (JOB, 1, 1, "applied")
        assert told["clusters"][0]["members"] == ["pete", "1"]
        assert told["refused"] == [{"path": "action_results[2].action_id", "reason": "MISSING_ID"}]
        assert [one["outcome"] for one in told["utterances"]] == ["accepted", "accepted"]
        assert [event["text"] for event in told["events"]] == ["Ready."]
        assert told["cursor"] == 1
        first, second = edge.chat.said
        assert (first.epoch, first.seq, first.index, first.wait_ms) == (1, 1, 0, 0)
        assert (second.index, second.to_npc_id) == (1, "pete")
        # What was said is heard at the revision of its own snapshot and results.
        assert first.min_revision == told["revision"] == 3
        results = [observation.action_result for _, observation in edge.state.observations]
        assert [(one.action_id, one.success, one.critical) for one in results] == [
            ("a1", True, True),
            ("a2", False, False),
        ]
        assert (results[0].updates.location, results[0].updates.health) == ("bar", 5)
        assert not results[1].HasField("updates")


async def test_what_state_refuses_of_results_is_named_by_its_place_in_the_request() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        edge.state.known_npcs = {"pete"}
        results = [{}, {"action_id": "a", "npc_id": "pete"}, {"action_id": "b", "npc_id": "ghost"}]
        told = await synced(edge, token, 1, action_results=results)
        assert told["refused"] == [
            {"path": "action_results[0].action_id", "reason": "MISSING_ID"},
            {"path": "action_results[2].npc_id", "reason": "UNKNOWN_NPC"},
        ]


async def test_repeating_a_sync_has_no_second_effect() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        body: dict[str, Any] = {
            "entities": [{"id": "pete", "kind": "npc"}],
            "utterances": [{"player_id": 1, "text": "Hello"}],
        }
        first = await synced(edge, token, 1, **body)
        edge.chat.reply = lambda _: chat_pb2.SayResponse(outcome=chat_pb2.SAY_OUTCOME_DUPLICATE, utterance_id="u1")
        again = await synced(edge, token, 1, **body)
        assert (again["outcome"], again["revision"]) == ("duplicate", first["revision"])
        assert again["utterances"][0] == {
            "outcome": "duplicate",
            "utterance_id": first["utterances"][0]["utterance_id"],
        }
        assert (edge.chat.said[0].seq, edge.chat.said[0].index) == (edge.chat.said[1].seq, edge.chat.said[1].index)


async def test_a_delta_on_a_wrong_base_asks_for_a_full_snapshot_and_its_utterances_are_said() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        told = await synced(
            edge, token, 5, delta=True, base_seq=4, entities=[{"id": "a"}], utterances=[{"player_id": 1, "text": "Hi"}]
        )
        assert told["outcome"] == "resync"
        assert told["utterances"][0]["outcome"] == "accepted"


async def test_a_sync_without_a_snapshot_applies_none() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        await synced(edge, token, 1, entities=[{"id": "a", "kind": "npc"}])
        told = await synced(edge, token, 2, utterances=[{"player_id": 1, "text": "Hi"}])
        assert (told["outcome"], told["revision"]) == ("none", 1)
        assert len(edge.state.items) == 1
        assert edge.chat.said[0].min_revision == 1


async def test_an_utterance_that_is_refused_fails_alone() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]

        def limited(request: chat_pb2.SayRequest) -> chat_pb2.SayResponse:
            if request.text == "too fast":
                raise Overloaded("slow down", reason="RATE_LIMITED")
            return chat_pb2.SayResponse(outcome=chat_pb2.SAY_OUTCOME_ACCEPTED, utterance_id="u9")

        edge.chat.reply = limited
        lines = ({"text": "x" * 201}, {"text": "too fast"}, {"text": "fine"})
        told = await synced(edge, token, 1, utterances=[{"player_id": 1, **line} for line in lines])
        assert [one["outcome"] for one in told["utterances"]] == ["refused", "refused", "accepted"]
        assert [one["error"]["reason"] for one in told["utterances"][:2]] == ["TOO_LONG", "RATE_LIMITED"]


async def test_a_room_that_is_away_stops_the_sync_so_that_it_is_repeated() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        edge.chat.failure = Unavailable("away")
        answer = await call(
            edge, "POST", "/v1/sync", token, {"seq": 1, "entities": [], "utterances": [{"player_id": 1, "text": "Hi"}]}
        )
        assert (answer.status_code, answer.json()["error"]["retryable"]) == (503, True)
        # Events alone are not worth a failure: they come by the long poll.
        assert "events" not in await synced(edge, token, 2, entities=[], cursor=0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"seq": 0}, 400),
        ({"seq": 1, "utterances": [{}] * 17}, 413),
        ({"seq": 1, "action_results": [{}] * 65}, 413),
        ({"seq": 1, "cursor": -1}, 400),
        ({"seq": 1, "utterances": {"a": 1}}, 400),
        ({"seq": 1, "entities": [{"id": "x" * 65, "kind": "npc"}]}, 400),
    ],
)
async def test_a_bad_sync_does_nothing(body: dict[str, Any], status: int) -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        assert (await call(edge, "POST", "/v1/sync", token, body)).status_code == status
        assert edge.state.items == []
        assert edge.chat.said == []
        assert edge.state.observations == []


async def test_sync_and_renewal_need_a_session() -> None:
    async with world() as edge:
        for method, path in (
            ("POST", "/v1/sync"),
            ("POST", "/v1/sessions/current"),
            ("DELETE", "/v1/sessions/current"),
        ):
            answer = await edge.client.request(method, path, json={"seq": 1})
            assert (answer.status_code, answer.json()["error"]["reason"]) == (401, "SESSION_NEEDED")
        token = (await opened(edge))["token"]
        assert (await call(edge, "POST", "/v1/sessions", token, {"job": JOB})).status_code == 401


async def test_a_session_has_a_rate_and_others_are_not_touched() -> None:
    async with world() as edge:
        flood, calm = (await opened(edge))["token"], (await opened(edge, world="elsewhere"))["token"]
        statuses = [(await call(edge, "GET", "/v1/events?cursor=0", flood)).status_code for _ in range(70)]
        assert statuses[:60] == [200] * 60
        assert statuses[-1] == 429
        refused = await call(edge, "GET", "/v1/events?cursor=0", flood)
        assert refused.json()["error"]["reason"] == "RATE_LIMITED"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await call(edge, "GET", "/v1/events?cursor=0", calm)).status_code == 200
        await asyncio.sleep(2)
        assert (await call(edge, "GET", "/v1/events?cursor=0", flood)).status_code == 200


async def test_polls_of_one_token_are_rivals_without_saying_so() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        older = asyncio.create_task(call(edge, "GET", "/v1/events?cursor=0&hold=20", token))
        await asyncio.sleep(1)
        newer = asyncio.create_task(call(edge, "GET", "/v1/events?cursor=0&hold=20", token))
        assert (await older).json()["error"]["reason"] == "SUPERSEDED"
        edge.chat.utter("local", JOB, "x")
        assert len((await newer).json()["events"]) == 1


def told(edge: World, kind: str) -> float:
    return edge.app.metrics.registry.get_sample_value("earshot_sdk_events_total", {"kind": kind}) or 0.0


async def test_what_a_game_server_measured_is_counted_once() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        measured = {"requests": 12, "failures": 2.0, "throttled": 1, "expired": 0, "round_trip_ms": 80}
        for _ in range(2):
            answer = await synced(edge, token, 1, entities=[], metrics=measured)
            assert answer["refused"] == []
        assert answer["outcome"] == "duplicate"
        assert [told(edge, kind) for kind in ("requests", "failures", "throttled", "expired")] == [12, 2, 1, 0]
        registry = edge.app.metrics.registry
        assert registry.get_sample_value("earshot_sdk_round_trip_seconds_count") == 1
        assert registry.get_sample_value("earshot_sdk_round_trip_seconds_bucket", {"le": "0.1"}) == 1


@pytest.mark.parametrize("nothing", [[], {}, None])
async def test_a_game_server_may_measure_nothing(nothing: Any) -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        assert (await synced(edge, token, 1, metrics=nothing))["refused"] == []
        assert told(edge, "requests") == 0


@pytest.mark.parametrize("value", ["-1", "0.5", "10001", "1e300", "NaN", "Infinity", "-Infinity"])
async def test_measurements_that_cannot_be_are_reported_and_stop_nothing(value: str) -> None:
    """Also those that are no JSON: Luau writes them."""
    async with world() as edge:
        token = (await opened(edge))["token"]
        measured = f'"requests":{value},"failures":3,"round_trip_ms":-1,"own":5'
        body = '{"seq":1,"entities":[],"metrics":{' + measured + "}}"
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        answer = await edge.client.post("/v1/sync", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["outcome"] == "applied"
        assert "metrics.round_trip_ms" in [one["path"] for one in answer.json()["refused"]]
        assert told(edge, "requests") == 0
        assert told(edge, "failures") == 3
        assert 'kind="own"' not in (await edge.client.get("/metrics")).text


async def test_measurements_of_the_wrong_type_are_a_clear_400() -> None:
    async with world() as edge:
        token = (await opened(edge))["token"]
        answer = await call(edge, "POST", "/v1/sync", token, {"seq": 1, "metrics": {"requests": "many"}})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "INVALID_FIELD")
        assert (await synced(edge, token, 1))["outcome"] == "none"
