"""The cast of a crowd: numbered NPCs and players, their roster, and their small talk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.demo.scenario import Roster
from services.demo.stage import Body, Point, Stage

_FIRST: Final = (
    "Ada", "Alder", "Basil", "Bea", "Cedric", "Clover", "Dora", "Edda", "Elsie", "Flint", "Fern", "Gilda", "Hazel",
    "Hugo", "Ida", "Jasper", "Kora", "Linus", "Mabel", "Ned", "Opal", "Otto", "Petra", "Quill", "Rolf", "Runa",
    "Sorrel", "Tilda", "Ulf", "Vesna", "Wilf", "Yara", "Zeno",
)  # fmt: skip
_SECOND: Final = ("Applegate", "Brightwater", "Cobble", "Dunmore")
# Real user ids are above 2^32 by now.
_FIRST_PLAYER_ID: Final = 9_000_000_001
# Chance per player and step to say something.
_TALKATIVE: Final = 0.03


def name_of(number: int) -> str:
    """Name of the n-th NPC of a crowd; unique below 132."""
    return f"{_FIRST[number % len(_FIRST)]} {_SECOND[number // len(_FIRST) % len(_SECOND)]}"


def roster(title: str, stages: Sequence[Stage]) -> Roster:
    """Profiles of everybody who stands on the stages, as `PUT /v1/npcs` takes them."""
    everybody = {body.id: body for stage in stages for body in stage.of("npc")}
    places = {slug: point for stage in stages for slug, point in stage.places.items()}
    return {
        "npcs": [
            {"id": body.id, "display_name": body.name, "persona": f"You are {body.name}, cheerfully part of {title}."}
            for body in everybody.values()
        ],
        "locations": [
            {"slug": slug, "name": slug.replace("-", " "), "coordinates": [round(at.x, 2), 3.0, round(at.z, 2)]}
            for slug, at in places.items()
        ],
        "players": [],
    }


def npcs(stage: Stage, points: Sequence[Point], speed: float = 9.0) -> list[Body]:
    """Put one more NPC at each point; speed in studs a second."""
    first = len(stage.of("npc"))
    return [
        stage.enter(Body(f"npc-{first + i:03}", name_of(first + i), "npc", point, speed=speed))
        for i, point in enumerate(points)
    ]


def players(stage: Stage, points: Sequence[Point], speed: float = 14.0) -> list[Body]:
    """Put one more player at each point; speed in studs a second."""
    first = len(stage.of("player"))
    return [_player(stage, first + i, point, speed) for i, point in enumerate(points)]


def _player(stage: Stage, number: int, point: Point, speed: float) -> Body:
    return stage.enter(Body(str(_FIRST_PLAYER_ID + number), f"Player{number:03}", "player", point, speed=speed))


def replace_player(stage: Stage) -> None:
    """The player who has been here longest goes, a new one comes: the number stays the same."""
    eldest = stage.of("player")[0]
    stage.leave(eldest.id)
    stage.happen("player_left", actor=eldest.id)
    newcomer = _player(stage, 30 + stage.steps // 10, stage.anywhere(), eldest.speed)
    stage.happen("player_joined", actor=newcomer.id)


def talk(stage: Stage) -> None:
    """Let some players say something to whom they stand with: an NPC by name, everybody, or each other."""
    for player in stage.of("player"):
        if stage.random.random() >= _TALKATIVE:
            continue
        near = stage.near(player)
        hosts = [body for body in near if body.kind == "npc"]
        friends = [body for body in near if body.kind == "player"]
        if hosts and stage.random.random() < 0.5:
            stage.say(player.id, f"{hosts[0].name}, what do you think of all this?", (hosts[0].id,))
        elif friends and stage.random.random() < 0.5:
            stage.say(player.id, f"{friends[0].name}, shall we go on?", ())
        elif hosts:
            stage.say(player.id, "Does anybody know what happens next?")
