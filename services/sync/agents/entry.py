"""What the reconciler keeps in memory for one (world, npc): what waits, and its agents by runtime."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from services.common.tracing import LINKS_MAX
from services.sync.agents.embodiment import Embodiment
from services.sync.blocks.desired import LEISURELY, Desired
from services.sync.blocks.notes import Note
from services.sync.blocks.situation import NO_BANDS, Bands
from services.sync.context import Key
from services.sync.reader import Change
from services.sync.runtimes.port import Block
from services.sync.schedule.due import Dirty, Lane, merge
from services.sync.schedule.urgency import Urgency, Vitals


@dataclass(slots=True)
class Entry:
    """`dirty` is what waits, None = nothing. desired_revision: of the newest change that could alter the text."""

    key: Key
    agents: dict[str, Embodiment] = field(default_factory=dict)
    primary: str = ""
    dirty: Dirty | None = None
    desired_revision: int = 0
    heard: bool = False
    combat: bool = False
    working: bool = False
    closed: bool = False
    # Read back before writing (Refresh invalidate), write although equal (force).
    distrust: bool = False
    rewrite: bool = False
    # What of it can be urgent, as its agent was last told; how urgent what waits is, None = not looked at yet.
    told: Vitals | None = None
    urgency: Urgency | None = None
    # A write was taken from its world's budget for it.
    paid: bool = False
    urgent_since: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    last_error: str = ""
    last_lane: Lane = Lane.LOW
    bands: Bands = NO_BANDS
    # Memory scope of the profile, "" = the default.
    scope: str = ""
    notes: list[Note] = field(default_factory=list)
    confirmed_revision: int = 0
    confirmed_ms: int = 0
    writes: int = 0
    turns: int = 0
    # Sampled snapshots whose changes wait.
    causes: list[str] = field(default_factory=list)
    # Number of the newest line of the log that degraded mode has looked at; -1 = not known.
    learnt: int = -1

    @property
    def agent(self) -> Embodiment | None:
        """The agent of the preferred runtime, once it was used."""
        return self.agents.get(self.primary)

    @property
    def world(self) -> tuple[str, str]:
        return self.key.tenant, self.key.world

    @property
    def embodied(self) -> bool:
        return any(agent.agent_id for agent in self.agents.values())

    @property
    def kept_here(self) -> bool:
        """Earshot holds its agent's blocks itself: they are made with the turn, and nobody sees them before."""
        agent = self.agent
        return agent is not None and bool(agent.agent_id) and not agent.endpoint.capabilities.remote

    def more(self, change: Change) -> bool:
        """Take a change that alters nothing of what waits already but the revision; False when it does."""
        waits = self.dirty
        if waits is None or change.trace or change.lane is Lane.HIGH or change.lane < waits.lane:
            return False
        if (change.heard, change.combat) != (waits.heard, waits.combat) or not (self.embodied or waits.forced):
            return False
        self.desired_revision = max(self.desired_revision, change.revision)
        return True

    def changed(self, change: Change, now: float) -> None:
        """Take a change of the feed; the first time that a player hears the NPC, it needs an agent at once."""
        first_heard = change.heard and not self.embodied
        self.desired_revision = max(self.desired_revision, change.revision)
        self.heard, self.combat = change.heard, change.combat
        if change.lane is Lane.HIGH:
            self.urgency = None
            if self.dirty is None or self.dirty.lane is not Lane.HIGH:
                self.urgent_since = now
        wrote = self.agent.wrote_at if self.agent is not None else None
        item = Dirty(change.lane, now, now, change.heard, change.combat, first_heard, wrote)
        self.dirty = merge(self.dirty, item)
        if change.trace:
            self.causes = [*self.causes, change.trace][-LINKS_MAX:]

    def forced(self, lane: Lane, now: float) -> None:
        """Somebody asked for it."""
        self.dirty = merge(self.dirty, Dirty(lane, now, now, self.heard, self.combat, True))

    def confirmed(self, desired: Desired, vitals: Vitals) -> None:
        """The preferred agent holds `desired`: what changed up to its revision waits no more."""
        self._wrote(vitals)
        if desired.revision >= self.confirmed_revision:
            self.confirmed_revision, self.confirmed_ms = desired.revision, desired.revision_ms
        if desired.revision >= self.desired_revision and not (self.rewrite or self.distrust):
            self.dirty = None
            self.causes = []

    def eased(self, desired: Desired, vitals: Vitals | None, rest: Collection[Block], now: float) -> None:
        """What is urgent in `desired` was told (None: it is no longer urgent); the rest waits, from now on."""
        if vitals is not None:
            self._wrote(vitals)
        if self.dirty is not None and desired.revision >= self.desired_revision:
            low = all(block.label in LEISURELY for block in rest)
            wrote = self.agent.wrote_at if self.agent is not None else None
            self.dirty = Dirty(Lane.LOW if low else Lane.MEDIUM, now, now, self.heard, self.combat, wrote_at=wrote)

    def _wrote(self, vitals: Vitals) -> None:
        self.failures, self.last_error, self.retry_at = 0, "", 0.0
        self.told, self.urgency = vitals, None
