"""How soon a player's barge-in stops the runtime's call, in real time: from the utterance sent to the call cancelled.

The room is the real one with a durable store; its neighbours are the tests' fakes, in the same process, and an NPC that
takes a second to its first sentence. Other conversations talk meanwhile.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from typing import Any

from bench.result import Result
from tests.unit.chat.neighbours import Line, tavern

GOAL_MS = 100.0
OTHERS = 20


async def measure(rounds: int, others: int) -> list[float]:
    """Milliseconds of each barge-in, sorted."""
    took: list[float] = []
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as data:
        async with tavern(lambda _: Line(first_s=1.0), data=data, player_messages_per_10s=1000) as room:
            room.state.move({"L1": ["mara", "brom", "p1"]}, world="w1")
            for number in range(others):
                room.state.move({"L1": ["mara", "p2"]}, world=f"other-{number}")
            async with asyncio.TaskGroup() as group:
                crowd = [group.create_task(_talk(room, f"other-{n}", n / others)) for n in range(others)]
                for number in range(rounds):
                    took.append(await _interrupt(room, loop, number))
                for task in crowd:
                    task.cancel()
    return sorted(took)


async def _interrupt(room: Any, loop: asyncio.AbstractEventLoop, number: int) -> float:
    """Ask one NPC, and before it has said a word name the other."""
    seen = len(room.sync.requests)
    first, second = ("Mara", "Brom") if number % 2 else ("Brom", "Mara")
    await room.say("p1", f"{first}, what of number {number}?", wait=0)
    await _until(lambda: any(ask.npc.world.world == "w1" for ask in room.sync.requests[seen:]))
    cancelled = len(room.sync.cancelled)
    turn = next(ask.turn_id for ask in room.sync.requests[seen:] if ask.npc.world.world == "w1")
    began = loop.time()
    answered = asyncio.ensure_future(room.say("p1", f"{second}, no, you tell me about number {number}.", wait=15))
    await _until(lambda: turn in {one for one, _ in room.sync.cancelled[cancelled:]})
    stopped: float = next(at for one, at in room.sync.cancelled if one == turn)
    # Both NPCs still owe an answer, and only so many turns in a row may be cut off: let the floor come to rest.
    await answered
    await asyncio.sleep(0.5)
    return (stopped - began) * 1000


async def _until(happened: Callable[[], bool]) -> None:
    """Look every 2 ms, for 5 s."""
    for _ in range(2500):
        if happened():
            return
        await asyncio.sleep(0.002)
    raise TimeoutError


async def _talk(room: Any, world: str, after: float) -> None:
    """One line a second, each conversation at a moment of its own."""
    await asyncio.sleep(after)
    number = 0
    while True:
        number += 1
        await room.say("p2", f"Mara, number {number}?", world=world, message_id=f"{world}-{number}", wait=0)
        await asyncio.sleep(1.0)


def run(rounds: int) -> list[dict[str, Any]]:
    """Records for `earshot bench`."""
    took = asyncio.run(measure(rounds, OTHERS))
    name = f"barge-in to cancel issued, {OTHERS} other conversations"
    figures = (("p50", took[len(took) // 2]), ("max", took[-1]))
    return [Result(f"{name}, {title}", value, "ms", GOAL_MS, "less").record() for title, value in figures]
