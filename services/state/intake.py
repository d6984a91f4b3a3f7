"""Everything that changes a world goes through here, one at a time per world, and comes out as one revision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct
from msgspec.structs import replace

from services.common import tracing
from services.common.clock import Clock
from services.common.errors import Conflict, EarshotError, Internal, NotFound, Overloaded, TooLarge, Unavailable
from services.common.logs import get_logger
from services.common.telemetry import Metrics
from services.state import document as documents
from services.state.agenda import Agenda
from services.state.assigner import Assigner
from services.state.document import Commit, Document, Draft, Input, Rules, TooMany
from services.state.feed import Doorbells, Feed, Ref
from services.state.lane import LaneFull, Superseded
from services.state.measures import agreement
from services.state.membership import Assignment, Change, Transition
from services.state.observation import Observation, gather
from services.state.sequence import Base, Verdict, judge
from services.state.snapshot import Refusal, Snapshot
from services.state.store import Session, StateStore
from services.state.world import World
from services.state.worlds import Worlds

# Observations that may wait for one world's turn.
OBSERVATIONS_WAITING = 256

_log = get_logger("state")


class Times(Struct, frozen=True):
    """Durations of the room, milliseconds."""

    link_ttl_ms: int = 75_000
    world_expiry_ms: int = 900_000


class Applied(Struct, frozen=True):
    """What became of a snapshot; APPLY means it was applied as `document`.

    `superseded`: a newer one took its place.
    """

    verdict: Verdict
    document: Document
    transitions: tuple[Transition, ...] = ()
    superseded: bool = False


class _Begun(Struct, frozen=True):
    """A revision that waits for its clusters; `tick` is when it began."""

    draft: Draft
    revision: int
    tick: int


class Intake:
    """The one writer of worlds."""

    def __init__(
        self,
        worlds: Worlds,
        store: StateStore,
        assigner: Assigner,
        clock: Clock,
        metrics: Metrics,
        *,
        feed: Feed,
        bells: Doorbells,
        agenda: Agenda,
        rules: Rules,
        times: Times,
    ) -> None:
        self._worlds = worlds
        self._store = store
        self._assigner = assigner
        self._clock = clock
        self._metrics = metrics
        # Labels are slow to look up for every snapshot.
        self._applied = metrics.snapshots.labels("applied")
        self._pairs = [metrics.game_pairs.labels(verdict) for verdict in ("agrees", "differs")]
        self._happened = {change: metrics.transitions.labels(change.name.lower()) for change in Change}
        self._feed = feed
        self._bells = bells
        self._agenda = agenda
        self._rules = rules
        self._times = times

    # -- what comes from the game
    # ----------------------------------------------------------------------------------

    async def snapshot(self, ref: Ref, snapshot: Snapshot) -> Applied:
        """Apply a snapshot and wait until it is on disk.

        Raises Conflict (STALE_EPOCH), Overloaded, TooLarge (ENTITIES), Unavailable; then nothing was
        applied, but for Unavailable (STORE_UNAVAILABLE): applied, not yet on disk, a retry is answered as a
        duplicate.
        """
        replaceable = snapshot.seq == 0 and not snapshot.delta
        if snapshot.epoch and self._worlds.get(ref) is None:
            raise Conflict("this session is not known", reason="STALE_EPOCH")
        try:
            async with self._turn(ref, replaceable=replaceable, bounded=True) as world:
                verdict = self._judged(world, snapshot)
                if verdict is Verdict.APPLY:
                    applied = await self._apply(world, snapshot)
                else:
                    applied = Applied(verdict, world.document)
        except LaneFull:
            raise Overloaded("too many snapshots of this world wait", retry_after_ms=500) from None
        except Superseded:
            self._metrics.snapshots.labels("superseded").inc()
            current = self._worlds.get(ref)
            return Applied(Verdict.APPLY, current.document if current else documents.blank(), superseded=True)
        self._count(snapshot, applied)
        if verdict is not Verdict.RESYNC:
            with tracing.span("save", stage="save"):
                await self._saved(world, applied.document)
        return applied

    def taken(self, ref: Ref, snapshot: Snapshot) -> World | None:
        """The snapshot's world with its turn held, if it can be had at once; `together` goes on and gives it back."""
        world = self._worlds.get(ref)
        if world is None:
            if snapshot.epoch:
                return None
            world = self._worlds.make(ref, self._clock.now_ms(), self._tick())
            self._schedule(world)
        return world if world.lane.take() else None

    async def together(self, held: Mapping[World, Snapshot]) -> list[Applied | EarshotError]:
        """As `snapshot`, for worlds whose turns are held: one question, one write for all. Gives the turns back."""
        outcomes: dict[World, Applied | EarshotError] = {}
        turns = list(held)
        try:
            drafts: dict[World, _Begun] = {}
            for world, snapshot in held.items():
                try:
                    verdict = self._judged(world, snapshot)
                    if verdict is Verdict.APPLY:
                        drafts[world] = self._begun(world, self._entry(world, snapshot))
                    else:
                        outcomes[world] = Applied(verdict, world.document)
                except Exception as error:  # noqa: BLE001 - one world's failure is not the others'
                    outcomes[world] = _told(error)
            answers = await self._answers(drafts)
            for world, begun in drafts.items():
                answer = answers.get(world)
                if isinstance(answer, EarshotError):
                    outcomes[world] = answer
                    continue
                try:
                    commit = self._committed(world, begun, answer)
                    self._show(world, commit, save=False)
                    outcomes[world] = Applied(Verdict.APPLY, commit.document, commit.transitions)
                except Exception as error:  # noqa: BLE001 - as above
                    outcomes[world] = _told(error)
        finally:
            for world in turns:
                world.lane.leave()
        await self._saved_together(held, outcomes)
        return [outcomes[world] for world in held]

    async def _answers(self, drafts: Mapping[World, _Begun]) -> Mapping[World, Assignment | EarshotError]:
        asks = {world: begun.draft.ask for world, begun in drafts.items() if begun.draft.ask is not None}
        if not asks:
            return {}
        started = time.perf_counter()
        answers = await self._assigner.assign_all([(world.ref[1], ask) for world, ask in asks.items()])
        each = time.perf_counter() - started
        for _ in asks:
            self._metrics.observe_whole("cluster", each)
        return dict(zip(asks, answers, strict=True))

    async def _saved_together(
        self, held: Mapping[World, Snapshot], outcomes: dict[World, Applied | EarshotError]
    ) -> None:
        """Wait until what was applied is on disk; who cannot be stored gets the reason as its outcome."""
        fresh: list[World] = []
        for world, snapshot in held.items():
            outcome = outcomes[world]
            if isinstance(outcome, Applied):
                self._count(snapshot, outcome)
                if outcome.verdict is Verdict.APPLY:
                    fresh.append(world)
        self._save_together([(world, outcomes[world].document) for world in fresh])  # type: ignore[union-attr] # applied
        for world in held:
            outcome = outcomes[world]
            if isinstance(outcome, Applied) and outcome.verdict is not Verdict.RESYNC:
                try:
                    await self._saved(world, outcome.document)
                except EarshotError as error:
                    outcomes[world] = error

    def _judged(self, world: World, snapshot: Snapshot) -> Verdict:
        base_seq = snapshot.base_seq if snapshot.delta else None
        verdict = judge(snapshot.epoch, snapshot.seq, base_seq, world.epoch, world.document.base)
        if verdict is Verdict.STALE:
            self._metrics.snapshots.labels("stale").inc()
            raise Conflict("a newer session of this world is open", reason="STALE_EPOCH")
        return verdict

    def _count(self, snapshot: Snapshot, applied: Applied) -> None:
        if snapshot.groups:
            for pairs, counted in zip(agreement(snapshot.groups, applied.document), self._pairs, strict=True):
                counted.inc(pairs)
        verdict = applied.verdict
        (self._applied if verdict is Verdict.APPLY else self._metrics.snapshots.labels(verdict.value)).inc()

    def _entry(self, world: World, snapshot: Snapshot) -> Input:
        base = replace(world.document.base, intact=False)
        if snapshot.seq:
            base = Base(snapshot.epoch, snapshot.seq, intact=True)
        return Input(
            sent=snapshot.sent,
            full=not snapshot.delta,
            left=snapshot.left,
            kept=snapshot.kept,
            copresent=None if snapshot.delta else snapshot.copresent,
            base=base,
            events=snapshot.events,
        )

    async def _apply(self, world: World, snapshot: Snapshot) -> Applied:
        entry = self._entry(world, snapshot)
        commit = await self._advance(world, lambda _: entry)
        assert commit is not None, "a snapshot always makes a revision"
        return Applied(Verdict.APPLY, commit.document, commit.transitions)

    async def observe(self, ref: Ref, observations: Sequence[Observation]) -> tuple[int, tuple[Refusal, ...]]:
        """Enter observations as one revision; (revision, what was refused). Errors as `snapshot`."""
        known = self._worlds.get(ref)
        if known is not None and known.lane.waiting >= OBSERVATIONS_WAITING:
            raise Overloaded("too many observations of this world wait", retry_after_ms=500)
        refused: tuple[Refusal, ...] = ()

        def entry(document: Document) -> Input:
            nonlocal refused
            facts = gather(
                observations,
                document.observed,
                document.columns,
                self._worlds.roster(ref[0]),
                self._tick(),
                self._times.link_ttl_ms,
            )
            refused = facts.refused
            return Input(
                sent=facts.sent,
                left=facts.left,
                observed=facts.observed,
                events=facts.events,
                critical=facts.critical,
            )

        async with self._turn(ref) as world:
            commit = await self._advance(world, entry)
        document = world.document if commit is None else commit.document
        await self._saved(world, document)
        return document.revision, refused

    async def open_session(self, ref: Ref, job: str, boot: str) -> tuple[int, int]:
        """(epoch, current revision); the same (job, boot) gets the same epoch, durably."""
        async with self._turn(ref) as world:
            epoch = world.sessions.get((job, boot))
            if epoch is None:
                epoch = max(world.epoch, self._worlds.retired_epoch) + 1
                session = Session(epoch, job, boot)
                await self._store.open_session(ref, session)
                world.remember(session)
        return epoch, world.document.revision

    async def close_session(self, ref: Ref, epoch: int) -> bool:
        """End an epoch; True when it was the newest, which closes the world.

        Raises NotFound (UNKNOWN_EPOCH).
        """
        world = self._worlds.get(ref)
        if world is None or epoch == 0 or epoch > world.epoch:
            raise NotFound("no such session", reason="UNKNOWN_EPOCH")
        async with world.lane.turn(bounded=False):
            if epoch < world.epoch:
                return False
            if not world.document.base.ended or world.document.base.epoch != epoch:
                self._close(world, epoch)
        await self._saved(world, world.document)
        return True

    # -- what comes by itself
    # --------------------------------------------------------------------------------------

    async def pass_time(self, ref: Ref) -> None:
        """End what is due in a world: links, expectations, fights, the world itself, its place in memory."""
        world = self._worlds.get(ref)
        if world is None:
            return
        async with world.lane.turn(bounded=False):
            quiet = self._tick() - world.document.fed_tick
            expiry = self._times.world_expiry_ms
            if world.document.closed and quiet >= 2 * expiry:
                await self._store.retire(ref, world.document.revision, world.epoch)
                self._worlds.drop(ref)
                return
            if not world.document.closed and quiet >= expiry:
                self._close(world)
            else:
                rewritten = frozenset(world.rewritten)
                world.rewritten.clear()
                try:
                    await self._advance(world, lambda _: Input(from_game=False, rewritten=rewritten))
                except EarshotError:
                    world.rewritten |= rewritten
                    raise
            self._schedule(world)

    def resume(self, came: Sequence[World]) -> None:
        """After a load: see to what is due, at once where a roster changed after the world was stored."""
        for world in came:
            self._schedule(world)
            self._bells.ring(world.ref, world.document.revision, closed=world.document.closed)
            if world.document.situation.standing.roster != self._worlds.roster(world.ref[0]).version:
                self._agenda.add(world.ref, self._tick())

    def rewrite(self, tenant: str, npcs: set[str]) -> None:
        """Profiles or locations changed: have every world of the tenant that could show it make a revision."""
        for world in self._worlds.of(tenant):
            if len(world.document.columns):
                world.rewritten |= npcs.intersection(world.document.columns.ids)
                self._agenda.add(world.ref, self._tick())

    async def erase(self, tenant: str, player: str) -> int:
        """Remove a player from every world of a tenant, in memory and on disk; the number of worlds that
        knew them.
        """
        count = 0
        for world in self._worlds.of(tenant):
            await asyncio.sleep(0)  # a tenant may have thousands: let others in between
            if not documents.mentions(world.document, player):
                continue
            async with world.lane.turn(bounded=False):
                await self._advance(world, lambda _: Input(left=frozenset((player,)), from_game=False))
                world.show(replace(documents.without(world.document, player), revision=world.document.revision + 1))
            await self._saved(world, world.document)
            count += 1
        return count

    async def save_all(self) -> None:
        """Write every world that is newer than its row; used after the store failed."""
        for world in self._worlds:
            if world.saved < world.document.revision:
                await self._saved(world, world.document)

    # -- how
    # -------------------------------------------------------------------------------------------------------

    def _tick(self) -> int:
        return int(self._clock.monotonic() * 1000)

    @asynccontextmanager
    async def _turn(self, ref: Ref, *, replaceable: bool = False, bounded: bool = False) -> AsyncIterator[World]:
        """Hold the turn of a world, made if need be. Raises as Lane.turn and Worlds.make."""
        while True:
            world = self._worlds.get(ref)
            if world is None:
                world = self._worlds.make(ref, self._clock.now_ms(), self._tick())
                self._schedule(world)
            async with world.lane.turn(replaceable=replaceable, bounded=bounded):
                if self._worlds.get(ref) is world:  # it may have been retired or handed on while we waited
                    yield world
                    return

    async def _advance(self, world: World, entry: Callable[[Document], Input]) -> Commit | None:
        """Make the next revision of a world whose turn is held; None when nothing but time passed and
        changed nothing.

        Nothing is applied when this raises.
        """
        begun = self._begun(world, entry(world.document))
        answer = None
        if begun.draft.ask is not None:
            asked = time.perf_counter()
            with tracing.span("cluster", stage="cluster"):
                answer = await self._assigner.assign(world.ref[1], begun.draft.ask)
            self._metrics.observe_whole("cluster", time.perf_counter() - asked)
        commit = self._committed(world, begun, answer)
        if not begun.draft.entry.from_game and documents.unchanged(world.document, commit):
            return None
        # The store of an embedded process that keeps nothing writes at once, within the call.
        with tracing.span("show", stage="save"):
            self._show(world, commit)
        return commit

    def _begun(self, world: World, entry: Input) -> _Begun:
        """The next revision without its clusters. Raises TooLarge (TOO_MANY_ENTITIES)."""
        started = time.perf_counter()
        document, tick = world.document, self._tick()
        revision = (document.revision or self._worlds.retired_revision) + 1
        try:
            draft = documents.prepare(document, entry, revision, tick, self._rules)
        except TooMany:
            raise TooLarge("too many entities for one world", reason="TOO_MANY_ENTITIES") from None
        self._metrics.observe_stage("state", time.perf_counter() - started)
        return _Begun(draft, revision, tick)

    def _committed(self, world: World, begun: _Begun, answer: Assignment | None) -> Commit:
        """The next revision with its clusters; nobody sees it yet."""
        started = time.perf_counter()
        commit = documents.commit(
            world.document,
            begun.draft,
            answer,
            self._worlds.roster(world.ref[0]),
            revision=begun.revision,
            at_ms=self._clock.now_ms(),
            tick=begun.tick,
            rules=self._rules,
        )
        self._metrics.observe_stage("commit", time.perf_counter() - started)
        return commit

    def _close(self, world: World, ended_epoch: int = 0) -> None:
        document = world.document
        commit = documents.close(document, document.revision + 1, self._clock.now_ms(), self._tick(), ended_epoch)
        self._show(world, commit)

    def _show(self, world: World, commit: Commit, *, save: bool = True) -> None:
        """Make a commit the world's truth and tell everyone. Nothing in here waits."""
        document = commit.document
        world.show(document)
        self._feed.append(world.ref, commit.changes, closed=document.closed, cause=tracing.traceparent())
        if commit.rings:
            self._bells.ring(world.ref, document.revision, closed=document.closed)
        for transition in commit.transitions:
            self._happened[transition.change].inc()
        self._schedule(world)
        if save:
            self._save(world, document)

    def _schedule(self, world: World) -> None:
        document = world.document
        quiet = self._times.world_expiry_ms * (2 if document.closed else 1)
        due = documents.next_deadline(document)
        expiry = document.fed_tick + quiet
        self._agenda.add(world.ref, expiry if due is None else min(due, expiry))

    def _save(self, world: World, document: Document) -> None:
        """Give the document to the store; `save_all` tries again what the store does not take."""
        try:
            future = self._store.save(world.ref, document)
        except EarshotError as error:
            _log.warning("world_not_saved", reason=error.reason)
            return
        world.write, world.writing = future, document.revision

        def note(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is None:
                world.saved = max(world.saved, document.revision)

        future.add_done_callback(note)

    def _save_together(self, worlds: Sequence[tuple[World, Document]]) -> None:
        """As `_save`, in one write."""
        if len(worlds) < 2:
            for world, document in worlds:
                self._save(world, document)
            return
        try:
            future = self._store.save_together([(world.ref, document) for world, document in worlds])
        except EarshotError as error:
            _log.warning("world_not_saved", reason=error.reason)
            return
        for world, document in worlds:
            world.write, world.writing = future, document.revision

        def note(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is None:
                for world, document in worlds:
                    world.saved = max(world.saved, document.revision)

        future.add_done_callback(note)

    async def _saved(self, world: World, document: Document) -> None:
        """Wait until the document, or a newer one, is on disk."""
        if world.saved >= document.revision:
            return
        write = world.write
        if write is None or world.writing < document.revision or (write.done() and write.exception()):
            self._save(world, world.document)
            write = world.write
        if write is None or world.writing < document.revision:
            raise Unavailable("the world cannot be stored now", reason="STORE_UNAVAILABLE", retry_after_ms=1000)
        await asyncio.shield(write)


def _told(error: Exception) -> EarshotError:
    """An error as its caller sees it; a defect is logged."""
    if isinstance(error, EarshotError):
        return error
    _log.error("snapshot_failed", error=type(error).__name__, exc_info=error)
    return Internal("internal error; see the log")
