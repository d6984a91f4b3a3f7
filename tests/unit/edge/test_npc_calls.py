"""Sync now, decide, batch, erasure and the keys' command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from earshot.chat.v1 import chat_pb2

from services.cli.commands import main
from services.common.errors import Unavailable
from tests.unit.edge.fakes import world


async def test_sync_now() -> None:
    async with world() as edge:
        body = {"world": "w", "force": True, "invalidate": True, "min_revision": 4}
        told = (await edge.client.post("/v1/npcs/pete/sync", json=body)).json()
        assert (told["id"], told["outcome"], told["revision"]) == ("pete", "confirmed", 9)
        assert told["blocks"] == [{"label": "situation", "confirmed_revision": 9, "digest": "ab", "written": True}]
        asked = edge.sync.refreshed[0]
        assert (asked.force, asked.invalidate, asked.wait, asked.min_revision) == (True, True, True, 4)
        assert asked.npcs[0].world.world == "w"
        told = (await edge.client.post("/v1/npcs/pete/sync?world=w", json={"wait": False})).json()
        assert told["outcome"] == "pending"
        edge.sync.failure = Unavailable("away")
        assert (await edge.client.post("/v1/npcs/pete/sync?world=w", json={})).status_code == 503


async def test_decide() -> None:
    async with world() as edge:
        body = {"world": "w", "reasons": ["a trade was offered"], "speech": True, "request_id": "r1"}
        told = (await edge.client.post("/v1/npcs/pete/decide", json=body)).json()
        assert told == {"turn_id": "t9", "outcome": "pending", "reason": "COMBAT"}
        asked = edge.chat.decided[0]
        assert (asked.npc_id, list(asked.reasons), asked.speech) == ("pete", ["a trade was offered"], True)
        assert (asked.request_id, asked.wait_ms) == ("r1", 25_000)
        await edge.client.post("/v1/npcs/pete/decide", json={"world": "w", "wait": False, "reasons": {}})
        assert edge.chat.decided[1].wait_ms == 0
        for bad in ({"world": "w", "reasons": ["x"] * 17}, {"world": "w", "reasons": ["x" * 201]}, {"reasons": ["x"]}):
            assert (await edge.client.post("/v1/npcs/pete/decide", json=bad)).status_code in (400, 404, 413)
        assert len(edge.chat.decided) == 2


async def test_a_batch_is_one_revision_and_each_npc_answers_for_itself() -> None:
    async with world() as edge:
        edge.state.known_npcs = {"pete", "7", "ulf"}
        body: dict[str, Any] = {
            "world": "w",
            "location": {"pete": "bar", "ghost": "bar", "x" * 65: "bar"},
            "status": {"pete": {"action": "Idle", "health": 5}, "ulf": {"health": 1e39}, "7": []},
            "group": {"pete": [{"player_id": 5, "player_name": "Ann"}, {"player_id": 6, "is_joining": False}], "7": {}},
        }
        told = (await edge.client.post("/v1/npcs:batch", json=body)).json()
        entries = {one["id"]: one for one in told["npcs"]}
        assert entries["pete"]["outcome"] == "confirmed"
        assert "refused" not in entries["pete"]
        assert entries["ghost"]["outcome"] == "refused"
        assert entries["ghost"]["refused"] == [{"path": "npc_id", "reason": "UNKNOWN_NPC"}]
        assert entries["ulf"]["refused"] == [{"path": "status.health", "reason": "NOT_FINITE"}]
        assert entries["x" * 64]["refused"] == [{"path": "location", "reason": "TOO_LONG"}]
        assert (entries["7"]["outcome"], entries["7"]["refused"][0]["reason"]) == ("confirmed", "MISSING_ID")
        kinds = [observation.WhichOneof("observation") for _, observation in edge.state.observations]
        assert kinds == ["status", "status", "status", "link", "link"]
        assert edge.state.observations[-1][1].link.leaving
        asked = edge.sync.refreshed[0]
        assert [key.npc_id for key in asked.npcs] == ["pete", "7"]
        assert asked.min_revision == told["revision"]


async def test_a_batch_while_sync_is_away_is_pending_not_lost() -> None:
    async with world() as edge:
        edge.sync.failure = Unavailable("away")
        told = (await edge.client.post("/v1/npcs:batch", json={"status": {"pete": {"action": "Idle"}}})).json()
        assert told["npcs"][0]["outcome"] == "pending"
        assert told["npcs"][0]["error"]["retryable"] is True
        assert len(edge.state.observations) == 1
        edge.state.failure = Unavailable("away")
        assert (await edge.client.post("/v1/npcs:batch", json={"status": {"pete": {}}})).status_code == 503


@pytest.mark.parametrize("body", ["{}", '{"status":[],"group":[],"location":[]}', '{"status":null}'])
async def test_an_empty_batch_is_nothing(body: str) -> None:
    async with world() as edge:
        assert (await edge.client.post("/v1/npcs:batch", content=body)).json()["npcs"] == []
        assert edge.sync.refreshed == []


async def test_erasing_a_player_answers_a_receipt() -> None:
    async with world() as edge:
        answer = await edge.client.delete("/v1/players/5962483389")
        assert answer.status_code == 202
        assert answer.headers["location"] == "/v1/erasures/e1"
        receipt = {"erasure_id": "e1", "state": "done", "receipts": [{"store": "chat", "removed": 3}]}
        assert answer.json() == receipt
        assert (edge.chat.erased[0].tenant, edge.chat.erased[0].player_id) == ("local", "5962483389")
        assert (await edge.client.get("/v1/erasures/e1")).json() == receipt
        assert (await edge.client.get("/v1/erasures/other")).status_code == 404
        assert (await edge.client.delete("/v1/players/" + "9" * 65)).status_code == 400


async def test_a_decision_comes_with_its_reply() -> None:
    async with world() as edge:
        reply = chat_pb2.Reply(turn_id="t", npc_id="pete", npc_name="Pete", text="Run!")
        edge.chat.decision = chat_pb2.DecideResponse(turn_id="t", outcome="decided", reply=reply)
        told = (await edge.client.post("/v1/npcs/pete/decide?world=w", json={"speech": True})).json()
        assert (told["outcome"], told["reply"]["text"], told["reply"]["ai"]) == ("decided", "Run!", True)


def test_keys_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def keys(*arguments: str, status: int = 0) -> tuple[str, str]:
        assert main(["key", "--data", str(tmp_path), *arguments]) == status
        told = capsys.readouterr()
        return told.out, told.err

    assert keys("list") == ("", "")
    key, note = keys("create", "red")
    key = key.strip()
    assert key.startswith("ek_live_")
    assert key not in note
    (listed,) = keys("list")[0].splitlines()
    assert "live" in listed
    assert key.split("_")[3] not in listed
    assert "revoked" in keys("revoke", key.split("_")[2])[0]
    assert "revoked" in keys("list")[0]
    out, refused = keys("revoke", "unknown", status=1)
    assert not out
    assert refused.startswith("earshot: ")
