"""Two replicas of every room on a real Redis, and what happens when one comes, dies or hangs, or the store restarts.

One story over the same worlds: what was acknowledged in one chapter must be there in the next. A step waits for what it
needs; how long that took is measured elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import ROSTER
from tests.e2e.replicated import Replicated
from tests.e2e.stack import Stack
from tests.redis_server import redis_server

WORLDS = [f"w{number}" for number in range(8)]
# Tries of a request, each after the time that the answer before named.
TRIES = 12


@dataclass
class Game:
    """What the game servers of these worlds were told: it must stay true."""

    stack: Replicated
    revisions: dict[str, int] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)
    log: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def send(self, world: str) -> None:
        """A snapshot; revisions only grow, whoever applies it."""
        entities = [
            {"id": one, "kind": kind, "name": one.capitalize(), "position": {"x": x, "y": 0, "z": 0}}
            for one, kind, x in (("mara", "npc", 0), ("p1", "player", 1))
        ]
        told = self.insist("POST", "/v1/snapshots", {"world": world, "entities": entities})
        assert told["revision"] > self.revisions.get(world, 0)
        self.revisions[world] = told["revision"]
        assert [cluster["members"] for cluster in told["clusters"]] == [["mara", "p1"]]

    def say(self, world: str, text: str) -> dict[str, Any]:
        told = self.insist("POST", "/v1/messages", {"world": world, "player_id": "p1", "text": text,
                                                    "message_id": f"{world} {text}"})  # fmt: skip
        self.said.setdefault(world, []).append(text)
        return told

    def read(self, world: str) -> list[str]:
        """The world's log on from the last cursor; all of what was said until now."""
        while True:
            page = self.insist("GET", f"/v1/events?world={world}&cursor={self.cursors.get(world, 0)}&hold=0")
            if not page.get("events"):
                break
            for event in page["events"]:
                assert event["seq"] > max((seq for seq, _ in self.log.get(world, [])), default=0)
                self.log.setdefault(world, []).append((event["seq"], event.get("text", "")))
            self.cursors[world] = page["cursor"]
        return [text for _, text in self.log[world]]

    def insist(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        for _ in range(TRIES):
            response = self.stack.http.request(method, path, json=body)
            if response.status_code == 204:
                return {}
            if response.status_code in (429, 503, 504):
                time.sleep(float(response.headers.get("retry-after", "1")))
                continue
            assert response.status_code == 200, response.text
            return dict(response.json())
        raise AssertionError(f"{response.status_code} {response.text}\n{self.stack.output()[-4000:]}")

    def chapter(self, name: str) -> None:
        """Every world goes on as ever, and nothing that was acknowledged is missing."""
        for world in WORLDS:
            self.send(world)
            told = self.say(world, f"Mara, what of {name}?")
            assert told["outcome"] in ("replied", "duplicate"), told
        for world in WORLDS:
            texts = self.read(world)
            assert [text for text in texts if text in self.said[world]] == self.said[world]
            assert len(texts) == len({seq for seq, _ in self.log[world]})


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Game]:
    folder = tmp_path_factory.mktemp("replicas")
    with redis_server() as server, Replicated(folder / "data", server) as stack:
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        yield Game(stack)


def test_two_replicas_share_the_worlds(game: Game) -> None:
    game.chapter("the soup")
    listed = game.insist("GET", "/v1/worlds")
    assert sorted(one["id"] for one in listed["worlds"]) == WORLDS
    for room in ("state", "sync", "chat"):
        assert min(game.stack.owners(room).values()) > 80


def heard(edge: Stack, world: str, cursor: int) -> list[str]:
    """What a client at some edge hears next in a world, polling on as long as nothing is said."""
    for _ in range(TRIES):
        response = edge.http.get(f"/v1/events?world={world}&cursor={cursor}&hold=20")
        assert response.status_code in (200, 204), response.text
        if response.status_code == 200 and response.json()["events"]:
            return [event.get("text", "") for event in response.json()["events"]]
    raise AssertionError(f"nothing was heard in {world}")


def held_polls(edge: Stack) -> float:
    lines = edge.http.get("/metrics").text.splitlines()
    return sum(float(one.split()[-1]) for one in lines if one.startswith('earshot_connections{transport="poll"}'))


