"""A line taken back or rewritten by its author: out of every store and every later prompt, as if it were never said.

The NPCs' lines that answered it go with it. Order: out of the state and of what turns are told (agents that heard it
start over), then the log and recall, then what sync learnt of it. A repetition finds nothing and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
from earshot.sync.v1 import sync_pb2

from services.chat import hygiene, recall_store
from services.chat.events import Event, Said
from services.chat.inputs import Retracted
from services.chat.moderation import Moderator, check_before
from services.chat.store import ChatStore, World
from services.chat.worlds import Worlds
from services.common.errors import BadInput, EarshotError, from_rpc
from services.common.logs import get_logger

SYNC_S = 10.0

_log = get_logger("chat")


@dataclass(frozen=True, slots=True)
class Retracting:
    """Takes lines back."""

    store: ChatStore
    worlds: Worlds
    sync: Any
    moderator: Moderator

    async def retract(self, world: World, message_id: str, utterance_id: str, text: str) -> int:
        """Remove the line, or let it say `text` from now on. Answers how many rows changed; 0 = unknown.

        Raises BadInput MESSAGE_REQUIRED, and Unavailable when a store cannot be written: repeat it then.
        """
        if not (message_id or utterance_id):
            raise BadInput("which message?", reason="MESSAGE_REQUIRED")
        if not utterance_id:
            utterance_id = self.store.utterance_of(world, message_id)
        if not utterance_id or not self.store.known(world):
            return 0
        event = self.store.said(world, utterance_id)
        instead = await self._instead(text)
        if event is None:
            # The log has let go of it; recall may not.
            changed = await self.store.change(lambda db: recall_store.retract(db, world, utterance_id, instead))
        else:
            changed = await self._retract(world, event, instead)
        # Every time: an attempt that was cut off may have left it to this one.
        await self.store.purge()
        return changed

    async def _retract(self, world: World, event: Event, instead: str) -> int:
        said = event.body
        assert isinstance(said, Said), "found by its utterance"
        if said.text == instead:
            return 0
        kept = msgspec.structs.replace(event, body=msgspec.structs.replace(said, text=instead)) if instead else None
        actor = await self.worlds.get(world)
        await actor.feed(Retracted(0, said.utterance_id, said.hearers, gone=not instead))
        actor.amend(event.seq, kept)
        turns = self.store.turns_of(world, said.utterance_id)
        for seq in self.store.lines_of(world, turns):
            actor.amend(seq, None)  # what answered the line may repeat it
        changed = await self.store.retract(world, event, kept, turns)
        await self._forget(world, said, turns)
        return changed

    async def _instead(self, text: str) -> str:
        """What the line says from now on; "" when nothing is left or NPCs may not hear it."""
        try:
            line = hygiene.utterance(text)
        except BadInput:
            return ""
        return line if (await check_before(self.moderator, line)).allowed else ""

    async def _forget(self, world: World, said: Said, turns: list[str]) -> None:
        """What degraded mode learnt and what the reply cache holds of it; agents start over by themselves."""
        request = sync_pb2.ErasePlayerRequest(tenant=world[0], texts=[said.text], turn_ids=turns)
        try:
            await self.sync.ErasePlayer(request, timeout=SYNC_S)
        except grpc.aio.AioRpcError as error:
            _log.warning("retraction_incomplete", reason=from_rpc(error).reason)
        except EarshotError as error:
            _log.warning("retraction_incomplete", reason=error.reason)
