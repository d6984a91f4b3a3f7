"""A world at one revision, and how an input makes the next one.

`prepare` merges an input into a document; when that could change who hears whom, the cluster room is asked;
`commit` puts positions, clusters, transitions and everything derived from them into ONE new document (B2,
D4). All pure.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from services.state import causes
from services.state import change as changed
from services.state import columns as cols
from services.state import membership as members
from services.state import observation as obs
from services.state import situation as situations
from services.state.bands import NPC
from services.state.causes import Causes
from services.state.change import Changes, Moment
from services.state.columns import Columns, Mask, Merge, Plan, Sent
from services.state.event import Event, unheard
from services.state.membership import Assignment, Longs, Membership, Pair, Points, Transition
from services.state.observation import Observed
from services.state.roster import Roster
from services.state.sequence import Base
from services.state.situation import COMBAT_ACTIONS, COMBAT_EVENTS, Situation

HISTORY_KEPT = 64


class Rules(Struct, frozen=True):
    """Settings that decide what an input means; times in milliseconds, distances in studs."""

    movement: float = 0.1
    entities_max: int = 500
    events_kept: int = 64
    combat_linger_ms: int = 10_000
    revival_ms: int = 30_000


class Document(Struct, frozen=True):
    """One revision of one world.

    at_ms: wall clock of the commit; tick: monotonic ms of the commit; fed_tick and fed_ms: of the last
    input from the game. *_revision (N): when the text about a row last could have changed. history, events
    and combat_log reach back to `floor`, exclusive.
    """

    revision: int
    at_ms: int
    tick: int
    fed_ms: int
    fed_tick: int
    base: Base
    closed: bool
    columns: Columns
    membership: Membership
    situation: Situation
    observed: Observed
    copresent: tuple[Pair, ...]
    status_revision: Longs
    group_revision: Longs
    events_revision: Longs
    events: tuple[Event, ...]
    seen: dict[int, None]
    history: tuple[Transition, ...]
    combat_log: tuple[Combat, ...]
    floor: int
    steady: Plan | None = None  # of the next full snapshot, if it names whom the last one did

    @property
    def moment(self) -> Moment:
        """What its texts are made of."""
        return Moment(self.columns, self.membership, self.observed)


class Combat(Struct, frozen=True):
    """An NPC entered combat, or left it, at a revision."""

    revision: int
    npc: str
    entered: bool


class Input(Struct, frozen=True):
    """What comes to a world at one moment: rows, facts, or only time.

    full: entities that are neither in `sent` nor in `kept` leave. observed, copresent, base: None leaves
    them as they are. critical: NPCs with a critical result. rewritten: NPCs whose profile changed.
    """

    sent: Sent | None = None
    full: bool = False
    left: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    observed: Observed | None = None
    copresent: tuple[Pair, ...] | None = None
    base: Base | None = None
    events: tuple[Event, ...] = ()
    critical: frozenset[str] = frozenset()
    rewritten: frozenset[str] = frozenset()
    from_game: bool = True


class Draft(Struct, frozen=True):
    """A merged input that waits for its clusters; `ask` is None when they cannot have changed."""

    entry: Input
    merge: Merge
    observed: Observed
    copresent: tuple[Pair, ...]
    ask: Points | None


class Commit(Struct, frozen=True):
    """The next document, what happened to lineages, and which NPCs' texts could have changed."""

    document: Document
    transitions: tuple[Transition, ...]
    changes: Changes
    rings: bool  # clusters, events or combat changed: worth a doorbell


class TooMany(ValueError):
    """The world would hold more entities than the setting allows."""


def blank(revision: int = 0, at_ms: int = 0, tick: int = 0) -> Document:
    """A world in which nobody is."""
    none = np.zeros(0, np.int64)
    return Document(
        revision, at_ms, tick, at_ms, tick, Base(), False, cols.empty(), members.nobody(), situations.nobody(),
        Observed(), (), none, none, none, (), {}, (), (), revision,
    )  # fmt: skip


