"""From protos to nouns: columns become arrays without a copy, names become ids, odd input becomes refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2
from msgspec.structs import replace

from services.common.errors import BadInput, TooLarge
from services.state import columns as cols
from services.state.bands import NPC, PLAYER
from services.state.cold import NOTHING, Cold
from services.state.columns import Sent
from services.state.event import Event
from services.state.membership import Pair
from services.state.observation import ActionResult, LinkReport, Observation, Observed, Status
from services.state.roster import Location, Player, Profile, Roster
from services.state.snapshot import MAX_DETAILS, MAX_ID, MAX_NAME, MAX_TEXT, Refusal, Snapshot, sift

MAX_EVENTS = 512
MAX_GROUPS = 500


@dataclass(frozen=True, slots=True)
class Naming:
    """How the names of the existing game become ids."""

    roster: Roster
    observed: Observed

    def identify(self, name: str, kind: int) -> tuple[str, int]:
        """(id, kind).

        A player never takes the id of an NPC of the same name; an unknown name is its own id, and a player
        unless said otherwise: the roster holds the NPCs.
        """
        folded = name.casefold()
        if kind != PLAYER:
            npc = self.roster.npc_by_name.get(folded)
            if npc is not None or name in self.roster.npcs:
                return npc or name, NPC
        if kind != NPC:
            player = self.observed.names.get(folded) or self.roster.player_by_name.get(folded)
            if player is not None:
                return player, PLAYER
        return name, kind or PLAYER


def snapshot_of(
    item: state_pb2.SnapshotItem,
    roster: Roster,
    observed: Observed,
    *,
    now_s: float,
    stale_after_s: float,
    entities_max: int,
    known: tuple[str, ...] = (),
) -> Snapshot:
    """The snapshot of a stream item. known: the ids of the last one, which need no second look.

    Raises BadInput for columns that do not fit, TooLarge over the bound.
    """
    if len(item.entities.ids) > entities_max:
        raise TooLarge("too many entities in one snapshot", reason="TOO_MANY_ENTITIES")
    if item.delta and not (item.epoch and item.seq and item.base_seq):
        raise BadInput("a delta needs epoch, seq and base_seq", reason="DELTA_WITHOUT_BASE")
    naming = Naming(roster, observed) if item.ids_are_names else None
    sent = _identified(sent_of(item.entities, known), naming, roster)
    rename = _renaming(naming, item.entities.ids, sent.ids)
    sifted = sift(sent, stale_after_s, now_s, known=known)
    refused = list(sifted.refused)
    sent = sifted.sent
    copresent: tuple[Pair, ...] = ()
    if item.groups:
        sent, copresent = _grouped(sent, item.groups[:MAX_GROUPS], naming, roster, rename, refused)
        if len(sent.ids) > entities_max:
            raise TooLarge("too many entities in one snapshot", reason="TOO_MANY_ENTITIES")
    left = frozenset(map(rename, item.left_ids)) | (sifted.stale_ids if item.delta else frozenset())
    return Snapshot(
        epoch=item.epoch,
        seq=item.seq if item.epoch else 0,
        delta=item.delta,
        base_seq=item.base_seq,
        sent=sent,
        left=left.difference(sent.ids),
        kept=sifted.refused_ids,
        copresent=copresent,
        groups=tuple(tuple(map(rename, group.member_ids)) for group in item.groups[:MAX_GROUPS]),
        events=tuple(events_of(item.events, refused, rename)) if item.events else (),
        refused=tuple(refused),
    )


def sent_of(entities: type_pb2.EntityColumns, known: tuple[str, ...] = ()) -> Sent:
    """Columns as nouns; a column that is absent is unknown. Raises BadInput (MALFORMED_COLUMNS).

    Ids that equal `known` are `known`, the object: who compares later need not look at each.
    """
    ids = tuple(entities.ids)
    ids = known if ids == known else ids
    count = len(ids)
    return Sent(
        ids=ids,
        names=_texts(entities.names, count, "names"),
        kinds=_kinds(entities.kinds, count),
        xyz=_stacked((entities.x, entities.y, entities.z), count, "x, y, z"),
        vitals=_stacked_any((entities.health, entities.max_health), count, ("health", "max_health")),
        actions=_texts(entities.actions, count, "actions"),
        locations=_texts(entities.locations, count, "locations"),
        last_seen=_array(entities.last_seen, "<f8", count, "last_seen")
        if entities.last_seen
        else np.full(count, np.nan),
        looks=Cold(entities.looks) if entities.looks else NOTHING,
        details=Cold(entities.details) if entities.details else NOTHING,
    )


def _texts(values: Any, count: int, name: str) -> list[Any]:
    if values and len(values) != count:
        raise _malformed(name, count)
    return values[:]  # type: ignore[no-any-return]  # a list; quicker than list()


def _kinds(data: bytes, count: int) -> cols.Bytes:
    if not data:
        return np.zeros(count, np.uint8)
    kinds: cols.Bytes = _array(data, np.uint8, count, "kinds")
    return kinds if not count or kinds.max() <= PLAYER else np.where(kinds <= PLAYER, kinds, np.uint8(0))


def _stacked(parts: Sequence[bytes], count: int, name: str) -> cols.Floats32:
    if not any(parts):
        return np.full((len(parts), count), np.nan, np.float32)
    if any(len(part) != 4 * count for part in parts):
        raise _malformed(name, count)
    return np.frombuffer(b"".join(parts), "<f4").reshape(len(parts), count)


def _stacked_any(parts: Sequence[bytes], count: int, names: Sequence[str]) -> cols.Floats32:
    if all(len(part) == 4 * count for part in parts):
        return np.frombuffer(b"".join(parts), "<f4").reshape(len(parts), count)
    unknown = np.full(count, np.nan, np.float32)
    return np.stack(
        [_array(part, "<f4", count, name) if part else unknown for part, name in zip(parts, names, strict=True)]
    )


def _array(data: bytes, kind: Any, count: int, name: str) -> Any:
    values = np.frombuffer(data, kind) if len(data) % np.dtype(kind).itemsize == 0 else ()
    if len(values) != count:
        raise _malformed(name, count)
    return values


def _malformed(name: str, count: int) -> BadInput:
    return BadInput(f"entities.{name} must hold {count} values or none", reason="MALFORMED_COLUMNS")


def _identified(sent: Sent, naming: Naming | None, roster: Roster) -> Sent:
    """Kinds that the roster knows better than the game, and names as ids for the existing game."""
    if naming is None:
        if sent.kinds.all():
            return sent
        kinds = [
            kind or (NPC if e in roster.npcs else 0) for e, kind in zip(sent.ids, sent.kinds.tolist(), strict=True)
        ]
        return replace(sent, kinds=np.array(kinds, np.uint8))
    found = [naming.identify(name, kind) for name, kind in zip(sent.ids, sent.kinds.tolist(), strict=True)]
    return replace(
        sent,
        ids=tuple(entity for entity, _ in found),
        kinds=np.array([kind for _, kind in found], np.uint8),
        names=sent.names or list(sent.ids),
    )


def _renaming(naming: Naming | None, names: Iterable[str], ids: Iterable[str]) -> Callable[[str], str]:
    """How other parts of a snapshot name entities: as its rows do, which know their kind."""
    if naming is None:
        return str
    known = dict(zip(names, ids, strict=True))
    return lambda name: known.get(name) or naming.identify(name, 0)[0]


def _grouped(
    sent: Sent,
    groups: Iterable[state_pb2.GroupReport],
    naming: Naming | None,
    roster: Roster,
    rename: Callable[[str], str],
    refused: list[Refusal],
) -> tuple[Sent, tuple[Pair, ...]]:
    """Positions for members without an entry of their own (A5), and who is together where positions lack."""
    xyz = sent.xyz.copy()
    row_of = {entity: row for row, entity in enumerate(sent.ids)}
    extra: dict[str, Sent] = {}
    pairs: list[Pair] = []
    for index, group in enumerate(groups):
        rows = sift(
            _identified(sent_of(group.positions), naming, roster), float("inf"), 0.0, f"groups[{index}].positions"
        )
        refused += rows.refused
        for row, entity in enumerate(rows.sent.ids):
            if entity not in row_of:
                extra.setdefault(entity, cols.row(rows.sent, row))
            elif np.isnan(xyz[0, row_of[entity]]):
                xyz[:, row_of[entity]] = rows.sent.xyz[:, row]
        members = list(dict.fromkeys(map(rename, group.member_ids)))
        lacking = [m for m in members if not _placed(m, xyz, row_of, extra)]
        if lacking and len(members) > 1:
            anchor = next((m for m in members if m not in lacking), lacking[0])
            pairs += [(anchor, member) for member in lacking if member != anchor]
    sent = replace(sent, xyz=xyz)
    return cols.joined(sent, extra.values()), tuple(pairs)


def _placed(member: str, xyz: cols.Floats32, row_of: dict[str, int], extra: dict[str, Sent]) -> bool:
    if member in row_of:
        return not np.isnan(xyz[0, row_of[member]])
    return member in extra and not np.isnan(extra[member].xyz[0, 0])


def events_of(
    events: Iterable[type_pb2.GameEvent], refused: list[Refusal], rename: Callable[[str], str] = str
) -> Iterable[Event]:
    """Events within their bounds; the others are refused one by one."""
    for index, event in enumerate(events):
        if index >= MAX_EVENTS:
            refused.append(Refusal(f"events[{index}]", "TOO_MANY"))
            return
        long = next(
            (
                name
                for name, most in (("id", MAX_NAME), ("type", MAX_ID), ("actor_id", MAX_ID), ("target_id", MAX_ID),
                                   ("text", MAX_TEXT), ("data", MAX_DETAILS))
                if len(getattr(event, name)) > most
            ),
            "",
        )  # fmt: skip
        if long:
            refused.append(Refusal(f"events[{index}].{long}", "TOO_LONG"))
            continue
        actor = rename(event.actor_id) if event.actor_id else ""
        target = rename(event.target_id) if event.target_id else ""
        yield Event(event.id, event.type, actor, target, event.text, event.data, event.at_ms)


def observations_of(
    observations: Iterable[state_pb2.Observation],
) -> tuple[list[Observation], list[Refusal]]:
    """Observations as nouns; an empty one, or an event out of bounds, is refused by its index."""
    good: list[Observation] = []
    refused: list[Refusal] = []
    for index, observation in enumerate(observations):
        match observation.WhichOneof("observation"):
            case "status":
                good.append(_status(observation.status))
            case "link":
                link = observation.link
                good.append(LinkReport(link.npc_id, link.player_id, link.player_name, link.ttl_ms, link.leaving))
            case "action_result":
                result = observation.action_result
                updates = _status(result.updates) if result.HasField("updates") else None
                good.append(ActionResult(result.npc_id, result.action_id, result.success, result.critical, updates))
            case "event":
                faults: list[Refusal] = []
                good += events_of([observation.event], faults)
                refused += [Refusal(f"observations[{index}].{f.path.partition('.')[2]}", f.reason) for f in faults]
            case _:
                refused.append(Refusal(f"observations[{index}]", "EMPTY"))
    return good, refused


def _status(status: state_pb2.StatusObservation) -> Status:
    return Status(
        npc=status.npc_id,
        action=status.action,
        location=status.location,
        health=status.health if status.HasField("health") else None,
        max_health=status.max_health if status.HasField("max_health") else None,
        expires_ms=status.expires_ms,
        action_id=status.action_id,
    )


def profile_of(message: type_pb2.NpcProfile) -> Profile:
    """A profile as a noun; `version` is state's to set."""
    return Profile(
        id=message.id,
        display_name=message.display_name,
        aliases=tuple(message.aliases),
        persona=message.persona,
        talkativeness=round(message.talkativeness, 6) if message.HasField("talkativeness") else None,
        actions=tuple(message.actions),
        lines=tuple(message.lines),
        runtimes=tuple(message.runtimes),
        agent_id=message.agent_id,
        decide_on=tuple(message.decide_on),
        memory_scope=message.memory_scope,
        blocks=dict(message.blocks),
        appearance=message.appearance,
        model_settings=message.model_settings,
    )


def location_of(message: type_pb2.Location) -> Location:
    """A location as a noun."""
    at = message.position if message.HasField("position") else None
    return Location(message.slug, message.name or message.slug, (at.x, at.y, at.z) if at else None, message.description)


def player_of(message: type_pb2.PlayerProfile) -> Player:
    """A player as a noun."""
    return Player(message.id, message.name, message.description)
