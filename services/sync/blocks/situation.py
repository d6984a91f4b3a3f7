"""The world-owned block: where the NPC is, how it fares, who is within earshot. First person, in bands and names.

Quantised so that it changes only when a person would say something else: health in sticky tens (by state), distance
bands with hysteresis, times absolute. No coordinates, no other member's health (A5, C14).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from services.sync.blocks.page import Line
from services.sync.context import Band, Context, Departed, Member
from services.sync.hygiene import clean, clean_name
from services.sync.schedule.urgency import Vitals

# Studs: nearer enters the band, farther than the second leaves it.
AT_STUDS = (5.0, 7.0)
NEAR_STUDS = (30.0, 33.0)
DEPARTED_SHOWN = 3
NEARBY_SHOWN = 6

_BAND_WORDS = {Band.AT: "right beside me", Band.NEAR: "near", Band.FAR: "some way off", Band.UNKNOWN: ""}
_DOING = {
    "idle": "I am idle.",
    "interacting": "I am talking with those around me.",
    "following": "I am following somebody.",
    "exploring": "I am exploring.",
    "patrolling": "I am on patrol.",
    "wandering": "I am wandering about.",
    "moving": "I am on my way somewhere.",
    "hunting": "I am hunting.",
    "combat": "I am fighting.",
}


@dataclass(frozen=True, slots=True)
class Bands:
    """Distance bands as last rendered, by member id: what makes them sticky."""

    of: Mapping[str, Band]


NO_BANDS = Bands({})


def settle_bands(members: tuple[Member, ...], before: Bands) -> Bands:
    """The members' bands; one changes only past the far edge of its hysteresis."""
    return Bands({member.id: _band(member.distance, before.of.get(member.id)) for member in members})


def _band(distance: float, before: Band | None) -> Band:
    if not math.isfinite(distance) or distance < 0:
        return Band.UNKNOWN
    at = AT_STUDS[1] if before is Band.AT else AT_STUDS[0]
    near = NEAR_STUDS[1] if before in (Band.AT, Band.NEAR) else NEAR_STUDS[0]
    if distance <= at:
        return Band.AT
    return Band.NEAR if distance <= near else Band.FAR


def status_lines(context: Context) -> list[Line]:
    """Where I am, what I do, how I fare."""
    lines = [Line(f"I am {where(context)}.")]
    if not context.present:
        return [Line("I am not in the world just now."), Line(f"When last seen I was {where(context)}.", 2)]
    doing = clean(context.action, 60)
    if doing:
        lines.append(Line(_DOING.get(doing.lower()) or f"What I am doing: {doing}."))
    if context.combat:
        lines.append(Line("I am in combat."))
    health = _health(context.health_percent)
    if health:
        lines.append(Line(health))
    if context.place is not None and context.place.description:
        lines.append(Line(f"About this place: {clean(context.place.description, 300)}", 4))
    if context.description:
        lines.append(Line(f"About me now: {clean(context.description, 300)}", 3))
    if context.appearance:
        lines.append(Line(f"How I look: {clean(context.appearance, 200)}", 5))
    return lines


def vitals(context: Context) -> Vitals:
    """What of it can be urgent."""
    status = "\n".join(line.text for line in status_lines(context) if line.text != _health(context.health_percent))
    return Vitals(context.combat, context.health_percent, status)


def where(context: Context) -> str:
    """The place as a phrase: "at the Old Harbour", "somewhere without a name"."""
    if context.place is None or not context.place.name:
        return "somewhere without a name"
    name = clean_name(context.place.name)
    words = {Band.AT: "at", Band.NEAR: "near", Band.FAR: "far from any place I know; the nearest is"}
    return f"{words.get(context.band, 'near')} {name}"


def _health(percent: int) -> str:
    if percent < 0:
        return ""
    if percent == 0:
        return "I have no health left."
    return f"My health is about {percent} percent."


def group_lines(context: Context, bands: Bands) -> list[Line]:
    """Who hears me, who just left. Members are ordered by when they came, then by id."""
    members = sorted(context.members, key=lambda member: (member.since_ms, member.id))
    if not members:
        lines = [Line("Nobody is within earshot of me.")]
    else:
        people = "1 other" if len(members) == 1 else f"{len(members)} others"
        lines = [Line(f"Within earshot of me ({people}):")]
        # A crowd loses its latest NPCs first, then its latest players.
        lines += [Line(_member(member, bands), 1 if member.player else 2) for member in members]
    for gone in sorted(context.departed, key=lambda one: -one.left_ms)[:DEPARTED_SHOWN]:
        lines.append(Line(_departed(gone), 3))
    return lines


def about(context: Context) -> str:
    """Who is about but out of earshot, as a sentence; it goes with a turn, since it changes all the time."""
    names = ", ".join(clean_name(name) for name in context.nearby[:NEARBY_SHOWN])
    return f"About, but out of earshot: {names}." if names else ""


def _member(member: Member, bands: Bands) -> str:
    kind = "a player" if member.player else "an NPC"
    words = _BAND_WORDS[bands.of.get(member.id, Band.UNKNOWN)]
    parts = [f"- {clean_name(member.name or member.id)}, {kind}"]
    if words:
        parts.append(words)
    if member.since_ms > 0:
        parts.append(f"here since {clock(member.since_ms)}")
    looks = clean(member.appearance, 120)
    return ", ".join(parts) + (f". Looks: {looks}" if looks else "")


def _departed(gone: Departed) -> str:
    when = f" at {clock(gone.left_ms)}" if gone.left_ms > 0 else ""
    return f"{clean_name(gone.name)} left{when}."


def clock(unix_ms: int) -> str:
    """Time of day, UTC: absolute, so that a text does not age."""
    minutes = unix_ms // 60_000
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"
