"""A storm: many NPCs of one world are hurt at once. Its urgent writes are shared out (C4): a budget, two at a time."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from weakref import WeakValueDictionary

from services.common.settings import Settings
from services.sync.agents.entry import Entry
from services.sync.routing.gate import Gate
from services.sync.schedule.due import Lane
from services.sync.schedule.urgency import Urgency, WriteBudget

# Urgent writes of one world at a time, of those within its budget: more only wait for each other in the server.
TOGETHER = 2


class Storms:
    """Who of a world's NPCs writes now. The schedule `documented` knows no storms: everything goes out at once.

    Times are of the loop, seconds.
    """

    def __init__(self, settings: Settings) -> None:
        self._budget = (
            WriteBudget(settings.urgent_writes_per_s, settings.urgent_burst) if settings.schedule == "lazy" else None
        )
        self._longest_s = settings.urgent_wait_max_s
        # By world, for as long as something is written or waits there.
        self._gates: WeakValueDictionary[tuple[str, str], Gate] = WeakValueDictionary()

    def share(self, entry: Entry, now: float) -> bool:
        """Whether it is one of the urgent changes that share their world's budget, and may still wait for it."""
        dirty = entry.dirty
        return (
            self._budget is not None
            and dirty is not None
            and dirty.lane is Lane.HIGH
            and not dirty.forced
            and now < self._latest(entry)
        )

    def place(self, entry: Entry, due: float, now: float) -> tuple[float, int]:
        """When what is due then may go out, and its rank among those of the same time."""
        if self._budget is None or entry.urgency is None or not self.share(entry, now):
            return due, 0
        within = min(self._budget.next_at(entry.world, entry.urgency), self._latest(entry))
        return max(due, within), 2 * entry.urgency + (not entry.heard)

    def pay(self, entry: Entry, now: float) -> bool:
        """Pay for it out of its world's budget, as urgent as it was found: what has to wait reads nothing."""
        if self._budget is None or entry.urgency is None or not self.share(entry, now):
            return True
        entry.paid = self._budget.take(entry.world, entry.urgency, now)
        return entry.paid

    def admit(self, entry: Entry, news: Urgency, now: float) -> bool:
        """Whether what is urgent goes out now; its world's budget may be spent."""
        if entry.paid and entry.urgency == news:
            entry.paid = False
            return True
        self.refund(entry)
        entry.urgency = news
        return self._budget is None or self._budget.take(entry.world, news, now)

    def refund(self, entry: Entry) -> None:
        """Give back what was paid for a write that is not made."""
        if entry.paid and self._budget is not None:
            self._budget.give_back(entry.world)
        entry.paid = False

    def slot(self, entry: Entry, timeout: float) -> AbstractAsyncContextManager[None]:
        """One of the places for urgent writes of its world. Raises TimedOut without effect."""
        gate = self._gates.get(entry.world)
        if gate is None:
            gate = self._gates[entry.world] = Gate(TOGETHER)
        return gate.slot(Lane.HIGH, timeout)

    def _latest(self, entry: Entry) -> float:
        """When what is urgent of it goes out, budget or not."""
        return entry.urgent_since + self._longest_s
