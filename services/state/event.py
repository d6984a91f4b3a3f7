"""What happened in the game, remembered briefly and once: games resend their lists (A7)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from msgspec import Struct

# How many events a world recognises as told before; a game that never clears its list may resend this many.
REMEMBERED = 2048


class Event(Struct, frozen=True):
    """One event as the game tells it; `revision` is the one that brought it, `data` a JSON object or empty.

    witnesses: ids of the NPCs that took part or were within earshot of who did, then; of an event of nobody it is all.
    """

    id: str
    type: str
    actor: str
    target: str
    text: str
    data: bytes
    at_ms: int
    revision: int = 0
    witnesses: tuple[str, ...] = ()


def digest(event: Event) -> int:
    """64 bits that name an event: of its id when it has one, else of its content."""
    told = (
        (event.id,)
        if event.id
        else ("", event.type, event.actor, event.target, event.text, event.data.hex(), str(event.at_ms))
    )
    hashed = hashlib.blake2b("\0".join(told).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(hashed.digest(), "little")


def unheard(seen: dict[int, None], events: Iterable[Event]) -> tuple[dict[int, None], list[Event]]:
    """The events not told before, and the memory after them, oldest first. `seen` is not changed."""
    memory = seen
    new: list[Event] = []
    for event in events:
        name = digest(event)
        if memory is seen:
            memory = dict(seen)
        if name in memory:
            del memory[name]  # told again: remember it longer
        else:
            new.append(event)
        memory[name] = None
    if memory is not seen:
        while len(memory) > REMEMBERED:
            del memory[next(iter(memory))]
    return memory, new
