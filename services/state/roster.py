"""What a tenant has said about its NPCs, places and players. Immutable: an import gives the next roster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import msgspec
import numpy as np

from services.state.columns import Floats
from services.state.snapshot import MAX_ID, MAX_NAME, MAX_TEXT, Refusal

MAX_LONG = 8192  # persona, a block, model settings; characters
MAX_LIST = 64
MAX_NPCS = 10_000
MAX_LOCATIONS = 10_000
MAX_PLAYERS = 100_000
T = TypeVar("T")
SCOPES = ("", "session", "cross_session")


@dataclass(frozen=True, slots=True)
class Profile:
    """An NPC as its author describes it; fields as in earshot.type.v1.NpcProfile."""

    id: str
    display_name: str = ""
    aliases: tuple[str, ...] = ()
    persona: str = ""
    talkativeness: float | None = None
    actions: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    agent_id: str = ""
    decide_on: tuple[str, ...] = ()
    memory_scope: str = ""
    blocks: Mapping[str, str] = field(default_factory=dict)
    appearance: str = ""
    version: int = 0
    model_settings: bytes = b""


@dataclass(frozen=True, slots=True)
class Location:
    """A named place; without a position it can only be reported by the game."""

    slug: str
    name: str
    position: tuple[float, float, float] | None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Player:
    """What a tenant stores about a player beside the game's own data."""

    id: str
    name: str = ""
    description: str = ""


@dataclass(frozen=True)
class Roster:
    """Everything of one tenant; `version` grows with every change and is never reused."""

    version: int = 0
    npcs: Mapping[str, Profile] = field(default_factory=dict)
    locations: Mapping[str, Location] = field(default_factory=dict)
    players: Mapping[str, Player] = field(default_factory=dict)

    @cached_property
    def npc_by_name(self) -> Mapping[str, str]:
        """Casefolded display name -> npc id; of two with one name the lower id."""
        return {self.npcs[npc].display_name.casefold(): npc for npc in sorted(self.npcs, reverse=True)}

    @cached_property
    def player_by_name(self) -> Mapping[str, str]:
        """Casefolded name -> player id; of two with one name the lower id."""
        names = {self.players[player].name.casefold(): player for player in sorted(self.players, reverse=True)}
        names.pop("", None)
        return names

    @cached_property
    def places(self) -> tuple[Location, ...]:
        """Locations with a position, by slug: what `positions` rows mean."""
        return tuple(self.locations[slug] for slug in sorted(self.locations) if self.locations[slug].position)

    @cached_property
    def positions(self) -> Floats:
        """(L, 3) coordinates of `places`, studs."""
        return np.array([place.position for place in self.places], np.float64).reshape(-1, 3)

    def known(self, slug: str) -> Location | None:
        """The location of a slug or, as games report them, of a name."""
        return self.locations.get(slug) or next(
            (place for place in self.locations.values() if place.name == slug and slug), None
        )


@dataclass(frozen=True, slots=True)
class Import:
    """What an import changed: the next roster, the items to store, and what was refused and why."""

    roster: Roster
    npcs: tuple[Profile, ...]
    locations: tuple[Location, ...]
    players: tuple[Player, ...]
    refused: tuple[Refusal, ...]


def imported(
    roster: Roster,
    npcs: Iterable[Profile],
    locations: Iterable[Location],
    players: Iterable[Player],
    *,
    replace_locations: bool = False,
) -> Import:
    """Upsert; a bad item is refused alone. An item equal to what is stored changes nothing."""
    refused: list[Refusal] = []
    good_npcs = [
        replace(profile, display_name=profile.display_name or profile.id)
        for profile in _good("npcs", npcs, _fault_of_profile, lambda p: p.id, refused)
    ]
    good_locations = _good("locations", locations, _fault_of_location, lambda p: p.slug, refused)
    good_players = _good("players", players, _fault_of_player, lambda p: p.id, refused)
    version = roster.version + 1
    all_npcs, new_npcs = dict(roster.npcs), {}
    for profile in good_npcs:
        stored = all_npcs.get(profile.id)
        if stored is None and len(all_npcs) >= MAX_NPCS:
            refused.append(Refusal(f"npcs[{profile.id}]", "TOO_MANY"))
        elif stored is None or replace(stored, version=0) != replace(profile, version=0):
            all_npcs[profile.id] = new_npcs[profile.id] = replace(profile, version=version)
    old_locations = {} if replace_locations else dict(roster.locations)
    all_locations, new_locations = _upserted(
        old_locations, good_locations, lambda p: p.slug, "locations", MAX_LOCATIONS, refused
    )
    all_players, new_players = _upserted(
        dict(roster.players), good_players, lambda p: p.id, "players", MAX_PLAYERS, refused
    )
    changed = new_npcs or new_players or all_locations != roster.locations
    after = Roster(version, all_npcs, all_locations, all_players) if changed else roster
    return Import(
        after, tuple(new_npcs.values()), tuple(new_locations.values()), tuple(new_players.values()), tuple(refused)
    )


