"""What happened lately around the NPC, from the game's events (C14)."""

from __future__ import annotations

from collections.abc import Sequence

from services.sync.blocks.page import Line
from services.sync.blocks.situation import clock
from services.sync.context import Context, Happening
from services.sync.hygiene import clean, clean_name

SHOWN = 12
# Events that a turn carries itself, so that it need not wait for a write of the block.
CARRIED = 6
_HEAD, _NOTHING = "Lately:", "Nothing worth telling has happened lately."


def memory_lines(context: Context) -> list[Line]:
    """The newest events last; the oldest go first when room is short."""
    events = [event for event in context.events if happened(event, context)][-SHOWN:]
    if not events:
        return [Line(_NOTHING)]
    lines = [Line(_HEAD)]
    for age, event in enumerate(reversed(events)):
        when = f"{clock(event.at_ms)} " if event.at_ms > 0 else ""
        lines.insert(1, Line(f"- {when}{happened(event, context)}", 1 + age))
    return lines


def news(held: str, now: str) -> tuple[str, ...] | None:
    """The events that `now` tells beyond `held`, two texts of the block, oldest first.

    None when the block must be written: there are too many of them, or something that it tells must be gone.
    """
    head, *before = _HEAD.splitlines() if held == _NOTHING else held.split("\n")
    title, *after = now.split("\n")
    if (head, title) != (_HEAD, _HEAD):
        return None
    for count in range(1, min(CARRIED, len(after)) + 1):
        kept = after[: len(after) - count]
        # Events go from the top only to make room.
        if before[len(before) - len(kept) :] == kept and (len(kept) == len(before) or len(after) == SHOWN):
            return tuple(after[len(kept) :])
    return None


def with_news(held: str, told: Sequence[str]) -> str:
    """What somebody knows who holds this text and was told these events."""
    before = [] if held == _NOTHING else held.split("\n")[1:]
    return "\n".join([_HEAD, *[*before, *told][-SHOWN:]])


def happened(event: Happening, context: Context) -> str:
    """The event as a sentence without its end; "" when it tells nothing."""
    text = clean(event.text, 200)
    if text:
        return text
    kind = clean(event.type, 40).replace("_", " ")
    if not kind:
        return ""
    actor, target = _who(event.actor, context), _who(event.target, context)
    return f"{kind}: {actor}" + (f" and {target}" if target else "") if actor else kind


def _who(entity_id: str, context: Context) -> str:
    """A name; an id that is not known here is nobody's business."""
    if not entity_id:
        return ""
    if entity_id == context.key.npc:
        return "me"
    return next((clean_name(m.name) for m in context.members if entity_id in (m.id, m.name) and m.name), "somebody")
