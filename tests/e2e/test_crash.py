"""kill -9 loses no profile, no agent mapping, no acknowledged utterance and no turn; nothing goes backwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import ROSTER, TOPOLOGIES, Scene
from tests.e2e.stack import Stack


@pytest.mark.parametrize("topology", ["embedded", "split"])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, topology: str) -> None:
    with Stack(tmp_path / "data", TOPOLOGIES[topology]) as stack:
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        scene = Scene(stack, "harbour-17")
        scene.place(mara=(0, 0, 0), brom=(3, 0, 0), p1=(2, 0, 0))
        answered = scene.say("p1", "Mara, will you remember this?", message_id="m-1")
        assert answered["outcome"] == "replied"
        # Acknowledged, its turn perhaps still open.
        accepted = scene.say("p1", "Brom, and you?", message_id="m-2", wait=False)
        before = {npc["npc_id"]: npc["agent_id"] for npc in sync_status(stack, scene.world)}
        world = stack.http.get(f"/v1/worlds/{scene.world}").json()
        cursor = max(event["seq"] for event in scene.events())

        stack.kill()
        stack.start()

        names = {npc["id"] for npc in stack.http.get("/v1/npcs").json()["npcs"]}
        assert {"mara", "brom", "wyn"} <= names
        events = scene.events()
        said = {event["utterance_id"] for event in events if event["type"] == "utterance" and not event["ai"]}
        assert {answered["utterance_id"], accepted["utterance_id"]} <= said
        replies = [event for event in events if event["type"] == "utterance" and event["ai"]]
        assert answered["replies"][0]["turn_id"] in {event["turn_id"] for event in replies}
        after = {npc["npc_id"]: npc["agent_id"] for npc in sync_status(stack, scene.world)}
        assert before["mara"]
        assert after["mara"] == before["mara"]

        # Every turn that was started has an end, and numbers go on above what clients have seen.
        started = {event["turn_id"] for event in events if event["type"] == "turn" and event["phase"] == "started"}
        ended = {event["turn_id"] for event in events if event["type"] == "turn" and event["phase"] != "started"}
        assert started <= ended
        again = scene.say("p1", "Mara, will you remember this?", message_id="m-1")
        assert (again["outcome"], again["utterance_id"]) == ("duplicate", answered["utterance_id"])
        applied = scene.place(p1=(2.5, 0, 0))
        assert applied["revision"] > world["revision"]
        fresh = scene.say("p1", "Mara, are you well?")
        assert fresh["outcome"] == "replied", fresh
        assert max(event["seq"] for event in scene.events()) > cursor


def sync_status(stack: Stack, world: str) -> list[dict[str, str]]:
    response = stack.http.get(f"/v1/worlds/{world}")
    assert response.status_code == 200, response.text
    return list(response.json()["sync"]["npcs"])


def test_ctrl_c_stops_cleanly_and_a_second_process_is_refused(tmp_path: Path) -> None:
    with Stack(tmp_path / "data") as stack:
        with pytest.raises(AssertionError, match="another Earshot process"):
            Stack(tmp_path / "data").start()
        assert stack.stop() == {"all": 0}
        assert "Traceback" not in stack.output()


@pytest.mark.parametrize("topology", ["embedded", "split"])
def test_a_lost_write_ahead_log_reuses_no_number(tmp_path: Path, topology: str) -> None:
    """Power loss took what was not yet in the main files: old cursors and revisions are told apart, never reused."""
    with Stack(tmp_path / "data", TOPOLOGIES[topology]) as stack:
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        scene = Scene(stack, "harbour-18")
        scene.place(mara=(0, 0, 0), p1=(2, 0, 0))
        assert scene.say("p1", "Mara, good evening!")["outcome"] == "replied"
        seen = scene.place(p1=(3, 0, 0))["revision"]
        cursor = scene.events()[-1]["seq"]
        stack.kill()
        logs = list((tmp_path / "data").glob("*.db-wal"))
        assert logs
        for log in logs:
            log.write_bytes(b"")
        stack.start()

        # A client that was ahead of what survived is told so.
        page = stack.events(scene.world, cursor)
        assert page.get("resync") or page["events"] == []
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        again = scene.place(p1=(4, 0, 0))
        assert again["revision"] > seen
        answered = scene.say("p1", "Mara, are you still there?")
        assert answered["outcome"] == "replied", answered
        assert answered["revision"] >= again["revision"]
        page = stack.events(scene.world, cursor)
        assert page.get("resync") or page["events"][0]["seq"] > cursor
        assert min(event["seq"] for event in scene.events()) > cursor


def test_one_room_restarts_quickly_and_the_others_go_on(tmp_path: Path) -> None:
    with Stack(tmp_path / "data", TOPOLOGIES["split"]) as stack:
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        scene = Scene(stack, "harbour-19")
        scene.place(mara=(0, 0, 0), p1=(2, 0, 0))
        for room in ("state", "chat", "sync", "cluster"):
            assert stack.stop(room) == {room: 0}
            told = stack.http.get("/readyz")
            assert (told.status_code, told.json()["checks"].get(room)) == (200, None if room == "cluster" else "away")
            if room == "state":
                refused = stack.post("/v1/snapshots", {"world": scene.world, "entities": []})
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            stack.start()
            stack.settle(scene.world)
            scene.place(p1=(2, 0, 1))
            answer = scene.say("p1", f"Mara, did {room} come back?")
            assert answer["outcome"] == "replied", (room, answer)
