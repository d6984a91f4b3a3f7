"""Single facts beside snapshots: what an NPC is about to do, what became of it, who stands with whom (C9).

An expected status covers the reported one for a while and never overwrites it. Links are co-presence without
positions. Until-times are monotonic milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from services.state.bands import NPC, PLAYER
from services.state.columns import Columns, Sent
from services.state.event import Event
from services.state.membership import Pair
from services.state.roster import Roster
from services.state.snapshot import MAX_ID, MAX_NAME, MAX_TEXT, Refusal

NAMES_KEPT = 512


class Status(Struct, frozen=True):
    """What an NPC does; "" and None leave a field as it is. expires_ms > 0: expected only."""

    npc: str
    action: str = ""
    location: str = ""
    health: float | None = None
    max_health: float | None = None
    expires_ms: int = 0
    action_id: str = ""


class LinkReport(Struct, frozen=True):
    """An NPC and a player are together, or no longer; ttl_ms 0 means the setting."""

    npc: str
    player: str
    player_name: str = ""
    ttl_ms: int = 0
    leaving: bool = False


class ActionResult(Struct, frozen=True):
    """What became of an action; `updates` overrides what was expected of it."""

    npc: str
    action_id: str
    success: bool
    critical: bool = False
    updates: Status | None = None


Observation = Status | LinkReport | ActionResult | Event


class Expected(Struct, frozen=True):
    """A status that is expected until `until`."""

    status: Status
    until: int


class Observed(Struct, frozen=True):
    """Facts of a world beside its columns: links, expected statuses, players' ids by casefolded name."""

    links: Mapping[Pair, int] = {}
    expected: Mapping[str, Expected] = {}
    names: Mapping[str, str] = {}


class Facts(Struct, frozen=True):
    """What observations come to: rows to merge, entities that leave, events, and what is known after."""

    observed: Observed
    sent: Sent
    left: frozenset[str]
    events: tuple[Event, ...]
    critical: frozenset[str]
    refused: tuple[Refusal, ...]


@dataclass(slots=True)
class _Gathering:
    columns: Columns
    roster: Roster
    tick: int
    link_ttl_ms: int
    links: dict[Pair, int]
    expected: dict[str, Expected]
    names: dict[str, str]
    rows: dict[str, Status] = field(default_factory=dict)
    players: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    critical: set[str] = field(default_factory=set)


def gather(
    observations: Sequence[Observation],
    observed: Observed,
    columns: Columns,
    roster: Roster,
    tick: int,
    link_ttl_ms: int,
) -> Facts:
    """Apply observations in order. One that cannot be used is refused alone."""
    state = _Gathering(
        columns, roster, tick, link_ttl_ms, dict(observed.links), dict(observed.expected), dict(observed.names)
    )
    refused = []
    for index, observation in enumerate(observations):
        fault = _enter(state, observation)
        if fault:
            refused.append(Refusal(f"observations[{index}].{fault[0]}", fault[1]))
    while len(state.names) > NAMES_KEPT:
        del state.names[next(iter(state.names))]
    after = Observed(state.links, state.expected, state.names)
    return Facts(
        after,
        _rows(state),
        _unlinked(observed, after, columns),
        tuple(state.events),
        frozenset(state.critical),
        tuple(refused),
    )


def _enter(state: _Gathering, observation: Observation) -> tuple[str, str] | None:
    """Apply one observation; answer (field, reason) when it cannot be used."""
    match observation:
        case Event():
            state.events.append(observation)
            return None
        case LinkReport():
            return _enter_link(state, observation)
        case Status():
            return _enter_status(state, observation)
        case ActionResult():
            return _enter_result(state, observation)


def _fault(state: _Gathering, status: Status) -> tuple[str, str] | None:
    if status.npc not in state.roster.npcs and status.npc not in state.columns.index:
        return "npc_id", "UNKNOWN_NPC"
    if len(status.action) > MAX_TEXT:
        return "action", "TOO_LONG"
    if len(status.location) > MAX_ID:
        return "location", "TOO_LONG"
    for name in ("health", "max_health"):
        value = getattr(status, name)
        if value is not None and not np.isfinite(value):
            return name, "NOT_FINITE"
    return None


def _enter_status(state: _Gathering, status: Status) -> tuple[str, str] | None:
    fault = _fault(state, status)
    if fault:
        return fault
    if status.expires_ms <= 0:
        state.rows[status.npc] = _over(state.rows.get(status.npc), status)
    elif _present(state, status.npc):
        state.expected[status.npc] = Expected(status, state.tick + status.expires_ms)
    else:
        return "npc_id", "NOT_PRESENT"  # an expectation brings nobody into the world
    return None


def _present(state: _Gathering, npc: str) -> bool:
    return npc in state.columns.index or npc in state.rows


