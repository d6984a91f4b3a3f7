"""The main job through the public API: snapshots in, fresh NPCs and a group conversation out.

The same tests run on one process and on one process per room, and on each runtime.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.e2e.conftest import Model, Scene


def turns(events: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "turn" and event["phase"] == phase]


def npc_lines(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "utterance" and event["ai"]]


def test_positions_of_all_members_are_in_the_answer(scene: Scene) -> None:
    where = {"mara": (0.0, 3.0, 0.0), "brom": (4.0, 3.0, 0.5), "p1": (8.0, 3.0, 0.25), "wyn": (90.0, 3.0, 0.0)}
    answer = scene.place(**where)
    assert answer["outcome"] == "applied"
    assert answer["refused"] == []
    (cluster,) = answer["clusters"]
    assert sorted(cluster["members"]) == ["brom", "mara", "p1"]
    assert (cluster["npcs"], cluster["players"]) == (2, 1)
    assert sorted(position["id"] for position in cluster["positions"]) == sorted(cluster["members"])
    for position in cluster["positions"]:
        assert math.dist((position["x"], position["y"], position["z"]), where[position["id"]]) < 0.01
    assert [(one["type"], sorted(one["members"])) for one in answer["transitions"]] == [
        ("formed", ["brom", "mara", "p1"])
    ]
    # And in the NPC's own context.
    response = scene.stack.http.get("/v1/npcs/brom/context", params={"world": scene.world})
    assert response.status_code == 200, response.text
    context = response.json()
    assert context["revision"] == answer["revision"]
    members = {member["id"]: member["position"] for member in context["members"]}
    assert set(members) == {"mara", "p1"}
    assert math.dist(tuple(members["p1"][axis] for axis in "xyz"), where["p1"]) < 0.01


def test_the_named_npc_answers_and_every_member_hears_it(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), brom=(3, 0, 0), wyn=(5, 0, 0), p1=(2, 0, 2), p2=(6, 0, 0), p9=(300, 0, 0))
    answer = scene.say("p1", "Brom, what are you making?")
    assert answer["outcome"] == "replied", answer
    assert [reply["npc_id"] for reply in answer["replies"]] == ["brom"]
    assert answer["replies"][0]["text"].strip()
    lines = npc_lines(scene.events())
    assert lines
    for line in lines:
        assert line["speaker"]["id"] == "brom"
        assert sorted(line["audience"]) == ["p1", "p2"]
        assert line["cause_user_id"] == "p1"
        assert line["expires_at"] > line["at"] / 1000 if line["at"] > 1e12 else line["expires_at"] > line["at"]


def test_players_who_talk_to_each_other_are_left_alone(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), p1=(2, 0, 2), p2=(4, 0, 0))
    answer = scene.say("p1", "P2, did you bring the map?")
    assert answer["outcome"] == "silent", answer
    assert answer["reason"]
    assert answer["replies"] == []
    assert npc_lines(scene.events()) == []


def test_nobody_hears_a_player_who_is_alone(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), p1=(200, 0, 0))
    answer = scene.say("p1", "Hello? Mara?")
    assert (answer["outcome"], answer["replies"]) == ("unheard", [])


def test_the_agent_answers_about_the_world_in_which_it_was_spoken_to(scene: Scene, model: Model) -> None:
    scene.place(mara=(2, 0, 0), p1=(4, 0, 0))
    first = scene.say("p1", "Mara, where are we?")
    assert first["outcome"] == "replied", first
    # The world changes, and at once somebody speaks.
    moved = scene.place(mara=(402, 0, 0), p1=(404, 0, 0), pzora=(403, 0, 2))
    second = scene.say("p1", "Mara, and where are we now, and who is with us?")
    assert second["outcome"] == "replied", second
    assert second["revision"] >= moved["revision"]
    for answer in (first, second):
        for reply in answer["replies"]:
            assert reply["revision"] >= answer["revision"]
    ended = {event["turn_id"]: event for event in turns(scene.events(), "ended")}
    assert ended[second["replies"][0]["turn_id"]]["revision_seen"] >= moved["revision"]
    if scene.stack.runtime == "offline":
        # No model to look into: the line itself shows what the agent's block said.
        assert "Pzora" in second["replies"][0]["text"] or "Old Harbour" in second["replies"][0]["text"]
        return
    asked = [request for request in model.requests() if "and where are we now" in str(request["messages"])]
    assert asked, "the model was asked"
    prompt = str(asked[-1]["messages"])
    assert "Old Harbour" in prompt
    assert "Pzora" in prompt
    system = " ".join(str(message["content"]) for message in asked[-1]["messages"] if message["role"] == "system")
    assert "Old Harbour" in system
    assert "the Lantern tavern" not in system.split("Old Harbour")[1][:400]


def test_membership_is_told_before_what_is_said_in_it(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), p1=(200, 0, 0))
    joined = scene.place(p1=(3, 0, 0))
    scene.say("p1", "Mara, good evening!")
    events = scene.events()
    membership = [event for event in events if event["type"] == "membership"]
    assert membership
    assert membership[0]["change"] == "formed"
    assert {member["id"] for member in membership[0]["members"]} == {"mara", "p1"}
    assert membership[0]["revision"] == joined["revision"]
    first_speech = next(event for event in events if event["type"] in ("utterance", "turn"))
    assert membership[0]["seq"] < first_speech["seq"]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    revisions = [event["revision"] for event in events if event["type"] in ("membership", "utterance")]
    assert revisions == sorted(revisions)


def test_a_repeated_message_has_one_effect(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), p1=(2, 0, 0))
    first = scene.say("p1", "Mara, one soup please.", message_id="m-1")
    again = scene.say("p1", "Mara, one soup please.", message_id="m-1")
    assert again["outcome"] == "duplicate"
    assert again["utterance_id"] == first["utterance_id"]
    spoken = [event for event in scene.events() if event["type"] == "utterance" and not event["ai"]]
    assert len(spoken) == 1


def test_turns_never_overlap_and_explain_themselves(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), brom=(3, 0, 0), wyn=(5, 0, 0), p1=(2, 0, 2), p2=(6, 0, 0))
    for text in ("Mara, any news?", "Wyn, sing for us!", "What a day.", "Brom, is my sword ready?"):
        scene.say("p1", text)
    open_turn = ""
    for event in scene.events():
        if event["type"] != "turn":
            continue
        if event["phase"] == "started":
            assert open_turn == "", "a turn started while another had the floor"
            open_turn = event["turn_id"]
        elif event["turn_id"] == open_turn:
            open_turn = ""
    started = turns(scene.events(), "started")
    assert {"mara", "wyn", "brom"} <= {event["npc_id"] for event in started}
    response = scene.stack.http.get(f"/v1/turns/{started[0]['turn_id']}/explanation", params={"world": scene.world})
    assert response.status_code == 200, response.text
    explanation = response.json()
    assert {candidate["id"] for candidate in explanation["candidates"]} >= {"mara", "brom", "wyn"}
    assert explanation["obligation"]


def test_a_long_poll_returns_when_something_happens(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), p1=(2, 0, 0))
    cursor = scene.stack.events(scene.world, 0)["cursor"]
    scene.say("p1", "Mara, hello.", wait=False)
    page = scene.stack.events(scene.world, cursor, hold=10)
    assert [event["type"] for event in page["events"]]
    assert page["cursor"] > cursor
    assert scene.stack.events(scene.world, 10**12)["resync"] is True


def test_the_world_shows_itself(scene: Scene) -> None:
    applied = scene.place(mara=(0, 0, 0), p1=(2, 0, 0), wyn=(70, 0, 0))
    scene.say("p1", "Mara, hello.")
    response = scene.stack.http.get(f"/v1/worlds/{scene.world}")
    assert response.status_code == 200, response.text
    world = response.json()
    assert world["revision"] >= applied["revision"]
    assert {entity["id"] for entity in world["entities"]} == {"mara", "p1", "wyn"}
    assert [sorted(cluster["members"]) for cluster in world["clusters"]] == [["mara", "p1"]]
    assert scene.world in {one["id"] for one in scene.stack.http.get("/v1/worlds").json()["worlds"]}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_probes_and_contract(scene: Scene, path: str) -> None:
    response = scene.stack.http.get(path)
    assert response.status_code == 200
    assert response.json()


def test_metrics_are_served(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), p1=(2, 0, 0))
    text = scene.stack.http.get("/metrics").text
    assert "earshot_http_seconds_count" in text
    assert scene.world not in text
    assert "p1" not in text


def test_no_chat_text_and_no_secret_in_the_logs(scene: Scene) -> None:
    scene.place(mara=(0, 0, 0), p1=(2, 0, 0))
    scene.say("p1", "Mara, xylophone zephyr quicksilver?")
    scene.stack.http.post("/v1/messages", content=b'{"world": "w", "text": "xylophone"', timeout=5)
    output = scene.stack.output()
    assert "xylophone" not in output
    assert "sk-test-canary" not in output


def test_one_npc_lives_in_two_worlds_apart(scene: Scene, model: Model) -> None:
    other = Scene(scene.stack, f"{scene.world}-b")
    scene.place(mara=(0, 0, 0), p1=(2, 0, 0))
    other.place(mara=(400, 0, 0), p2=(402, 0, 0))
    assert scene.say("p1", "Mara, the password is marmalade.")["outcome"] == "replied"
    there = other.say("p2", "Mara, what did you hear elsewhere?")
    assert there["outcome"] == "replied"
    agents = {one.world: {npc["npc_id"]: npc["agent_id"] for npc in status_of(one)}["mara"] for one in (scene, other)}
    assert len(set(agents.values())) == 2
    assert "marmalade" not in str(other.events())
    if scene.stack.runtime != "offline":
        asked = [request for request in model.requests() if "what did you hear elsewhere" in str(request["messages"])]
        assert asked
        assert "marmalade" not in str(asked[-1])


def status_of(scene: Scene) -> list[dict[str, Any]]:
    response = scene.stack.http.get(f"/v1/worlds/{scene.world}")
    assert response.status_code == 200, response.text
    return list(response.json()["sync"]["npcs"])