def without_npc(roster: Roster, npc: str) -> Roster:
    """The roster after a profile was deleted."""
    rest = {key: profile for key, profile in roster.npcs.items() if key != npc}
    return replace(roster, version=roster.version + 1, npcs=rest)


def without_player(roster: Roster, player: str) -> Roster:
    """The roster after a player was erased."""
    rest = {key: profile for key, profile in roster.players.items() if key != player}
    return replace(roster, version=roster.version + 1, players=rest)


def _upserted(
    stored: dict[str, T],
    items: Iterable[T],
    key: Callable[[T], str],
    path: str,
    most: int,
    refused: list[Refusal],
) -> tuple[dict[str, T], dict[str, T]]:
    """(all items, those that changed)."""
    changed: dict[str, T] = {}
    for item in items:
        name = key(item)
        if name not in stored and len(stored) >= most:
            refused.append(Refusal(f"{path}[{name}]", "TOO_MANY"))
        elif stored.get(name) != item:
            stored[name] = changed[name] = item
    return stored, changed


def _good(
    path: str,
    items: Iterable[T],
    fault: Callable[[T], tuple[str, str] | None],
    key: Callable[[T], str],
    refused: list[Refusal],
) -> list[T]:
    """Items without a fault, the last of each id; faults are noted by id where there is a usable one."""
    good: dict[str, T] = {}
    for index, item in enumerate(items):
        name = key(item)
        usable = 0 < len(name) <= MAX_ID
        found = fault(item) if usable else ("id", "BAD_ID")
        if found:
            refused.append(Refusal(f"{path}[{name if usable else index}].{found[0]}", found[1]))
        else:
            good[name] = item
    return list(good.values())


def _fault_of_profile(profile: Profile) -> tuple[str, str] | None:
    for name, limit in (("display_name", MAX_NAME), ("agent_id", MAX_NAME), ("persona", MAX_LONG)):
        if len(getattr(profile, name)) > limit:
            return name, "TOO_LONG"
    for name in ("aliases", "actions", "lines", "runtimes", "decide_on"):
        values: tuple[str, ...] = getattr(profile, name)
        if len(values) > MAX_LIST or any(len(value) > MAX_TEXT for value in values):
            return name, "TOO_LONG"
    if len(profile.appearance) > MAX_LONG:
        return "appearance", "TOO_LONG"
    if len(profile.blocks) > MAX_LIST or any(
        len(label) > MAX_ID or len(text) > MAX_LONG for label, text in profile.blocks.items()
    ):
        return "blocks", "TOO_LONG"
    if profile.talkativeness is not None and not 0 <= profile.talkativeness <= 1:
        return "talkativeness", "OUT_OF_RANGE"
    if profile.memory_scope not in SCOPES:
        return "memory_scope", "UNKNOWN_VALUE"
    return _fault_of_settings(profile.model_settings)


def _fault_of_settings(settings: bytes) -> tuple[str, str] | None:
    if len(settings) > MAX_LONG:
        return "model_settings", "TOO_LONG"
    if settings:
        try:
            msgspec.json.decode(settings)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "model_settings", "NOT_JSON"
    return None


def _fault_of_location(location: Location) -> tuple[str, str] | None:
    if len(location.name) > MAX_NAME:
        return "name", "TOO_LONG"
    if len(location.description) > MAX_LONG:
        return "description", "TOO_LONG"
    if location.position is not None and not all(map(math.isfinite, location.position)):
        return "coordinates", "NOT_FINITE"
    return None


def _fault_of_player(player: Player) -> tuple[str, str] | None:
    if len(player.name) > MAX_NAME:
        return "name", "TOO_LONG"
    if len(player.description) > MAX_LONG:
        return "description", "TOO_LONG"
    return None
