"""The existing game, unmodified but for its base URL: what it sends and how it reads the answers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import Scene

# What the game can execute; anything else that carries `data` ends its script.
USABLE = {"follow", "unfollow", "navigate", "emote", "patrol", "hunt", "stop_hunt"}


class Game:
    """Calls as the game makes them: JSON by POST, no header but the engine's own."""

    def __init__(self, scene: Scene, prefix: str = "") -> None:
        self.scene = scene
        self.prefix = f"/w/{scene.world}" if prefix == "job" else prefix
        # The engine adds the place's id; each test has a place of its own.
        self.headers = {"Roblox-Id": scene.world.removeprefix("world-") + "77"}

    def post(self, call: str, body: dict[str, Any]) -> tuple[int, Any]:
        response = self.scene.stack.http.post(f"{self.prefix}/letta/v1/{call}", json=body, headers=self.headers)
        return response.status_code, response.json()

    def arrive(self, npc: str, player: str, name: str) -> Any:
        return self.post(
            "npc/group/update", {"npc_id": npc, "player_id": player, "player_name": name, "is_joining": True}
        )

    def chat(self, npc: str, player: str, name: str, text: str) -> tuple[int, Any]:
        system = text.startswith("[SYSTEM]")
        return self.post(
            "chat/v3",
            {
                "npc_id": npc,
                "participant_id": player,
                "messages": [
                    {"role": "system" if system else "user", "content": text, "name": "SYSTEM" if system else name}
                ],
                "context": {
                    "participant_type": "system" if system else "Player",
                    "participant_name": "SYSTEM" if system else name,
                    "participant_id": player,
                    "speaker_name": npc,
                    "npc_location": "Unknown",
                    "nearby_players": [],
                    "nearby_npcs": [],
                },
            },
        )

    def chat_all(self, npcs: list[str], player: str, name: str, text: str) -> dict[str, Any]:
        """The engine asks once per recipient, all at once."""
        with ThreadPoolExecutor(len(npcs)) as pool:
            answers = pool.map(lambda npc: self.chat(npc, player, name, text), npcs)
        result = {}
        for npc, (status, answer) in zip(npcs, answers, strict=True):
            assert status == 200, answer
            check_readable(answer)
            result[npc] = answer
        return result


def check_readable(answer: Any) -> None:
    """The rules by which the game's script does not fail."""
    assert isinstance(answer, dict)
    message = answer.get("message")
    assert message is None or (isinstance(message, str) and message)
    action = answer.get("action")
    assert action is None or isinstance(action, dict)
    for one in (action or {}).get("actions", []):
        assert one["type"] in USABLE
        assert isinstance(one["data"], dict)


@pytest.mark.parametrize("prefix", ["", "/k/anything", "job"])
def test_one_sentence_to_three_npcs_gets_one_answer(scene: Scene, prefix: str) -> None:
    game = Game(scene, prefix)
    status, answer = game.post("get_player_description", {"user_id": "5001"})
    assert (status, answer["description"]) == (200, "A curious explorer in a red scarf.")
    for npc in ("mara", "brom", "wyn"):
        status, answer = game.arrive(npc, "5001", "Ada")
        assert (status, answer.get("success")) == (200, True), answer
    answers = game.chat_all(["mara", "brom", "wyn"], "5001", "Ada", "Brom, is my sword ready?")
    assert [npc for npc, answer in answers.items() if answer.get("message")] == ["brom"]
    # The same words a while later are a new sentence; here at once, they are the same one.
    again = game.chat_all(["mara", "wyn"], "5001", "Ada", "Brom, is my sword ready?")
    assert [npc for npc, answer in again.items() if answer.get("message")] == []


def test_arrivals_are_greeted_at_most_once(scene: Scene) -> None:
    game = Game(scene)
    npcs = ["mara", "brom", "wyn"]
    for npc in npcs:
        game.arrive(npc, "5002", "Ben")
    line = "[SYSTEM] Ben has entered your range. You are now in speaking range with Mara, Brom and Wyn. Please greet."
    answers = game.chat_all(npcs, "5002", "SYSTEM", line)
    assert sum(1 for answer in answers.values() if answer.get("message")) <= 1


