"""A line taken back or rewritten by its author: out of every store and every later prompt, as if it were never said.

The NPCs' lines that answered it go with it. Order: out of the state and of what turns are told (agents that heard it
start over), then the log and recall; in the commit of that stands what sync has to forget, which is repeated until it
has. A repetition finds nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import msgspec
from earshot.state.v1 import state_pb2
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.chat import hygiene
from services.chat.events import Event, Said
from services.chat.inputs import Retracted
from services.chat.moderation import Moderator, check_before
from services.chat.retraction_store import Forgetting, RetractionStore
from services.chat.store import ChatStore, World
from services.chat.worlds import Worlds
from services.common.errors import BadInput, EarshotError, from_rpc
from services.common.logs import get_logger

SYNC_S = 10.0
# What sync could not forget is told it again after this.
RETRY_S = 5.0
# Told in one round.
ROUND = 100
# Turns that one call names.
TURNS_MAX = 500

_log = get_logger("chat")


@dataclass(frozen=True, slots=True)
class Retracting:
    """Takes lines back."""

    store: ChatStore
    retractions: RetractionStore
    worlds: Worlds
    sync: Any
    moderator: Moderator
    _owed: asyncio.Event = field(default_factory=asyncio.Event)

    async def retract(self, world: World, message_id: str, utterance_id: str, text: str) -> int:
        """Remove the line, or let it say `text` from now on. Answers how many rows changed; 0 = unknown.

        Raises BadInput MESSAGE_REQUIRED, and Unavailable when a store cannot be written: repeat it then.
        """
        if not (message_id or utterance_id):
            raise BadInput("which message?", reason="MESSAGE_REQUIRED")
        if not utterance_id:
            utterance_id = self.retractions.utterance_of(world, message_id)
        if not utterance_id or not self.store.known(world):
            return 0
        event = self.retractions.said(world, utterance_id)
        instead = await self._instead(text)
        if event is None:
            # The log has let go of it; recall may not.
            changed = await self.retractions.retract_recalled(world, utterance_id, instead)
        else:
            changed = await self._retract(world, event, instead)
        self._owed.set()
        return changed

    async def run(self) -> None:
        """Have sync, and the files, forget what was taken back: for ever, what failed again, after a restart too.

        The files are gone through once for all lines of a round: it takes the longer the more recall holds.
        """
        seen = 0
        while True:
            self._owed.clear()
            owed = self.retractions.forgettings(ROUND)
            late = not await self._told(owed)
            done = self.retractions.unpurged()
            if done or (owed and owed[-1][0] > seen):
                late = not await self._purged(done) or late
                seen = max([seen, *done, *(number for number, _ in owed)])
            if len(owed) == ROUND:
                self._owed.set()
            try:
                async with asyncio.timeout(RETRY_S if late else None):
                    await self._owed.wait()
            except TimeoutError:
                continue

    async def _told(self, owed: Sequence[tuple[int, Forgetting]]) -> bool:
        """Whether sync has taken all of it; what it will never take is let go of."""
        whole = True
        for number, one in owed:
            try:
                await self._forget(one)
            except EarshotError as error:
                _log.warning("retraction_delayed", reason=error.reason)
                whole = whole and not error.retryable
                if error.retryable:
                    continue
            await self.retractions.forgot(number)
        return whole

    async def _purged(self, done: Sequence[int]) -> bool:
        try:
            await self.store.purge()
            await self.retractions.purged(done)
        except EarshotError as error:
            _log.warning("retraction_delayed", reason=error.reason)
            return False
        return True

    async def _retract(self, world: World, event: Event, instead: str) -> int:
        said = event.body
        assert isinstance(said, Said), "found by its utterance"
        if said.text == instead:
            return 0
        kept = msgspec.structs.replace(event, body=msgspec.structs.replace(said, text=instead)) if instead else None
        actor = await self.worlds.get(world)
        await actor.feed(Retracted(0, said.utterance_id, said.hearers, gone=not instead))
        actor.amend(event.seq, kept)
        turns = self.retractions.turns_of(world, said.utterance_id)
        for seq in self.retractions.lines_of(world, turns):
            actor.amend(seq, None)  # what answered the line may repeat it
        return await self.retractions.retract(world, event, kept, turns)

    async def _instead(self, text: str) -> str:
        """What the line says from now on; "" when nothing is left or NPCs may not hear it."""
        try:
            line = hygiene.utterance(text)
        except BadInput:
            return ""
        return line if (await check_before(self.moderator, line)).allowed else ""

    async def _forget(self, one: Forgetting) -> None:
        """Notes, summaries, what degraded mode learnt, the reply cache; agents start over by themselves."""
        place = type_pb2.WorldRef(tenant=one.tenant, world=one.world)
        request = sync_pb2.ErasePlayerRequest(
            tenant=one.tenant,
            texts=[one.text],
            turn_ids=one.turns[:TURNS_MAX],
            npcs=[state_pb2.NpcKey(world=place, npc_id=npc) for npc in one.npcs],
            speaker_id=one.speaker,
            since_ms=one.at_ms,
        )
        try:
            await self.sync.ErasePlayer(request, timeout=SYNC_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
