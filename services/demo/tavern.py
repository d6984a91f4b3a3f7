"""The tavern: eight NPCs, five players and a storyline that loops; the demo, and a fixture of end-to-end tests."""

from __future__ import annotations

import json
import math
from importlib import resources
from itertools import groupby
from typing import Any, Final

from services.demo.orders import Order, obey, refuse
from services.demo.scenario import Roster, Scenario
from services.demo.stage import Body, Point, Stage
from services.demo.storyline import HOMES, LENGTH_S, STORY, Cue

WORLD: Final = "tavern"
HALF: Final = 90.0
# Studs around a place within which people stand: closer than earshot, so a place is a conversation.
SEAT: Final = 2.8
# Studs that a standing body shifts about: mostly below the 0.1 that count as movement (A2).
FIDGET: Final = 0.06
NPC_SPEED: Final = 9.0
PLAYER_SPEED: Final = 12.0
# The opening of every round belongs to the storyline: an NPC that ran after a player would not be there when named.
OPENING_S: Final = 45.0
_SEATS: Final = len(HOMES) + 1


def load_roster() -> Roster:
    """Return the tavern's roster, the sample for `earshot import-roster`."""
    text = resources.files("services.demo").joinpath("tavern.json").read_text(encoding="utf-8")
    roster: Roster = json.loads(text)
    return roster


def tavern(seed: int) -> Scenario:
    """Make the tavern. One stage, one step a second."""
    roster = load_roster()
    places = {place["slug"]: _point(place["coordinates"]) for place in roster["locations"]}
    stage = Stage(WORLD, seed, half=HALF, places=places)
    story = Storyline(stage, roster)
    return Scenario("tavern", "the Sleepy Badger", roster, (stage,), story, story.perform)


class Storyline:
    """Directs the tavern's stage along the cues, and lets NPCs do what they are asked in between."""

    def __init__(self, stage: Stage, roster: Roster) -> None:
        self._stage = stage
        self._people = {person["id"]: person for person in (*roster["npcs"], *roster["players"])}
        self._npcs = frozenset(npc["id"] for npc in roster["npcs"])
        self._seat = {id: number for number, id in enumerate(self._people)}
        # Cues by their second (the stage moves in whole ones), each with the text that it begins with.
        self._cues = {at: tuple(cues) for at, cues in groupby(self._shuffled(), key=lambda pair: pair[0].at)}
        self._post = dict(HOMES)
        for id, place in HOMES.items():
            self._enter(id, place)

    def __call__(self) -> None:
        story_at = self._stage.at % LENGTH_S
        for cue, first in self._cues.get(story_at, ()):
            self._play(cue, first + int(self._stage.at // LENGTH_S))
        for body in self._stage.bodies.values():
            self._idle(body)

    def perform(self, stage: Stage, order: Order) -> None:
        """Execute an order unless the story needs the NPC: BUSY. Emotes always fit in."""
        body = stage.bodies.get(order.npc_id)
        opening = stage.at % LENGTH_S < OPENING_S
        busy = order.action != "emote" and (opening or (body is not None and body.action != "Idle"))
        stopping = order.action in ("unfollow", "stop_hunt")
        if body is not None and (body.path or body.action == "Combat" or (busy and not stopping)):
            stage.report(refuse(order, "BUSY"))
        else:
            stage.report(obey(stage, order))

    def _shuffled(self) -> list[tuple[Cue, int]]:
        """Choose for every cue the text of the first round, so that two seeds tell the story differently."""
        chosen: list[tuple[Cue, int]] = []
        first = 0
        for cue in STORY:
            if cue.texts and not cue.follows:
                first = self._stage.random.randrange(6)
            chosen.append((cue, first))
        return chosen

    def _play(self, cue: Cue, number: int) -> None:
        stage, text = self._stage, cue.texts[number % len(cue.texts)] if cue.texts else ""
        match cue.verb:
            case "caption":
                stage.caption(text)
            case "say":
                stage.say(cue.who, text, cue.answers)
            case "walk":
                self._post[cue.who] = cue.to[-1]
                if stage.bodies[cue.who].leader:
                    # It follows a player as it was asked to; its new post waits for it.
                    return
                stage.walk(cue.who, *(self._spot(cue.who, place) for place in cue.to))
            case "act":
                self._act(stage.bodies[cue.who], cue.to[0])
            case "hurt":
                stage.hurt(cue.who, cue.amount)
            case "enter":
                self._enter(cue.who, cue.to[0])
                stage.happen("player_joined", actor=cue.who)
            case "exit":
                stage.leave(cue.who)
                stage.happen("player_left", actor=cue.who)

    def _act(self, body: Body, action: str) -> None:
        if (action == "Combat") != (body.action == "Combat"):
            self._stage.happen("combat_started" if action == "Combat" else "combat_ended", actor=body.id)
        if body.path:
            body.action = action
        else:
            self._stage.pose(body.id, action)

    def _idle(self, body: Body) -> None:
        """Let who stands fidget, and who was led away go back to where the story has them."""
        if body.action != "Idle" or body.path or body.leader:
            return
        post = self._spot(body.id, self._post[body.id])
        if math.dist(body.point, post) > SEAT:
            self._stage.walk(body.id, post)
        elif self._stage.random.random() < 0.5:
            body.point = body.point.towards(self._stage.around(post, 0.5), FIDGET)

    def _enter(self, id: str, place: str) -> None:
        person = self._people[id]
        npc = id in self._npcs
        self._post[id] = place
        self._stage.enter(
            Body(
                id,
                person["display_name"] if npc else person["name"],
                "npc" if npc else "player",
                self._spot(id, place),
                speed=NPC_SPEED if npc else PLAYER_SPEED,
                appearance=person["appearance"] if npc else person["description"],
            )
        )

    def _spot(self, id: str, place: str) -> Point:
        """Everybody has their own spot at every place."""
        centre, angle = self._stage.places[place], math.tau * self._seat[id] / _SEATS
        return Point(centre.x + SEAT * math.cos(angle), centre.z + SEAT * math.sin(angle))


def _point(coordinates: Any) -> Point:
    x, _, z = coordinates
    return Point(float(x), float(z))