def prepare(document: Document, entry: Input, revision: int, tick: int, rules: Rules) -> Draft:
    """Merge an input. Raises TooMany when the world would hold more entities than it may."""
    old = document.columns
    observed, expired = obs.expire(entry.observed or document.observed, old, tick)
    sent = entry.sent or cols.nothing()
    kept = entry.kept | obs.held(observed, old) if entry.full else entry.kept
    left = (entry.left | expired).difference(sent.ids)
    plan = document.steady
    if plan is None or not entry.full or kept or sent.ids != plan.sent_ids:
        plan = cols.plan(old, sent.ids, full=entry.full, left=left, kept=kept)
    if len(plan.ids) > rules.entities_max and len(plan.ids) > len(old.ids):
        raise TooMany(len(plan.ids))
    merge = cols.merge(old, sent, plan, rules.movement)
    copresent = document.copresent if entry.copresent is None else entry.copresent
    observed = obs.pruned(observed, plan.index)
    links = (*observed.links, *copresent)
    linked = members.linked_rows(merge.columns, links)
    ask = None
    if (
        not plan.same
        or np.count_nonzero(merge.moved)
        or linked != members.linked_rows(old, (*document.observed.links, *document.copresent))
    ):
        ask = members.question(document.membership, merge.columns, plan, linked, revision, tick)
    return Draft(entry, merge, observed, copresent, ask)


def commit(
    document: Document,
    draft: Draft,
    answer: Assignment | None,
    roster: Roster,
    *,
    revision: int,
    at_ms: int,
    tick: int,
    rules: Rules,
) -> Commit:
    """The next revision. `answer` is the cluster room's, None iff the draft asked nothing."""
    entry, merge = draft.entry, draft.merge
    plan, columns = merge.plan, merge.columns
    membership: Membership = document.membership
    transitions: tuple[Transition, ...] = ()
    if answer is not None:
        membership, transitions = members.settle(
            document.membership, document.columns, columns, plan, answer,
            revision=revision, at_ms=at_ms, tick=tick, revival_ms=rules.revival_ms,
        )  # fmt: skip
    seen, told = unheard(document.seen, entry.events) if entry.events else (document.seen, [])
    after = Moment(columns, membership, draft.observed)
    events = tuple(
        replace(event, revision=revision, witnesses=_witnesses(event, document.moment, after)) for event in told
    )
    situation, cause = situations.settle(
        document.situation,
        merge,
        roster,
        _fighting(after),
        _struck(columns, events),
        tick,
        rules.combat_linger_ms,
    )
    combat = _combat(columns, situation, cause, revision)
    cause = changed.compare(document.moment, after, plan, cause, transitions, events, entry.critical, entry.rewritten)
    history, floor = _last(document.history + transitions, HISTORY_KEPT, document.floor)
    kept_events, floor = _last(document.events + events, rules.events_kept, floor)
    combat_log, floor = _last(document.combat_log + combat, HISTORY_KEPT, floor)
    gone = tuple(document.columns.ids[row] for row in plan.gone if document.columns.kinds[row] == NPC)
    dates = changed.Dates(document.status_revision, document.group_revision, document.events_revision)
    dates, changes = changed.told(dates, after, situation, plan, cause, gone, revision)
    fed = entry.from_game
    following = Document(
        revision=revision,
        at_ms=at_ms,
        tick=tick,
        fed_ms=at_ms if fed else document.fed_ms,
        fed_tick=tick if fed else document.fed_tick,
        base=entry.base or document.base,
        closed=document.closed and not fed,
        columns=columns,
        membership=membership,
        situation=situation,
        observed=draft.observed,
        copresent=draft.copresent,
        status_revision=dates.status,
        group_revision=dates.group,
        events_revision=dates.events,
        events=kept_events,
        seen=seen,
        history=history,
        combat_log=combat_log,
        floor=floor,
        steady=plan.steady() if entry.full and plan.complete else document.steady if plan.same else None,
    )
    return Commit(following, transitions, changes, bool(transitions or events or combat))


def close(document: Document, revision: int, at_ms: int, tick: int, ended_epoch: int = 0) -> Commit:
    """The world is over: everybody is gone, every lineage dissolved; its numbers stay.

    ended_epoch: the session that was closed, which may not go on; 0 when the world only went quiet.
    """
    ids = document.columns.ids
    transitions = tuple(
        Transition(members.Change.DISSOLVED, lineage, tuple(ids[row] for row in rows), "", revision, at_ms)
        for lineage, rows in zip(document.membership.lineages, document.membership.members, strict=True)
    )
    gone = tuple(ids[row] for row in np.flatnonzero(document.columns.kinds == NPC).tolist())
    history, floor = _last(document.history + transitions, HISTORY_KEPT, document.floor)
    after = replace(
        blank(revision, at_ms, tick),
        closed=True,
        base=Base(ended_epoch, ended=True) if ended_epoch else replace(document.base, intact=False),
        fed_ms=document.fed_ms,
        fed_tick=document.fed_tick,
        events=document.events,
        seen=document.seen,
        history=history,
        combat_log=document.combat_log,
        floor=floor,
    )
    return Commit(after, transitions, Changes(revision, gone=gone), rings=True)


