"""Crowds of 50 NPCs and more: worlds that are hard on clusters and on change tracking (B4, H3).

Each is a cast on the shared stage and a rule that says, step by step, who goes where. Nothing here knows the server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from services.demo.cast import npcs, players, replace_player, roster, talk
from services.demo.scenario import Director, Scenario, obediently
from services.demo.stage import Body, Point, Stage, ring


def market_day(seed: int) -> Scenario:
    """Forty stalls, twenty strollers, thirty shoppers who come, buy, chat and go."""
    stage = Stage("market-day", seed, half=110)
    stalls = [Point(x, z) for x in range(-98, 99, 28) for z in (-56, -28, 0, 28, 56)][:40]
    stage.places.update({f"stall-{i + 1}": point for i, point in enumerate(stalls)})
    keepers = npcs(stage, stalls, speed=3)
    strollers = npcs(stage, [stage.anywhere() for _ in range(20)])
    players(stage, [stage.anywhere() for _ in range(30)])

    def direct() -> None:
        for body in (*strollers, *stage.of("player")):
            if not body.path and stage.random.random() < 0.4:
                stall = stage.random.randrange(len(stalls))
                stage.walk(body.id, stage.around(stalls[stall], 4), then="Browsing")
            elif body.action == "Browsing" and stage.random.random() < 0.1:
                near = [other for other in stage.near(body) if other in keepers]
                if near:
                    stage.happen("trade", actor=body.id, target=near[0].id, text="bought a pie")
        for keeper in keepers:
            # Below the movement threshold most of the time.
            keeper.point = keeper.point.towards(stage.around(keeper.point, 0.3), 0.05)
        if stage.steps % 10 == 9:
            replace_player(stage)
        talk(stage)

    return _scenario("market_day", "market day", direct, stage)


def chase(seed: int) -> Scenario:
    """A pie thief runs through a crowd, six guards behind; when caught another one takes the pie."""
    stage = Stage("chase", seed, half=100)
    course = ring(Point(0, 0), 12, 70)
    npcs(stage, [stage.around(course[i % 12], 16) for i in range(50)])
    guards = npcs(stage, ring(course[0], 6, 6), speed=15)
    thieves = players(stage, [stage.around(course[2], 8) for _ in range(8)])
    runner = thieves[0]

    def direct() -> None:
        nonlocal runner
        running = runner.action == "Running"
        caught = running and math.dist(guards[0].point, runner.point) < 6
        if caught:
            stage.happen("caught", actor=guards[0].id, target=runner.id)
            stage.halt(runner.id)
        if caught or not running:
            runner = thieves[stage.random.randrange(len(thieves))]
            nearest = min(range(12), key=lambda i: math.dist(course[i], runner.point))
            runner.speed = 13
            stage.walk(runner.id, *(course[(nearest + i) % 12] for i in range(1, 25)), action="Running")
            for guard in guards:
                stage.follow(guard.id, runner.id, gap=3, action="Hunting")
        talk(stage)

    return _scenario("chase", "the pie chase", direct, stage)


def siege(seed: int) -> Scenario:
    """Thirty attackers storm a ring of thirty defenders in waves, with snowballs; who is out rests, then comes back."""
    stage = Stage("siege", seed, half=120)
    wall = ring(Point(0, 0), 30, 30)
    defenders = npcs(stage, wall)
    attackers = npcs(stage, ring(Point(0, 0), 30, 100), speed=10)
    players(stage, [stage.around(Point(0, 0), 20) for _ in range(20)])

    def direct() -> None:
        if stage.steps % 40 == 0:
            for body, goal in zip(attackers, ring(Point(0, 0), 30, 35), strict=True):
                stage.walk(body.id, goal, action="Attacking", then="Combat")
        for body in (*attackers, *defenders):
            if body.action == "Combat":
                stage.hurt(body.id, stage.random.randrange(0, 16))
            if body.health == 0:
                body.action = "Resting"
            if body.action == "Resting":
                stage.hurt(body.id, -10)
                if body.health == body.max_health:
                    body.action = "Idle"
        for defender in defenders:
            close = any(other.action == "Combat" and other in attackers for other in stage.near(defender, 12))
            if defender.action in ("Idle", "Combat"):
                defender.action = "Combat" if close else "Idle"
        talk(stage)

    return _scenario("siege", "the snowball siege", direct, stage)


def combat_storm(seed: int) -> Scenario:
    """Sixty NPCs in pairs that enter and leave combat and lose a tenth of their health or more, all the time."""
    stage = Stage("combat-storm", seed, half=80)
    bodies = npcs(
        stage, [stage.around(Point(x, z), 3) for x in range(-70, 71, 28) for z in range(-56, 57, 28) for _ in (0, 1)]
    )
    players(stage, [stage.anywhere() for _ in range(20)])

    def direct() -> None:
        for body in bodies:
            if stage.random.random() < 0.3:
                body.action = "Idle" if body.action == "Combat" else "Combat"
            if body.action == "Combat" and stage.random.random() < 0.5:
                stage.hurt(body.id, stage.random.randrange(10, 35))
            elif body.health < 40:
                stage.hurt(body.id, body.health - body.max_health)
        talk(stage)

    return _scenario("combat_storm", "the combat storm", direct, stage)


def escalation(seed: int) -> Scenario:
    """Patrol, hunt, follow and combat within three seconds, for every NPC, a few of them starting in every step."""
    stage = Stage("escalation", seed, half=100, step_s=0.5)
    bodies = npcs(stage, [stage.anywhere() for _ in range(50)], speed=12)
    hunted = players(stage, [stage.anywhere() for _ in range(15)])
    # Half seconds into its round of 20 s at which an NPC takes up the next action; round and round.
    beats = {0: "Patrolling", 2: "Hunting", 4: "Following", 6: "Combat", 16: "Idle"}

    def direct() -> None:
        for number, body in enumerate(bodies):
            beat = (stage.steps + 3 * number) % 40
            target = hunted[(number + stage.steps // 40) % len(hunted)]
            action = beats.get(beat)
            if action == "Patrolling":
                stage.walk(body.id, stage.around(body.point, 30), stage.around(body.point, 30), action=action)
            elif action in ("Hunting", "Following"):
                stage.follow(body.id, target.id, gap=3, action=action)
            elif action is not None:
                stage.halt(body.id, action)
            if body.action == "Combat":
                stage.hurt(body.id, 12)
            elif action == "Idle":
                stage.hurt(body.id, -body.max_health)
        for player in hunted:
            if not player.path and stage.random.random() < 0.2:
                stage.walk(player.id, stage.anywhere())
        talk(stage)

    return _scenario("escalation", "patrol, hunt, follow, combat", direct, stage)


def long_patrol(seed: int) -> Scenario:
    """Fifty NPCs on patrols of twenty waypoints each, past named places."""
    stage = Stage("long-patrol", seed, half=150)
    stage.places.update({f"waypoint-{i + 1}": point for i, point in enumerate(ring(Point(0, 0), 40, 120))})
    stops = list(stage.places.values())
    bodies = npcs(stage, [stops[i % 40] for i in range(50)], speed=8)
    tours = {body.id: [stops[(3 * i + stage.random.randrange(40)) % 40] for i in range(20)] for body in bodies}
    players(stage, [stage.anywhere() for _ in range(20)])

    def direct() -> None:
        for body in bodies:
            if not body.path:
                stage.walk(body.id, *tours[body.id], action="Patrolling")
        talk(stage)

    return _scenario("long_patrol", "the twenty-waypoint patrol", direct, stage)


def parade(seed: int) -> Scenario:
    """Twenty NPCs and five players march in file through a street of people: clusters merge and split all the way."""
    stage = Stage("parade", seed, half=240)
    street = [Point(-150, 0), Point(150, 0), Point(150, 14), Point(-150, 14)]
    npcs(stage, [Point(x, side) for x in range(-140, 141, 14) for side in (-9, 9)])
    marching = npcs(stage, [Point(-150 - 4 * i, 0) for i in range(20)], speed=6)
    marching += players(stage, [Point(-150 - 4 * i, 3) for i in range(5)], speed=6)
    players(stage, [stage.around(Point(0, 0), 80) for _ in range(20)])

    def direct() -> None:
        for body in marching:
            if not body.path:
                stage.walk(body.id, *street, action="Parading")
        talk(stage)

    return _scenario("parade", "the parade", direct, stage)


def teleport_storm(seed: int) -> Scenario:
    """Everybody walks; a tenth jumps anywhere in every step, and half of all in every eighth one."""
    stage = Stage("teleport-storm", seed, half=90)
    npcs(stage, [stage.anywhere() for _ in range(60)])
    players(stage, [stage.anywhere() for _ in range(40)])

    def direct() -> None:
        share = 0.5 if stage.steps % 8 == 7 else 0.1
        for body in stage.bodies.values():
            if stage.random.random() < share:
                stage.teleport(body.id, stage.anywhere())
            elif not body.path:
                stage.walk(body.id, stage.around(body.point, 20))
        talk(stage)

    return _scenario("teleport_storm", "the teleport storm", direct, stage)


def server_migration(seed: int) -> Scenario:
    """Two game servers with the same fifty NPCs; forty players move over in fours, then back: one NPC, two worlds."""
    here, there = Stage("server-one", seed, half=90), Stage("server-two", seed, half=90)
    for stage in (here, there):
        npcs(stage, [stage.anywhere() for _ in range(50)])
    players(here, [here.anywhere() for _ in range(40)])

    def direct() -> None:
        source, target = (here, there) if here.steps % 80 < 40 else (there, here)
        if here.steps % 3 == 2:
            for body in source.of("player")[:4]:
                source.leave(body.id)
                source.happen("player_left", actor=body.id)
                target.enter(Body(body.id, body.name, "player", target.anywhere(), speed=body.speed))
                target.happen("player_joined", actor=body.id)
        for stage in (here, there):
            for body in stage.bodies.values():
                if not body.path and stage.random.random() < 0.3:
                    stage.walk(body.id, stage.around(body.point, 25))
            talk(stage)

    return _scenario("server_migration", "the server migration", direct, here, there)


CROWDS: Final[Mapping[str, Callable[[int], Scenario]]] = {
    make.__name__: make
    for make in (
        market_day, chase, siege, combat_storm, escalation, long_patrol, parade, teleport_storm, server_migration,
    )
}  # fmt: skip


def _scenario(name: str, title: str, direct: Director, *stages: Stage) -> Scenario:
    return Scenario(name, title, roster(title, stages), stages, direct, obediently)
