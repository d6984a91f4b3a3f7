"""What happened lately around the NPC, from the game's events (C14)."""

from __future__ import annotations

from services.sync.context import Context, Happening
from services.sync.hygiene import clean, clean_name
from services.sync.page import Line
from services.sync.situation import clock

SHOWN = 12


def memory_lines(context: Context) -> list[Line]:
    """The newest events last; the oldest go first when room is short."""
    events = [event for event in context.events if happened(event, context)][-SHOWN:]
    if not events:
        return [Line("Nothing worth telling has happened lately.")]
    lines = [Line("Lately:")]
    for age, event in enumerate(reversed(events)):
        when = f"{clock(event.at_ms)} " if event.at_ms > 0 else ""
        lines.insert(1, Line(f"- {when}{happened(event, context)}", 1 + age))
    return lines


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