def _over(base: Status | None, status: Status) -> Status:
    """`status` with its unset fields from `base`."""
    if base is None:
        return status
    return replace(
        status,
        action=status.action or base.action,
        location=status.location or base.location,
        health=base.health if status.health is None else status.health,
        max_health=base.max_health if status.max_health is None else status.max_health,
    )


def _enter_result(state: _Gathering, result: ActionResult) -> tuple[str, str] | None:
    updates = replace(result.updates, npc=result.npc, expires_ms=0) if result.updates else Status(result.npc)
    fault = _fault(state, updates)
    if fault:
        return fault
    if not _present(state, result.npc):
        return "npc_id", "NOT_PRESENT"
    pending = state.expected.get(result.npc)
    if pending is not None and pending.status.action_id == result.action_id:
        del state.expected[result.npc]
        if result.success:
            updates = _over(pending.status, updates)
    state.rows[result.npc] = _over(state.rows.get(result.npc), replace(updates, expires_ms=0))
    if result.critical:
        state.critical.add(result.npc)
    return None


def _enter_link(state: _Gathering, link: LinkReport) -> tuple[str, str] | None:
    for name, value in (("npc_id", link.npc), ("player_id", link.player)):
        if not 0 < len(value) <= MAX_ID:
            return name, "BAD_ID"
    if link.npc == link.player:
        return "player_id", "DUPLICATE_ID"
    if len(link.player_name) > MAX_NAME:
        return "player_name", "TOO_LONG"
    pair = (link.npc, link.player)
    if link.leaving:
        state.links.pop(pair, None)
        return None
    state.links[pair] = state.tick + (link.ttl_ms or state.link_ttl_ms)
    state.rows[link.npc] = _over(state.rows.get(link.npc), Status(link.npc))
    state.players[link.player] = link.player_name or state.players.get(link.player, "")
    if link.player_name:
        state.names.pop(link.player_name.casefold(), None)
        state.names[link.player_name.casefold()] = link.player
    return None


def _rows(state: _Gathering) -> Sent:
    """The rows to merge: NPCs with what is known of them, then players."""
    statuses = [status for npc, status in state.rows.items() if npc not in state.players]
    ids = tuple(status.npc for status in statuses) + tuple(state.players)
    profiles = state.roster.npcs
    names = [profiles[s.npc].display_name if s.npc in profiles else "" for s in statuses]
    blank = [""] * len(state.players)
    healths = [np.nan if s.health is None else s.health for s in statuses] + [np.nan] * len(blank)
    maxima = [np.nan if s.max_health is None else s.max_health for s in statuses] + [np.nan] * len(blank)
    return Sent(
        ids=ids,
        names=names + list(state.players.values()),
        kinds=np.array([NPC] * len(statuses) + [PLAYER] * len(blank), np.uint8),
        xyz=np.full((3, len(ids)), np.nan, np.float32),
        vitals=np.array([healths, maxima], np.float32).reshape(2, -1),
        actions=[s.action for s in statuses] + blank,
        locations=[s.location for s in statuses] + blank,
        last_seen=np.full(len(ids), np.nan),
    )


def _unlinked(before: Observed, after: Observed, columns: Columns) -> frozenset[str]:
    """Players known only by links who have none any more: gone."""
    if before.links.keys() <= after.links.keys():
        return frozenset()
    still = {player for _, player in after.links}
    return frozenset(
        player
        for _, player in before.links
        if player not in still and player in columns.index and np.isnan(columns.xyz[0, columns.index[player]])
    )


def expire(observed: Observed, columns: Columns, tick: int) -> tuple[Observed, frozenset[str]]:
    """(what is still true at `tick`, players that leave with their last link).

    The same object when nothing ended.
    """
    if all(until > tick for until in observed.links.values()) and all(
        expected.until > tick for expected in observed.expected.values()
    ):
        return observed, frozenset()
    after = replace(
        observed,
        links={pair: until for pair, until in observed.links.items() if until > tick},
        expected={npc: expected for npc, expected in observed.expected.items() if expected.until > tick},
    )
    return after, _unlinked(observed, after, columns)


def held(observed: Observed, columns: Columns) -> frozenset[str]:
    """Entities without a position that a link keeps in the world though a snapshot does not name them."""
    if not observed.links:
        return frozenset()
    ends = {end for pair in observed.links for end in pair}
    return frozenset(e for e in ends if e in columns.index and np.isnan(columns.xyz[0, columns.index[e]]))


def pruned(observed: Observed, present: Mapping[str, int]) -> Observed:
    """Without what speaks of entities that are not present."""
    links = {pair: until for pair, until in observed.links.items() if pair[0] in present and pair[1] in present}
    expected = {npc: e for npc, e in observed.expected.items() if npc in present}
    if len(links) == len(observed.links) and len(expected) == len(observed.expected):
        return observed
    return replace(observed, links=links, expected=expected)


def deadlines(observed: Observed) -> Iterable[int]:
    """When something of this ends."""
    yield from observed.links.values()
    for expected in observed.expected.values():
        yield expected.until
