"""From a Discord message to an utterance, in the order of each channel; what comes of it stands in the world's log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput, EarshotError, from_rpc
from services.common.logs import get_logger
from services.discord import binding as rules
from services.discord.binding import Binding
from services.discord.store import DiscordStore

CALL_S = 5.0
# Whoever wrote is within earshot of the channel's NPCs for this long.
PRESENT_MS = 600_000
RETRACT_S = 15.0
# A message that chat cannot take now is said again, so often; those after it wait meanwhile.
TRIES = 3
AGAIN_S = 0.5
RETRY_S = 5.0

_log = get_logger("discord")


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of a person. addressed: it mentions the bot or answers an NPC; to_npc: which one it answers.

    slash: it was said by a command.
    """

    message: int
    channel: int
    user: int
    name: str
    text: str
    attachments: tuple[str, ...] = ()
    addressed: bool = False
    to_npc: str = ""
    slash: bool = False


@dataclass(slots=True)
class Talk:
    """The way in. roll: 0..1, for the chance that NPCs hear what is not for them."""

    store: DiscordStore
    chat: Any
    state: Any
    roll: Callable[[], float]
    bindings: dict[int, Binding] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _locks: dict[int, asyncio.Lock] = field(default_factory=dict)
    _retracting: asyncio.Event = field(default_factory=asyncio.Event)

    def load(self) -> None:
        """Take up the bindings of the last run."""
        self.bindings = {one.channel: one for one in self.store.bindings()}

    async def names(self, tenant: str) -> Mapping[str, type_pb2.NpcProfile]:
        """The tenant's NPCs by id. Raises EarshotError."""
        request = state_pb2.ListNpcProfilesRequest(tenant=tenant)
        answer = await _call(self.state.ListNpcProfiles(request, timeout=CALL_S))
        return {profile.id: profile for profile in answer.npcs}

    # -- bindings --------------------------------------------------------------------------------------------------

    async def bind(self, one: Binding) -> Binding:
        """Bind a channel from the end of its world's log on. Raises BadInput UNKNOWN_NPC, NPC_REQUIRED."""
        if not one.npcs:
            raise BadInput("which NPCs?", reason="NPC_REQUIRED")
        unknown = [npc for npc in one.npcs if npc not in await self.names(one.tenant)]
        if unknown:
            raise BadInput(f"no NPC {', '.join(unknown)} in the roster", reason="UNKNOWN_NPC")
        known = self.bindings.get(one.channel)
        if known is None or known.world != one.world:
            request = chat_pb2.ListEventsRequest(world=_world(one), cursor=-1)
            end = await _call(self.chat.ListEvents(request, timeout=CALL_S))
            one = replace(one, cursor=end.next_cursor)
        else:
            one = replace(one, cursor=known.cursor, last_message=self.store.last_message(one.channel))
        await self.store.bind(one)
        self.bindings[one.channel] = one
        self.changed.set()
        return one

    async def unbind(self, channel: int) -> bool:
        """End a binding; its messages may still be deleted. Answers whether there was one."""
        one = self.bindings.pop(channel, None)
        if one is None:
            return False
        await self.store.bind(replace(one, active=False))
        self.changed.set()
        return True

    # -- messages --------------------------------------------------------------------------------------------------

    async def hear(self, heard: Heard) -> chat_pb2.SayResponse | None:
        """Say what a person wrote, after what was written before it. None = it reaches no NPC."""
        async with self._locks.setdefault(heard.channel, asyncio.Lock()):
            bound = self.bindings.get(heard.channel)
            if bound is None:
                return None
            text, to_npc = await self._meant(bound, heard)
            if not text:
                await self.store.passed(heard.channel, heard.message)
                return None
            for number in range(TRIES):
                try:
                    return await self._say(bound, heard, text, to_npc)
                except EarshotError as error:
                    _log.info("message_refused", reason=error.reason)
                    if not error.retryable:
                        await self.store.passed(heard.channel, heard.message)
                        return None
                await asyncio.sleep(AGAIN_S * 2**number)
            return None

    async def _meant(self, bound: Binding, heard: Heard) -> tuple[str, str]:
        """What the NPCs hear of a message, "" = nothing, and which NPC it is for."""
        text = rules.spoken(heard.text, heard.attachments)
        profiles = await self.names(bound.tenant)
        names = [
            name
            for npc in bound.npcs
            if npc in profiles
            for name in (profiles[npc].display_name, *profiles[npc].aliases)
        ]
        addressed = heard.addressed or rules.names_one(text, names)
        if not text or not rules.reaches(bound, addressed=addressed, roll=self.roll()):
            return "", ""
        if not heard.to_npc and heard.addressed and not rules.names_one(text, names) and len(bound.npcs) == 1:
            return text, bound.npcs[0]
        return text, heard.to_npc

    async def _say(self, bound: Binding, heard: Heard, text: str, to_npc: str) -> chat_pb2.SayResponse:
        who = rules.player(heard.user)
        revision = await self._arrive(bound, who, heard.name)
        request = chat_pb2.SayRequest(
            world=_world(bound),
            speaker_id=who,
            speaker_name=heard.name,
            text=text,
            message_id=rules.message_key(heard.message),
            to_npc_id=to_npc,
            min_revision=revision,
        )
        answer: chat_pb2.SayResponse = await _call(self.chat.Say(request, timeout=CALL_S))
        await self.store.heard(
            heard.channel, heard.message, bound.tenant, bound.world, answer.utterance_id, slash=heard.slash
        )
        return answer

    async def _arrive(self, bound: Binding, who: str, name: str) -> int:
        """Link the person with the channel's NPCs: within earshot, where there are no positions."""
        links = [
            state_pb2.Observation(link=state_pb2.Link(npc_id=npc, player_id=who, player_name=name, ttl_ms=PRESENT_MS))
            for npc in bound.npcs
        ]
        request = state_pb2.ReportObservationsRequest(world=_world(bound), observations=links)
        answer = await _call(self.state.ReportObservations(request, timeout=CALL_S))
        return int(answer.revision)

    # -- deletions and edits ---------------------------------------------------------------------------------------

    async def deleted(self, channel: int, messages: list[int]) -> None:
        """Messages are gone in Discord: durable here, then passed on until chat knows.

        After what is being heard there: it may be one of them.
        """
        async with self._locks.setdefault(channel, asyncio.Lock()):
            if await self.store.retract(messages):
                self._retracting.set()

    async def channel_deleted(self, channel: int) -> None:
        """A channel or thread is gone, and everything in it."""
        await self.unbind(channel)
        async with self._locks.setdefault(channel, asyncio.Lock()):
            if await self.store.retract_channel(channel):
                self._retracting.set()

    async def edited(self, channel: int, message: int, text: str, attachments: Sequence[str] = ()) -> None:
        """A message says something else now."""
        async with self._locks.setdefault(channel, asyncio.Lock()):
            if await self.store.retract([message], rules.spoken(text, attachments)):
                self._retracting.set()

    async def compared(
        self, channel: int, oldest: int, standing: Mapping[int, tuple[str, Sequence[str]] | None]
    ) -> None:
        """What a channel holds from `oldest` on, by message, with its text where it was edited; the rest is gone.

        Deletions and edits of the time without a gateway come no other way.
        """
        gone = self.store.standing(channel, oldest) - standing.keys()
        if gone:
            await self.deleted(channel, sorted(gone))
        for message, edited in standing.items():
            if edited is not None:
                await self.edited(channel, message, *edited)

    async def pass_on(self) -> None:
        """Tell chat of deletions and edits, for ever; what it could not take is told again."""
        while True:
            self._retracting.clear()
            late = False
            for one in self.store.retractions(100):
                request = chat_pb2.RetractRequest(
                    world=type_pb2.WorldRef(tenant=one.tenant, world=one.world),
                    message_id=rules.message_key(one.message),
                    utterance_id=one.utterance,
                    text=one.text,
                )
                try:
                    await _call(self.chat.Retract(request, timeout=RETRACT_S))
                    await self.store.retracted(one)
                except EarshotError as error:
                    _log.warning("retraction_delayed", reason=error.reason)
                    late = True
            if not late and self.store.retractions(1):
                continue
            try:
                async with asyncio.timeout(RETRY_S if late else None):
                    await self._retracting.wait()
            except TimeoutError:
                continue


def _world(one: Binding) -> type_pb2.WorldRef:
    return type_pb2.WorldRef(tenant=one.tenant, world=one.world)


async def _call(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error