def test_polls_at_another_edge_hear_of_their_worlds_whoever_owns_them_by_now(game: Game) -> None:
    with game.stack.beside() as edge, ThreadPoolExecutor(len(WORLDS)) as pool:
        for world in WORLDS:
            game.read(world)
        polls = {world: pool.submit(heard, edge, world, game.cursors[world]) for world in WORLDS}
        game.stack.wait(lambda: held_polls(edge) == len(WORLDS), "no polls are held")
        # Their worlds change hands while they wait.
        game.stack.join("d")
        game.stack.shared_by(3)
        assert game.stack.stop("d") == {"d": 0}
        game.stack.shared_by(2)
        for world in WORLDS:
            game.say(world, "Mara, who listens at the other door?")
        for world, poll in polls.items():
            assert poll.result(120), world
    game.chapter("the other door")


def test_one_joins_and_gets_its_share_while_worlds_are_played(game: Game) -> None:
    game.stack.join("c")
    while len(game.stack.owners("chat")) < 3:
        for world in WORLDS:
            game.send(world)
    game.stack.shared_by(3)
    game.chapter("the newcomer")


def test_one_is_killed_and_its_worlds_are_served_again(game: Game) -> None:
    held: list[Any] = []
    # A poll that waits while its world's owner dies hears of what is said afterwards.
    world = WORLDS[0]
    game.read(world)

    def poll() -> None:
        cursor = game.cursors[world]
        while not held:
            page = game.insist("GET", f"/v1/events?world={world}&cursor={cursor}&hold=5")
            held.extend(page.get("events", ()))

    polling = threading.Thread(target=poll)
    polling.start()
    game.stack.kill("a")
    game.chapter("the one who fell")
    polling.join(60)
    assert held
    game.stack.shared_by(2)


def test_one_hangs_others_take_over_and_its_late_writes_are_refused(game: Game) -> None:
    game.stack.hang("b")
    game.stack.shared_by(1)
    game.chapter("the sleeper")
    game.stack.wake("b")
    game.stack.shared_by(2)
    game.chapter("the one who woke")


def test_an_erasure_reaches_the_worlds_of_every_replica(game: Game) -> None:
    secret, player = "buried under the third oak", "player-777"
    entities = [{"id": "mara", "kind": "npc", "position": {"x": 0, "y": 0, "z": 0}},
                {"id": player, "kind": "player", "name": "Quill", "position": {"x": 1, "y": 0, "z": 0}}]  # fmt: skip
    for world in WORLDS[:4]:
        told = game.insist("POST", "/v1/snapshots", {"world": f"{world}-e", "entities": entities})
        assert told["clusters"]
        body = {"world": f"{world}-e", "player_id": player, "text": f"Mara, it is {secret}.", "message_id": world}
        assert game.insist("POST", "/v1/messages", body)["outcome"] == "replied"
    assert secret.encode() in game.stack.kept()
    for world in WORLDS[:4]:
        game.insist("POST", "/v1/snapshots", {"world": f"{world}-e", "entities": entities[:1]})
    response = game.stack.http.delete(f"/v1/players/{player}")
    assert response.status_code == 202, response.text
    erasure = response.json()["erasure_id"]
    game.stack.wait(lambda: game.insist("GET", f"/v1/erasures/{erasure}")["state"] == "done", "not erased")
    receipts = {one["store"]: one["removed"] for one in game.insist("GET", f"/v1/erasures/{erasure}")["receipts"]}
    assert receipts["chat"] >= 4
    left = game.stack.kept()
    assert secret.encode() not in left
    assert player.encode() not in left


def test_the_store_is_killed_and_comes_back(game: Game) -> None:
    game.stack.server.kill()
    response = game.stack.post(
        "/v1/messages", {"world": WORLDS[1], "player_id": "p1", "text": "Is anybody there?", "message_id": "lost"}
    )
    assert response.status_code in (503, 504), response.text
    game.stack.server.start()
    game.chapter("the night")


def test_a_stop_hands_on_what_it_has_at_once(game: Game) -> None:
    assert game.stack.stop("c") == {"c": 0}
    # Nobody has to wait for a lease to run out: nothing is shown as served by who left.
    assert len(game.stack.owners("state")) == 1
    game.chapter("the one who left")
    game.stack.shared_by(1)