def test_a_click_is_answered_by_the_npc_that_was_clicked(scene: Scene) -> None:
    game = Game(scene)
    for npc in ("mara", "wyn"):
        game.arrive(npc, "5003", "Cleo")
    status, answer = game.chat("wyn", "5003", "SYSTEM", "[SYSTEM] Cleo has clicked to interact with you.")
    assert status == 200
    check_readable(answer)
    assert answer.get("message")


@pytest.mark.parametrize(
    ("call", "body", "statuses"),
    [
        ("npc/status/update",
         {"npc_id": "mara", "status_text": "health: 65 | location: chipotle | current_action: Idle"}, {200}),
        ("npc/status/update", {"npc_id": "mara", "status_text": "location: lantern"}, {200}),
        ("npc/status/update", {"npc_id": "mara", "status_text": "health: -9223372036854775808 | nonsense"}, {200}),
        ("npc/status/update", {"npc_id": "nobody-knows-me", "status_text": "health: 1"}, {200, 404}),
        ("npc/group/update", {"npc_id": "mara", "player_id": 7962483389, "player_name": "P", "is_joining": True},
         {200}),
        ("npc/group/update", {"npc_id": "mara"}, {200, 400}),
        ("get_player_description", {"user_id": "999999"}, {200}),
        ("get_player_description", {}, {400}),
        ("get_player_description", {"user_id": None}, {400}),
        ("chat/v3", {"npc_id": "mara", "participant_id": "system", "messages": []}, {200, 400}),
        ("chat/v3", {"npc_id": "unknown", "participant_id": "5004",
                     "messages": [{"role": "user", "content": "hello", "name": "D"}], "context": []}, {200}),
        ("chat/v3", {"npc_id": "mara", "participant_id": "5004", "message": "Mara, hello", "participant_type": "Player",
                     "interaction_history": []}, {200}),
    ],
)  # fmt: skip
def test_odd_calls(scene: Scene, call: str, body: dict[str, Any], statuses: set[int]) -> None:
    game = Game(scene)
    status, answer = game.post(call, body)
    assert status in statuses, answer
    assert isinstance(answer, dict)
    if call == "get_player_description" and status == 200:
        assert isinstance(answer["description"], str)
        assert answer["description"]
    if status >= 400:
        assert answer["error"]["reason"].isupper()


def test_bodies_that_are_not_json(scene: Scene) -> None:
    for call in ("chat/v3", "npc/group/update", "npc/status/update", "get_player_description", "snapshot/game"):
        response = scene.stack.http.post(f"/letta/v1/{call}", content=b'{"npc_id": "mara", "health": ')
        assert 400 <= response.status_code < 500 or call == "get_player_description"
        assert isinstance(response.json(), dict)


def test_its_status_reaches_the_npcs_context(scene: Scene) -> None:
    game = Game(scene)
    game.post("npc/status/update", {"npc_id": "mara", "status_text": "health: 30 | current_action: Patrolling"})
    game.arrive("mara", "5005", "Dee")
    worlds = scene.stack.http.get("/v1/worlds").json()["worlds"]
    place = game.headers["Roblox-Id"]
    (world,) = [one["id"] for one in worlds if place in one["id"]]
    context = scene.stack.http.get("/v1/npcs/mara/context", params={"world": world}).json()
    assert context["status"]["action"] == "Patrolling"
    assert context["health_percent"] == 30
    assert [member["id"] for member in context["members"]] == ["5005"]


def test_the_key_in_the_path_is_never_written_down(scene: Scene) -> None:
    key = "ek_test_canary_0123456789abcdef"
    game = Game(scene, f"/k/{key}")
    game.post("get_player_description", {"user_id": "5001"})
    scene.stack.http.get(f"/k/{key}/letta/v1/nothing")
    assert key not in scene.stack.output()
    assert key not in scene.stack.http.get("/metrics").text
    assert json.dumps(key) not in scene.stack.http.get("/v1/worlds").text
