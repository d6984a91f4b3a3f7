"""A crowd that talks: worlds of conversations, and the clients that post what their players say. Seeded.

Each conversation is two NPCs and two players at a table; tables stand too far apart to hear each other. Every second
line speaks to one of the NPCs by name. A line carries its number, so that the model can tell when it was asked.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.wire import Client

TABLE_STUDS = 100.0
LINES = ("what do you think of number #{0}?", "have you heard of number #{0}?", "tell me about number #{0}.")
REMARKS = ("Number #{0} was a long day.", "Does anyone know number #{0}?", "So much for number #{0}.")
NAMES = ("Mara", "Brom", "Wyn", "Tess", "Odo", "Una", "Vic", "Zed", "Ida", "Kai")
TIMEOUT_S = 30.0


def world_name(number: int) -> str:
    """The name of a world."""
    return f"hall-{number:03d}"


def snapshot(world: int, tables: int) -> dict[str, Any]:
    """Everybody at their tables."""
    entities = []
    for table in range(tables):
        x = table * TABLE_STUDS
        for seat in range(2):
            name = f"{NAMES[table % len(NAMES)]}{'' if seat else 'na'}"
            entities.append(_entity(f"npc-{table}-{seat}", "npc", name, x, seat))
            entities.append(_entity(player(world, table, seat), "player", f"Player{table}{seat}", x, 2 + seat))
    return {"world": world_name(world), "entities": entities}


def player(world: int, table: int, seat: int) -> str:
    """Id of a player."""
    return f"p{world}-{table}-{seat}"


def _entity(who: str, kind: str, name: str, x: float, z: int) -> dict[str, Any]:
    return {"id": who, "kind": kind, "name": name, "position": {"x": x, "y": 0.0, "z": float(z)}}


class Refused(RuntimeError):
    """The worlds of a run could not be set up."""


@dataclass(slots=True)
class Talk:
    """What came of one run: when each number was said, and outcomes with reasons.

    clear: said while no other line of the conversation waited for its outcome, so that no turn had to end first.
    """

    said: dict[int, float] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    addressed: set[int] = field(default_factory=set)
    clear: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)

    def waits(self, asked: dict[int, float]) -> list[float]:
        """Milliseconds from the client's request to the model's, sorted, of lines to an NPC by name into a free floor.

        A remark may be answered only after an awkward silence, and a line into a turn waits for the turn to be stopped:
        neither wait is the stack's.
        """
        wanted = self.addressed & self.clear & asked.keys()
        return sorted((asked[number] - self.said[number]) * 1000 for number in wanted)


@dataclass(slots=True)
class Hall:
    """Clients of a running Earshot."""

    client: Client
    worlds: int
    tables: int
    chance: random.Random = field(default_factory=lambda: random.Random("hall"))
    _number: int = 0
    # Lines of each conversation that wait for their outcome.
    _waiting: Counter[tuple[int, int]] = field(default_factory=Counter)

    async def open(self) -> None:
        """Put everybody at the tables. Raises Refused."""
        for world in range(self.worlds):
            body = snapshot(world, self.tables)
            status, told = await self.client.post("/v1/snapshots", body, TIMEOUT_S)
            if status >= 500:
                # A cold server on a busy machine may miss a snapshot's second; a game's next one comes soon.
                status, told = await self.client.post("/v1/snapshots", body, TIMEOUT_S)
            if status != 200:
                raise Refused(f"a snapshot was answered {status}: {told}")

    async def greet(self) -> None:
        """One line in every conversation, so that all are active and every agent exists."""
        talk = Talk()
        for table in range(self.tables):
            async with asyncio.TaskGroup() as group:
                for world in range(self.worlds):
                    group.create_task(self._say(talk, world, table))

    async def talk(self, rate: float, seconds: float, tick: Callable[[float], None] = lambda _: None) -> Talk:
        """Lines at an even rate over conversations drawn at random; whoever waits is waited for."""
        talk, loop = Talk(), asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for count in range(round(rate * seconds)):
                await asyncio.sleep(max(0.0, began + count / rate - loop.time()))
                world, table = self.chance.randrange(self.worlds), self.chance.randrange(self.tables)
                group.create_task(self._say(talk, world, table))
                tick(loop.time() - began)
        return talk

    async def alone(self, lines: int) -> Talk:
        """One line after the other, each to an NPC by name."""
        talk = Talk()
        for count in range(lines):
            await self._say(talk, count % self.worlds, count // self.worlds % self.tables, to_npc=True)
        return talk

    async def _say(self, talk: Talk, world: int, table: int, *, to_npc: bool | None = None) -> None:
        self._number += 1
        number, named = self._number, to_npc if to_npc is not None else self.chance.random() < 0.5
        text = self.chance.choice(LINES if named else REMARKS).format(number)
        if named:
            text = f"{NAMES[table % len(NAMES)]}, {text}"
            talk.addressed.add(number)
        who = player(world, table, self.chance.randrange(2))
        body = {"world": world_name(world), "player_id": who, "text": text, "message_id": f"m{number}"}
        if not self._waiting[world, table]:
            talk.clear.add(number)
        self._waiting[world, table] += 1
        talk.said[number] = asyncio.get_running_loop().time()
        try:
            status, told = await self.client.post("/v1/messages", body, TIMEOUT_S)
        except (OSError, asyncio.IncompleteReadError) as error:
            talk.outcomes[type(error).__name__] += 1
            return
        finally:
            self._waiting[world, table] -= 1
        if status != 200:
            talk.outcomes[told["error"]["reason"]] += 1
            return
        outcome = told["outcome"]
        if outcome == "replied":
            talk.answered.add(number)
        talk.outcomes[outcome if outcome != "failed" else f"failed {told.get('reason', '')}"] += 1