def next_deadline(document: Document) -> int | None:
    """The tick at which a link, an expected status or a fight that nobody fights any more ends; None: never."""
    fights = document.situation.fighting_until
    ending = fights[(fights > 0) & (fights < situations.FOREVER)].tolist() if fights.any() else []
    return min((*obs.deadlines(document.observed), *ending), default=None)


def _fighting(moment: Moment) -> Mask:
    """Rows whose action is combat."""
    actions = changed.effective_actions(moment)
    fights = {action for action in set(actions) if action.casefold() in COMBAT_ACTIONS}
    if not fights:
        return np.zeros(len(actions), np.bool_)
    return np.array([action in fights for action in actions], np.bool_)


def _combat(columns: Columns, situation: Situation, cause: Causes, revision: int) -> tuple[Combat, ...]:
    """NPCs that entered combat or left it."""
    if not np.count_nonzero(cause & causes.COMBAT):
        return ()
    return tuple(
        Combat(revision, columns.ids[row], bool(situation.fighting_until[row]))
        for row in np.flatnonzero((cause & causes.COMBAT > 0) & (columns.kinds == NPC)).tolist()
    )


def _witnesses(event: Event, before: Moment, after: Moment) -> tuple[str, ...]:
    """NPCs that take part or stand beside who does; beside where somebody stood who is gone with this snapshot."""
    found: set[str] = set()
    for who in (event.actor, event.target):
        moment = after if who in after.columns.index else before
        columns, membership = moment.columns, moment.membership
        row = columns.index.get(who)
        if row is not None:
            lineage = int(membership.of[row])
            around = membership.members[lineage] if lineage >= 0 else (row,)
            found.update(columns.ids[one] for one in around if columns.kinds[one] == NPC)
    return tuple(sorted(found))


def _struck(columns: Columns, events: tuple[Event, ...]) -> Mask:
    """Rows that take part in an event of combat."""
    mask = np.zeros(len(columns), np.bool_)
    for event in events:
        if event.type.casefold() in COMBAT_EVENTS:
            for who in (event.actor, event.target):
                if who in columns.index:
                    mask[columns.index[who]] = True
    return mask


Dated = TypeVar("Dated", Transition, Event, Combat)


def _last(items: tuple[Dated, ...], most: int, floor: int) -> tuple[tuple[Dated, ...], int]:
    """The newest items, and the revision up to which some may be missing."""
    if len(items) <= most:
        return items, floor
    return items[-most:], max(floor, items[-most - 1].revision)


def unchanged(document: Document, commit: Commit) -> bool:
    """Whether a commit says nothing that the document did not."""
    after = commit.document
    return (
        not commit.changes
        and not commit.rings
        and after.observed is document.observed
        and after.columns.ids == document.columns.ids
        and bool((after.situation.fighting_until == document.situation.fighting_until).all())
        and after.situation.standing.roster == document.situation.standing.roster
    )


def mentions(document: Document, entity: str) -> bool:
    """Whether anything in the document speaks of an entity; events by their text too."""
    observed = document.observed
    return (
        entity in document.columns.index
        or any(entity in pair for pair in (*observed.links, *document.copresent))
        or entity in observed.names.values()
        or any(entity in t.members for t in document.history)
        or any(entity in e.members for e in document.membership.ended)
        or any(entity == who.id for gone in document.membership.departed.values() for who in gone)
        or any(_about(event, entity) for event in document.events)
    )


def without(document: Document, entity: str) -> Document:
    """The document without a word about an entity that is no longer in its columns."""
    observed, membership = document.observed, document.membership
    return replace(
        document,
        observed=replace(
            observed,
            links={pair: until for pair, until in observed.links.items() if entity not in pair},
            names={name: player for name, player in observed.names.items() if player != entity},
        ),
        copresent=tuple(pair for pair in document.copresent if entity not in pair),
        membership=replace(
            membership,
            departed={
                lineage: tuple(who for who in gone if who.id != entity) for lineage, gone in membership.departed.items()
            },
            ended=tuple(replace(e, members=tuple(m for m in e.members if m != entity)) for e in membership.ended),
        ),
        history=tuple(t._replace(members=tuple(m for m in t.members if m != entity)) for t in document.history),
        events=tuple(event for event in document.events if not _about(event, entity)),
    )


def _about(event: Event, entity: str) -> bool:
    return entity in (event.actor, event.target) or entity in event.text or entity.encode() in event.data
