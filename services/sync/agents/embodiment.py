"""One agent of one (world, npc) in one runtime: made once, one write per block and one message in flight.

The runtime cannot check a fencing token and may carry out a request after it timed out. So: full values only, by
revision under a lock; a block whose write has an unknown outcome is suspect for 60 s and is read back before a turn
and at the end; a turn whose outcome is unknown is looked up before the agent is used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from services.common.logs import get_logger
from services.sync.agents.hold import AgentBusy, TurnHold
from services.sync.agents.record import SUSPECT_S, AgentRecord, Held
from services.sync.blocks.desired import Desired, digest
from services.sync.routing.endpoint import Endpoint
from services.sync.runtimes.port import (
    AgentSpec,
    Block,
    Busy,
    Missing,
    RuntimeFault,
    TimedOut,
    TurnState,
)
from services.sync.schedule.due import Lane
from services.sync.speech.prompt import UNHEARD
from services.sync.store import Intent, SyncStore

CREATE_S = 10.0
LOOK_UP_S = 5.0

_log = get_logger("sync")


@dataclass(frozen=True, slots=True)
class Written:
    """What a differential write did: labels written, blocks that failed and why."""

    labels: tuple[str, ...] = ()
    failed: tuple[Block, ...] = ()
    fault: RuntimeFault | None = None


class Embodiment:
    """`record` is what is confirmed; everything here keeps it true."""

    def __init__(
        self,
        record: AgentRecord,
        endpoint: Endpoint,
        store: SyncStore,
        now_ms: Callable[[], int],
        *,
        known: bool = False,
    ) -> None:
        self.record = record
        self.endpoint = endpoint
        self.wrote_at: float | None = None
        # Stored: an attempt to make it began at least.
        self.known = known
        self._store = store
        self._now_ms = now_ms
        self._making = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._hold: TurnHold | None = None
        self._labels: dict[str, asyncio.Lock] = {}
        # A write that a killed process left behind may still land.
        self._suspect = {label: _now() + SUSPECT_S for label, held in record.blocks.items() if held.writing}
        self._unsettled: list[Intent] = []
        self._gone = False
        # Texts that this process confirmed; whether they still hold is the record's to say.
        self._texts: dict[str, str] = {}

    # -- being there -----------------------------------------------------------------------------------------------

    @property
    def agent_id(self) -> str:
        return self.record.agent_id

    @property
    def busy(self) -> bool:
        return self._turn.locked()

    @property
    def abandoned_at(self) -> float | None:
        """Loop time since which it executes a turn that nobody waits for; None = it does not."""
        return self._hold.abandoned_at if self._turn.locked() and self._hold is not None else None

    @property
    def writing(self) -> bool:
        return any(lock.locked() for lock in self._labels.values())

    async def ensure(self, spec: AgentSpec, desired: Desired, *, forget: bool, lane: Lane, timeout: float) -> bool:
        """Make the agent when there is none, with the blocks of `desired`; True when it was made now.

        forget: what an adopted agent was told before does not stay.
        """
        if self.agent_id:
            return False
        async with self._making:
            if self.agent_id:
                return False
            if self._gone:
                raise Missing("the agent was released")
            await self._make(spec, desired, forget, lane, min(timeout, CREATE_S))
        return True

    async def _make(self, spec: AgentSpec, desired: Desired, forget: bool, lane: Lane, timeout: float) -> None:
        runtime = self.endpoint.runtime
        if self.known and not spec.adopt:
            # An attempt began before, by this process or by one that was killed: it may have made the agent.
            found = await self.endpoint.call(
                "find", lambda t: runtime.find_agents(spec.tag, t), lane=lane, timeout=timeout
            )
            if found:
                self.record = replace(self.record, agent_id=found[0], blocks={})
                await self._store.save_agent(self.record)
                for extra in found[1:]:
                    await self._delete(extra, lane, timeout)
                return
        if not self.known:
            self.known = True
            await self._store.save_agent(self.record)
        agent_id = await self.endpoint.call(
            "create", lambda t: runtime.create_agent(spec, t), lane=lane, timeout=timeout
        )
        record = replace(self.record, agent_id=agent_id)
        if spec.adopt:
            # No generation of ours: the first turn resets its messages, unless they may stay.
            record = replace(record, adopted=True, asked=forget, generation=-1)
        else:
            for block in desired.blocks:
                record = record.confirmed(block.label, block.text, desired.revision)
                self._texts[block.label] = block.text
            if self._gone:
                # The world closed meanwhile; the deletion job may have looked before it was there.
                await self._delete(agent_id, lane, timeout)
                raise Missing("the agent was released")
        self.record = record
        await self._store.save_agent(self.record)

    async def _delete(self, agent_id: str, lane: Lane, timeout: float) -> None:
        runtime, tag = self.endpoint.runtime, self.record.tag
        await self.endpoint.call("delete", lambda t: runtime.delete_agent(agent_id, tag, t), lane=lane, timeout=timeout)

    def forget_agent(self) -> None:
        """The runtime says that it is not there: the next ensure makes it anew."""
        self.record = AgentRecord(self.record.key, self.record.runtime)
        self._suspect.clear()
        self._texts.clear()
        self._unsettled.clear()
        self.known = False

    def release(self) -> None:
        """The mapping is being given up: nothing is made under it any more."""
        self._gone = True

    # -- blocks ----------------------------------------------------------------------------------------------------

    def suspects(self) -> tuple[str, ...]:
        """Labels that a late write may still change."""
        return tuple(self._suspect)

    def suspect_until(self) -> float | None:
        """When the last of them may be read back for good; None when there is none."""
        return max(self._suspect.values(), default=None)

    def holds(self, label: str) -> str | None:
        """The text of a block that the agent surely holds, when this process knows it."""
        text, held = self._texts.get(label), self.record.blocks.get(label)
        if text is None or held is None or held.writing or label in self._suspect or held.digest != digest(text):
            return None
        return text

    async def write(self, desired: Desired, *, lane: Lane, timeout: float, force: bool = False) -> Written:
        """Bring the blocks to `desired`: only those that differ, never over something newer. Raises Missing."""
        self.record = self.record.as_of(desired)
        blocks = list(desired.blocks) if force else self.record.stale(desired)
        if not blocks:
            return Written()
        deadline = _now() + timeout
        steps = [self._write(block, desired.revision, lane, deadline, force) for block in blocks]
        if self.endpoint.capabilities.remote:
            outcomes = await asyncio.gather(*steps, return_exceptions=True)
        else:
            # Nothing to wait for: no tasks, and one write of the store for all.
            outcomes = [await _outcome(step) for step in steps]
            self._store.confirm(self.record, [block.label for block in blocks])
        written, failed, fault = [], [], None
        for block, outcome in zip(blocks, outcomes, strict=True):
            if isinstance(outcome, RuntimeFault):
                failed.append(block)
                fault = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            elif outcome:
                written.append(block.label)
        if isinstance(fault, Missing):
            raise fault
        if written:
            self.wrote_at = _now()
        return Written(tuple(written), tuple(failed), fault)

    async def _write(self, block: Block, revision: int, lane: Lane, deadline: float, force: bool) -> bool:
        lock = self._labels.setdefault(block.label, asyncio.Lock())
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError as error:
            raise TimedOut("another write of this block is under way", unknown=False) from error
        try:
            # While it waited another flow may have written the same or something newer.
            if not self.record.needs(block, revision) and not (force and self._sent(block.label) <= revision):
                return False
            await self._send_block(block, revision, lane, max(deadline - _now(), 0.001))
            return True
        finally:
            lock.release()

    def _sent(self, label: str) -> int:
        held = self.record.blocks.get(label)
        return held.sent if held else 0

    async def _send_block(self, block: Block, revision: int, lane: Lane, timeout: float) -> None:
        remote = self.endpoint.capabilities.remote
        runtime, agent_id = self.endpoint.runtime, self.agent_id
        self.record = self.record.begun(block.label, revision)
        try:
            if remote:
                await self._store.begin_write(self.record, block.label)
            await self.endpoint.call(
                "write", lambda t: runtime.write_block(agent_id, block, t), lane=lane, timeout=timeout
            )
        except RuntimeFault as fault:
            if fault.unknown:
                self._suspect[block.label] = _now() + SUSPECT_S
            else:
                self._failed(block.label)
            raise
        except BaseException:
            self._suspect[block.label] = _now() + SUSPECT_S
            raise
        self.record = self.record.confirmed(block.label, block.text, revision)
        self._texts[block.label] = block.text
        if remote:
            self._store.confirm(self.record, [block.label])

    def _failed(self, label: str) -> None:
        """Surely not written. An earlier write of unknown outcome may still land all the same."""
        if label not in self._suspect:
            self.record = self.record.failed(label)
            self._store.confirm(self.record, [label])

    async def read_back(self, *, lane: Lane, timeout: float, labels: Iterable[str] = ()) -> list[str]:
        """Replace what is believed of suspect (or the named) blocks by what the runtime really holds.

        Answers the labels that held another text than was confirmed, though no write of ours could explain it.
        """
        suspects = set(self._suspect)
        wanted = {*suspects, *labels}
        drifted: list[str] = []
        if not wanted:
            return drifted
        started = _now()
        believed = self.record.blocks
        runtime, agent_id = self.endpoint.runtime, self.agent_id
        texts = await self.endpoint.call("read", lambda t: runtime.read_blocks(agent_id, t), lane=lane, timeout=timeout)
        for label in wanted:
            before = believed.get(label, Held())
            if self._written_since(label, before):
                continue
            self.record = self.record.observed(label, texts.get(label))
            known = bool(before.digest) and not before.writing and label not in suspects
            if known and before.digest != self.record.blocks[label].digest:
                drifted.append(label)
            if self._suspect.get(label, started + 1) <= started:
                del self._suspect[label]
        self._store.confirm(self.record, wanted)
        return drifted

    def _written_since(self, label: str, before: Held) -> bool:
        """Whether a write is under way, or was since it was `before`: what was read may be older than its outcome."""
        lock, held = self._labels.get(label), self.record.blocks.get(label, Held())
        writing = lock is not None and lock.locked()
        return writing or (held.digest, held.writing) != (before.digest, before.writing)

    # -- turns -----------------------------------------------------------------------------------------------------

    def restore(self, intent: Intent) -> None:
        """A turn that was sent and whose outcome nobody recorded."""
        self._unsettled.append(intent)

    @property
    def unsettled(self) -> bool:
        return bool(self._unsettled)

    @asynccontextmanager
    async def turn(self, wait: float, *, spare: bool = False) -> AsyncIterator[TurnHold]:
        """Hold the agent for one turn; waits so many seconds for it. Raises AgentBusy, Busy when there is a spare.

        The hold can be handed over to what outlives the caller. spare: another runtime may answer instead.
        """
        try:
            async with asyncio.timeout(wait):
                await self._turn.acquire()
        except TimeoutError as error:
            raise (Busy("a turn that nobody waits for is still under way") if spare else AgentBusy()) from error
        hold = self._hold = TurnHold(self._turn)
        try:
            yield hold
        finally:
            hold.leave()

    async def settle(self, timeout: float) -> None:
        """Learn what became of turns whose outcome is unknown. Raises Busy while one still runs."""
        runtime, agent_id = self.endpoint.runtime, self.agent_id
        for intent in list(self._unsettled):
            state = await self._look_up(intent, min(timeout, LOOK_UP_S))
            if state is TurnState.RUNNING and self._now_ms() < intent.deadline_ms + int(SUSPECT_S * 1000):
                raise Busy("a turn that was given up on still runs")
            if state is not TurnState.ABSENT:
                # Executed, or given up on: whatever it said nobody heard.
                upto = max(self.record.upto, intent.upto)
                self.record = replace(self.record, upto=upto, asked=True, cut=True, turn=UNHEARD)
                await self.endpoint.call(
                    "settle", lambda t: runtime.settle(agent_id, t), lane=Lane.HIGH, timeout=timeout
                )
            self._store.close_turn(intent, self.record)
            self._unsettled.remove(intent)

    async def _look_up(self, intent: Intent, timeout: float) -> TurnState:
        if intent.agent_id != self.agent_id:
            return TurnState.ABSENT  # it went to an agent that is no more
        runtime, agent_id = self.endpoint.runtime, self.agent_id
        try:
            return await self.endpoint.call(
                "look_up", lambda t: runtime.look_up(agent_id, intent.turn_id, t), lane=Lane.HIGH, timeout=timeout
            )
        except Busy:
            return TurnState.RUNNING

    async def begin_turn(self, intent: Intent, *, first: bool) -> None:
        """Kept before the turn is sent; on the disk where its runtime would have to be asked what became of it."""
        await self._store.open_turn(intent, first=first, durable=self.endpoint.capabilities.stateful)

    def end_turn(self, intent: Intent, *, executed: bool, cut: bool = False, heard: bool = True) -> None:
        """The outcome is known. heard: what the log has of this turn is the agent's own."""
        if executed:
            turn = intent.turn_id if heard else UNHEARD
            upto = max(self.record.upto, intent.upto)
            self.record = replace(self.record, upto=upto, asked=True, cut=cut, turn=turn)
        self._store.close_turn(intent, self.record, durable=self.endpoint.capabilities.stateful)

    async def begin_generation(self, generation: int, *, timeout: float) -> None:
        """Let the agent forget what may no longer stay: its messages are reset when the generation is another one."""
        record = self.record
        if record.generation == generation:
            return
        # What it knows beyond its blocks goes, and so do the texts that news were told beyond.
        self._texts.clear()
        if record.asked:
            await self.forget_messages(timeout=timeout)
        self.record = replace(self.record, generation=generation, upto=0, asked=False, cut=False, turn="")
        await self._store.save_agent(self.record)

    async def forget_messages(self, *, timeout: float) -> None:
        """Let the agent forget every message; its blocks stay."""
        runtime, agent_id = self.endpoint.runtime, self.agent_id
        if agent_id and self.endpoint.capabilities.stateful:
            await self.endpoint.call(
                "reset", lambda t: runtime.reset_messages(agent_id, t), lane=Lane.HIGH, timeout=timeout
            )


async def _outcome(step: Awaitable[bool]) -> bool | BaseException:
    try:
        return await step
    except RuntimeFault as fault:
        return fault


def _now() -> float:
    return asyncio.get_running_loop().time()
